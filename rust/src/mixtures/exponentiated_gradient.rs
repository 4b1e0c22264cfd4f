//! Online gradient over the simplex, with several learning rates and sets of weights at once.
//!
//! After a target that the experts gave p_k and the mixture q = Σ w_k p_k, the gradient of ln q in w is
//! p_k / q. Exponentiated gradient (Kivinen and Warmuth, 1997) multiplies w_k by exp(η p_k / q) and
//! normalises. Its first-order form, Soft-Bayes (Orseau, Lattimore and Legg, 2017),
//!
//! ```text
//! w_k ← w_k (1 − η + η p_k / q),
//! ```
//!
//! stays on the simplex by itself, has a regret bound without any bound on the losses, needs no
//! exponential, and was the better of the two wherever we compared them. It follows the best *mixture* of
//! experts, where [`super::fixed_share`] follows the best expert. Each weight is then drawn to 1 / K by a
//! little, so that none is lost for good.
//!
//! No one learning rate is right for every text, and some contexts deserve weights of their own. So there
//! is a set of weights for each rate and each gate (one set for each value of the gate), and another layer
//! of the same kind over these sets. A value's set starts from what the set without a gate has learned when
//! the value first comes. The result is linear in the experts: Σ_s v_s w_sk is one weight each.

use super::interface::Mixture;
use crate::fingerprint::{Fingerprint, Stateful};

#[derive(Clone, Debug)]
pub struct Config {
    /// η of the sets.
    pub rates: Vec<f64>,
    /// η of the layer above them.
    pub top_rate: f64,
    /// The share of every set that is spread evenly over the experts after each target.
    pub floor: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { rates: vec![0.005, 0.1], top_rate: 0.02, floor: 1e-5 }
    }
}

/// Weights learned at one rate, a set for each value of one gate.
struct Learner {
    gate: usize,
    rate: f64,
    weights: Vec<f64>,
    /// By value of the gate: whether its set has been used.
    used: Vec<bool>,
}

pub struct ExponentiatedGradient {
    experts: usize,
    gates: Vec<usize>,
    rates: Vec<f64>,
    /// A set for each rate, used for all targets.
    common: Vec<Vec<f64>>,
    /// By gate, for each rate.
    gated: Vec<Learner>,
    /// Over the common sets and then the gated ones.
    top: Vec<f64>,
    top_rate: f64,
    floor: f64,
    /// What each set gave the target at hand: kept to spare an allocation per target.
    mixed: Vec<f64>,
}

impl ExponentiatedGradient {
    /// Every set starts from the weights `start` [K].
    pub fn new(start: &[f64], gates: &[usize], config: Config) -> Self {
        let Config { rates, top_rate, floor } = config;
        let experts = start.len();
        let gated: Vec<_> = gates
            .iter()
            .enumerate()
            .flat_map(|(gate, &values)| {
                rates.iter().map(move |&rate| Learner {
                    gate,
                    rate,
                    weights: vec![0.0; values * experts],
                    used: vec![false; values],
                })
            })
            .collect();
        let count = rates.len() + gated.len();
        Self {
            experts,
            gates: gates.to_vec(),
            common: vec![start.to_vec(); rates.len()],
            rates,
            gated,
            top: vec![1.0 / count as f64; count],
            top_rate,
            floor,
            mixed: vec![0.0; count],
        }
    }
}

impl Mixture for ExponentiatedGradient {
    fn experts(&self) -> usize {
        self.experts
    }

    fn gates(&self) -> &[usize] {
        &self.gates
    }

    fn weights(&self, gates: &[u8], out: &mut [f64]) {
        out.fill(0.0);
        let (over_common, over_gated) = self.top.split_at(self.common.len());
        let mut add = |set: &[f64], top: f64| {
            out.iter_mut().zip(set).for_each(|(out, weight)| *out += top * weight);
        };
        for (set, &top) in self.common.iter().zip(over_common) {
            add(set, top);
        }
        for (index, (learner, &top)) in self.gated.iter().zip(over_gated).enumerate() {
            let value = usize::from(gates[learner.gate]);
            let own = &learner.weights[value * self.experts..][..self.experts];
            add(if learner.used[value] { own } else { &self.common[index % self.common.len()] }, top);
        }
    }

    fn update(&mut self, gates: &[u8], probabilities: &[f64]) -> f64 {
        let (of_common, of_gated) = self.mixed.split_at_mut(self.common.len());
        // The gated ones first: a new set starts from the common one as it was before this target.
        for (index, (learner, mixed)) in self.gated.iter_mut().zip(of_gated).enumerate() {
            let value = usize::from(gates[learner.gate]);
            let set = &mut learner.weights[value * self.experts..][..self.experts];
            if !learner.used[value] {
                set.copy_from_slice(&self.common[index % self.common.len()]);
                learner.used[value] = true;
            }
            *mixed = step(set, probabilities, learner.rate, self.floor);
        }
        for ((set, &rate), mixed) in self.common.iter_mut().zip(&self.rates).zip(of_common) {
            *mixed = step(set, probabilities, rate, self.floor);
        }
        step(&mut self.top, &self.mixed, self.top_rate, self.floor)
    }
}

impl Stateful for ExponentiatedGradient {
    fn add_state(&self, to: &mut Fingerprint) {
        self.common.iter().for_each(|set| to.add(set));
        for learner in &self.gated {
            to.add(&learner.weights);
            to.add(learner.used.iter().map(|&used| u8::from(used)));
        }
        to.add(&self.top);
    }
}

/// One step of Soft-Bayes. Returns Σ w_k p_k of the weights as they were.
fn step(weights: &mut [f64], probabilities: &[f64], rate: f64, floor: f64) -> f64 {
    let mixed: f64 =
        weights.iter().zip(probabilities).map(|(weight, probability)| weight * probability).sum();
    let kept = (1.0 - rate) * (1.0 - floor);
    let gain = rate * (1.0 - floor) / mixed;
    let even = floor / weights.len() as f64;
    for (weight, probability) in weights.iter_mut().zip(probabilities) {
        *weight = *weight * (kept + gain * probability) + even;
    }
    mixed
}
