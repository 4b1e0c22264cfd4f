//! The sparse model in memory, laid out for look-ups.
//!
//! A trie from contexts to their successors. While a stream is read, the n-gram of each order that ends at the last token
//! is tracked: it is the continuation, by that token, of the n-gram of the order below that ended one token earlier. A
//! look-up depends on the last `order − 1` tokens only, and there is no context before the start of the stream.

use std::ops::Range;
use std::sync::OnceLock;

use super::logarithm::ln_in_place;
use super::ngram::MAX_ORDER;
use super::restore::RestoredOrder;
use crate::oracle::interface::{Info, Oracle};
use crate::oracle::raised::{Raised, RaisedByOrder, LEAST_ORDER};
use crate::vocabulary::Vocabulary;

/// An n-gram, as the continuation of its context and as a context itself.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// a(h, w).
    discounted: f32,
    /// b of this n-gram as a context.
    backoff: f32,
    /// Where its continuations begin in the next order; they end where the next node's begin.
    first: u32,
}

/// The n-grams of one order: 14 bytes each.
#[derive(Debug)]
pub struct PackedOrder {
    tokens: Vec<u16>,
    /// One more than there are n-grams, for the end of the last one's continuations.
    nodes: Vec<Node>,
}

impl From<RestoredOrder> for PackedOrder {
    fn from(order: RestoredOrder) -> Self {
        let mut nodes = Vec::with_capacity(order.len() + 1);
        // The highest order's n-grams are no contexts.
        let mut backoffs = order.backoffs.iter().copied().chain(std::iter::repeat(1.0));
        let mut firsts = order.first.iter().copied().chain(std::iter::repeat(0));
        for &discounted in order.discounted.iter().chain(&[0.0]) {
            let (backoff, first) = (backoffs.next().unwrap_or(1.0), firsts.next().unwrap_or(0));
            nodes.push(Node { discounted, backoff, first });
        }
        Self { tokens: order.tokens, nodes }
    }
}

/// A sparse oracle. Every order is a normalised model of its own: what is interpolated up to order n.
#[derive(Debug)]
pub struct SparseOracle {
    orders: Vec<usize>,
    vocabulary: Vocabulary,
    /// By order, from order 0, the empty context, on.
    ngrams: Vec<PackedOrder>,
    /// p(w).
    unigrams: Vec<f32>,
    token_count: u64,
    /// Bytes that each order takes in the file.
    stream_bytes: Vec<usize>,
    /// By order from [`LEAST_ORDER`] on: made when they are first asked for.
    raises: OnceLock<Vec<Raises>>,
}

/// Of an n-gram whose token the two before it are not known to go on with: only a forged file has one, and it raises
/// nothing. No list is so long, because a vocabulary has at most 65,535 tokens.
const NO_PLACE: u16 = u16::MAX;

/// Of each n-gram of one order, ln r, and the place of its token among those that the two before it are known to go on
/// with.
#[derive(Debug)]
struct Raises {
    raises: Vec<f32>,
    places: Vec<u16>,
}

/// The n-gram of each order that ends at one place of a stream, up to the longest that the model has.
#[derive(Clone, Copy)]
struct Ending {
    nodes: [u32; MAX_ORDER + 1],
    /// How many of `nodes` are known; the empty n-gram always is.
    known: usize,
}

impl Ending {
    const START: Self = Self { nodes: [0; MAX_ORDER + 1], known: 1 };
}

impl SparseOracle {
    /// `ngrams` by order from 0 on, `stream_bytes` from 1 on.
    pub(super) fn new(
        vocabulary: Vocabulary,
        ngrams: Vec<PackedOrder>,
        token_count: u64,
        stream_bytes: Vec<usize>,
    ) -> Self {
        let unigrams = ngrams[1].nodes[..vocabulary.size].iter().map(|node| node.discounted).collect();
        let order = ngrams.len() - 1;
        Self {
            vocabulary,
            orders: (1..=order).collect(),
            ngrams,
            unigrams,
            token_count,
            stream_bytes,
            raises: OnceLock::new(),
        }
    }

