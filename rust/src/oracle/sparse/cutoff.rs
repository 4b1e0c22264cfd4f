//! Cutting n-grams that are too rare to be worth their bytes, before a trie is made of the rest.
//!
//! A large corpus has far more n-grams than a file of some megabytes can keep, and most of them occur once or twice.
//! Those that occur no more often than a cutoff are never candidates for the model. Their mass isn't lost: an n-gram that
//! isn't kept passes all of its mass to its suffix, so the mass ends at the longest suffix that is a candidate, and each
//! context on the way records how much mass was cut after it. An n-gram occurs at most as often as any n-gram in it, so
//! the prefixes and suffixes of a candidate are candidates too.

use std::sync::atomic::{AtomicU64, Ordering};

use super::counts::SparseCounts;
use super::masses::{fixed, settle, zeros};
use super::ngram::{weight, Ngram, MAX_ORDER};
use super::trie::{for_each_ngram, Trie};
use crate::parallel::{self, Control};
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

/// Passes the mass of what was cut to a trie that was built with a cutoff.
pub fn pass_on(
    counts: &SparseCounts,
    trie: &mut Trie,
    cutoff: u64,
    threads: usize,
    control: &Control,
) -> Result<()> {
    if cutoff == 0 {
        return Ok(());
    }
    let order = trie.order();
    let sums =
        || -> Vec<Vec<AtomicU64>> { trie.orders[..order].iter().map(|ngrams| zeros(ngrams.len())).collect() };
    let (passed, cut) = (sums(), sums());
    let chain = Chain { trie, passed: &passed, cut: &cut };
    parallel::run(threads, counts.chunk_count(), |chunk| {
        let mut suffixes = LongestSuffixes { longest: [(0, 0); MAX_ORDER + 1], last: None };
        for entry in counts.read_chunk(chunk)? {
            if entry.count <= cutoff && entry.ngram.length() == order {
                suffixes.extend_to(trie, entry.ngram);
                chain.add(&suffixes.longest, fixed(weight(entry.count, entry.documents)));
            }
        }
        control.check()
    })?;
    for ((ngrams, passed), cut) in trie.orders.iter_mut().zip(passed).zip(cut).skip(1) {
        ngrams.masses = settle(passed);
        ngrams.cut = settle(cut);
    }
    Ok(())
}

/// For each prefix of an n-gram, the longest suffix of it that is in the trie: its order and index.
struct LongestSuffixes {
    longest: [(usize, usize); MAX_ORDER + 1],
    last: Option<Ngram>,
}

impl LongestSuffixes {
    fn extend_to(&mut self, trie: &Trie, ngram: Ngram) {
        let shared = self.last.map_or(0, |last| last.common(ngram));
        for (index, token) in ngram.tokens().enumerate().skip(shared) {
            // As in Aho and Corasick (1975): where a suffix has no such continuation, the next shorter one may.
            let (mut length, mut at) = self.longest[index];
            self.longest[index + 1] = loop {
                if let Some(found) = (length < trie.order()).then(|| trie.find(length, at, token)).flatten() {
                    break (length + 1, found);
                }
                // The empty context is continued by every token.
                at = trie.orders[length].suffixes[at] as usize;
                length -= 1;
            };
        }
        self.last = Some(ngram);
    }
}

struct Chain<'a> {
    trie: &'a Trie,
    passed: &'a [Vec<AtomicU64>],
    cut: &'a [Vec<AtomicU64>],
}

impl Chain<'_> {
    /// Adds the weight of one n-gram of the top order that was cut.
    fn add(&self, longest: &[(usize, usize); MAX_ORDER + 1], weight: u64) {
        let order = self.trie.order();
        let (length, at) = longest[order];
        self.passed[length][at].fetch_add(weight, Ordering::Relaxed);
        // Its suffixes longer than that were cut too. Their contexts are the suffixes of its own context.
        let (mut context_length, mut context) = longest[order - 1];
        while context_length >= length {
            self.cut[context_length][context].fetch_add(weight, Ordering::Relaxed);
            context = self.trie.orders[context_length].suffixes[context] as usize;
            context_length -= 1;
        }
    }
}
