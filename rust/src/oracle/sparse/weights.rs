//! The steps of the weights: the second part of an order's stream.
//!
//! Of each context that is continued it tells the step of b(h), and for each continuation but the first the step of the
//! ratio of its discounted probability to the first's. A step is coded by questions outward from an expectation: whether
//! it is above that, and then, one step after the other, whether it is further off.

use super::binary_coder::BinaryCoder;
use super::known::Context;
use super::regression::{Regression, Steps};
use super::restore::{log2_16ths, power_of_two_halves, Suffix, Symbols, BACKOFF_LIMIT, RATIO_LIMIT};

/// Questions that share a context: whether a step is above each value, asked first, upwards, or downwards.
const QUESTION_BITS: u32 = 8;
const ABOVE: i32 = 0;
const UPWARDS: i32 = 1;
const DOWNWARDS: i32 = 2;

/// The sum of two running means, in 256ths of a step: what to expect.
struct Expectation {
    means: [Vec<i16>; 2],
}

impl Expectation {
    fn new(sizes: [usize; 2]) -> Self {
        Self { means: sizes.map(|size| vec![0; size]) }
    }

    fn get(&self, classes: [u32; 2]) -> i32 {
        let sum =
            i32::from(self.means[0][classes[0] as usize]) + i32::from(self.means[1][classes[1] as usize]);
        (sum + 128) >> 8
    }

    fn learn(&mut self, classes: [u32; 2], step: i32) {
        let [one, other] = [0, 1].map(|i| self.means[i][classes[i] as usize]);
        let error = (step << 8) - i32::from(one) - i32::from(other);
        self.means[0][classes[0] as usize] = one + (error >> 5) as i16;
        self.means[1][classes[1] as usize] = other + (error >> 5) as i16;
    }
}

pub struct WeightsCoder<'a, C> {
    pub coder: &'a mut C,
    source: Option<&'a Symbols>,
    backoff: Regression<3>,
    ratio: Regression<3>,
    expected_backoff: Expectation,
    expected_ratio: Expectation,
    /// The continuations of the context at hand in the order of their tokens, with the steps of their ratios.
    sorted: Vec<(Suffix, i8)>,
}

impl<'a, C: BinaryCoder> WeightsCoder<'a, C> {
    pub fn new(coder: &'a mut C, source: Option<&'a Symbols>) -> Self {
        Self {
            coder,
            source,
            backoff: Regression::new(
                [10 + QUESTION_BITS, 14 + QUESTION_BITS, QUESTION_BITS],
                Steps { first: 0.4, last: 0.036, information: 0.2 },
            ),
            ratio: Regression::new(
                [15 + QUESTION_BITS, 14 + QUESTION_BITS, QUESTION_BITS],
                Steps { first: 0.8, last: 0.05, information: 0.2 },
            ),
            expected_backoff: Expectation::new([1 << 5, 1 << 4]),
            expected_ratio: Expectation::new([1 << 12, 1 << 8]),
            sorted: Vec::new(),
        }
    }

    /// Codes the weights of a context that is continued: returns the step of its back-off weight, and its continuations
    /// in the order of their tokens, with the steps of their ratios.
    pub fn code_context(
        &mut self,
        context: usize,
        features: &Context,
        found: &[Suffix],
    ) -> (i8, &[(Suffix, i8)]) {
        let backoff = self.code_backoff(context, features, found);
        self.code_ratios(context, features, backoff, found);
        self.sorted.sort_unstable_by_key(|(suffix, _)| suffix.token);
        (backoff, &self.sorted)
    }

    fn code_backoff(&mut self, context: usize, features: &Context, found: &[Suffix]) -> i8 {
        let &Context { half_count, octave_count, .. } = features;
        let likelihood = found.iter().map(|found| found.probability).sum();
        let number = match found.len() {
            few @ 0..=5 => few as u32,
            many => 5 + (many / 5).ilog2().min(6),
        };
        let covered = log2_16ths(likelihood);
        let uncovered = log2_16ths(f32::max(1.0 - likelihood, 1e-5));
        // Logit of the part that shorter contexts give to the continuations.
        let part = ((((covered - uncovered) * 11) >> 8).clamp(-10, 8) + 10) as u32;
        let contexts = [half_count << 4 | number, part << 9 | number << 5 | octave_count, 0];
        let step = self.source.map_or(0, |source| source.backoffs[context]);
        let classes = [part, number];
        let centre = self.expected_backoff.get(classes);
        let coded = code_step(&mut self.backoff, self.coder, (step, centre), BACKOFF_LIMIT, contexts);
        self.expected_backoff.learn(classes, i32::from(coded));
        coded
    }

    /// Codes the steps of ratios, into `sorted`.
    fn code_ratios(&mut self, context: usize, features: &Context, backoff: i8, found: &[Suffix]) {
        let log_count = features.log_count;
        // log2(1 − b) in 16ths, b's logit being backoff / 2: about −0.72 a step above one half.
        let log_rest = -(i32::from(backoff.max(0)) * 23 / 2) - if backoff > -3 { 8 } else { 0 };
        let kept = (((log_count + log_rest) >> 3).clamp(-4, 40) + 4) as u32;
        let likelihood_first = i32::from(found[0].log_probability);
        let mut total = 1.0;
        self.sorted.clear();
        self.sorted.push((found[0], 0));
        for (rank, candidate) in found.iter().enumerate().skip(1) {
            let lower = (i32::from(candidate.log_probability) - likelihood_first) * 3 / 32;
            let lower = (lower.clamp(-40, 0) + 40) as u32;
            let mean = ((log2_16ths(total / rank as f32) >> 4).clamp(-8, 8) + 8) as u32;
            let rank_class = rank.min(7) as u32;
            let contexts =
                [lower << 9 | kept << 3 | found.len().min(4) as u32, mean << 9 | kept << 3 | rank_class, 0];
            let step = self.source.map_or(0, |source| {
                let range = source.successors(context);
                let place = source.tokens[range.clone()].partition_point(|&token| token < candidate.token);
                source.ratios[range.start + place]
            });
            let classes = [lower << 6 | kept, mean << 3 | rank_class];
            let centre = self.expected_ratio.get(classes);
            let coded = code_step(&mut self.ratio, self.coder, (step, centre), RATIO_LIMIT, contexts);
            self.expected_ratio.learn(classes, i32::from(coded));
            total += power_of_two_halves(coded);
            self.sorted.push((*candidate, coded));
        }
    }
}

/// A step of at most `limit` to either side, by questions outward from `centre`.
#[inline(always)]
fn code_step<const K: usize, C: BinaryCoder>(
    regression: &mut Regression<K>,
    coder: &mut C,
    (step, centre): (i8, i32),
    limit: i8,
    contexts: [u32; K],
) -> i8 {
    let (step, limit) = (i32::from(step), i32::from(limit));
    let centre = centre.clamp(-limit, limit - 1);
    let mut ask = |decision: bool, question: i32| {
        let contexts = contexts.map(|context| context << QUESTION_BITS | question as u32);
        regression.code(coder, decision, contexts)
    };
    let above = ask(step > centre, (centre + limit) << 2 | ABOVE);
    let (mut reached, direction, furthest, questions) =
        if above { (centre + 1, 1, limit, UPWARDS) } else { (centre, -1, -limit, DOWNWARDS) };
    while reached != furthest && ask(step != reached, (reached + limit) << 2 | questions) {
        reached += direction;
    }
    reached as i8
}
