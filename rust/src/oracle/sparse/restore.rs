//! The small integers that a file holds, and the model that they stand for.
//!
//! A context's back-off weight b(h) is stored as its logit, and its successors' discounted probabilities as their ratios
//! to that of one of them, both in coarse steps. What is restored is normalised by construction: the successors share
//! 1 − b(h) in these ratios.

use super::binary_coder::{exp, logistic};

/// b(h) is stored as its logit, in steps of 0.5 from −15 to 15.
pub const BACKOFF_LIMIT: i8 = 15;
pub const BACKOFF_STEP: f64 = 0.5;
/// A ratio is stored as its log2, in steps of 0.5 from −31 to 31.
pub const RATIO_LIMIT: i8 = 31;
pub const RATIO_STEP: f64 = 0.5;
/// A unigram's probability is stored as −log2 in steps of 1/8, from 0 to 255; all are then scaled to sum to one.
pub const UNIGRAM_STEPS: f64 = 8.0;

/// What a file tells of one order: which n-grams there are, and the steps of their weights.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Symbols {
    /// n-gram `i` of the order below is continued by `first[i]..first[i + 1]`.
    pub first: Vec<u32>,
    pub tokens: Vec<u16>,
    /// Per context, i.e. n-gram of the order below; meaningless where it has no successors.
    pub backoffs: Vec<i8>,
    pub ratios: Vec<i8>,
}

impl Symbols {
    /// Where the continuations of a context are.
    pub fn successors(&self, context: usize) -> std::ops::Range<usize> {
        self.first[context] as usize..self.first[context + 1] as usize
    }
}

/// What is known of one order's n-grams when the next order is read.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct RestoredOrder {
    pub tokens: Vec<u16>,
    pub suffixes: Vec<u32>,
    /// Each n-gram's first token.
    pub oldest: Vec<u16>,
    /// a(h, w).
    pub discounted: Vec<f32>,
    /// p(w | h).
    pub probabilities: Vec<f32>,
    /// log2 of it, in 16ths.
    pub log_probabilities: Vec<i16>,
    /// Half octaves by which p(w | h) is above p(w | h'), from −12 to 24.
    pub lifts: Vec<i8>,
    /// log2 of how often the n-gram may be expected in training, in 16ths.
    pub log_counts: Vec<i16>,
    /// n-gram `i` is continued by `first[i]..first[i + 1]` of the order above, once that is read.
    pub first: Vec<u32>,
    pub backoff_steps: Vec<i8>,
    pub backoffs: Vec<f32>,
    /// Each context's successors, likeliest first: `ranked[i]` for the `i` that `first` of the order below gives.
    pub ranked: Vec<u32>,
}

impl RestoredOrder {
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn successors(&self, context: usize) -> std::ops::Range<usize> {
        self.first[context] as usize..self.first[context + 1] as usize
    }
}

/// floor(16 · log2(x)) for positive normal x, or one off near an integer; what matters is that it is the same on every
/// machine.
#[inline]
pub fn log2_16ths(x: f32) -> i32 {
    let bits = x.to_bits();
    ((bits >> 23) as i32 - 127) * 16 + i32::from(MANTISSA_LOG[(bits >> 15 & 255) as usize])
}

/// floor(16 · log2(1 + i / 256)).
static MANTISSA_LOG: [u8; 256] = mantissa_log();

const fn mantissa_log() -> [u8; 256] {
    // 2^(k/16) · 2^30, rounded.
    const STEPS: [u64; 16] = [
        1073741824, 1121280436, 1170923762, 1222764986, 1276901417, 1333434672, 1392470869, 1454120821,
        1518500250, 1585730000, 1655936265, 1729250827, 1805811301, 1885761398, 1969251188, 2056437387,
    ];
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let value = (256 + i as u64) << 22;
        let mut k = 15;
        while STEPS[k] > value {
            k -= 1;
        }
        table[i] = k as u8;
        i += 1;
    }
    table
}

/// 2^(steps / per_octave), exact to the last digit or nearly.
fn power_of_two(steps: i32, per_octave: i32) -> f64 {
    let octave = 2f64.powi(steps.div_euclid(per_octave));
    octave * exp(std::f64::consts::LN_2 * f64::from(steps.rem_euclid(per_octave)) / f64::from(per_octave))
}

/// 2^(step / 2) of each step of a ratio, from the lowest.
pub fn ratio_table() -> [f32; 2 * RATIO_LIMIT as usize + 1] {
    std::array::from_fn(|index| power_of_two(index as i32 - i32::from(RATIO_LIMIT), 2) as f32)
}

