//! The n-grams of a corpus, up to an order, as a sorted trie.
//!
//! The n-grams of each order are in lexicographic order of their tokens, oldest first, so those that extend the same
//! n-gram by a token are neighbours in the next order. Order 0 is the empty context, order 1 the whole vocabulary, seen or
//! not. The trie has the prefixes and suffixes of every n-gram that it has.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::counts::SparseCounts;
use super::ngram::{weight, Entry, Ngram, MAX_ORDER};
use crate::parallel::{self, Control};
use crate::{Error, Result};

/// The n-grams of one order.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct TrieOrder {
    /// Each n-gram's last token.
    pub tokens: Vec<u16>,
    /// Each n-gram without its oldest token: an index into the order below.
    pub suffixes: Vec<u32>,
    /// n-gram `i` is continued by `first[i]..first[i + 1]` of the order above. Empty at the top.
    pub first: Vec<u32>,
    /// The mass that each n-gram starts with: at the top order its weighted count, below that the mass of its occurrences
    /// that end no longer n-gram, since those were cut. Empty if all are zero.
    pub masses: Vec<f32>,
    /// Per n-gram, as a context: the mass of its continuations that were cut. Empty if all are zero.
    pub cut: Vec<f32>,
    /// How often each n-gram that begins with the document token occurs; empty at order 1 and at the top. (Those that
    /// were cut are forgotten: they matter to a document's first tokens only.)
    pub beginnings: Vec<f32>,
}

impl TrieOrder {
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Where the order above has the continuations of `context`.
    pub fn successors(&self, context: usize) -> Range<usize> {
        self.first[context] as usize..self.first[context + 1] as usize
    }
}

/// The n-grams of a corpus, order by order.
pub struct Trie {
    pub orders: Vec<TrieOrder>,
    /// Documents begin with this token, so an n-gram that reaches it ends there: what stood before a document
    /// says nothing about it.
    pub bos: u16,
}

impl Trie {
    /// The n-grams that occur more than `cutoff` times, and the mass of those that don't.
    ///
    /// An n-gram that is cut passes all its mass to its suffix, as a pruned one does, so its mass ends at the longest
    /// suffix that isn't. What an n-gram gets in this way is known from the counts of those that are left: it is their
    /// occurrences that no longer one of them ends with. Each has the mass that an occurrence of the n-grams of the top
    /// order which were cut has on average.
    pub fn build(counts: &SparseCounts, cutoff: u64, threads: usize, control: &Control) -> Result<Self> {
        let mut growing = Growing::new(counts, cutoff);
        for_each_ngram(
            counts,
            threads,
            control,
            &mut growing,
            |growing, order, ngram| growing.open(order, ngram),
            |growing, order, count, entry| growing.close(order, count, entry),
        )?;
        let occurrences = std::mem::take(&mut growing.occurrences);
        let mut trie = growing.finish();
        trie.link_suffixes(threads, control)?;
        if cutoff > 0 {
            trie.take_over(occurrences, threads, control)?;
        }
        Ok(trie)
    }

    /// Gives the n-grams what those that were cut pass on.
    fn take_over(&mut self, occurrences: Occurrences, threads: usize, control: &Control) -> Result<()> {
        let Occurrences { counts, cut, weights, .. } = occurrences;
        let weight = weights.mean();
        let mut longer: Option<&Vec<f32>> = None;
        for (n, counts) in counts.iter().enumerate().skip(1).rev() {
            if let Some(longer) = longer {
                // Whole numbers, whose sums don't depend on the order in which threads add.
                let ended: Vec<AtomicU64> = (0..counts.len()).map(|_| AtomicU64::default()).collect();
                let suffixes = &self.orders[n + 1].suffixes;
                let pieces = longer.chunks(PIECE).zip(suffixes.chunks(PIECE)).collect();
                parallel::for_each(threads, pieces, |(longer, suffixes)| {
                    for (&count, &suffix) in longer.iter().zip(suffixes) {
                        ended[suffix as usize].fetch_add(count as u64, Ordering::Relaxed);
                    }
                    control.check()
                })?;
                let left = counts.iter().zip(ended).map(|(&count, ended)| {
                    // A count above 2^24 is rounded.
                    weight * (count as u64).saturating_sub(ended.into_inner()) as f32
                });
                self.orders[n].masses = left.collect();
                if n > 1 {
                    // No longer n-gram ends with one that begins a document: it starts with its count.
                    let beginnings = self.beginning_with(self.bos, n);
                    self.orders[n].masses[beginnings].fill(0.0);
                }
            }
            longer = Some(counts);
        }
        for (ngrams, cut) in self.orders.iter_mut().zip(cut).skip(1) {
            ngrams.cut = cut.into_iter().map(|count| weight * count).collect();
        }
        Ok(())
    }

