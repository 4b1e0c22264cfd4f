//! The next token's distribution, step by step: neural model, adaptive experts, frozen oracle, mixed.

use std::sync::Arc;

use crate::experts::adaptive::{self, AdaptiveExperts, COUNTING, EVIDENCE, GATES};
use crate::experts::tilted::Tilted;
use crate::mixtures::{self, Mixture, Sources};
use crate::oracle::Oracle;
use crate::tokens::check_tokens;
use crate::{Error, Result};

/// Tokens that an oracle may look back, at the least.
const CONTEXT: usize = 32;
/// How far the sum of a neural row may be from one: more than rounding is a fault.
const ROUNDING: f32 = 1e-3;

/// A neural model, run token by token.
pub trait Neural: Send {
    /// Shown the token that came last, writes the probability of each possible next one, [V].
    fn next(&mut self, token: u16, row: &mut [f32]) -> Result<()>;
}

pub struct Predictor {
    neural: Option<Box<dyn Neural>>,
    oracle: Option<Arc<dyn Oracle>>,
    tilted: Option<Tilted>,
    experts: AdaptiveExperts,
    mixture: Box<dyn Mixture>,
    vocab_size: usize,
    /// The latest tokens, CONTEXT of them or all.
    context: Vec<u16>,
    learned: usize,
    /// Of the neural model, if there is one, of that as the oracle tilts it, and of the adaptive experts; the oracle's
    /// own are never made one by one.
    rows: Vec<f32>,
    /// Of the rows, then of the oracle's orders, then of the evidence that the mixture takes.
    weights: Vec<f64>,
    mixed: Vec<f32>,
    stale: bool,
}