    fn order(&self) -> usize {
        self.orders.len()
    }

    /// Calls `visit` with every n-gram, order by order: its tokens, a(h, w), and b of it as a context.
    pub fn for_each_ngram(&self, mut visit: impl FnMut(&[u16], f32, f32)) {
        let mut contexts = vec![Vec::new()];
        for order in 0..self.order() {
            let above = &self.ngrams[order + 1];
            let mut extended = Vec::with_capacity(above.tokens.len());
            for (index, context) in contexts.iter().enumerate() {
                for successor in self.successors(order, index as u32) {
                    let mut ngram: Vec<u16> = context.clone();
                    ngram.push(above.tokens[successor]);
                    visit(&ngram, above.nodes[successor].discounted, above.nodes[successor].backoff);
                    extended.push(ngram);
                }
            }
            contexts = extended;
        }
    }

    fn successors(&self, order: usize, node: u32) -> Range<usize> {
        let nodes = &self.ngrams[order].nodes;
        nodes[node as usize].first as usize..nodes[node as usize + 1].first as usize
    }

    #[inline]
    fn find(&self, order: usize, node: u32, token: u16) -> Option<u32> {
        if order == 0 {
            return Some(u32::from(token));
        }
        let range = self.successors(order, node);
        let found = self.ngrams[order + 1].tokens[range.clone()].binary_search(&token).ok()?;
        Some((range.start + found) as u32)
    }

    /// The ending after one more token.
    #[inline]
    fn advance(&self, ending: &Ending, token: u16) -> Ending {
        let mut next = Ending::START;
        for order in 0..ending.known.min(self.order()) {
            match self.find(order, ending.nodes[order], token) {
                // The model has a longer one only if it has this one, its suffix.
                None => break,
                Some(node) => {
                    next.nodes[next.known] = node;
                    next.known += 1;
                }
            }
        }
        next
    }

    /// The ending before position `position`.
    fn ending(&self, tokens: &[u16], position: usize) -> Ending {
        let start = position.saturating_sub(self.order() - 1);
        tokens[start..position].iter().fold(Ending::START, |ending, &token| self.advance(&ending, token))
    }

    /// Calls `visit` with the index of each position, each order less one, and its row of probabilities there; with no
    /// row where it is that of the order before.
    fn for_each_row(
        &self,
        tokens: &[u16],
        positions: &[usize],
        mut visit: impl FnMut(usize, usize, Option<&[f32]>),
    ) {
        let mut row = vec![0.0; self.vocab_size()];
        let mut last: Option<(usize, Ending)> = None;
        for (index, &position) in positions.iter().enumerate() {
            let ending = match last {
                Some((before, ending)) if before + 1 == position => self.advance(&ending, tokens[before]),
                _ => self.ending(tokens, position),
            };
            last = Some((position, ending));
            row.copy_from_slice(&self.unigrams);
            visit(index, 0, Some(&row));
            for order in 1..self.order() {
                let node = ending.nodes[order];
                if order < ending.known && !self.successors(order, node).is_empty() {
                    self.refine(order, node, &mut row);
                    visit(index, order, Some(&row));
                } else {
                    visit(index, order, None);
                }
            }
        }
    }

