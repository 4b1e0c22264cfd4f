//! The reference's experts that learn while they score: each token is predicted from those before it, then counted.
//!
//! Unigram, bigram (a row per previous token), trigram (a row per hash of the two previous tokens) and a
//! decaying cache, all smoothed by one imagined occurrence of every token, so that every prediction is a
//! normalised distribution. Positions before the first token count as token 0.

use super::hash::finalise;
use super::rows::check_rows;
use crate::fingerprint::{Fingerprint, Stateful};
use crate::memory::prefetch;
use crate::tokens::check_tokens;
use crate::{Error, Result};

pub const NAMES: [&str; 4] = ["unigram", "bigram", "trigram", "decay"];

const TRIGRAM_ROWS: usize = 8192;

/// Places that a table of counts begins with.
const FIRST_PLACES: usize = 1 << 10;

/// What the weight of a token in the cache shrinks by with every token after it.
const GAMMA: f64 = 0.999;

/// Past this scale the cache's counts are brought back to ones of ordinary size.
const LARGEST_SCALE: f64 = 1e100;

/// Counts of those pairs of a row and a token that occurred. All that could occur would take half a gigabyte where the
/// vocabulary has 8192 tokens, and a text of a million has at most a million of them.
struct Pairs {
    /// A table with open addressing: a pair and its count, or 0 and 0 where there is none.
    keys: Vec<u64>,
    counts: Vec<u32>,
    used: usize,
}

impl Pairs {
    /// Of a power of two places.
    fn with_places(places: usize) -> Self {
        Self { keys: vec![0; places], counts: vec![0; places], used: 0 }
    }

    /// Where a pair is, or would be.
    fn place(&self, key: u64) -> usize {
        let mask = self.keys.len() - 1;
        let mut at = finalise(key) as usize & mask;
        // One place at least is free.
        while self.keys[at] != key && self.keys[at] != 0 {
            at = (at + 1) & mask;
        }
        at
    }

    /// The count of a pair, which can be changed if the pair is there.
    fn entry(&mut self, key: u64) -> &mut u32 {
        let mut at = self.place(key);
        if self.keys[at] == 0 {
            if 4 * self.used >= 3 * self.keys.len() {
                self.grow();
                at = self.place(key);
            }
            self.keys[at] = key;
            self.used += 1;
        }
        &mut self.counts[at]
    }

    /// Has the processor fetch a pair's place.
    fn prefetch(&self, key: u64) {
        let at = finalise(key) as usize & (self.keys.len() - 1);
        prefetch(&self.keys[at]);
        prefetch(&self.counts[at]);
    }

    fn grow(&mut self) {
        let mut larger = Self::with_places(2 * self.keys.len());
        for (&key, &count) in self.keys.iter().zip(&self.counts).filter(|(&key, _)| key != 0) {
            *larger.entry(key) = count;
        }
        *self = larger;
    }
}

/// Hashed rows of counts and their sums.
struct Rows {
    vocab_size: usize,
    pairs: Pairs,
    totals: Vec<u64>,
}

impl Rows {
    fn new(rows: usize, vocab_size: usize) -> Self {
        Self { vocab_size, pairs: Pairs::with_places(FIRST_PLACES), totals: vec![0; rows] }
    }

    /// Of a row and a token, never 0.
    fn key(&self, row: usize, token: usize) -> u64 {
        row as u64 * self.vocab_size as u64 + token as u64 + 1
    }

    fn probability(&self, row: usize, token: usize) -> f64 {
        let count = self.pairs.counts[self.pairs.place(self.key(row, token))];
        (f64::from(count) + 1.0) / (self.totals[row] as f64 + self.vocab_size as f64)
    }

    fn add(&mut self, row: usize, token: usize) {
        let key = self.key(row, token);
        let count = self.pairs.entry(key);
        // A count that has reached its end stays there, and the row's sum with it.
        if let Some(more) = count.checked_add(1) {
            *count = more;
            self.totals[row] += 1;
        }
    }
}

/// Counts that all shrink by γ per token. Instead of shrinking them, what is added grows: each stored
/// count is `scale` times the true one.
struct Decay {
    counts: Vec<f64>,
    total: f64,
    scale: f64,
}

impl Decay {
    fn probability(&self, token: usize) -> f64 {
        (self.counts[token] / self.scale + 1.0) / (self.total / self.scale + self.counts.len() as f64)
    }

    fn add(&mut self, token: usize) {
        self.scale /= GAMMA;
        self.counts[token] += self.scale;
        self.total += self.scale;
        if self.scale > LARGEST_SCALE {
            self.counts.iter_mut().for_each(|count| *count /= self.scale);
            self.total = self.counts.iter().sum();
            self.scale = 1.0;
        }
    }
}

