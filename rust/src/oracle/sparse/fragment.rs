//! The candidates that begin with some of the vocabulary's tokens: what a trie is put together from.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::counts::SparseCounts;
use super::ngram::{weight, Entry, Ngram, NgramSpec, MAX_ORDER};
use super::walk::{walk, Visitor};
use crate::bytes::{Fields, Reader};
use crate::parallel::{self, Control};
use crate::{Error, Result};

/// The n-grams of one order, in lexicographic order.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct FragmentOrder {
    /// Each n-gram's last token.
    pub tokens: Vec<u16>,
    /// Where, in the fragment's next order, those begin that continue it. Empty at the top.
    pub first: Vec<u32>,
    /// Weighted counts; only at the top.
    pub masses: Vec<f32>,
    /// As in [`super::trie::TrieOrder`].
    pub beginnings: Vec<f32>,
    /// How often each n-gram occurs. Empty without a cutoff.
    pub counts: Vec<f32>,
    /// How often each is continued in a way that was cut. Empty without a cutoff, and at the top.
    pub cut: Vec<f32>,
}

/// The n-grams of the top order that were cut, which don't need to be told apart.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct CutTotals {
    pub count: u64,
    pub documents: u64,
}

impl CutTotals {
    pub fn add(&mut self, count: u64, documents: u64) {
        self.count = self.count.saturating_add(count);
        self.documents = self.documents.saturating_add(documents);
    }

    /// The mass of an occurrence.
    pub fn mean_weight(&self) -> f32 {
        if self.count == 0 {
            return 1.0;
        }
        (weight(self.count, self.documents) / self.count as f64) as f32
    }
}

/// n-grams that occur more than `cutoff` times and begin with certain tokens. All of these tokens that occur are in it
/// themselves.
#[derive(Debug, PartialEq)]
pub struct Fragment {
    /// From order 1 on; order 0 is empty.
    pub orders: Vec<FragmentOrder>,
    pub cut: CutTotals,
    cutoff: u64,
    bos: u16,
    /// Of the n-grams that are open: the last token, where their continuations begin, and how often they were continued
    /// in a way that was cut.
    tokens: [u16; MAX_ORDER + 1],
    starts: [u32; MAX_ORDER + 1],
    cut_so_far: [u64; MAX_ORDER + 1],
}

impl Fragment {
    fn new(spec: NgramSpec, cutoff: u64) -> Self {
        Self {
            orders: vec![FragmentOrder::default(); spec.order + 1],
            cut: CutTotals::default(),
            cutoff,
            bos: spec.vocabulary.bos,
            tokens: [0; MAX_ORDER + 1],
            starts: [0; MAX_ORDER + 1],
            cut_so_far: [0; MAX_ORDER + 1],
        }
    }

    /// All candidates of `counts`, in fragments that follow each other.
    pub fn all(counts: &SparseCounts, cutoff: u64, threads: usize, control: &Control) -> Result<Vec<Self>> {
        let found = Mutex::new(BTreeMap::new());
        let begin = || Self::new(counts.spec(), cutoff);
        walk(counts, threads, control, begin, |piece, fragment| {
            parallel::lock(&found).insert(piece, fragment);
        })?;
        let found = parallel::into_inner(found);
        Ok(found.into_values().collect())
    }

