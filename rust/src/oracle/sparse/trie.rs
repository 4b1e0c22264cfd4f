//! The n-grams of a corpus, up to an order, as a sorted trie.
//!
//! The n-grams of each order are in lexicographic order of their tokens, oldest first, so those that extend the same
//! n-gram by a token are neighbours in the next order. Order 0 is the empty context, order 1 the whole vocabulary, seen or
//! not. The trie has the prefixes and suffixes of every n-gram that it has.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::counts::SparseCounts;
use super::fragment::{too_many, CutTotals, Fragment, FragmentOrder};
use super::ngram::NgramSpec;
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
        let fragments = Fragment::all(counts, cutoff, threads, control)?;
        Self::assemble(counts.spec(), fragments, threads, control)
    }

    /// Puts together the n-grams that begin with different tokens, in the order of these.
    pub fn assemble(
        spec: NgramSpec,
        fragments: Vec<Fragment>,
        threads: usize,
        control: &Control,
    ) -> Result<Self> {
        let first_tokens = fragments.iter().flat_map(|fragment| &fragment.orders[1].tokens);
        if !first_tokens.is_sorted_by(|a, b| a < b) {
            return Err(Error::input("candidates that begin with the same token come from two places"));
        }
        let mut cut_totals = CutTotals::default();
        let mut parts: Vec<Vec<FragmentOrder>> = (0..=spec.order).map(|_| Vec::new()).collect();
        for Fragment { orders, cut, .. } in fragments {
            cut_totals.add(cut.count, cut.documents);
            parts.iter_mut().zip(orders).for_each(|(parts, part)| parts.push(part));
        }
        // How many n-grams there are before each fragment's.
        let mut bases: Vec<Vec<u32>> = Vec::new();
        for (n, parts) in parts.iter().enumerate() {
            let mut base = 0u32;
            let mut before = Vec::with_capacity(parts.len() + 1);
            before.push(base);
            for part in parts {
                base = u32::try_from(part.tokens.len())
                    .ok()
                    .and_then(|length| base.checked_add(length))
                    .ok_or_else(|| too_many(n))?;
                before.push(base);
            }
            bases.push(before);
        }
        let mut orders = vec![TrieOrder::default(); spec.order + 1];
        let mut counts = vec![Vec::new(); spec.order + 1];
        orders[0] = TrieOrder {
            tokens: vec![0],
            suffixes: vec![0],
            first: vec![0, spec.vocab_size() as u32],
            ..TrieOrder::default()
        };
        let mut jobs: Vec<_> = orders.iter_mut().zip(&mut counts).zip(parts).enumerate().skip(1).collect();
        // The longest first, so that threads finish together.
        jobs.sort_by_key(|(n, _)| std::cmp::Reverse(bases[*n].last().copied()));
        parallel::for_each(threads, jobs, |(n, ((ngrams, counts), parts)): (usize, ((_, _), _))| {
            (*ngrams, *counts) = match n {
                1 => vocabulary(spec.vocab_size(), parts, &bases[2]),
                _ => concatenate(parts, bases.get(n + 1).map(Vec::as_slice)),
            };
            control.check()
        })?;
        let mut trie = Self { orders, bos: spec.vocabulary.bos };
        trie.link_suffixes(threads, control)?;
        if counts.iter().any(|counts| !counts.is_empty()) {
            trie.take_over(&counts, cut_totals.mean_weight(), threads, control)?;
        }
        Ok(trie)
    }

    /// Gives the n-grams what those that were cut pass on.
    ///
    /// `counts` says how often they occur, and `weight` what an occurrence weighs.
    fn take_over(
        &mut self,
        counts: &[Vec<f32>],
        weight: f32,
        threads: usize,
        control: &Control,
    ) -> Result<()> {
        for n in (1..self.order()).rev() {
            // Whole numbers, whose sums don't depend on the order in which threads add.
            let ended: Vec<AtomicU64> = (0..counts[n].len()).map(|_| AtomicU64::default()).collect();
            let suffixes = &self.orders[n + 1].suffixes;
            let pieces = counts[n + 1].chunks(PIECE).zip(suffixes.chunks(PIECE)).collect();
            parallel::for_each(threads, pieces, |(longer, suffixes)| {
                for (&count, &suffix) in longer.iter().zip(suffixes) {
                    ended[suffix as usize].fetch_add(count as u64, Ordering::Relaxed);
                }
                control.check()
            })?;
            let left = counts[n].iter().zip(ended).map(|(&count, ended)| {
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
        for ngrams in &mut self.orders {
            ngrams.cut.iter_mut().for_each(|cut| *cut *= weight);
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

/// Order 1 has all tokens of the vocabulary; `bases` are those of order 2. Also returns how often each occurs.
fn vocabulary(size: usize, parts: Vec<FragmentOrder>, bases: &[u32]) -> (TrieOrder, Vec<f32>) {
    let has_cutoff = parts.iter().any(|part| !part.counts.is_empty());
    let per_token = if has_cutoff { size } else { 0 };
    let mut ngrams = TrieOrder {
        tokens: (0..size).map(|token| token as u16).collect(),
        suffixes: vec![0; size],
        cut: vec![0.0; per_token],
        ..TrieOrder::default()
    };
    let mut counts = vec![0.0; per_token];
    for (part, base) in parts.into_iter().zip(bases) {
        for (index, token) in part.tokens.into_iter().map(usize::from).enumerate() {
            // Tokens before this one that begin nothing.
            ngrams.first.resize(token + 1, base + part.first[index]);
            if has_cutoff {
                counts[token] = part.counts[index];
                ngrams.cut[token] = part.cut[index];
            }
        }
    }
    ngrams.first.resize(size + 1, bases.last().copied().unwrap_or(0));
    (ngrams, counts)
}

/// An order from 2 on, and how often its n-grams occur; `bases` are those of the order above, if there is one.
fn concatenate(parts: Vec<FragmentOrder>, bases: Option<&[u32]>) -> (TrieOrder, Vec<f32>) {
    let length = parts.iter().map(|part| part.tokens.len()).sum();
    let has_cutoff = parts.iter().any(|part| !part.counts.is_empty());
    let counted = if has_cutoff { length } else { 0 };
    let (below_top, at_top) = if bases.is_some() { (length, 0) } else { (0, length) };
    let mut ngrams = TrieOrder {
        tokens: Vec::with_capacity(length),
        first: Vec::with_capacity(if bases.is_some() { length + 1 } else { 0 }),
        masses: Vec::with_capacity(at_top),
        cut: Vec::with_capacity(counted.min(below_top)),
        ..TrieOrder::default()
    };
    let mut counts = Vec::with_capacity(counted);
    for (index, part) in parts.into_iter().enumerate() {
        ngrams.tokens.extend(part.tokens);
        if let Some(bases) = bases {
            ngrams.first.extend(part.first.into_iter().map(|first| bases[index] + first));
        }
        ngrams.masses.extend(part.masses);
        ngrams.beginnings.extend(part.beginnings);
        ngrams.cut.extend(part.cut);
        counts.extend(part.counts);
    }
    ngrams.first.extend(bases.and_then(|bases| bases.last()));
    (ngrams, counts)
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
