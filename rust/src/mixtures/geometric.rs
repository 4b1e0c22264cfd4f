//! The geometric mixture: p(v) ∝ Π p_k(v)^θ_k over the whole vocabulary, normalised at every target.
//!
//! Its exponents are learned by the gradient of ln p(target), which is ln p_k(target) − E_p[ln p_k]. They
//! need not sum to one: experts that agree may sharpen each other. It takes every expert's whole row, so it
//! costs V times what a linear mixture does.

use crate::fingerprint::{Fingerprint, Stateful};
use crate::mixtures::Sources;
use crate::tokens::check_tokens;
use crate::{Error, Result};

/// The step is RATE / √targets, but not below LEAST_RATE.
const RATE: f64 = 0.02;
const LEAST_RATE: f64 = 0.001;

pub struct Geometric {
    vocab_size: usize,
    exponents: Vec<f64>,
    targets: f64,
}

impl Geometric {
    /// Over `experts`, of which those in `ready` know something before the stream begins.
    pub fn new(experts: usize, ready: &[usize], vocab_size: usize) -> Result<Self> {
        let start = Sources { experts, ready, ..Default::default() }.start()?;
        if vocab_size < 2 {
            return Err(Error::input(format!("a vocabulary has at least 2 tokens, not {vocab_size}")));
        }
        Ok(Self { vocab_size, exponents: start, targets: 0.0 })
    }

    pub fn experts(&self) -> usize {
        self.exponents.len()
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// θ [K], as the next target meets them.
    pub fn exponents(&self) -> &[f64] {
        &self.exponents
    }

    /// The mixed row [V] in nats, from the experts' `rows`, one [V] each.
    pub fn row(&self, rows: &[&[f32]], out: &mut [f64]) {
        out.fill(0.0);
        for (row, exponent) in rows.iter().zip(&self.exponents) {
            out.iter_mut().zip(*row).for_each(|(out, &log_prob)| *out += exponent * f64::from(log_prob));
        }
        let largest = out.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = largest + out.iter().map(|value| (value - largest).exp()).sum::<f64>().ln();
        out.iter_mut().for_each(|value| *value -= log_sum);
    }

    /// The nll [n] of the targets in nats, from `rows` [K, n, V]; learns from each after it is scored.
    pub fn mix(&mut self, rows: &[f32], targets: &[u16], nll: &mut [f64]) -> Result<()> {
        let (n, vocab_size, experts) = (targets.len(), self.vocab_size, self.experts());
        check_tokens(targets, vocab_size)?;
        if rows.len() != experts * n * vocab_size || nll.len() != n {
            return Err(Error::input(format!(
                "{n} targets take rows of shape [{experts}, {n}, {vocab_size}], not {} values",
                rows.len()
            )));
        }
        if let Some(at) = rows.iter().position(|log_prob| !log_prob.is_finite()) {
            return Err(Error::input(format!(
                "a row of expert {} holds {}",
                at / (n * vocab_size),
                rows[at]
            )));
        }
        let mut mixed = vec![0.0; vocab_size];
        for (index, (&target, nll)) in targets.iter().zip(nll).enumerate() {
            let row = |expert: usize| &rows[(expert * n + index) * vocab_size..][..vocab_size];
            let experts_rows: Vec<&[f32]> = (0..experts).map(row).collect();
            self.row(&experts_rows, &mut mixed);
            let target = usize::from(target);
            *nll = -mixed[target];
            self.targets += 1.0;
            let rate = LEAST_RATE.max(RATE / self.targets.sqrt());
            mixed.iter_mut().for_each(|log_prob| *log_prob = log_prob.exp());
            for (exponent, row) in self.exponents.iter_mut().zip(experts_rows) {
                let expected: f64 = mixed.iter().zip(row).map(|(p, &log_prob)| p * f64::from(log_prob)).sum();
                *exponent += rate * (f64::from(row[target]) - expected);
            }
        }
        Ok(())
    }
}

impl Stateful for Geometric {
    fn add_state(&self, to: &mut Fingerprint) {
        to.add(&self.exponents);
        to.add([self.targets]);
    }
}
