//! Which candidates continue each context: the first part of an order's stream.
//!
//! Of each context that has candidates it tells whether it is continued at all; then, for each candidate, the likeliest
//! first, whether it continues the context, and after each that does, whether another will.

use super::binary_coder::BinaryCoder;
use super::known::{half_octaves, prefetch, Context, Invalid, Known};
use super::regression::{Regression, Steps};
use super::restore::{log2_16ths, Suffix, Symbols};

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
struct Candidate {
    ngram: Suffix,
    /// Half octaves by which it is likelier than after a still shorter context, from 0 to 36.
    lift: u8,
    /// How often it was a continuation.
    history: History,
}

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
    more: Regression<5>,
    /// Of each shorter context, how often the contexts that end with it were continued.
    context_histories: Vec<History>,
    /// In the order of `RestoredOrder::ranked`.
    candidates: Vec<Candidate>,
    classes: [u8; 256],
    /// For each token, whether the source has it after the context at hand.
    sought: Vec<bool>,
    /// Candidates since the last look at what else happens.
    visited: usize,
}

impl<'a, C: BinaryCoder> ContinuationsCoder<'a, C> {
    pub fn new(known: &'a Known<'a>, coder: &'a mut C, source: Option<&'a Symbols>, limit: usize) -> Self {
        let tokens = known.token_bits;
        let contexts = known.contexts;
        let candidate = |&index: &u32| {
            let lift = (contexts.lifts[index as usize] + 12) as u8;
            Candidate { ngram: contexts.suffix(index), lift, history: History::default() }
        };
        let candidates = contexts.ranked.iter().map(candidate).collect();
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
            more: Regression::new([11, 15, 14, 14, 0], Steps { first: 0.6, last: 0.05, information: 0.1 }),
            context_histories: vec![History::default(); known.shorter.len()],
            candidates,
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
        let &Context { log_count, octave_count, rarity, .. } = features;
        let count = features.candidates.len();
        let candidates = &mut self.candidates[features.candidates.clone()];
        let mut likelihood_left = 1.0;
        let mut number = 0;
        for (rank, candidate) in candidates.iter_mut().enumerate() {
            let Candidate { ngram, lift, history } = candidate;
            let &mut Suffix { probability, log_probability, token, .. } = ngram;
            let log_expected = log_count + i32::from(log_probability);
            let half = half_octaves(log_expected);
            let hits = match number {
                few @ 0..=2 => few as u32,
                3..=7 => 3,
                _ => 4,
            };
            let fine = ((log_expected >> 2).clamp(-40, 60) + 40) as u32;
            let rank_class = (rank + 1).ilog2().min(10);
            let likelihood = ((i32::from(log_probability) >> 3).clamp(-40, 0) + 40) as u32;
            let contexts = [
                fine << 7 | rank_class << 3 | hits,
                u32::from(history.class) << 6 | half,
                octave_count << 13 | (rarity >> 1) << 9 | u32::from(*lift) << 3 | hits,
                rarity << 9 | likelihood << 3 | hits,
                0,
            ];
            let sought = self.sought[usize::from(token)];
            let present = self.present.code(self.coder, sought, contexts);
            history.add(present, &self.classes);
            likelihood_left -= probability;
            if !present {
                continue;
            }
            found.push(*ngram);
            number += 1;
            let rest = count - 1 - rank;
            if rest == 0 {
                break;
            }
            let log_left = log_count + log2_16ths(f32::max(likelihood_left, 1e-5));
            let left = ((log_left >> 3).clamp(-10, 40) + 10) as u32;
            let number_class = (log2_16ths(number as f32) >> 3).min(20) as u32;
            let rest = rest.ilog2().min(10);
            let contexts = [
                left << 5 | number_class,
                octave_count << 10 | rarity << 5 | number_class,
                octave_count << 9 | rest << 5 | number_class,
                half << 8 | octave_count << 3 | hits,
                0,
            ];
            if !self.more.code(self.coder, number < wanted, contexts) {
                break;
            }
        }
    }
}
