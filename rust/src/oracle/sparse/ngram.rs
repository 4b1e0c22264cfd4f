//! n-grams, and how often they occur.

use crate::vocabulary::Vocabulary;
use crate::{Error, Result};

/// The longest n-grams.
pub const MAX_ORDER: usize = 8;

/// The largest vocabulary: codes, which are one higher than tokens, must fit 16 bits.
pub const MAX_VOCAB: usize = u16::MAX as usize;

/// An n-gram in one number: 16 bits per token, whose code is one higher, so that 0 marks the end of the n-gram. Such
/// numbers sort as the tokens do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ngram(u128);

const CODE_BITS: usize = 16;

impl Ngram {
    pub fn of(token: u16) -> Self {
        Self(0).with(0, token + 1)
    }

    /// The code of the token at `index`; 0 past the end of the n-gram.
    pub fn code(self, index: usize) -> u16 {
        (self.0 >> (CODE_BITS * (MAX_ORDER - 1 - index))) as u16
    }

    /// The n-gram with `code` at `index`, where it has none yet.
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

    /// How many first tokens two different n-grams have in common.
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

    /// Whether an n-gram ends with this code: it has no more tokens, or reached the beginning of the next document.
    pub fn ends(&self, code: u16) -> bool {
        code == 0 || code == self.vocabulary.bos + 1
    }
}

/// What an occurrence counts in a document that already had the n-gram: text repeats itself within a document more than
/// elsewhere, and what is learned should hold elsewhere.
pub const REPEAT_WEIGHT: f32 = 0.2;

/// The weighted count of an n-gram: the mass that it starts with at the top order.
pub fn weight(count: u64, documents: u64) -> f64 {
    documents as f64 + f64::from(REPEAT_WEIGHT) * count.saturating_sub(documents) as f64
}
