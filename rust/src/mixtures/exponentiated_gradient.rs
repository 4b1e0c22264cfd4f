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
//! of the same kind over these sets. The result is linear in the experts: Σ_s v_s w_sk is one weight each.

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
    /// Which gate; none: one set for all targets.
    gate: Option<usize>,
    rate: f64,
    weights: Vec<f64>,
}

impl Learner {
    /// Where the set begins that the gates select.
    fn start(&self, gates: &[u8], experts: usize) -> usize {
        self.gate.map_or(0, |gate| usize::from(gates[gate]) * experts)
    }
}

pub struct ExponentiatedGradient {
    experts: usize,
    gates: Vec<usize>,
    learners: Vec<Learner>,
    top: Vec<f64>,
    top_rate: f64,
    floor: f64,
    /// What each learner's set gave the target at hand: kept to spare an allocation per target.
    mixed: Vec<f64>,
}

impl ExponentiatedGradient {
    pub fn new(experts: usize, gates: &[usize], config: Config) -> Self {
        let sets = std::iter::once((None, 1))
            .chain(gates.iter().enumerate().map(|(gate, &values)| (Some(gate), values)));
        let learners: Vec<_> = sets
            .flat_map(|(gate, values)| {
                config.rates.iter().map(move |&rate| Learner {
                    gate,
                    rate,
                    weights: vec![1.0 / experts as f64; values * experts],
                })
            })
            .collect();
        let count = learners.len();
        Self {
            experts,
            gates: gates.to_vec(),
            learners,
            top: vec![1.0 / count as f64; count],
            top_rate: config.top_rate,
            floor: config.floor,
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
        for (learner, top) in self.learners.iter().zip(&self.top) {
            let set = &learner.weights[learner.start(gates, self.experts)..][..self.experts];
            out.iter_mut().zip(set).for_each(|(out, weight)| *out += top * weight);
        }
    }

    fn update(&mut self, gates: &[u8], probabilities: &[f64]) -> f64 {
        for (learner, mixed) in self.learners.iter_mut().zip(&mut self.mixed) {
            let start = learner.start(gates, self.experts);
            let set = &mut learner.weights[start..][..self.experts];
            *mixed = step(set, probabilities, learner.rate, self.floor);
        }
        step(&mut self.top, &self.mixed, self.top_rate, self.floor)
    }
}

impl Stateful for ExponentiatedGradient {
    fn add_state(&self, to: &mut Fingerprint) {
        self.learners.iter().for_each(|learner| to.add(&learner.weights));
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