    fn raises(&self) -> &[Raises] {
        self.raises.get_or_init(|| {
            let mut found: Vec<Raises> = Vec::new();
            // Of the n-grams of one order: where their suffixes are in the order below, and p of their last tokens.
            let mut suffixes = vec![0u32; self.vocab_size()];
            let mut probabilities = self.unigrams.clone();
            for order in 1..self.order() {
                let longer = &self.ngrams[order + 1];
                let count = longer.tokens.len();
                let mut longer_suffixes = Vec::with_capacity(count);
                let mut longer_probabilities = Vec::with_capacity(count);
                let (mut raises, mut places) = (Vec::with_capacity(count), Vec::with_capacity(count));
                for (context, &suffix) in suffixes.iter().enumerate() {
                    let backoff = self.ngrams[order].nodes[context].backoff;
                    for (place, successor) in self.successors(order, context as u32).enumerate() {
                        // Only a forged file has an n-gram without its suffix.
                        let shorter =
                            self.find(order - 1, suffix, longer.tokens[successor]).unwrap_or(u32::MAX);
                        let passed = probabilities.get(shorter as usize).map_or(0.0, |p| backoff * p);
                        let discounted = longer.nodes[successor].discounted;
                        let raise = (discounted / passed).ln_1p();
                        raises.push(if raise.is_finite() { raise.max(0.0) } else { 0.0 });
                        // The order below has the same token, at the place that it has in the list of all.
                        let shorter_places = found.last().map(|shorter| &shorter.places);
                        places.push(match shorter_places {
                            Some(places) => places.get(shorter as usize).copied().unwrap_or(NO_PLACE),
                            None => place as u16,
                        });
                        longer_suffixes.push(if shorter == u32::MAX { 0 } else { shorter });
                        longer_probabilities.push(discounted + passed);
                    }
                }
                if order + 1 >= LEAST_ORDER {
                    found.push(Raises { raises, places });
                }
                (suffixes, probabilities) = (longer_suffixes, longer_probabilities);
            }
            found
        })
    }

    /// Turns the row of shorter contexts into that of a context of `order` tokens.
    fn refine(&self, order: usize, node: u32, row: &mut [f32]) {
        let backoff = self.ngrams[order].nodes[node as usize].backoff;
        row.iter_mut().for_each(|p| *p *= backoff);
        let range = self.successors(order, node);
        let ngrams = &self.ngrams[order + 1];
        for (&token, node) in ngrams.tokens[range.clone()].iter().zip(&ngrams.nodes[range]) {
            row[usize::from(token)] += node.discounted;
        }
    }
}