    /// For another machine.
    pub fn pack(&self, out: &mut Vec<u8>) {
        for total in [self.cut.count, self.cut.documents, self.cutoff] {
            out.extend(total.to_le_bytes());
        }
        for ngrams in &self.orders[1..] {
            let FragmentOrder { tokens, first, masses, beginnings, counts, cut } = ngrams;
            out.extend((tokens.len() as u32).to_le_bytes());
            out.extend((beginnings.len() as u32).to_le_bytes());
            out.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
            out.extend(first.iter().flat_map(|first| first.to_le_bytes()));
            for numbers in [masses, beginnings, counts, cut] {
                out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
        }
    }

    /// The inverse of [`Fragment::pack`] for all fragments in `data`, which errors call `what`. Whatever is there, a trie
    /// can be made of it, or is refused.
    pub fn unpack(data: &[u8], spec: NgramSpec, what: &str) -> Result<Vec<Self>> {
        let mut reader = Reader::new(data, what);
        let mut fragments = Vec::new();
        while reader.remaining() > 0 {
            let [count, documents, cutoff] =
                [reader.u64("a total")?, reader.u64("a total")?, reader.u64("a cutoff")?];
            let mut fragment = Self::new(spec, cutoff);
            fragment.cut = CutTotals { count, documents };
            for n in 1..=spec.order {
                let (length, beginnings) =
                    (reader.u32("a number of n-grams")? as usize, reader.u32("a number")? as usize);
                let below_top = if n < spec.order { length } else { 0 };
                let counted = if cutoff > 0 { length } else { 0 };
                fragment.orders[n] = FragmentOrder {
                    tokens: numbers(&mut reader, length, u16::from_le_bytes)?,
                    first: numbers(&mut reader, below_top, u32::from_le_bytes)?,
                    masses: numbers(&mut reader, length - below_top, f32::from_le_bytes)?,
                    beginnings: numbers(&mut reader, beginnings, f32::from_le_bytes)?,
                    counts: numbers(&mut reader, counted, f32::from_le_bytes)?,
                    cut: numbers(&mut reader, counted.min(below_top), f32::from_le_bytes)?,
                };
            }
            if !fragment.is_consistent(spec) {
                return Err(reader.error("the candidates don't fit together"));
            }
            fragments.push(fragment);
        }
        Ok(fragments)
    }

    /// Whether tokens ascend within each context and are in the vocabulary, contexts cover the next order, and numbers are
    /// numbers.
    fn is_consistent(&self, spec: NgramSpec) -> bool {
        let ascend = |tokens: &[u16]| {
            tokens.windows(2).all(|pair| pair[0] < pair[1])
                && tokens.last().is_none_or(|&last| usize::from(last) < spec.vocab_size())
        };
        let numbers = self.orders.iter().flat_map(|n| [&n.masses, &n.beginnings, &n.counts, &n.cut]);
        let mut valid = ascend(&self.orders[1].tokens)
            && numbers.flatten().all(|number| number.is_finite() && *number >= 0.0);
        for pair in self.orders[1..].windows(2) {
            let (first, tokens) = (&pair[0].first, &pair[1].tokens);
            let ends = first.iter().skip(1).copied().chain([tokens.len() as u32]);
            valid &= first.first().copied().unwrap_or(tokens.len() as u32) == 0;
            valid &= first
                .iter()
                .zip(ends)
                .all(|(&start, end)| tokens.get(start as usize..end as usize).is_some_and(ascend));
        }
        valid
    }
}

fn numbers<const N: usize, T>(
    reader: &mut Reader,
    count: usize,
    from: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let bytes = reader.take(count.saturating_mul(N), "an order's numbers")?;
    let (numbers, _) = bytes.as_chunks::<N>();
    Ok(numbers.iter().map(|bytes| from(*bytes)).collect())
}

/// An n-gram is added after its last continuation, as only then its count is known.
impl Visitor for Fragment {
    fn open(&mut self, order: usize, ngram: Ngram) {
        self.tokens[order] = ngram.code(order - 1) - 1;
        self.cut_so_far[order] = 0;
        if let Some(next) = self.orders.get(order + 1) {
            self.starts[order] = next.tokens.len() as u32;
        }
    }

    fn close(&mut self, order: usize, count: u64, entry: Entry) -> Result<()> {
        let top = self.orders.len() - 1;
        if order > 1 && count <= self.cutoff {
            self.cut_so_far[order - 1] = self.cut_so_far[order - 1].saturating_add(count);
            if order == top {
                self.cut.add(entry.count, entry.documents);
            }
            return Ok(());
        }
        let ngrams = &mut self.orders[order];
        if ngrams.tokens.len() == u32::MAX as usize {
            return Err(too_many(order));
        }
        ngrams.tokens.push(self.tokens[order]);
        if order < top {
            ngrams.first.push(self.starts[order]);
        } else {
            ngrams.masses.push(weight(entry.count, entry.documents) as f32);
        }
        if 1 < order && order < top && self.tokens[1] == self.bos {
            ngrams.beginnings.push(count as f32);
        }
        if self.cutoff > 0 {
            ngrams.counts.push(count as f32);
            if order < top {
                ngrams.cut.push(self.cut_so_far[order] as f32);
            }
        }
        Ok(())
    }
}

pub(super) fn too_many(order: usize) -> Error {
    Error::input(format!("more than 2^32 n-grams of order {order}; build from fewer shards"))
}