/// b of each step, from the lowest.
pub fn backoff_table() -> [f32; 2 * BACKOFF_LIMIT as usize + 1] {
    std::array::from_fn(|index| logistic((index as f64 - f64::from(BACKOFF_LIMIT)) * BACKOFF_STEP) as f32)
}

/// Order 0: the empty context.
pub fn root(vocab_size: usize, token_count: u64) -> RestoredOrder {
    RestoredOrder {
        tokens: vec![0],
        suffixes: vec![0],
        oldest: vec![0],
        discounted: vec![1.0],
        probabilities: vec![1.0],
        log_probabilities: vec![0],
        lifts: vec![0],
        log_counts: vec![log2_16ths(token_count.max(1) as f32) as i16],
        first: vec![0, vocab_size as u32],
        backoff_steps: vec![0],
        backoffs: vec![0.0],
        ranked: vec![0],
    }
}

/// The nearest step to a unigram's probability.
pub fn unigram_step(probability: f32) -> u8 {
    (-UNIGRAM_STEPS * f64::from(probability).log2()).round().clamp(0.0, 255.0) as u8
}

/// Order 1: the vocabulary.
pub fn unigrams(root: &RestoredOrder, steps: &[u8]) -> RestoredOrder {
    let scaled: Vec<f64> =
        steps.iter().map(|&step| power_of_two(-i32::from(step), UNIGRAM_STEPS as i32)).collect();
    let total: f64 = scaled.iter().sum();
    let probabilities: Vec<f32> = scaled.iter().map(|&p| (p / total) as f32).collect();
    let tokens: Vec<u16> = (0..steps.len()).map(|token| token as u16).collect();
    let mut ngrams = RestoredOrder {
        suffixes: vec![0; tokens.len()],
        oldest: tokens.clone(),
        discounted: probabilities.clone(),
        // They are above nothing but the uniform distribution, and that tells nothing that p doesn't.
        lifts: vec![0; tokens.len()],
        tokens,
        probabilities,
        ..RestoredOrder::default()
    };
    ngrams.rank(0, root.log_counts[0]);
    ngrams
}

/// A continuation in the shorter context: an n-gram's suffix.
#[derive(Debug, Clone, Copy)]
pub struct Suffix {
    /// Its place in its order.
    pub index: u32,
    pub probability: f32,
    /// log2 of it, in 16ths.
    pub log_probability: i16,
    pub token: u16,
}

impl RestoredOrder {
    pub fn suffix(&self, index: u32) -> Suffix {
        let place = index as usize;
        Suffix {
            index,
            probability: self.probabilities[place],
            log_probability: self.log_probabilities[place],
            token: self.tokens[place],
        }
    }
}

/// The suffix of each n-gram above `contexts`.
pub fn suffixes(shorter: &RestoredOrder, contexts: &RestoredOrder, symbols: &Symbols) -> Vec<Suffix> {
    let mut suffixes = Vec::with_capacity(symbols.tokens.len());
    for context in 0..contexts.len() {
        let found = shorter.successors(contexts.suffixes[context] as usize);
        let mut suffix = found.start;
        for &token in &symbols.tokens[symbols.successors(context)] {
            suffix += contexts.tokens[suffix..found.end].partition_point(|&other| other < token);
            suffixes.push(contexts.suffix(suffix as u32));
        }
    }
    suffixes
}

/// Restores the order above `contexts` from what the file tells of it and from its n-grams' suffixes; completes
/// `contexts` by its back-off weights and successors.
pub fn restore(contexts: &mut RestoredOrder, symbols: &Symbols, suffixes: &[Suffix]) -> RestoredOrder {
    let mut restoration = Restoration::new(contexts, symbols.tokens.len());
    for_each_context(symbols, suffixes, |backoff, continuations| restoration.add(backoff, continuations));
    let (successors, ngrams) = restoration.finish();
    contexts.complete(successors);
    ngrams
}

/// Calls `visit` with each context's step, and its continuations in the order of their tokens with their ratios' steps.
pub fn for_each_context(symbols: &Symbols, suffixes: &[Suffix], mut visit: impl FnMut(i8, &[(Suffix, i8)])) {
    let mut continuations = Vec::new();
    for (context, &backoff) in symbols.backoffs.iter().enumerate() {
        let range = symbols.successors(context);
        continuations.clear();
        continuations
            .extend(suffixes[range.clone()].iter().copied().zip(symbols.ratios[range].iter().copied()));
        visit(backoff, &continuations);
    }
}

/// What an order gets when the next one is read.
pub struct Successors {
    first: Vec<u32>,
    backoff_steps: Vec<i8>,
    backoffs: Vec<f32>,
}

