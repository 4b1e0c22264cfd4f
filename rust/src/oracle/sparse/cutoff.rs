//! Cutting n-grams that are too rare to be worth their bytes, before a trie is made of the rest.
//!
//! A large corpus has far more n-grams than a file of some megabytes can keep, and most of them occur once or twice.
//! Those that occur no more often than a cutoff are never candidates for the model. Their mass isn't lost: an n-gram that
//! isn't kept passes all of its mass to its suffix ([`Trie::build`](super::trie::Trie::build)). An n-gram occurs at most
//! as often as any n-gram in it, so the prefixes and suffixes of a candidate are candidates too.

use std::sync::Mutex;

use super::counts::SparseCounts;
use super::ngram::{Entry, Ngram};
use super::walk::{walk, Visitor};
use crate::parallel::{self, Control};
use crate::{Error, Result};

/// How many n-grams of order 2 and above occur once, twice, and so on.
#[derive(Debug)]
pub struct Histogram {
    /// `exactly[k]`: how many n-grams occur `k` times.
    exactly: Vec<u64>,
    more: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { exactly: vec![0; Self::MOST + 1], more: 0 }
    }
}

impl Visitor for Histogram {
    fn open(&mut self, _: usize, _: Ngram) {}

    fn close(&mut self, order: usize, count: u64, _: Entry) -> Result<()> {
        if order > 1 {
            let slot = usize::try_from(count).ok().and_then(|count| self.exactly.get_mut(count));
            *slot.unwrap_or(&mut self.more) += 1;
        }
        Ok(())
    }
}

impl Histogram {
    /// The highest cutoff.
    const MOST: usize = 1 << 12;

    pub fn of(counts: &SparseCounts, threads: usize, control: &Control) -> Result<Self> {
        let all = Mutex::new(Self::default());
        walk(counts, threads, control, Self::default, |_, piece| {
            parallel::lock(&all).add(&piece);
        })?;
        Ok(parallel::into_inner(all))
    }

    /// How many n-grams occur 0, 1, … times, and at the end how many occur still more often.
    pub fn numbers(&self) -> Vec<u64> {
        self.exactly.iter().copied().chain([self.more]).collect()
    }

    /// The inverse.
    pub fn from_numbers(numbers: &[u64]) -> Result<Self> {
        match numbers.split_last() {
            Some((&more, exactly)) if exactly.len() == Self::MOST + 1 => {
                Ok(Self { exactly: exactly.to_vec(), more })
            }
            _ => Err(Error::input(format!(
                "a histogram has {} numbers, not {}",
                Self::MOST + 2,
                numbers.len()
            ))),
        }
    }

    /// Adds what was found in other pieces of the same counts.
    pub fn add(&mut self, other: &Self) {
        self.exactly.iter_mut().zip(&other.exactly).for_each(|(sum, number)| *sum += number);
        self.more += other.more;
    }

    /// How many n-grams occur more than `cutoff` times.
    pub fn above(&self, cutoff: u64) -> u64 {
        self.more + self.exactly.iter().skip(cutoff as usize + 1).sum::<u64>()
    }

    /// The least cutoff that leaves no more than `most`.
    pub fn cutoff(&self, most: u64) -> u64 {
        (0..Self::MOST as u64).find(|&cutoff| self.above(cutoff) <= most).unwrap_or(Self::MOST as u64)
    }
}
