//! Experts that learn while they score, strong ones: an adaptive n-gram model, a match model, a cache.
//!
//! Each predicts a token before it learns it. [`AdaptiveExperts`] holds them together and gives their
//! probabilities of one token or of all, and *gates*: small numbers that say how much the experts know
//! about the context at hand, by which a mixture may choose among sets of weights. Only additions,
//! multiplications and divisions are made, in a fixed order: the same tokens give the same bits on any
//! machine.

pub mod backoff;
pub mod cache;
pub mod longest_match;

use backoff::Backoff;
use cache::Cache;
use longest_match::{Expected, LongestMatch};

use crate::fingerprint::{Fingerprint, Stateful};
use crate::oracle::check_tokens;
use crate::Result;

pub const NAMES: [&str; 3] = ["backoff", "match", "cache"];

/// How many values each gate has: of the n-gram model, of the match model, of both together.
pub const GATES: [usize; 3] = [LONGEST_GATES, MATCH_GATES, LONGEST_GATES * MATCH_GATES];
const LONGEST_GATES: usize = 2 * (backoff::MAX_LENGTH + 1);
const MATCH_GATES: usize = 10;

#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub backoff: backoff::Settings,
    pub longest_match: longest_match::Settings,
}

pub struct AdaptiveExperts {
    backoff: Backoff,
    longest_match: LongestMatch,
    cache: Cache,
}

impl AdaptiveExperts {
    pub fn new(vocab_size: usize, settings: Settings) -> Result<Self> {
        Ok(Self {
            backoff: Backoff::new(vocab_size, settings.backoff)?,
            longest_match: LongestMatch::new(settings.longest_match)?,
            cache: Cache::new(vocab_size),
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.backoff.vocab_size()
    }

    /// The gates of the next token, each below its number in [`GATES`].
    pub fn gates(&self) -> [u8; GATES.len()] {
        let (length, single) = self.backoff.longest();
        let longest = 2 * length + usize::from(single);
        let matched = self.longest_match.expected().map_or(0, |expected| 1 + (expected.length / 4).min(8));
        [longest, matched, longest * MATCH_GATES + matched].map(|gate| gate as u8)
    }

    /// Each expert's probability of `token` being the next one.
    pub fn probabilities(&self, token: u16) -> [f32; NAMES.len()] {
        let backoff = self.backoff.probability(token);
        [backoff, blend(self.longest_match.expected(), token, backoff), self.cache.probability(token)]
    }

    /// Each expert's probability of every next token, shape [3, V].
    pub fn rows(&self, out: &mut [f32]) {
        let vocab_size = self.vocab_size();
        debug_assert_eq!(out.len(), NAMES.len() * vocab_size);
        let (backoff, rest) = out.split_at_mut(vocab_size);
        let (matched, cache) = rest.split_at_mut(vocab_size);
        self.backoff.row(backoff);
        self.cache.row(cache);
        matched.copy_from_slice(backoff);
        if let Some(expected) = self.longest_match.expected() {
            let others = 1.0 - expected.confidence;
            matched.iter_mut().for_each(|probability| *probability *= others);
            matched[usize::from(expected.token)] += expected.confidence;
        }
    }

    /// Learns the token that came. Returns the probabilities that it had.
    pub fn update(&mut self, token: u16) -> [f32; NAMES.len()] {
        let cache = self.cache.probability(token);
        let backoff = self.backoff.update(token);
        let matched = blend(self.longest_match.expected(), token, backoff);
        self.longest_match.update(token);
        self.cache.update(token);
        [backoff, matched, cache]
    }

    /// Learns tokens that nobody asks a prediction of, such as the one that begins a stream.
    pub fn observe(&mut self, tokens: &[u16]) -> Result<()> {
        check_tokens(tokens, self.vocab_size())?;
        for &token in tokens {
            self.update(token);
        }
        Ok(())
    }

    /// ln p of each token given all before it, shape [3, n], and the gates that it met, shape [3, n].
    /// Each token is scored, then learned.
    pub fn score(&mut self, tokens: &[u16], log_probs: &mut [f32], gates: &mut [u8]) -> Result<()> {
        check_tokens(tokens, self.vocab_size())?;
        let n = tokens.len();
        debug_assert!(log_probs.len() == NAMES.len() * n && gates.len() == GATES.len() * n);
        for (index, &token) in tokens.iter().enumerate() {
            for (gate, value) in self.gates().into_iter().enumerate() {
                gates[gate * n + index] = value;
            }
            for (expert, probability) in self.update(token).into_iter().enumerate() {
                log_probs[expert * n + index] = probability.ln();
            }
        }
        Ok(())
    }
}

impl Stateful for AdaptiveExperts {
    fn add_state(&self, to: &mut Fingerprint) {
        self.backoff.add_state(to);
        self.longest_match.add_state(to);
        self.cache.add_state(to);
    }
}

/// The match model's probability of a token: what it doesn't give to the one it expects is shared out as
/// another expert would share it.
fn blend(expected: Option<Expected>, token: u16, other: f32) -> f32 {
    let Some(Expected { token: predicted, confidence, .. }) = expected else { return other };
    let others = other * (1.0 - confidence);
    if token == predicted {
        others + confidence
    } else {
        others
    }
}

/// A bijective finaliser (Stafford's variant 13): every input bit reaches every output bit.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