impl RestoredOrder {
    pub fn complete(&mut self, successors: Successors) {
        let Successors { first, backoff_steps, backoffs } = successors;
        (self.first, self.backoff_steps, self.backoffs) = (first, backoff_steps, backoffs);
    }
}

/// An order while it is restored, context by context.
pub struct Restoration<'a> {
    contexts: &'a RestoredOrder,
    successors: Successors,
    ngrams: RestoredOrder,
    backoff_values: [f32; 2 * BACKOFF_LIMIT as usize + 1],
    ratio_values: [f32; 2 * RATIO_LIMIT as usize + 1],
}

impl<'a> Restoration<'a> {
    /// With room for `count` n-grams.
    pub fn new(contexts: &'a RestoredOrder, count: usize) -> Self {
        let mut first = Vec::with_capacity(contexts.len() + 1);
        first.push(0);
        Self {
            contexts,
            successors: Successors {
                first,
                backoff_steps: Vec::with_capacity(contexts.len()),
                backoffs: Vec::with_capacity(contexts.len()),
            },
            ngrams: RestoredOrder {
                tokens: Vec::with_capacity(count),
                suffixes: Vec::with_capacity(count),
                oldest: Vec::with_capacity(count),
                discounted: Vec::with_capacity(count),
                probabilities: Vec::with_capacity(count),
                log_probabilities: Vec::with_capacity(count),
                lifts: Vec::with_capacity(count),
                log_counts: Vec::with_capacity(count),
                ranked: Vec::with_capacity(count),
                ..RestoredOrder::default()
            },
            backoff_values: backoff_table(),
            ratio_values: ratio_table(),
        }
    }

    /// Adds the next context's step, and its continuations in the order of their tokens with their ratios' steps.
    pub fn add(&mut self, backoff_step: i8, continuations: &[(Suffix, i8)]) {
        let Self { contexts, successors, ngrams, .. } = self;
        let context = successors.backoffs.len();
        successors.backoff_steps.push(backoff_step);
        if continuations.is_empty() {
            successors.backoffs.push(1.0);
            successors.first.push(ngrams.tokens.len() as u32);
            return;
        }
        let backoff = self.backoff_values[(backoff_step + BACKOFF_LIMIT) as usize];
        let ratio = |step: i8| self.ratio_values[(step + RATIO_LIMIT) as usize];
        // In single precision the rounding errors of a thousand successors would show.
        let total: f64 = continuations.iter().map(|&(_, step)| f64::from(ratio(step))).sum();
        let scale = ((1.0 - f64::from(backoff)) / total) as f32;
        let begin = ngrams.tokens.len();
        for &(suffix, step) in continuations {
            let discounted = scale * ratio(step);
            let probability = discounted + backoff * suffix.probability;
            let log_probability = log2_16ths(probability);
            ngrams.tokens.push(suffix.token);
            ngrams.suffixes.push(suffix.index);
            ngrams.oldest.push(contexts.oldest[context]);
            ngrams.discounted.push(discounted);
            ngrams.probabilities.push(probability);
            ngrams.lifts.push(lift(log_probability, suffix.log_probability));
        }
        ngrams.rank(begin, contexts.log_counts[context]);
        successors.backoffs.push(backoff);
        successors.first.push(ngrams.tokens.len() as u32);
    }

    pub fn finish(self) -> (Successors, RestoredOrder) {
        (self.successors, self.ngrams)
    }
}

fn lift(log_probability: i32, log_lower: i16) -> i8 {
    ((log_probability - i32::from(log_lower)) >> 3).clamp(-12, 24) as i8
}

impl RestoredOrder {
    /// Fills in what follows from the probabilities of one context's successors, which are the last ones, from `begin` on.
    fn rank(&mut self, begin: usize, log_count: i16) {
        let probabilities = &self.probabilities;
        for &probability in &probabilities[begin..] {
            let log_probability = log2_16ths(probability) as i16;
            self.log_probabilities.push(log_probability);
            self.log_counts.push(log_count.saturating_add(log_probability));
        }
        self.ranked.extend(begin as u32..probabilities.len() as u32);
        // Likeliest first; of equals, the lower token, which stands first and stays there.
        self.ranked[begin..]
            .sort_by(|&a, &b| probabilities[b as usize].total_cmp(&probabilities[a as usize]));
    }
}

/// 2^(step / 2), as in [`ratio_table`].
#[inline]
pub fn power_of_two_halves(step: i8) -> f32 {
    let octave = f32::from_bits(((127 + (i32::from(step) >> 1)) as u32) << 23);
    if step & 1 == 0 {
        octave
    } else {
        octave * std::f32::consts::SQRT_2
    }
}
