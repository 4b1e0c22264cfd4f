//! What both sides of a stream know of a context before anything of it is coded.

use super::restore::RestoredOrder;

/// Why a stream makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// A context that is continued, but by none of its candidates.
    NoContinuation,
    /// More n-grams than announced.
    TooMany,
    Interrupted,
}

/// What both parts of a stream know beforehand.
pub struct Known<'a> {
    /// The n-grams two orders below: of each context, the context that its last token continues.
    pub shorter: &'a RestoredOrder,
    /// The n-grams of the order below, each of which may be continued.
    pub contexts: &'a RestoredOrder,
    /// The bits that all tokens have, up to a limit.
    pub token_bits: u32,
}

/// Bits of a token that contexts tell apart.
const TOKEN_BITS: u32 = 13;

impl<'a> Known<'a> {
    pub fn new(shorter: &'a RestoredOrder, contexts: &'a RestoredOrder) -> Self {
        let largest = contexts.tokens.iter().copied().max().unwrap_or(0);
        let token_bits = (u16::BITS - largest.leading_zeros()).clamp(1, TOKEN_BITS);
        Self { shorter, contexts, token_bits }
    }

    /// A token in `token_bits` bits.
    #[inline]
    pub fn fold(&self, token: u16) -> u32 {
        let token = u32::from(token);
        (token ^ token >> TOKEN_BITS) & ((1 << self.token_bits) - 1)
    }

    /// What is known of a context; none if it has no candidates.
    #[inline]
    pub fn context(&self, context: usize) -> Option<Context> {
        let (shorter, contexts) = (self.shorter, self.contexts);
        let stem = contexts.suffixes[context] as usize;
        let candidates = shorter.successors(stem);
        if candidates.is_empty() {
            return None;
        }
        let log_count = i32::from(contexts.log_counts[context]);
        let half_count = (log_count >> 3).clamp(-6, 50) + 6;
        Some(Context {
            stem,
            candidates,
            log_count,
            half_count: half_count as u32,
            octave_count: half_count as u32 >> 1,
            rarity: (((i32::from(shorter.log_counts[stem]) - log_count) >> 3).clamp(-2, 29) + 2) as u32,
            stem_backoff: ((i32::from(shorter.backoff_steps[stem]) >> 1) + 8) as u32,
        })
    }
}

/// What is known of a context before anything of it is coded. Logarithms are log2 in 16ths.
pub struct Context {
    /// The context without its oldest token, h'.
    pub stem: usize,
    /// What continues that, the likeliest first.
    pub candidates: std::ops::Range<usize>,
    /// Of how often the context may be expected.
    pub log_count: i32,
    /// The same in half octaves, from 0 to 56, and in octaves, to 28.
    pub half_count: u32,
    pub octave_count: u32,
    /// Half octaves by which h' is expected more often, from 0 to 31.
    pub rarity: u32,
    /// Step of b(h'), halved, from 0 to 15.
    pub stem_backoff: u32,
}

/// Half octaves of an expected number of occurrences, from 0 to 50.
#[inline]
pub fn half_octaves(log_expected: i32) -> u32 {
    ((log_expected >> 3).clamp(-20, 30) + 20) as u32
}
