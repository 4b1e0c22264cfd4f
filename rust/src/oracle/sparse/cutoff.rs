//! Cutting n-grams that are too rare to be worth their bytes, before a trie is made of the rest.
//!
//! A large corpus has far more n-grams than a file of some megabytes can keep, and most of them occur once or twice.
//! Those that occur no more often than a cutoff are never candidates for the model. Their mass isn't lost: an n-gram that
//! isn't kept passes all of its mass to its suffix ([`Trie::build`](super::trie::Trie::build)). An n-gram occurs at most
//! as often as any n-gram in it, so the prefixes and suffixes of a candidate are candidates too.

use super::counts::SparseCounts;
use super::trie::for_each_ngram;
use crate::parallel::Control;
use crate::Result;

/// How many n-grams of order 2 and above occur once, twice, and so on.
#[derive(Debug)]
pub struct Histogram {
    /// `exactly[k]`: how many n-grams occur `k` times.
    exactly: Vec<u64>,
    more: u64,
}

impl Histogram {
    /// The highest cutoff.
    const MOST: usize = 1 << 12;

    pub fn of(counts: &SparseCounts, threads: usize, control: &Control) -> Result<Self> {
        let mut histogram = Self { exactly: vec![0; Self::MOST + 1], more: 0 };
        for_each_ngram(
            counts,
            threads,
            control,
            &mut histogram,
            |_, _, _| (),
            |histogram, order, count, _| {
                if order > 1 {
                    let slot = usize::try_from(count).ok().and_then(|count| histogram.exactly.get_mut(count));
                    *slot.unwrap_or(&mut histogram.more) += 1;
                }
                Ok(())
            },
        )?;
        Ok(histogram)
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
