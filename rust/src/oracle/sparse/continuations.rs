//! Which candidates continue each context: the first part of an order's stream.
//!
//! Of each context that has candidates it tells whether it is continued at all; then, for each candidate, the likeliest
//! first, whether it continues the context, and after each that does, whether another will.
//!
//! Most candidates don't, above all where the context before has many. So those beyond the first few are in blocks, each
//! begun by whether any in it continues the context; of one in which none does, nothing else is told. (Version 3 had no
//! blocks.)

use std::ops::Range;

use super::binary_coder::BinaryCoder;
use super::known::{half_octaves, Context, Invalid, Known};
use super::regression::{Regression, Steps};
use super::restore::{log2_16ths, Suffix, Symbols};
use crate::memory::prefetch;

/// How often something was met, and how often it was true; old observations fade.
#[derive(Clone, Copy, Default)]
struct History {
    met: u8,
    hits: u8,
    /// Both in steps of about two thirds of an octave, four bits each.
    class: u8,
}

impl History {
    #[inline]
    fn add(&mut self, hit: bool, classes: &[u8; 256]) {
        if self.met < 255 {
            self.met += 1;
            self.hits += u8::from(hit);
        } else {
            self.met = 128;
            self.hits /= 2;
        }
        self.class = classes[usize::from(self.hits)] << 4 | classes[usize::from(self.met)];
    }
}

fn classes() -> [u8; 256] {
    std::array::from_fn(|count| ((log2_16ths(count as f32 + 1.0) * 3) >> 5).min(11) as u8)
}

/// An n-gram of the order below, as what may continue the contexts that end with its context.
#[derive(Clone, Copy)]
struct Candidate {
    ngram: Suffix,
    /// Half octaves by which it is likelier than after a still shorter context, from 0 to 36.
    lift: u8,
    /// How often it was a continuation.
    history: History,
}

/// Consecutive candidates beyond the first ones.
#[derive(Default)]
struct Block {
    /// Of all of them together.
    probability: f32,
    /// log2 of it, in 16ths.
    log_probability: i16,
    /// How often one was a continuation.
    history: History,
}

/// Candidates that aren't in blocks, and those of a block; the last one may have fewer. Their ratio is one that no two
/// blocks have the same index: where they begin in all candidates, over the size.
const BEFORE_BLOCKS: usize = 64;
const BLOCK: usize = 16;

/// Candidates that are coded between two looks at what else happens.
const AT_ONCE: usize = 1 << 16;

pub struct ContinuationsCoder<'a, C> {
    known: &'a Known<'a>,
    pub coder: &'a mut C,
    source: Option<&'a Symbols>,
    /// The most continuations of all contexts together, and those so far.
    limit: usize,
    total: usize,
    continued: Regression<4>,
    present: Regression<5>,
    /// Whether there is any in a block.
    any: Regression<5>,
    /// Whether a candidate is the first one in a block that has one.
    first: Regression<6>,
    more: Regression<5>,
    /// Of each shorter context, how often the contexts that end with it were continued.
    context_histories: Vec<History>,
    /// In the order of `RestoredOrder::ranked`.
    candidates: Vec<Candidate>,
    /// How often each was the first one in a block that had one.
    first_histories: Vec<History>,
    blocks: Vec<Block>,
    classes: [u8; 256],
    /// For each token, whether the source has it after the context at hand.
    sought: Vec<bool>,
    /// Candidates since the last look at what else happens.
    visited: usize,
}

impl<'a, C: BinaryCoder> ContinuationsCoder<'a, C> {
    pub fn new(
        known: &'a Known<'a>,
        coder: &'a mut C,
        source: Option<&'a Symbols>,
        limit: usize,
        has_blocks: bool,
    ) -> Self {
        let tokens = known.token_bits;
        let contexts = known.contexts;
        let candidate = |&index: &u32| {
            let lift = (contexts.lifts[index as usize] + 12) as u8;
            Candidate { ngram: contexts.suffix(index), lift, history: History::default() }
        };
        let candidates: Vec<Candidate> = contexts.ranked.iter().map(candidate).collect();
        let blocks = if has_blocks { blocks(known, &candidates) } else { Vec::new() };
        let first_histories = vec![History::default(); if has_blocks { candidates.len() } else { 0 }];
        Self {
            known,
            coder,
            source,
            limit,
            total: 0,
            continued: Regression::new(
                [13, tokens + 5, 14, 0],
                Steps { first: 0.36, last: 0.036, information: 0.15 },
            ),
            present: Regression::new(
                [14, 14, 18, 14, 0],
                Steps { first: 0.12, last: 0.05, information: 0.075 },
            ),
            any: Regression::new([14, 14, 18, 14, 0], Steps { first: 0.3, last: 0.05, information: 0.075 }),
            first: Regression::new(
                [14, 14, 18, 14, 10, 0],
                Steps { first: 0.12, last: 0.01, information: 0.4 },
            ),
            more: Regression::new([11, 15, 14, 14, 0], Steps { first: 0.6, last: 0.05, information: 0.1 }),
            context_histories: vec![History::default(); known.shorter.len()],
            candidates,
            first_histories,
            blocks,
            classes: classes(),
            sought: vec![false; 1 << 16],
            visited: 0,
        }
    }