fn trigram_row([older, newer]: [usize; 2]) -> usize {
    ((1_000_003 * older) ^ (1009 * newer)) % TRIGRAM_ROWS
}

pub struct OnlineExperts {
    vocab_size: usize,
    unigram: Rows,
    bigram: Rows,
    trigram: Rows,
    decay: Decay,
    previous: [usize; 2],
}

impl OnlineExperts {
    pub fn new(vocab_size: usize) -> Result<Self> {
        if !(2..=1 << 16).contains(&vocab_size) {
            return Err(Error::input(format!("a vocabulary has 2 to 65536 tokens, not {vocab_size}")));
        }
        Ok(Self {
            vocab_size,
            unigram: Rows::new(1, vocab_size),
            bigram: Rows::new(vocab_size, vocab_size),
            trigram: Rows::new(TRIGRAM_ROWS, vocab_size),
            decay: Decay { counts: vec![0.0; vocab_size], total: 0.0, scale: 1.0 },
            previous: [0; 2],
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn probabilities(&self, token: usize) -> [f64; 4] {
        [
            self.unigram.probability(0, token),
            self.bigram.probability(self.previous[1], token),
            self.trigram.probability(trigram_row(self.previous), token),
            self.decay.probability(token),
        ]
    }

    fn learn(&mut self, token: usize) {
        self.unigram.add(0, token);
        self.bigram.add(self.previous[1], token);
        self.trigram.add(trigram_row(self.previous), token);
        self.decay.add(token);
        self.previous = [self.previous[1], token];
    }

    /// Learns tokens without scoring them, such as the one that begins a stream.
    pub fn observe(&mut self, tokens: &[u16]) -> Result<()> {
        check_tokens(tokens, self.vocab_size)?;
        tokens.iter().for_each(|&token| self.learn(usize::from(token)));
        Ok(())
    }

    /// ln p of each token given all before it, as `out[expert * n + j]`: shape [4, n]. Each token is
    /// scored, then learned. Where `rows` [4, n, V] is wanted, it gets ln p of every token that there might
    /// have been instead, which takes V times as long.
    pub fn score(&mut self, tokens: &[u16], out: &mut [f32], mut rows: Option<&mut [f32]>) -> Result<()> {
        let (n, vocab_size) = (tokens.len(), self.vocab_size);
        check_tokens(tokens, vocab_size)?;
        check_rows(rows.as_deref(), [NAMES.len(), n, vocab_size])?;
        debug_assert_eq!(out.len(), NAMES.len() * n);
        let mut row = vec![0.0; if rows.is_some() { NAMES.len() * vocab_size } else { 0 }];
        for (index, &token) in tokens.iter().enumerate() {
            if let Some(rows) = &mut rows {
                self.next_log_probs(&mut row);
                for (expert, row) in row.chunks_exact(vocab_size).enumerate() {
                    rows[(expert * n + index) * vocab_size..][..vocab_size].copy_from_slice(row);
                }
            }
            // The tables have many megabytes, and these are the pairs of the token after the next.
            if let Some(&[older, newer, coming]) = tokens[index..].first_chunk() {
                let [older, newer, coming] = [older, newer, coming].map(usize::from);
                self.bigram.pairs.prefetch(self.bigram.key(newer, coming));
                self.trigram.pairs.prefetch(self.trigram.key(trigram_row([older, newer]), coming));
            }
            let probabilities = self.probabilities(usize::from(token));
            for (expert, probability) in probabilities.into_iter().enumerate() {
                out[expert * n + index] = probability.ln() as f32;
            }
            self.learn(usize::from(token));
        }
        Ok(())
    }

    /// ln p of every possible next token, as `out[expert * V + v]`: shape [4, V]. Learns nothing.
    pub fn next_log_probs(&self, out: &mut [f32]) {
        debug_assert_eq!(out.len(), NAMES.len() * self.vocab_size);
        for token in 0..self.vocab_size {
            for (expert, probability) in self.probabilities(token).into_iter().enumerate() {
                out[expert * self.vocab_size + token] = probability.ln() as f32;
            }
        }
    }
}

impl Stateful for OnlineExperts {
    fn add_state(&self, to: &mut Fingerprint) {
        for rows in [&self.unigram, &self.bigram, &self.trigram] {
            to.add_slice(&rows.pairs.keys);
            to.add_slice(&rows.pairs.counts);
            to.add(&rows.totals);
        }
        to.add(&self.decay.counts);
        to.add([self.decay.total, self.decay.scale]);
        to.add(self.previous);
    }
}
