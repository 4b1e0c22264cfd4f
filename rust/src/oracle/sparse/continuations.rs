//! Which candidates continue each context: the first part of an order's stream.
//!
//! Of each context that has candidates it tells whether it is continued at all; then, for each candidate, the likeliest
//! first, whether it continues the context, and after each that does, whether another will.

use super::binary_coder::BinaryCoder;
use super::order_stream::{half_octaves, Candidate, Context, Invalid, Known};
use super::regression::{Input, Regression};
use super::restore::{log2_16ths, Symbols};

/// How often something was met, and how often it was true; old observations fade.
#[derive(Clone, Copy, Default)]
struct History {
    met: u8,
    hits: u8,
}

impl History {
    fn add(&mut self, hit: bool) {
        if self.met < 255 {
            self.met += 1;
            self.hits += u8::from(hit);
        } else {
            self.met = 128;
            self.hits /= 2;
        }
    }

    /// Both in steps of about two thirds of an octave: 8 bits.
    fn class(self, classes: &[u8; 256]) -> u32 {
        u32::from(classes[usize::from(self.hits)]) << 4 | u32::from(classes[usize::from(self.met)])
    }
}

fn classes() -> [u8; 256] {
    std::array::from_fn(|count| ((log2_16ths(count as f32 + 1.0) * 3) >> 5).min(11) as u8)
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
    continued: Regression<5, 13>,
    present: Regression<7, 15>,
    more: Regression<5, 12>,
    /// Of each shorter context, how often the contexts that end with it were continued.
    context_histories: Vec<History>,
    /// Of each candidate, how often it was a continuation.
    candidate_histories: Vec<History>,
    classes: [u8; 256],
    /// For each token, whether the source has it after the context at hand.
    sought: Vec<bool>,
    /// Candidates since the last look at what else happens.
    visited: usize,
}

impl<'a, C: BinaryCoder> ContinuationsCoder<'a, C> {
    pub fn new(known: &'a Known<'a>, coder: &'a mut C, source: Option<&'a Symbols>, limit: usize) -> Self {
        let tokens = known.token_bits;
        let input = |bits, first_step| Input { bits, first_step };
        Self {
            known,
            coder,
            source,
            limit,
            total: 0,
            continued: Regression::new([
                input(13, 2949),
                input(tokens + 5, 2949),
                input(15, 2949),
                input(14, 2949),
                input(0, 2949),
            ]),
            present: Regression::new([
                input(14, 3932),
                input(tokens + 5, 3932),
                input(14, 3932),
                input(tokens + 5, 3932),
                input(18, 3932),
                input(14, 3932),
                input(0, 3932),
            ]),
            more: Regression::new([input(11, 2457), input(15, 2457), input(14, 2457), input(14, 2457), input(0, 2457)]),
            context_histories: vec![History::default(); known.shorter.len()],
            candidate_histories: vec![History::default(); known.candidates.len()],
            classes: classes(),
            sought: vec![false; 1 << 16],
            visited: 0,
        }
    }

    /// Codes which candidates continue a context. Those are added to `found`, as indices of candidates, the likeliest
    /// first.
    pub fn code_context(
        &mut self,
        context: usize,
        found: &mut Vec<u32>,
        go_on: impl Fn(&C) -> bool,
    ) -> Result<(), Invalid> {
        let Some(features) = self.known.context(context) else { return Ok(()) };
        let wanted = self.source.map_or(0..0, |source| source.successors(context));
        if !self.code_continued(context, &features, !wanted.is_empty()) {
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
        self.code_candidates(context, &features, tokens.len(), found);
        tokens.iter().for_each(|&token| self.sought[usize::from(token)] = false);
        if found.is_empty() {
            return Err(Invalid::NoContinuation);
        }
        self.total += found.len();
        if self.total > self.limit {
            return Err(Invalid::TooMany);
        }
        Ok(())
    }

    fn code_continued(&mut self, context: usize, features: &Context, continued: bool) -> bool {
        let &Context { half_count, octave_count, rarity, stem_backoff, .. } = features;
        let width = (log2_16ths((features.candidates.len() + 1) as f32) >> 4).min(10) as u32;
        let oldest = self.known.fold(self.known.contexts.oldest[context]);
        let history = &mut self.context_histories[features.stem];
        let contexts = [
            octave_count << 8 | width << 4 | stem_backoff,
            oldest << 5 | octave_count,
            rarity << 10 | half_count << 4 | stem_backoff,
            history.class(&self.classes) << 6 | half_count,
            0,
        ];
        let continued = self.continued.code(self.coder, continued, contexts);
        history.add(continued);
        continued
    }

    fn code_candidates(&mut self, context: usize, features: &Context, wanted: usize, found: &mut Vec<u32>) {
        let &Context { log_count, octave_count, rarity, .. } = features;
        let last = self.known.fold(self.known.contexts.tokens[context]);
        let count = features.candidates.len();
        let candidates = &self.known.candidates[features.candidates.clone()];
        let histories = &mut self.candidate_histories[features.candidates.clone()];
        let mut likelihood_left = 1.0;
        for (rank, (candidate, history)) in candidates.iter().zip(histories).enumerate() {
            let &Candidate { probability, log_probability, token, lift } = candidate;
            let log_expected = log_count + i32::from(log_probability);
            let half = half_octaves(log_expected);
            let hits = match found.len() {
                few @ 0..=2 => few as u32,
                3..=7 => 3,
                _ => 4,
            };
            let fine = ((log_expected >> 2).clamp(-40, 60) + 40) as u32;
            let rank_class = (log2_16ths((rank + 1) as f32) >> 4).min(10) as u32;
            let likelihood = ((i32::from(log_probability) >> 3).clamp(-40, 0) + 40) as u32;
            let contexts = [
                fine << 7 | rank_class << 3 | hits,
                self.known.fold(token) << 5 | half >> 1,
                history.class(&self.classes) << 6 | half,
                last << 5 | half >> 1,
                octave_count << 13 | (rarity >> 1) << 9 | u32::from(lift) << 3 | hits,
                rarity << 9 | likelihood << 3 | hits,
                0,
            ];
            let sought = self.sought[usize::from(token)];
            let present = self.present.code(self.coder, sought, contexts);
            history.add(present);
            likelihood_left -= probability;
            if !present {
                continue;
            }
            found.push((features.candidates.start + rank) as u32);
            let rest = count - 1 - rank;
            if rest == 0 {
                break;
            }
            let log_left = log_count + log2_16ths(f32::max(likelihood_left, 1e-5));
            let left = ((log_left >> 3).clamp(-10, 40) + 10) as u32;
            let number = (log2_16ths(found.len() as f32) >> 3).min(20) as u32;
            let rest = (log2_16ths(rest as f32) >> 4).min(10) as u32;
            let contexts = [
                left << 5 | number,
                octave_count << 10 | rarity << 5 | number,
                octave_count << 9 | rest << 5 | number,
                half << 8 | octave_count << 3 | hits,
                0,
            ];
            if !self.more.code(self.coder, found.len() < wanted, contexts) {
                break;
            }
        }
    }
}