    /// Finds each n-gram's suffix, which is among the few continuations of its context's suffix.
    fn link_suffixes(&mut self, threads: usize, control: &Control) -> Result<()> {
        for n in 2..self.orders.len() {
            let (below, ngrams) = self.orders.split_at_mut(n);
            let (shorter, contexts) = (&below[n - 2], &below[n - 1]);
            let TrieOrder { tokens, suffixes, .. } = &mut ngrams[0];
            suffixes.resize(tokens.len(), 0);
            let tokens = &*tokens;
            parallel::for_each(threads, by_context(&contexts.first, suffixes), |piece| {
                let base = contexts.first[piece.contexts.start] as usize;
                for context in piece.contexts {
                    let found = shorter.successors(contexts.suffixes[context] as usize);
                    let mut rest = found.start;
                    for successor in contexts.successors(context) {
                        rest += contexts.tokens[rest..found.end]
                            .partition_point(|&token| token < tokens[successor]);
                        // Only a forged file of counts has an n-gram without its suffix.
                        if rest == found.end || contexts.tokens[rest] != tokens[successor] {
                            return Err(Error::input(
                                "the counts have an n-gram without the shorter ones in it; count the shards again",
                            ));
                        }
                        piece.data[successor - base] = rest as u32;
                    }
                }
                control.check()
            })?;
        }
        Ok(())
    }

    pub fn order(&self) -> usize {
        self.orders.len() - 1
    }

    /// The n-grams of order `n` that begin with `token`.
    pub fn beginning_with(&self, token: u16, n: usize) -> Range<usize> {
        let token = usize::from(token);
        if token >= self.orders[1].len() {
            return 0..0;
        }
        let extended = |found: Range<usize>, ngrams: &TrieOrder| {
            ngrams.first[found.start] as usize..ngrams.first[found.end] as usize
        };
        self.orders[1..n].iter().fold(token..token + 1, extended)
    }

    /// The n-gram that continues `context`, which is of order `order`, by `token`.
    pub fn find(&self, order: usize, context: usize, token: u16) -> Option<usize> {
        let range = self.orders[order].successors(context);
        let found = self.orders[order + 1].tokens[range.clone()].binary_search(&token).ok()?;
        Some(range.start + found)
    }
}

/// Visits the n-grams of every order in lexicographic order: `open` before the longer n-grams that an n-gram begins, and
/// `close` after them, with the sum of their counts and the last of them.
pub(super) fn for_each_ngram<S>(
    counts: &SparseCounts,
    threads: usize,
    control: &Control,
    state: &mut S,
    mut open: impl FnMut(&mut S, usize, Ngram),
    mut close: impl FnMut(&mut S, usize, u64, Entry) -> Result<()>,
) -> Result<()> {
    let mut sums = [0u64; MAX_ORDER + 1];
    let mut last: Option<Entry> = None;
    counts.for_each(threads, control, |&entry| {
        let shared = last.map_or(0, |last| last.ngram.common(entry.ngram));
        if let Some(last) = last {
            for order in (shared + 1..=last.ngram.length()).rev() {
                close(state, order, sums[order], last)?;
            }
        }
        let length = entry.ngram.length();
        for (order, sum) in sums.iter_mut().enumerate().take(length + 1).skip(1) {
            if order > shared {
                *sum = 0;
                open(state, order, entry.ngram);
            }
            // No more than all tokens together.
            *sum = sum.saturating_add(entry.count);
        }
        last = Some(entry);
        Ok(())
    })?;
    if let Some(last) = last {
        for order in (1..=last.ngram.length()).rev() {
            close(state, order, sums[order], last)?;
        }
    }
    Ok(())
}

/// A trie while it is built. An n-gram is added after its last continuation, as only then its count is known.
struct Growing {
    orders: Vec<TrieOrder>,
    cutoff: u64,
    bos: u16,
    /// By order, where the next order's n-grams begin that continue the present one.
    starts: [u32; MAX_ORDER + 1],
    tokens: [u16; MAX_ORDER + 1],
    occurrences: Occurrences,
}

/// What tells the mass of the n-grams that were cut. Without a cutoff all is empty.
#[derive(Default)]
struct Occurrences {
    /// By order, how often each n-gram occurs.
    counts: Vec<Vec<f32>>,
    /// By order, how often each n-gram is continued in a way that was cut.
    cut: Vec<Vec<f32>>,
    /// By order, the latter so far of the present n-gram.
    cut_so_far: [u64; MAX_ORDER + 1],
    weights: CutWeights,
}

/// The n-grams of the top order that were cut.
#[derive(Default)]
struct CutWeights {
    count: u64,
    weight: f64,
}

impl CutWeights {
    fn add(&mut self, entry: Entry) {
        self.count = self.count.saturating_add(entry.count);
        self.weight += weight(entry.count, entry.documents);
    }

