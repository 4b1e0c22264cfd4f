//! A cache of the latest tokens: an occurrence counts γ times less with every token after it.

use crate::fingerprint::{Fingerprint, Stateful};

/// γ: half of the weight lies on the last 70 tokens.
const GAMMA: f32 = 0.99;
/// Imagined occurrences, shared out evenly over the vocabulary.
const PRIOR: f32 = 1.0;
/// Past this, weights are brought back to ones of ordinary size.
const LARGEST: f32 = 1e18;

pub struct Cache {
    /// In units of `scale`, which grows by 1 / γ a token instead of letting every weight shrink.
    weights: Vec<f32>,
    total: f32,
    scale: f32,
}

impl Cache {
    pub fn new(vocab_size: usize) -> Self {
        Self { weights: vec![0.0; vocab_size], total: 0.0, scale: 1.0 }
    }

    pub fn probability(&self, token: u16) -> f32 {
        let (prior, norm) = self.prior();
        (self.weights[usize::from(token)] + prior) * norm
    }

    pub fn row(&self, out: &mut [f32]) {
        let (prior, norm) = self.prior();
        for (out, weight) in out.iter_mut().zip(&self.weights) {
            *out = (weight + prior) * norm;
        }
    }

    pub fn update(&mut self, token: u16) {
        self.weights[usize::from(token)] += self.scale;
        self.total += self.scale;
        self.scale /= GAMMA;
        if self.scale > LARGEST {
            let scale = std::mem::replace(&mut self.scale, 1.0);
            self.weights.iter_mut().for_each(|weight| *weight /= scale);
            // Summed anew, or the total would drift away from what it is the total of.
            self.total = self.weights.iter().sum();
        }
    }

    /// What every token has in advance, and one over the sum.
    fn prior(&self) -> (f32, f32) {
        let prior = PRIOR * self.scale;
        (prior / self.weights.len() as f32, 1.0 / (self.total + prior))
    }
}

impl Stateful for Cache {
    fn add_state(&self, to: &mut Fingerprint) {
        to.add(&self.weights);
        to.add([self.total, self.scale]);
    }
}
