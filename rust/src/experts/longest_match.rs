//! A match model: where did the latest tokens occur before, and what came next there?
//!
//! While a match lasts it predicts one token, with a confidence that is learned for each length of match. That alone is no
//! distribution; another expert distributes the rest of the probability. Memory is bounded: a ring of the latest tokens,
//! and a table with the latest place of every hash. A place that has left the ring is no match.

use super::hash::finalise;
use crate::fingerprint::{Fingerprint, Stateful};
use crate::memory::prefetch;
use crate::{Error, Result};

/// Matches longer than this share one confidence.
const LONGEST: usize = 32;
/// Confidences follow the last 1 / RATE uses.
const RATE: f32 = 0.005;

#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Tokens that a match begins with.
    pub least: usize,
    /// Tokens that are remembered, a power of two; the table of hashes has as many places.
    pub memory: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { least: 4, memory: 1 << 22 }
    }
}

/// What the match model expects next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    pub token: u16,
    /// Tokens that matched, at most 32.
    pub length: usize,
    pub confidence: f32,
}

#[derive(Clone, Copy)]
struct Confidence {
    value: f32,
    uses: f32,
}

/// Of tokens, newest first.
fn hash_of(tokens: impl Iterator<Item = u16>) -> u64 {
    tokens.fold(0, |hash, token| finalise(hash ^ (u64::from(token) + 1)))
}

pub struct LongestMatch {
    least: usize,
    ring: Vec<u16>,
    seen: usize,
    /// By the hash of `least` tokens: the position of the token that followed them last. 0: none.
    latest: Vec<u32>,
    /// The position of the token that is expected to come again, and how many before it matched.
    at: usize,
    length: usize,
    confidences: [Confidence; LONGEST + 1],
}

impl LongestMatch {
    pub fn new(Config { least, memory }: Config) -> Result<Self> {
        if !(1..=LONGEST).contains(&least) {
            return Err(Error::input(format!("a match begins with 1 to {LONGEST} tokens, not {least}")));
        }
        if !(256..=1 << 30).contains(&memory) || !memory.is_power_of_two() {
            return Err(Error::input(format!(
                "a match model remembers a power of two of tokens, not {memory}"
            )));
        }
        Ok(Self {
            least,
            ring: vec![0; memory],
            seen: 0,
            latest: vec![0; memory],
            at: 0,
            length: 0,
            confidences: std::array::from_fn(|length| Confidence {
                value: length as f32 / (length as f32 + 4.0),
                uses: 4.0,
            }),
        })
    }

    pub fn expected(&self) -> Option<Expected> {
        (self.length > 0).then(|| Expected {
            token: self.ring[self.at & (self.ring.len() - 1)],
            length: self.length,
            confidence: self.confidences[self.length].value,
        })
    }

    pub fn update(&mut self, token: u16) {
        let mask = self.ring.len() - 1;
        if let Some(expected) = self.expected() {
            let hit = expected.token == token;
            let confidence = &mut self.confidences[self.length];
            let rate = RATE.max(1.0 / (confidence.uses + 1.0));
            confidence.value += rate * (if hit { 1.0 } else { 0.0 } - confidence.value);
            confidence.value = confidence.value.clamp(0.001, 0.9995);
            confidence.uses += 1.0;
            self.length = if hit { (self.length + 1).min(LONGEST) } else { 0 };
            self.at += 1;
        }
        self.ring[self.seen & mask] = token;
        self.seen += 1;
        if self.seen < self.least {
            return;
        }
        let hash = hash_of((1..=self.least).map(|back| self.ring[(self.seen - back) & mask]));
        let latest = &mut self.latest[hash as usize & mask];
        let place = *latest as usize;
        *latest = self.seen as u32;
        if self.length < LONGEST && place > 0 && place != self.at {
            let length = self.matching(place);
            if length >= self.least && length > self.length {
                (self.at, self.length) = (place, length);
            }
        }
        // The ring's oldest tokens are about to be written over.
        if self.length > 0 && self.seen - self.at >= self.ring.len() {
            self.length = 0;
        }
    }

    /// Has the processor fetch the place of the hash of `coming`, the tokens up to one that comes soon.
    pub fn prefetch(&self, coming: &[u16]) {
        if let Some(start) = coming.len().checked_sub(self.least) {
            let hash = hash_of(coming[start..].iter().rev().copied());
            prefetch(&self.latest[hash as usize & (self.latest.len() - 1)]);
        }
    }

    /// How many tokens before a place equal those before the next one, as far as the ring reaches.
    fn matching(&self, place: usize) -> usize {
        let mask = self.ring.len() - 1;
        let reach = (self.ring.len() - 1).saturating_sub(self.seen - place).min(place).min(LONGEST);
        (1..=reach)
            .take_while(|&back| self.ring[(place - back) & mask] == self.ring[(self.seen - back) & mask])
            .count()
    }
}

impl Stateful for LongestMatch {
    fn add_state(&self, to: &mut Fingerprint) {
        to.add_slice(&self.ring[..self.seen.min(self.ring.len())]);
        to.add_slice(&self.latest);
        to.add([self.seen, self.at, self.length]);
        to.add(self.confidences.iter().flat_map(|confidence| [confidence.value, confidence.uses]));
    }
}
