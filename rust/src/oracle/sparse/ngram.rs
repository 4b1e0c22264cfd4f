//! n-grams, and how often they occur.

use crate::vocabulary::Vocabulary;
use crate::{Error, Result};

/// The longest n-grams.
pub const MAX_ORDER: usize = 8;

/// The largest vocabulary: a token and one must fit 16 bits.
pub const MAX_VOCAB: usize = u16::MAX as usize;

/// An n-gram, packed: 16 bits per token, each one higher so that 0 says that the n-gram has ended.
/// Packings sort as the tokens do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ngram(u128);

const CODE_BITS: usize = 16;

impl Ngram {
    pub fn of(token: u16) -> Self {
        Self(0).with(0, token + 1)
    }

    /// The token at `index`, one higher; 0 beyond the n-gram's end.
    pub fn code(self, index: usize) -> u16 {
        (self.0 >> (CODE_BITS * (MAX_ORDER - 1 - index))) as u16
    }

    /// With `code` at `index`, where nothing is yet.
    pub fn with(self, index: usize, code: u16) -> Self {
        Self(self.0 | u128::from(code) << (CODE_BITS * (MAX_ORDER - 1 - index)))
    }

    pub fn truncated(self, length: usize) -> Self {
        Self(self.0 & u128::MAX.checked_shl((CODE_BITS * (MAX_ORDER - length)) as u32).unwrap_or(0))
    }

    pub fn length(self) -> usize {
        MAX_ORDER - self.0.trailing_zeros() as usize / CODE_BITS
    }

    pub fn tokens(self) -> impl Iterator<Item = u16> {
        (0..self.length()).map(move |index| self.code(index) - 1)
    }

    /// How many tokens two n-grams that differ share from the first on.
    pub fn common(self, other: Self) -> usize {
        (self.0 ^ other.0).leading_zeros() as usize / CODE_BITS
    }
}

/// How often an n-gram occurs, and in how many documents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    pub ngram: Ngram,
    pub count: u64,
    pub documents: u64,
}

/// What all n-grams of a file are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NgramSpec {
    pub vocabulary: Vocabulary,
    pub order: usize,
}

impl NgramSpec {
    pub fn new(vocabulary: impl Into<Vocabulary>, order: usize) -> Result<Self> {
        let vocabulary = vocabulary.into();
        let vocab_size = vocabulary.size;
        if vocab_size == 0 || vocab_size > MAX_VOCAB {
            return Err(Error::input(format!("a vocabulary has 1 to {MAX_VOCAB} tokens, not {vocab_size}")));
        }
        if !(2..=MAX_ORDER).contains(&order) {
            return Err(Error::input(format!("a sparse oracle has order 2 to {MAX_ORDER}, not {order}")));
        }
        vocabulary.check()?;
        Ok(Self { vocabulary, order })
    }

    pub fn vocab_size(&self) -> usize {
        self.vocabulary.size
    }

    /// Whether no token follows this code: the n-gram is over, or reached the next document's beginning.
    pub fn ends(&self, code: u16) -> bool {
        code == 0 || code == self.vocabulary.bos + 1
    }
}

/// An occurrence in a document that has the n-gram already counts for this much: text repeats itself
/// within a document more than it does elsewhere, and what is learnt should hold elsewhere.
pub const REPEAT_WEIGHT: f32 = 0.2;

/// What an n-gram of the top order starts with.
pub fn weight(count: u64, documents: u64) -> f64 {
    documents as f64 + f64::from(REPEAT_WEIGHT) * count.saturating_sub(documents) as f64
}