    /// Prefetches what is needed of contexts that come soon.
    #[inline]
    pub fn prefetch(&self, context: usize) {
        let suffixes = &self.known.contexts.suffixes;
        if let Some(&stem) = suffixes.get(context + 16) {
            prefetch(&self.known.shorter.first[stem as usize]);
            prefetch(&self.known.shorter.log_counts[stem as usize]);
            prefetch(&self.known.shorter.backoff_steps[stem as usize]);
            prefetch(&self.context_histories[stem as usize]);
        }
        if let Some(&stem) = suffixes.get(context + 4) {
            if let Some(candidate) = self.candidates.get(self.known.shorter.first[stem as usize] as usize) {
                prefetch(candidate);
            }
        }
    }

    /// Codes which candidates continue a context, and adds them to `found`, the likeliest first.
    pub fn code_context(
        &mut self,
        context: usize,
        features: &Context,
        found: &mut Vec<Suffix>,
        go_on: impl Fn(&C) -> bool,
    ) -> Result<(), Invalid> {
        let wanted = self.source.map_or(0..0, |source| source.successors(context));
        if !self.code_continued(context, features, !wanted.is_empty()) {
            return Ok(());
        }
        self.visited += features.candidates.len();
        if self.visited >= AT_ONCE {
            self.visited = 0;
            if !go_on(self.coder) {
                return Err(Invalid::Interrupted);
            }
        }
        let tokens = self.source.map_or(&[][..], |source| &source.tokens[wanted]);
        tokens.iter().for_each(|&token| self.sought[usize::from(token)] = true);
        let before = found.len();
        self.code_candidates(features, tokens.len(), found);
        tokens.iter().for_each(|&token| self.sought[usize::from(token)] = false);
        if found.len() == before {
            return Err(Invalid::NoContinuation);
        }
        self.total += found.len() - before;
        if self.total > self.limit {
            return Err(Invalid::TooMany);
        }
        Ok(())
    }

    fn code_continued(&mut self, context: usize, features: &Context, continued: bool) -> bool {
        let &Context { half_count, octave_count, stem_backoff, .. } = features;
        let width = (features.candidates.len() + 1).ilog2().min(10);
        let oldest = self.known.fold(self.known.contexts.oldest[context]);
        let history = &mut self.context_histories[features.stem];
        let contexts = [
            octave_count << 8 | width << 4 | stem_backoff,
            oldest << 5 | octave_count,
            u32::from(history.class) << 6 | half_count,
            0,
        ];
        let continued = self.continued.code(self.coder, continued, contexts);
        history.add(continued, &self.classes);
        continued
    }

    fn code_candidates(&mut self, features: &Context, wanted: usize, found: &mut Vec<Suffix>) {
        let count = features.candidates.len();
        let mut search = Search { features, wanted, number: 0, likelihood_left: 1.0 };
        let singly = if self.blocks.is_empty() { count } else { count.min(BEFORE_BLOCKS) };
        if !self.code_singly(&mut search, 0..singly, found) {
            return;
        }
        for start in (singly..count).step_by(BLOCK) {
            let ranks = start..count.min(start + BLOCK);
            if let Some(log_probability) = self.code_any(&mut search, &ranks) {
                let first = self.code_first(&mut search, ranks.clone(), log_probability, found);
                if !first.is_some_and(|rank| self.code_singly(&mut search, rank + 1..ranks.end, found)) {
                    return;
                }
            }
        }
    }

    /// Codes candidates one by one; returns whether there are continuations beyond them.
    #[inline(always)]
    fn code_singly(&mut self, search: &mut Search, ranks: Range<usize>, found: &mut Vec<Suffix>) -> bool {
        let start = search.features.candidates.start;
        let places = start + ranks.start..start + ranks.end;
        for (rank, candidate) in ranks.zip(&mut self.candidates[places]) {
            let Candidate { ngram, lift, history } = candidate;
            let [a, b, c, d] = search.describe(rank, ngram.log_probability, *history, *lift);
            let sought = self.sought[usize::from(ngram.token)];
            let present = self.present.code(self.coder, sought, [a, b, c, d, 0]);
            history.add(present, &self.classes);
            search.likelihood_left -= ngram.probability;
            if present {
                found.push(*ngram);
                if !search.code_more(&mut self.more, self.coder, rank, ngram.log_probability) {
                    return false;
                }
            }
        }
        true
    }

    /// Codes whether there is a continuation in a block; returns the block's probability if there is.
    fn code_any(&mut self, search: &mut Search, ranks: &Range<usize>) -> Option<i16> {
        let start = search.features.candidates.start;
        let places = start + ranks.start..start + ranks.end;
        let block = &mut self.blocks[places.start / BLOCK];
        let sought = self.source.is_some()
            && self.candidates[places].iter().any(|other| self.sought[usize::from(other.ngram.token)]);
        let [a, b, c, d] = search.describe(ranks.start, block.log_probability, block.history, NO_LIFT);
        let any = self.any.code(self.coder, sought, [a, b, c, d, 0]);
        block.history.add(any, &self.classes);
        if !any {
            search.likelihood_left -= block.probability;
        }
        any.then_some(block.log_probability)
    }

