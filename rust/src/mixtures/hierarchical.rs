//! Counts over a mixture: what has followed each context, on top of any distribution q.
//!
//! The evidence of the n-gram model ([`crate::experts::backoff`]) is, for each length n of context, the
//! distribution s_n of the tokens that have followed, discounted. Interpolated from the shortest to the
//! longest,
//!
//! ```text
//! p_n = (1 − b_n) s_n + b_n p_{n−1},    p_0 = q,
//! ```
//!
//! that is absolute discounting (Kneser and Ney, 1995) with q where a model on its own has a unigram, as
//! MacKay and Peto (1995) put one distribution under another. b_n depends on the context's class alone: its
//! length, and how many tokens have followed how often. It starts at D / mean count, times a factor, and follows
//! the gradient of ln p. The factor is one for each length, and follows the gradients of all its classes: a
//! class that comes late starts from what others have shown. A length whose context isn't known is passed over.
//!
//! The result is linear in q and the s_n, so it is one weight for each.

use crate::experts::backoff::{mean_count, CLASSES, DISCOUNT};
use crate::fingerprint::{Fingerprint, Stateful};

/// A class's factor moves by at least this rate, and faster the less the class has been seen.
const RATE: f64 = 0.003;
const EARLY: f64 = 0.5;
/// Of b itself, of what it is made of, and of the factor that this starts from.
const BACKOFF_RANGE: (f64, f64) = (0.005, 0.999);
const TRUST_RANGE: (f64, f64) = (0.001, 4.0);
const FACTOR_RANGE: (f64, f64) = (0.1, 4.0);

/// How far what was seen in one class of contexts is trusted: b, or the factor that it starts from.
#[derive(Clone, Copy)]
struct Trust {
    backoff: f64,
    seen: f64,
}

impl Trust {
    /// Stays within a range, so that it returns soon.
    fn follow(&mut self, gradient: f64, (least, most): (f64, f64)) {
        let rate = RATE.max(EARLY / (self.seen + 20.0));
        // Where a context is very sure the gradient is steep; one token should not overturn it.
        self.backoff *= (1.0 + rate * gradient.max(-20.0)).clamp(0.5, 2.0);
        self.backoff = self.backoff.clamp(least, most);
        self.seen += 1.0;
    }
}

pub struct Hierarchy {
    /// By length and class.
    trusts: Vec<Trust>,
    /// By length: the factor that a class starts from.
    factors: Vec<Trust>,
    lengths: usize,
    /// b_n of the target at hand, and p_{n−1}: kept to spare allocations.
    steps: Vec<(f64, f64)>,
}

impl Hierarchy {
    /// `factor` times what discounting says is how far q is trusted at first.
    pub fn new(lengths: usize, factor: f64) -> Self {
        let by_class = (0..CLASSES)
            .map(|class| Trust { backoff: f64::from(DISCOUNT) / mean_count(class as u8), seen: 0.0 });
        let by_class: Vec<Trust> = by_class.collect();
        Self {
            trusts: by_class.repeat(lengths),
            factors: vec![Trust { backoff: factor, seen: 0.0 }; lengths],
            lengths,
            steps: vec![(1.0, 0.0); lengths],
        }
    }

    pub fn lengths(&self) -> usize {
        self.lengths
    }

    fn backoff(&self, length: usize, class: u8) -> f64 {
        match class {
            0 => 1.0,
            class => {
                let (least, most) = BACKOFF_RANGE;
                let trust = self.trusts[length * CLASSES + usize::from(class)];
                let factor = if trust.seen == 0.0 { self.factors[length].backoff } else { 1.0 };
                (factor * trust.backoff).clamp(least, most)
            }
        }
    }

    /// The weights of the shares [L] where the contexts have these classes. Returns that of q; together
    /// they are one.
    pub fn weights(&self, classes: &[u8], shares: &mut [f64]) -> f64 {
        let mut rest = 1.0;
        for length in (0..self.lengths).rev() {
            let backoff = self.backoff(length, classes[length]);
            shares[length] = rest * (1.0 - backoff);
            rest *= backoff;
        }
        rest
    }

    /// Learns from the target that came, which q gave `base` and the contexts these `shares` [L]; all may
    /// be scaled alike. Returns the probability that it had, in that scale.
    pub fn update(&mut self, classes: &[u8], base: f64, shares: &[f64]) -> f64 {
        let mut probability = base;
        for length in 0..self.lengths {
            let backoff = self.backoff(length, classes[length]);
            self.steps[length] = (backoff, probability);
            probability = backoff * probability + (1.0 - backoff) * shares[length];
        }
        // ∂ ln p / ∂ ln b_n = b_n (p_{n−1} − s_n) Π longer b / p.
        let mut chain = 1.0 / probability;
        for length in (0..self.lengths).rev() {
            if classes[length] == 0 {
                continue;
            }
            let (backoff, shorter) = self.steps[length];
            let gradient = backoff * chain * (shorter - shares[length]);
            let trust = &mut self.trusts[length * CLASSES + usize::from(classes[length])];
            let factor = &mut self.factors[length];
            if trust.seen == 0.0 {
                trust.backoff *= factor.backoff;
            }
            trust.follow(gradient, TRUST_RANGE);
            factor.follow(gradient, FACTOR_RANGE);
            chain *= backoff;
        }
        probability
    }
}

impl Stateful for Hierarchy {
    fn add_state(&self, to: &mut Fingerprint) {
        to.add(self.trusts.iter().chain(&self.factors).flat_map(|trust| [trust.backoff, trust.seen]));
    }
}
