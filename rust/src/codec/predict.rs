//! The next token's distribution, step by step: frozen oracle, adaptive experts and their mixture.

use crate::experts::{self, AdaptiveExperts, GATES};
use crate::mix::exponentiated_gradient::ExponentiatedGradient;
use crate::mix::Mixture;
use crate::oracle::Oracle;
use crate::{Error, Result};

/// Tokens that an oracle may look back, at the least.
const CONTEXT: usize = 32;

pub struct Predictor {
    oracle: Option<Box<dyn Oracle>>,
    experts: AdaptiveExperts,
    mixture: ExponentiatedGradient,
    vocab_size: usize,
    /// The latest tokens, CONTEXT of them or all.
    context: Vec<u16>,
    /// The adaptive experts' rows; the oracle's are never made one by one.
    rows: Vec<f32>,
    /// Of the adaptive experts first, then of the oracle's.
    weights: Vec<f64>,
    mixed: Vec<f32>,
    stale: bool,
}

impl Predictor {
    /// Predicts what follows `first`, the token that begins every stream.
    pub fn new(vocab_size: usize, oracle: Option<Box<dyn Oracle>>, first: u16) -> Result<Self> {
        if let Some(oracle) = oracle.as_ref().filter(|oracle| oracle.vocab_size() != vocab_size) {
            let found = oracle.vocab_size();
            return Err(Error::input(format!("the oracle has {found} tokens, the tokenizer {vocab_size}")));
        }
        let mut experts = AdaptiveExperts::new(vocab_size, Default::default())?;
        experts.observe(&[first])?;
        let count = experts::NAMES.len() + oracle.as_ref().map_or(0, |oracle| oracle.orders().len());
        Ok(Self {
            oracle,
            experts,
            mixture: ExponentiatedGradient::new(count, &GATES, Default::default()),
            vocab_size,
            context: vec![first],
            rows: vec![0.0; experts::NAMES.len() * vocab_size],
            weights: vec![0.0; count],
            mixed: vec![0.0; vocab_size],
            stale: true,
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Of the experts, in the order of [`Self::weights`].
    pub fn names(&self) -> Vec<String> {
        let orders = self.oracle.iter().flat_map(|oracle| oracle.orders());
        let oracle = orders.map(|order| format!("oracle_{order}"));
        experts::NAMES.iter().map(ToString::to_string).chain(oracle).collect()
    }

    /// The next token's distribution, [V].
    pub fn predict(&mut self) -> &[f32] {
        if self.stale {
            self.experts.rows(&mut self.rows);
            self.mixture.weights(&self.experts.gates(), &mut self.weights);
            match &self.oracle {
                None => self.mixed.fill(0.0),
                Some(oracle) => {
                    let weights: Vec<f32> =
                        self.weights[experts::NAMES.len()..].iter().map(|&weight| weight as f32).collect();
                    let weights: Vec<&[f32]> = weights.iter().map(std::slice::from_ref).collect();
                    oracle.mixture_kernel(&self.context, &[self.context.len()], &weights, &mut self.mixed);
                }
            }
            for (row, &weight) in self.rows.chunks_exact(self.vocab_size).zip(&self.weights) {
                let weight = weight as f32;
                self.mixed
                    .iter_mut()
                    .zip(row)
                    .for_each(|(mixed, probability)| *mixed += weight * probability);
            }
            self.stale = false;
        }
        &self.mixed
    }

    /// Each expert's weight in the next token's distribution, [K].
    pub fn weights(&mut self) -> &[f64] {
        self.predict();
        &self.weights
    }

    /// What each expert gives a token, [K].
    pub fn expert_probabilities(&mut self, token: u16) -> Vec<f64> {
        self.predict();
        let adaptive = self.rows.chunks_exact(self.vocab_size).map(|row| row[usize::from(token)]);
        let mut probabilities: Vec<f64> = adaptive.map(f64::from).collect();
        if let Some(oracle) = &self.oracle {
            let position = self.context.len();
            let mut log_probs = vec![0f32; oracle.orders().len()];
            let mut planes: Vec<&mut [f32]> = log_probs.chunks_exact_mut(1).collect();
            self.context.push(token);
            oracle.target_kernel(&self.context, position..position + 1, &mut planes);
            self.context.pop();
            probabilities.extend(log_probs.iter().map(|&log_prob| f64::from(log_prob).exp()));
        }
        probabilities
    }

    /// Learns the token that came.
    pub fn update(&mut self, token: u16) {
        let probabilities = self.expert_probabilities(token);
        self.mixture.update(&self.experts.gates(), &probabilities);
        self.experts.update(token);
        self.context.push(token);
        if self.context.len() >= 64 * CONTEXT {
            self.context.drain(..self.context.len() - CONTEXT);
        }
        self.stale = true;
    }
}