    /// Codes which candidate is the first continuation in a block that has one; returns its rank if another will follow.
    fn code_first(
        &mut self,
        search: &mut Search,
        ranks: Range<usize>,
        log_probability_of_block: i16,
        found: &mut Vec<Suffix>,
    ) -> Option<usize> {
        let &Context { log_count, ref candidates, .. } = search.features;
        let half = half_octaves(log_count + i32::from(log_probability_of_block));
        for rank in ranks.clone() {
            let place = candidates.start + rank;
            let Candidate { ngram, lift, .. } = self.candidates[place];
            let left = (ranks.end - 1 - rank) as u32;
            let first = left == 0 || {
                let history = &mut self.first_histories[place];
                let [a, _, c, d] = search.describe(rank, ngram.log_probability, *history, lift);
                let sought = self.sought[usize::from(ngram.token)];
                let contexts = [a, u32::from(history.class) << 6 | half, c, d, half << 4 | left, 0];
                let first = self.first.code(self.coder, sought, contexts);
                history.add(first, &self.classes);
                first
            };
            search.likelihood_left -= ngram.probability;
            if first {
                found.push(ngram);
                let more = search.code_more(&mut self.more, self.coder, rank, ngram.log_probability);
                return more.then_some(rank);
            }
        }
        None
    }
}

/// The continuations of one context while they are coded.
struct Search<'a> {
    features: &'a Context,
    /// How many there are; only an encoder knows.
    wanted: usize,
    /// How many were found.
    number: usize,
    /// Of the candidates that come.
    likelihood_left: f32,
}

impl Search<'_> {
    /// A class of the number found.
    #[inline(always)]
    fn hits(&self) -> u32 {
        match self.number {
            few @ 0..=2 => few as u32,
            3..=7 => 3,
            _ => 4,
        }
    }

    /// The contexts of what is asked of a candidate, or of a block that begins with one.
    #[inline(always)]
    fn describe(&self, rank: usize, log_probability: i16, history: History, lift: u8) -> [u32; 4] {
        let &Context { log_count, octave_count, rarity, .. } = self.features;
        let hits = self.hits();
        let log_expected = log_count + i32::from(log_probability);
        let fine = ((log_expected >> 2).clamp(-40, 60) + 40) as u32;
        let rank_class = (rank + 1).ilog2().min(10);
        let likelihood = ((i32::from(log_probability) >> 3).clamp(-40, 0) + 40) as u32;
        [
            fine << 7 | rank_class << 3 | hits,
            u32::from(history.class) << 6 | half_octaves(log_expected),
            octave_count << 13 | (rarity >> 1) << 9 | u32::from(lift) << 3 | hits,
            rarity << 9 | likelihood << 3 | hits,
        ]
    }

    /// Notes that the candidate of a rank, with this probability, is a continuation, and codes whether another will follow.
    #[inline(always)]
    fn code_more<C: BinaryCoder>(
        &mut self,
        more: &mut Regression<5>,
        coder: &mut C,
        rank: usize,
        log_probability: i16,
    ) -> bool {
        let &Context { log_count, octave_count, rarity, ref candidates, .. } = self.features;
        let hits = self.hits();
        self.number += 1;
        let rest = candidates.len() - 1 - rank;
        if rest == 0 {
            return false;
        }
        let half = half_octaves(log_count + i32::from(log_probability));
        let log_left = log_count + log2_16ths(f32::max(self.likelihood_left, 1e-5));
        let left = ((log_left >> 3).clamp(-10, 40) + 10) as u32;
        let number_class = (log2_16ths(self.number as f32) >> 3).min(20) as u32;
        let rest = rest.ilog2().min(10);
        let contexts = [
            left << 5 | number_class,
            octave_count << 10 | rarity << 5 | number_class,
            octave_count << 9 | rest << 5 | number_class,
            half << 8 | octave_count << 3 | hits,
            0,
        ];
        more.code(coder, self.number < self.wanted, contexts)
    }
}

/// The lift of a block, which has none.
const NO_LIFT: u8 = 12;

/// The blocks of all shorter contexts' candidates.
fn blocks(known: &Known, candidates: &[Candidate]) -> Vec<Block> {
    let mut blocks = Vec::new();
    blocks.resize_with(candidates.len() / BLOCK + 1, Block::default);
    for stem in 0..known.shorter.len() {
        let range = known.shorter.successors(stem);
        for start in (range.start + BEFORE_BLOCKS..range.end).step_by(BLOCK) {
            let of_block = &candidates[start..range.end.min(start + BLOCK)];
            let probability = of_block.iter().map(|candidate| candidate.ngram.probability).sum();
            let log_probability = log2_16ths(probability) as i16;
            blocks[start / BLOCK] = Block { probability, log_probability, history: History::default() };
        }
    }
    blocks
}