impl Oracle for SparseOracle {
    fn estimator(&self) -> &'static str {
        "sparse"
    }

    fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn orders(&self) -> &[usize] {
        &self.orders
    }

    fn info(&self) -> Info {
        let tables = self.orders.iter().map(|&order| {
            let ngrams = self.ngrams[order].tokens.len();
            let contexts =
                self.ngrams[order - 1].nodes.windows(2).filter(|pair| pair[0].first < pair[1].first).count();
            let bytes = self.stream_bytes[order - 1];
            Info::Map(vec![
                ("order", Info::Int(order as u64)),
                ("ngrams", Info::Int(ngrams as u64)),
                ("contexts", Info::Int(contexts as u64)),
                ("bytes", Info::Int(bytes as u64)),
                ("bits_per_ngram", Info::Float(8.0 * bytes as f64 / ngrams.max(1) as f64)),
            ])
        });
        let memory: usize = self
            .ngrams
            .iter()
            .map(|ngrams| ngrams.tokens.len() * 2 + ngrams.nodes.len() * std::mem::size_of::<Node>())
            .sum();
        Info::Map(vec![
            ("training_tokens", Info::Int(self.token_count)),
            ("memory_bytes", Info::Int(memory as u64)),
            ("tables", Info::List(tables.collect())),
        ])
    }

    fn target_kernel(&self, tokens: &[u16], range: Range<usize>, out: &mut [&mut [f32]]) {
        let mut ending = self.ending(tokens, range.start);
        for (offset, &token) in tokens[range].iter().enumerate() {
            let mut next = Ending::START;
            next.nodes[1] = u32::from(token);
            next.known = 2;
            let mut p = self.unigrams[usize::from(token)];
            // Where a context lacks this continuation the longer ones do too, but their back-off weights still
            // count.
            for (order, plane) in out.iter_mut().enumerate() {
                if order > 0 && order < ending.known {
                    let node = ending.nodes[order];
                    p *= self.ngrams[order].nodes[node as usize].backoff;
                    if next.known == order + 1 {
                        if let Some(found) = self.find(order, node, token) {
                            p += self.ngrams[order + 1].nodes[found as usize].discounted;
                            next.nodes[order + 1] = found;
                            next.known = order + 2;
                        }
                    }
                }
                plane[offset] = p;
            }
            ending = next;
        }
        out.iter_mut().for_each(|plane| ln_in_place(plane));
    }

    fn matched_kernel(&self, tokens: &[u16], range: Range<usize>, out: &mut [u8]) {
        let mut ending = self.ending(tokens, range.start);
        for (&token, matched) in tokens[range].iter().zip(out) {
            ending = self.advance(&ending, token);
            *matched = (ending.known - 1) as u8;
        }
    }

    fn raising_orders(&self) -> usize {
        self.order().saturating_sub(LEAST_ORDER - 1)
    }

    fn raised_tokens_kernel(&self, tokens: &[u16], range: Range<usize>, visit: &mut dyn FnMut(&[u16])) {
        const CONTEXT: usize = LEAST_ORDER - 1;
        let mut ending = self.ending(tokens, range.start);
        for position in range {
            let found = match CONTEXT < ending.known.min(self.order()) {
                true => self.successors(CONTEXT, ending.nodes[CONTEXT]),
                false => 0..0,
            };
            visit(self.ngrams.get(LEAST_ORDER).map_or(&[], |ngrams| &ngrams.tokens[found]));
            if let Some(&token) = tokens.get(position) {
                ending = self.advance(&ending, token);
            }
        }
    }

    fn raised_kernel(&self, tokens: &[u16], range: Range<usize>, visit: &mut dyn FnMut(&Raised)) {
        const CONTEXT: usize = LEAST_ORDER - 1;
        let by_order = self.raises();
        let mut ending = self.ending(tokens, range.start);
        let mut found = Raised::default();
        for position in range {
            (found.tokens, found.raises) = (&[], &[]);
            found.longer.clear();
            for order in CONTEXT..ending.known.min(self.order()) {
                let range = self.successors(order, ending.nodes[order]);
                if range.is_empty() {
                    // A longer context has no more.
                    break;
                }
                let own = &by_order[order - CONTEXT];
                if order == CONTEXT {
                    found.tokens = &self.ngrams[LEAST_ORDER].tokens[range.clone()];
                    found.raises = &own.raises[range];
                } else {
                    let (places, raises) = (&own.places[range.clone()], &own.raises[range]);
                    found.longer.push(RaisedByOrder { places, raises });
                }
            }
            visit(&found);
            if let Some(&token) = tokens.get(position) {
                ending = self.advance(&ending, token);
            }
        }
    }

    fn visit_ngrams(&self, visit: &mut dyn FnMut(&[u16], f32)) -> bool {
        self.for_each_ngram(|ngram, _, backoff| visit(ngram, backoff));
        true
    }

    fn rows_kernel(&self, tokens: &[u16], positions: &[usize], out: &mut [&mut [f32]]) {
        let vocab_size = self.vocab_size();
        self.for_each_row(tokens, positions, |index, order, row| {
            let columns = index * vocab_size..(index + 1) * vocab_size;
            match row {
                Some(row) => {
                    let plane = &mut out[order][columns];
                    plane.copy_from_slice(row);
                    ln_in_place(plane);
                }
                None => {
                    let (below, plane) = out.split_at_mut(order);
                    plane[0][columns.clone()].copy_from_slice(&below[order - 1][columns]);
                }
            }
        });
    }

    fn mixture_kernel(&self, tokens: &[u16], positions: &[usize], weights: &[&[f32]], out: &mut [f32]) {
        let vocab_size = self.vocab_size();
        out.fill(0.0);
        let mut last = vec![0.0; vocab_size];
        self.for_each_row(tokens, positions, |index, order, row| {
            if let Some(row) = row {
                last.copy_from_slice(row);
            }
            let weight = weights[order][index];
            let out = &mut out[index * vocab_size..(index + 1) * vocab_size];
            out.iter_mut().zip(&last).for_each(|(sum, p)| *sum += weight * p);
        });
    }
}