    /// The mass of an occurrence.
    fn mean(&self) -> f32 {
        if self.count == 0 {
            return 1.0;
        }
        (self.weight / self.count as f64) as f32
    }
}

impl Growing {
    fn new(counts: &SparseCounts, cutoff: u64) -> Self {
        let spec = counts.spec();
        let mut orders = vec![TrieOrder::default(); spec.order + 1];
        let vocab_size = spec.vocab_size();
        orders[0] = TrieOrder {
            tokens: vec![0],
            suffixes: vec![0],
            first: vec![0, vocab_size as u32],
            ..TrieOrder::default()
        };
        orders[1].tokens = (0..vocab_size).map(|token| token as u16).collect();
        orders[1].suffixes = vec![0; vocab_size];
        let mut occurrences = Occurrences::default();
        if cutoff > 0 {
            occurrences.counts = vec![Vec::new(); spec.order + 1];
            occurrences.cut = vec![Vec::new(); spec.order];
            occurrences.counts[1] = vec![0.0; vocab_size];
            occurrences.cut[1] = vec![0.0; vocab_size];
        }
        let (starts, tokens) = ([0; MAX_ORDER + 1], [0; MAX_ORDER + 1]);
        Self { orders, cutoff, bos: spec.vocabulary.bos, starts, tokens, occurrences }
    }

    fn open(&mut self, order: usize, ngram: Ngram) {
        self.tokens[order] = ngram.code(order - 1) - 1;
        self.occurrences.cut_so_far[order] = 0;
        if let Some(next) = self.orders.get(order + 1) {
            self.starts[order] = next.len() as u32;
        }
        if order == 1 {
            // Tokens before this one that begin nothing.
            self.orders[1].first.resize(usize::from(self.tokens[1]) + 1, self.starts[1]);
        }
    }

    fn close(&mut self, order: usize, count: u64, entry: Entry) -> Result<()> {
        let top = self.orders.len() - 1;
        if self.cutoff > 0 {
            self.note(order, count, entry);
        }
        if order == 1 || count <= self.cutoff {
            return Ok(());
        }
        let ngrams = &mut self.orders[order];
        if ngrams.len() == u32::MAX as usize {
            return Err(Error::input(format!(
                "more than 2^32 n-grams of order {order}; build from fewer shards"
            )));
        }
        ngrams.tokens.push(self.tokens[order]);
        if order < top {
            ngrams.first.push(self.starts[order]);
            if self.tokens[1] == self.bos {
                ngrams.beginnings.push(count as f32);
            }
        } else {
            ngrams.masses.push(weight(entry.count, entry.documents) as f32);
        }
        Ok(())
    }

    /// Notes how often an n-gram occurs.
    fn note(&mut self, order: usize, count: u64, entry: Entry) {
        let top = self.orders.len() - 1;
        let Occurrences { counts, cut, cut_so_far, weights } = &mut self.occurrences;
        if order == 1 {
            let token = usize::from(self.tokens[1]);
            counts[1][token] = count as f32;
            cut[1][token] = cut_so_far[1] as f32;
        } else if count > self.cutoff {
            counts[order].push(count as f32);
            if order < top {
                cut[order].push(cut_so_far[order] as f32);
            }
        } else {
            cut_so_far[order - 1] = cut_so_far[order - 1].saturating_add(count);
            if order == top {
                weights.add(entry);
            }
        }
    }

    fn finish(mut self) -> Trie {
        let top = self.orders.len() - 1;
        let vocab_size = self.orders[1].len();
        for n in 1..top {
            let end = self.orders[n + 1].len() as u32;
            let length = if n == 1 { vocab_size + 1 } else { self.orders[n].first.len() + 1 };
            self.orders[n].first.resize(length, end);
        }
        for ngrams in &mut self.orders {
            ngrams.tokens.shrink_to_fit();
            ngrams.first.shrink_to_fit();
            ngrams.masses.shrink_to_fit();
        }
        Trie { orders: self.orders, bos: self.bos }
    }
}

/// Consecutive contexts and the data of their successors: one thread's work.
pub struct Piece<'a, T> {
    pub contexts: Range<usize>,
    pub data: &'a mut [T],
}

/// About how many successors a piece has.
const PIECE: usize = 1 << 14;

/// Cuts `data`, which has one element per successor, between contexts; `first` is that of their order.
pub fn by_context<'a, T>(first: &[u32], mut data: &'a mut [T]) -> Vec<Piece<'a, T>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start + 1 < first.len() {
        let base = first[start] as usize;
        let mut end = start + first[start + 1..].partition_point(|&at| (at as usize) < base + PIECE) + 1;
        // Contexts without successors are work too.
        end = end.min(start + PIECE).min(first.len() - 1);
        let (piece, rest) = data.split_at_mut(first[end] as usize - base);
        pieces.push(Piece { contexts: start..end, data: piece });
        data = rest;
        start = end;
    }
    pieces
}
