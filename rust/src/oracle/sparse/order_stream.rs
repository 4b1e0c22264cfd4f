//! The stream of one order: which n-grams there are, and their weights, decision by decision.
//!
//! The contexts, i.e. the n-grams of the order below, are visited in their order. Since every kept n-gram's suffix is
//! kept too, a context h can only be continued by tokens that continue h', which is h without its oldest token. Such a
//! token is a *candidate*: the n-gram h' and it, of the order below. A stream has two parts with a coder each:
//!
//! - [`super::continuations`]: which candidates continue each context;
//! - [`super::weights`]: the steps of b(h) and of the continuations' discounted probabilities.
//!
//! The second needs the first, but not the other way round, so one thread can decode each.
//!
//! Each decision is predicted from what both sides know by then: above all how often h, and the candidate after it,
//! may be expected to occur in the training text. Encoder and decoder run the same code, so they cannot disagree: an
//! encoder codes the decisions of its source, a decoder ignores those it is given (it has no source) and takes what the
//! coder returns.

use std::sync::mpsc;

use super::binary_coder::{BinaryCoder, Encoder};
use super::continuations::ContinuationsCoder;
use super::restore::{RestoredOrder, Suffix, Symbols};
use super::weights::WeightsCoder;
use crate::parallel::Control;
use crate::{Error, Result};

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

/// Contexts that are coded between two looks at what else happens.
const BLOCK: usize = 1 << 10;

/// Blocks that one thread may be ahead of the other.
const AHEAD: usize = 16;

/// The continuations of consecutive contexts.
#[derive(Default)]
struct Block {
    /// Where those of each context end.
    ends: Vec<usize>,
    found: Vec<Suffix>,
}

/// Codes one order with the coders of its two parts, on one thread or two. `source` is what to encode; a decoder has none.
/// `limit` is the number of n-grams. `go_on` is called from time to time with each coder and says whether to continue.
///
/// `visit` is called for each context in turn with the step of its back-off weight, and with its continuations in the order
/// of their tokens and the steps of their ratios.
#[allow(clippy::too_many_arguments)]
pub fn code_order<C: BinaryCoder + Send>(
    [continuations, weights]: &mut [C; 2],
    shorter: &RestoredOrder,
    contexts: &RestoredOrder,
    source: Option<&Symbols>,
    limit: usize,
    threads: usize,
    go_on: impl Fn(&C) -> bool + Sync,
    mut visit: impl FnMut(i8, &[(Suffix, i8)]),
) -> std::result::Result<(), Invalid> {
    let known = Known::new(shorter, contexts);
    let mut continuations = ContinuationsCoder::new(&known, continuations, source, limit);
    let mut weights = WeightsCoder::new(weights, source);
    let mut code_continuations = |start: usize, block: &mut Block| {
        for context in start..contexts.len().min(start + BLOCK) {
            continuations.prefetch(context);
            if let Some(features) = known.context(context) {
                continuations.code_context(context, &features, &mut block.found, &go_on)?;
            }
            block.ends.push(block.found.len());
        }
        if go_on(continuations.coder) {
            Ok(())
        } else {
            Err(Invalid::Interrupted)
        }
    };
    let mut code_weights = |start: usize, block: &Block| {
        let mut begin = 0;
        for (context, &end) in (start..).zip(&block.ends) {
            let found = &block.found[begin..end];
            begin = end;
            match known.context(context).filter(|_| !found.is_empty()) {
                Some(features) => {
                    let (backoff, sorted) = weights.code_context(context, &features, found);
                    visit(backoff, sorted);
                }
                None => visit(0, &[]),
            }
        }
        if go_on(weights.coder) {
            Ok(())
        } else {
            Err(Invalid::Interrupted)
        }
    };
    let starts = (0..contexts.len()).step_by(BLOCK);
    if threads < 2 || contexts.len() <= BLOCK {
        let mut block = Block::default();
        for start in starts {
            block.ends.clear();
            block.found.clear();
            code_continuations(start, &mut block)?;
            code_weights(start, &block)?;
        }
        return Ok(());
    }
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(AHEAD);
        let ahead = scope.spawn(move || {
            for start in starts {
                let mut block = Block::default();
                code_continuations(start, &mut block)?;
                if sender.send((start, block)).is_err() {
                    // The other thread has found an error.
                    break;
                }
            }
            Ok(())
        });
        // The iterator owns the receiver, so an error ends the other thread.
        let behind = receiver.into_iter().try_for_each(|(start, block)| code_weights(start, &block));
        let ahead = ahead.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // As on one thread, the error of the earlier block.
        behind.and(ahead)
    })
}

/// The stream of an order from 2 on.
pub fn encode(
    shorter: &RestoredOrder,
    contexts: &RestoredOrder,
    symbols: &Symbols,
    control: &Control,
) -> Result<Vec<u8>> {
    let mut coders = [Encoder::new(), Encoder::new()];
    let go_on = |_: &Encoder| control.check().is_ok();
    let limit = symbols.tokens.len();
    match code_order(&mut coders, shorter, contexts, Some(symbols), limit, 1, go_on, |_, _| ()) {
        Ok(()) => {}
        Err(Invalid::Interrupted) => return Err(Error::Interrupted),
        Err(invalid) => unreachable!("{invalid:?}: kept n-grams are closed under prefix and suffix"),
    }
    let [continuations, weights] = coders.map(Encoder::finish);
    let mut stream = (continuations.len() as u32).to_le_bytes().to_vec();
    stream.extend(continuations);
    stream.extend(weights);
    Ok(stream)
}

/// The two parts of a stream; none if it is shorter than it says.
pub fn parts(stream: &[u8]) -> Option<[&[u8]; 2]> {
    let (length, parts) = stream.split_first_chunk()?;
    let (continuations, weights) = parts.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some([continuations, weights])
}

/// Has the processor fetch what is needed soon.
#[inline]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: prefetching the target of a reference affects nothing but time.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
