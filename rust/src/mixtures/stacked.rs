//! Mixtures and counts in turn: the default.
//!
//! ```text
//! m = Σ over the base experts            what doesn't count contexts: frozen and neural experts, the cache
//! c = counts over m                      [`super::hierarchical`]
//! q = Σ over all experts and c
//! h = counts over q
//! p = Σ over q, h and m
//! ```
//!
//! Each sum is an [`ExponentiatedGradient`]. On its own, an adaptive n-gram model falls back on nothing
//! better than a unigram; c falls back on the best that is known otherwise, and h corrects the whole once
//! more. Where counting brings nothing, m is the best there is. Everything is linear, so the result is one
//! weight for each expert and for the evidence of each length of context: p = Σ_k W_k p_k + Σ_n V_n s_n.

use super::exponentiated_gradient::{Config, ExponentiatedGradient};
use super::hierarchical::Hierarchy;
use super::interface::Mixture;
use crate::experts::backoff::CLASSES;
use crate::fingerprint::{Fingerprint, Stateful};
use crate::{Error, Result};

/// η of the first sum, which needs no more than to be about right.
const BASE_RATE: f64 = 0.02;
/// The weights that c has in q, and h and m in p, at first: there is nothing counted yet, and q begins near m.
const COUNTED: f64 = 0.1;
/// What the counts' back-off weights start from: discounting says as much of c, whose base they know to be
/// without the counts. h has a base that contains them already, and at first leaves it as it is.
const FACTORS: (f64, f64) = (1.0, 4.0);

pub struct Stacked {
    experts: usize,
    /// How many values each gate has, and after them each length's class.
    gates: Vec<usize>,
    base: Vec<usize>,
    first: ExponentiatedGradient,
    over_base: Hierarchy,
    second: ExponentiatedGradient,
    over_all: Hierarchy,
    last: ExponentiatedGradient,
    /// Kept to spare allocations.
    base_probabilities: Vec<f64>,
    probabilities: Vec<f64>,
}

impl Stacked {
    /// Over the experts whose first weights are `start` [K], of which those in `base` don't count contexts, and
    /// the evidence of `lengths`.
    pub fn new(start: &[f64], gates: &[usize], base: &[usize], lengths: usize) -> Result<Self> {
        let experts = start.len();
        if base.is_empty() || base.iter().any(|&expert| expert >= experts) {
            return Err(Error::input(format!(
                "counts need a base among the {experts} experts, and {base:?} is none"
            )));
        }
        let single = Config { rates: vec![BASE_RATE], ..Default::default() };
        let total: f64 = base.iter().map(|&expert| start[expert]).sum();
        let of_base: Vec<f64> = base.iter().map(|&expert| start[expert] / total).collect();
        let of_all = start.iter().map(|weight| (1.0 - COUNTED) * weight).chain([COUNTED]);
        let of_all: Vec<f64> = of_all.collect();
        Ok(Self {
            experts,
            gates: gates.iter().copied().chain(std::iter::repeat_n(CLASSES, lengths)).collect(),
            base: base.to_vec(),
            first: ExponentiatedGradient::new(&of_base, &[], single),
            over_base: Hierarchy::new(lengths, FACTORS.0),
            second: ExponentiatedGradient::new(&of_all, gates, Default::default()),
            over_all: Hierarchy::new(lengths, FACTORS.1),
            last: ExponentiatedGradient::new(
                &[1.0 - 2.0 * COUNTED, COUNTED, COUNTED],
                gates,
                Default::default(),
            ),
            base_probabilities: vec![0.0; base.len()],
            probabilities: vec![0.0; experts + 1],
        })
    }

    fn split<'a>(&self, gates: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        gates.split_at(self.gates.len() - self.lengths())
    }
}

impl Mixture for Stacked {
    fn experts(&self) -> usize {
        self.experts
    }

    fn lengths(&self) -> usize {
        self.over_base.lengths()
    }

    fn gates(&self) -> &[usize] {
        &self.gates
    }

    fn weights(&self, gates: &[u8], out: &mut [f64]) {
        let (gates, classes) = self.split(gates);
        let mut last = [0.0; 3];
        self.last.weights(gates, &mut last);
        let mut over_all = vec![0.0; self.lengths()];
        let whole = last[0] + last[1] * self.over_all.weights(classes, &mut over_all);
        let mut second = vec![0.0; self.experts + 1];
        self.second.weights(gates, &mut second);
        let counts = whole * second[self.experts];
        let mut over_base = vec![0.0; self.lengths()];
        let below = last[2] + counts * self.over_base.weights(classes, &mut over_base);
        let mut first = vec![0.0; self.base.len()];
        self.first.weights(&[], &mut first);

        let (experts, shares) = out.split_at_mut(self.experts);
        experts.iter_mut().zip(&second).for_each(|(out, weight)| *out = whole * weight);
        self.base.iter().zip(&first).for_each(|(&expert, weight)| experts[expert] += below * weight);
        for (out, (base, all)) in shares.iter_mut().zip(over_base.iter().zip(&over_all)) {
            *out = counts * base + last[1] * all;
        }
    }

    fn update(&mut self, gates: &[u8], probabilities: &[f64]) -> f64 {
        let (gates, classes) = self.split(gates);
        let (experts, shares) = probabilities.split_at(self.experts);
        for (out, &expert) in self.base_probabilities.iter_mut().zip(&self.base) {
            *out = experts[expert];
        }
        let base = self.first.update(&[], &self.base_probabilities);
        self.probabilities[..self.experts].copy_from_slice(experts);
        self.probabilities[self.experts] = self.over_base.update(classes, base, shares);
        let mixed = self.second.update(gates, &self.probabilities);
        let counted = self.over_all.update(classes, mixed, shares);
        self.last.update(gates, &[mixed, counted, base])
    }
}

impl Stateful for Stacked {
    fn add_state(&self, to: &mut Fingerprint) {
        self.first.add_state(to);
        self.over_base.add_state(to);
        self.second.add_state(to);
        self.over_all.add_state(to);
        self.last.add_state(to);
    }
}
