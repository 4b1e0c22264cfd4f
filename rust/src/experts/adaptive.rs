//! The strong experts that learn while they score: an adaptive n-gram model, a match model, a cache.
//!
//! Each predicts a token before it learns it. [`AdaptiveExperts`] holds them together and gives their
//! probabilities of one token or of all, and *gates*: small numbers that say how much the experts know
//! about the context at hand, by which a mixture may choose among sets of weights. Only additions,
//! multiplications and divisions are made, in a fixed order: the same tokens give the same bits on any
//! machine.
//!
//! The n-gram model also shows its *evidence*: in each of its contexts by itself, the shares of the tokens
//! that have followed. These are no experts, since a token that never followed has none, but a mixture may
//! put them on top of what the experts say ([`crate::mixtures::hierarchical`]).

use super::backoff::{self, Backoff, Evidence, CLASSES, LENGTHS};
use super::cache::Cache;
use super::longest_match::{self, Expected, LongestMatch};
use super::rows::check_rows;
use crate::fingerprint::{Fingerprint, Stateful};
use crate::tokens::check_tokens;
use crate::Result;

pub const NAMES: [&str; 3] = ["backoff", "match", "cache"];

/// Those that rest on counted contexts.
pub const COUNTING: [&str; 2] = ["backoff", "match"];

/// Of the evidence, a name for each of [`backoff::LENGTHS`].
pub const EVIDENCE: [&str; LENGTHS.len()] = ["after_1", "after_2", "after_3", "after_5", "after_8"];

/// How many classes the contexts of each length have: gates, too, for whom the evidence matters.
pub const CLASS_GATES: [usize; LENGTHS.len()] = [CLASSES; LENGTHS.len()];

/// How many values each gate has: of the n-gram model, of the match model, of both together.
pub const GATES: [usize; 3] = [LONGEST_GATES, MATCH_GATES, LONGEST_GATES * MATCH_GATES];
const LONGEST_GATES: usize = 2 * (backoff::MAX_LENGTH + 1);
const MATCH_GATES: usize = 10;

#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    pub backoff: backoff::Config,
    pub longest_match: longest_match::Config,
}

pub struct AdaptiveExperts {
    backoff: Backoff,
    longest_match: LongestMatch,
    cache: Cache,
}

/// The results of scoring n tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// ln p of each token given all before it, shape [3, n].
    pub log_probs: Vec<f32>,
    /// The gates that it met, shape [3, n].
    pub gates: Vec<u8>,
    /// ln of its share in each context, shape [5, n]; −∞: it has never followed.
    pub shares: Vec<f32>,
    /// The classes of these contexts, shape [5, n]; 0: not known.
    pub classes: Vec<u8>,
}

impl AdaptiveExperts {
    pub fn new(vocab_size: usize, config: Config) -> Result<Self> {
        Ok(Self {
            backoff: Backoff::new(vocab_size, config.backoff)?,
            longest_match: LongestMatch::new(config.longest_match)?,
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

    /// The classes of the next token's contexts, each below its number in [`CLASS_GATES`].
    pub fn classes(&self) -> [u8; LENGTHS.len()] {
        let mut classes = [0; LENGTHS.len()];
        self.backoff.classes(&mut classes);
        classes
    }

    /// The share of `token` in each context.
    pub fn shares(&self, token: u16) -> [f32; LENGTHS.len()] {
        let shares = self.backoff.evidence(token).shares;
        std::array::from_fn(|length| shares[length])
    }

    /// Adds to `out` [V] the shares of every next token, those in each context times its weight. In one
    /// context they sum to one, or are all 0 where the class is 0.
    pub fn add_shares(&self, weights: &[f32], out: &mut [f32]) {
        for (length, &weight) in weights.iter().enumerate() {
            self.backoff.add_shares(length, weight, out);
        }
    }

    /// The share of every next token in each context, shape [5, V].
    pub fn share_rows(&self, out: &mut [f32]) {
        debug_assert_eq!(out.len(), LENGTHS.len() * self.vocab_size());
        out.fill(0.0);
        for (length, row) in out.chunks_exact_mut(self.vocab_size()).enumerate() {
            self.backoff.add_shares(length, 1.0, row);
        }
    }

    /// Learns the token that came. Returns the probabilities that it had.
    pub fn update(&mut self, token: u16) -> [f32; NAMES.len()] {
        self.learn(token).0
    }

    fn learn(&mut self, token: u16) -> ([f32; NAMES.len()], Evidence) {
        let cache = self.cache.probability(token);
        let (backoff, evidence) = self.backoff.update(token);
        let matched = blend(self.longest_match.expected(), token, backoff);
        self.longest_match.update(token);
        self.cache.update(token);
        ([backoff, matched, cache], evidence)
    }

    /// Learns tokens without scoring them, such as the one that begins a stream.
    pub fn observe(&mut self, tokens: &[u16]) -> Result<()> {
        check_tokens(tokens, self.vocab_size())?;
        for &token in tokens {
            self.update(token);
        }
        Ok(())
    }

    /// Each token is scored, then learned. Where `rows` [3, n, V] is wanted, it gets ln p of every token
    /// that there might have been instead, which takes V times as long.
    pub fn score(&mut self, tokens: &[u16], mut rows: Option<&mut [f32]>) -> Result<Scored> {
        check_tokens(tokens, self.vocab_size())?;
        let (n, vocab_size) = (tokens.len(), self.vocab_size());
        check_rows(rows.as_deref(), [NAMES.len(), n, vocab_size])?;
        let mut row = vec![0.0; if rows.is_some() { NAMES.len() * vocab_size } else { 0 }];
        let mut scored = Scored {
            log_probs: vec![0.0; NAMES.len() * n],
            gates: vec![0; GATES.len() * n],
            shares: vec![0.0; LENGTHS.len() * n],
            classes: vec![0; LENGTHS.len() * n],
        };
        let mut near = None;
        for (index, &token) in tokens.iter().enumerate() {
            if let Some(rows) = &mut rows {
                self.rows(&mut row);
                for (expert, row) in row.chunks_exact(vocab_size).enumerate() {
                    let out = &mut rows[(expert * n + index) * vocab_size..][..vocab_size];
                    out.iter_mut().zip(row).for_each(|(out, probability)| *out = probability.ln());
                }
            }
            near = self.backoff.prefetch(&tokens[index..], near);
            self.longest_match.prefetch(&tokens[..tokens.len().min(index + 4)]);
            for (gate, value) in self.gates().into_iter().enumerate() {
                scored.gates[gate * n + index] = value;
            }
            let (probabilities, evidence) = self.learn(token);
            for (expert, probability) in probabilities.into_iter().enumerate() {
                scored.log_probs[expert * n + index] = probability.ln();
            }
            for length in 0..LENGTHS.len() {
                scored.shares[length * n + index] = evidence.shares[length].ln();
                scored.classes[length * n + index] = evidence.classes[length];
            }
        }
        Ok(scored)
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
