//! Bayes over the experts, and Fixed Share (Herbster and Warmuth, 1998), which lets the best one change.
//!
//! Bayes multiplies each weight by the probability that its expert gave, and normalises: after a while the
//! weights sit on the single best expert. Fixed Share then redistributes a share of the whole evenly, as if
//! before every target the best expert might change with that probability.
//!
//! Weights are kept as logarithms: under Bayes those of bad experts fall far below what a float can hold,
//! and they must come back from there if they turn out to be good after all. Gates are not used.

use super::interface::Mixture;
use crate::fingerprint::{Fingerprint, Stateful};

pub const SHARE: f64 = 0.02;

pub struct FixedShare {
    share: f64,
    gates: Vec<usize>,
    /// Normalised.
    log_weights: Vec<f64>,
}

impl FixedShare {
    /// `share` 0 is Bayes.
    pub fn new(experts: usize, gates: &[usize], share: f64) -> Self {
        Self { share, gates: gates.to_vec(), log_weights: vec![-(experts as f64).ln(); experts] }
    }
}

impl Mixture for FixedShare {
    fn experts(&self) -> usize {
        self.log_weights.len()
    }

    fn gates(&self) -> &[usize] {
        &self.gates
    }

    fn weights(&self, _gates: &[u8], out: &mut [f64]) {
        for (out, log_weight) in out.iter_mut().zip(&self.log_weights) {
            *out = log_weight.exp();
        }
    }

    fn update(&mut self, _gates: &[u8], probabilities: &[f64]) -> f64 {
        let pairs = || self.log_weights.iter().zip(probabilities);
        let mixed: f64 = pairs().map(|(log_weight, probability)| log_weight.exp() * probability).sum();
        let even = self.share / self.log_weights.len() as f64;
        let log_mixed = mixed.ln();
        for (log_weight, probability) in self.log_weights.iter_mut().zip(probabilities) {
            *log_weight += probability.ln() - log_mixed;
            if self.share > 0.0 {
                *log_weight = ((1.0 - self.share) * log_weight.exp() + even).ln();
            }
        }
        mixed
    }
}

impl Stateful for FixedShare {
    fn add_state(&self, to: &mut Fingerprint) {
        to.add(&self.log_weights);
    }
}