impl Predictor {
    /// Predicts what follows `first`, the token that begins every stream. `mixture` is a name that
    /// [`mixtures::create`] knows.
    pub fn new(
        vocab_size: usize,
        neural: Option<Box<dyn Neural>>,
        oracle: Option<Arc<dyn Oracle>>,
        mixture: &str,
        first: u16,
    ) -> Result<Self> {
        if let Some(oracle) = oracle.as_ref().filter(|oracle| oracle.vocab_size() != vocab_size) {
            let found = oracle.vocab_size();
            return Err(Error::input(format!("the oracle has {found} tokens, the tokenizer {vocab_size}")));
        }
        let mut experts = AdaptiveExperts::new(vocab_size, Default::default())?;
        experts.observe(&[first])?;
        let context = vec![first];
        let tilted =
            oracle.iter().filter(|_| neural.is_some()).find_map(|oracle| Tilted::new(oracle.clone()));
        let first = usize::from(neural.is_some()) + usize::from(tilted.is_some());
        let rows = first + adaptive::NAMES.len();
        let count = rows + oracle.as_ref().map_or(0, |oracle| oracle.orders().len());
        let counting = |expert: &usize| {
            let name = expert.checked_sub(first).and_then(|expert| adaptive::NAMES.get(expert));
            name.is_some_and(|name| COUNTING.contains(name))
        };
        let base: Vec<usize> = (0..count).filter(|expert| !counting(expert)).collect();
        let ready: Vec<usize> = (0..count).filter(|expert| !(first..rows).contains(expert)).collect();
        let lengths = EVIDENCE.len();
        let sources = Sources { experts: count, gates: &GATES, base: &base, lengths, ready: &ready };
        let mixture = mixtures::create(mixture, sources)?;
        Ok(Self {
            neural,
            oracle,
            tilted,
            experts,
            vocab_size,
            context,
            learned: 0,
            rows: vec![0.0; rows * vocab_size],
            weights: vec![0.0; count + mixture.lengths()],
            mixture,
            mixed: vec![0.0; vocab_size],
            stale: true,
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Tokens learned since the first.
    pub fn learned(&self) -> usize {
        self.learned
    }

    /// Of the experts and the evidence, in the order of [`Self::weights`]: the order of `hybridlm eval`.
    pub fn names(&self) -> Vec<String> {
        let neural = self.neural.iter().map(|_| "neural".to_owned());
        let neural = neural.chain(self.tilted.iter().map(|_| "tilted".to_owned()));
        let adaptive = adaptive::NAMES.iter().map(ToString::to_string);
        let orders = self.oracle.iter().flat_map(|oracle| oracle.orders());
        let evidence = EVIDENCE[..self.mixture.lengths()].iter().map(ToString::to_string);
        let experts = neural.chain(adaptive).chain(orders.map(|order| format!("oracle_{order}")));
        experts.chain(evidence).collect()
    }

    fn gates(&self) -> Vec<u8> {
        let classes = &self.experts.classes()[..self.mixture.lengths()];
        [&self.experts.gates()[..], classes].concat()
    }

    /// The next token's distribution, [V]. Fails where the neural model does.
    pub fn predict(&mut self) -> Result<&[f32]> {
        if self.stale {
            self.fill_rows()?;
            self.mixture.weights(&self.gates(), &mut self.weights);
            self.mix_rows();
            self.stale = false;
        }
        Ok(&self.mixed)
    }

    fn fill_rows(&mut self) -> Result<()> {
        let length = |present: bool| if present { self.vocab_size } else { 0 };
        let (row, rest) = self.rows.split_at_mut(length(self.neural.is_some()));
        let (tilted_row, adaptive) = rest.split_at_mut(length(self.tilted.is_some()));
        if let Some(neural) = &mut self.neural {
            neural.next(self.context[self.context.len() - 1], row)?;
            let sum: f32 = row.iter().sum();
            if sum.is_nan() || (sum - 1.0).abs() >= ROUNDING {
                return Err(Error::input(format!(
                    "the neural model's probabilities of token {} sum to {sum}: its weights have diverged",
                    self.learned + 1
                )));
            }
        }
        if let Some(tilted) = &self.tilted {
            tilted.tilt_probabilities(&self.context, row, tilted_row)?;
        }
        self.experts.rows(adaptive);
        Ok(())
    }

    fn mix_rows(&mut self) {
        let (weights, rest) = self.weights.split_at(self.rows.len() / self.vocab_size);
        let (orders, evidence) = rest.split_at(rest.len() - self.mixture.lengths());
        match &self.oracle {
            None => self.mixed.fill(0.0),
            Some(oracle) => {
                let orders: Vec<f32> = orders.iter().map(|&weight| weight as f32).collect();
                let orders: Vec<&[f32]> = orders.iter().map(std::slice::from_ref).collect();
                oracle.mixture_kernel(&self.context, &[self.context.len()], &orders, &mut self.mixed);
            }
        }
        for (row, &weight) in self.rows.chunks_exact(self.vocab_size).zip(weights) {
            let weight = weight as f32;
            self.mixed.iter_mut().zip(row).for_each(|(mixed, probability)| *mixed += weight * probability);
        }
        let evidence: Vec<f32> = evidence.iter().map(|&weight| weight as f32).collect();
        self.experts.add_shares(&evidence, &mut self.mixed);
    }

    /// Each expert's weight in the next token's distribution, and that of the evidence of each length, [K + L].
    pub fn weights(&mut self) -> Result<&[f64]> {
        self.predict()?;
        Ok(&self.weights)
    }

    /// What each expert gives a token, and its share in each context, [K + L].
    pub fn expert_probabilities(&mut self, token: u16) -> Result<Vec<f64>> {
        check_tokens(&[token], self.vocab_size)?;
        self.predict()?;
        let rows = self.rows.chunks_exact(self.vocab_size).map(|row| row[usize::from(token)]);
        let mut probabilities: Vec<f64> = rows.map(f64::from).collect();
        if let Some(oracle) = &self.oracle {
            let position = self.context.len();
            let mut log_probs = vec![0f32; oracle.orders().len()];
            let mut planes: Vec<&mut [f32]> = log_probs.chunks_exact_mut(1).collect();
            self.context.push(token);
            oracle.target_kernel(&self.context, position..position + 1, &mut planes);
            self.context.pop();
            probabilities.extend(log_probs.iter().map(|&log_prob| f64::from(log_prob).exp()));
        }
        let shares = &self.experts.shares(token)[..self.mixture.lengths()];
        probabilities.extend(shares.iter().copied().map(f64::from));
        Ok(probabilities)
    }

    /// Learns the token that came.
    pub fn update(&mut self, token: u16) -> Result<()> {
        let probabilities = self.expert_probabilities(token)?;
        self.mixture.update(&self.gates(), &probabilities);
        if let Some(tilted) = &mut self.tilted {
            tilted.update(&self.context, &self.rows[..self.vocab_size], token)?;
        }
        self.experts.update(token);
        self.context.push(token);
        if self.context.len() >= 64 * CONTEXT {
            self.context.drain(..self.context.len() - CONTEXT);
        }
        self.learned += 1;
        self.stale = true;
        Ok(())
    }
}
