//! Mixtures: one distribution from those of several experts.
//!
//! A linear mixture holds one weight per expert before each target, non-negative and summing to one, made
//! of earlier targets alone. The mixed row is Σ w_k · row_k: normalised because the rows are, and causal
//! because the weights are fixed before the target is known. [`stacked`] also gives weights to the evidence
//! of counted contexts, which the same holds for. [`geometric`] is the other kind.
//!
//! Learning goes target by target and is never batched, so it doesn't matter how a stream is cut.

pub mod exponentiated_gradient;
pub mod fixed_share;
pub mod geometric;
pub mod hierarchical;
mod interface;
pub mod stacked;

pub use interface::Mixture;

use exponentiated_gradient::ExponentiatedGradient;
use fixed_share::FixedShare;
use stacked::Stacked;

use crate::experts::backoff::MAX_LENGTH;
use crate::{Error, Result};

pub const NAMES: [&str; 4] = ["stacked", "eg", "fixed-share", "bayes"];

/// What is mixed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    pub experts: usize,
    /// How many values each gate has, without the classes.
    pub gates: &'a [usize],
    /// The experts that don't count contexts; only [`Stacked`] needs to know.
    pub base: &'a [usize],
    /// Lengths of context whose evidence there is; only [`Stacked`] takes it.
    pub lengths: usize,
    /// The experts that know something before the stream begins, each named once.
    pub ready: &'a [usize],
}

/// What experts that know nothing yet have of the weights at first, all together.
const LATE: f64 = 0.1;

impl Sources<'_> {
    /// The weights [K] that a mixture begins with. Beside a strong network, an expert that starts from nothing would
    /// cost more, until the mixture has learned how little it knows, than it can gain later.
    fn start(&self) -> Result<Vec<f64>> {
        let Sources { experts, ready, .. } = *self;
        if experts == 0 {
            return Err(Error::input("there is no expert to mix"));
        }
        let ascending = ready.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || ready.last().is_some_and(|&expert| expert >= experts) {
            return Err(Error::input(format!(
                "which of {experts} experts are ready is told in ascending order, not as {ready:?}"
            )));
        }
        let late = experts - ready.len();
        if late == 0 || ready.is_empty() {
            return Ok(vec![1.0 / experts as f64; experts]);
        }
        let mut start = vec![LATE / late as f64; experts];
        for &expert in ready {
            start[expert] = (1.0 - LATE) / ready.len() as f64;
        }
        Ok(start)
    }
}

/// The mixture of that name, at its start.
pub fn create(name: &str, sources: Sources) -> Result<Box<dyn Mixture>> {
    let start = sources.start()?;
    let Sources { experts, gates, base, lengths, .. } = sources;
    if let Some(values) = gates.iter().find(|values| !(1..=256).contains(*values)) {
        return Err(Error::input(format!("a gate has 1 to 256 values, not {values}")));
    }
    if lengths > MAX_LENGTH {
        return Err(Error::input(format!("contexts have at most {MAX_LENGTH} lengths, not {lengths}")));
    }
    match name {
        "stacked" => Ok(Box::new(Stacked::new(&start, gates, base, lengths)?)),
        "eg" => Ok(Box::new(ExponentiatedGradient::new(&start, gates, Default::default()))),
        "fixed-share" => Ok(Box::new(FixedShare::new(experts, gates, fixed_share::SHARE))),
        "bayes" => Ok(Box::new(FixedShare::new(experts, gates, 0.0))),
        _ => Err(Error::input(format!("there is no mixture {name:?}; there are {}", NAMES.join(", ")))),
    }
}

/// The nll of n targets in nats, from what each expert gave them: `log_probs` [K + L, n], of which the last
/// L, the evidence, may be −∞, and `gates` [G, n].
pub fn score(mixture: &mut dyn Mixture, log_probs: &[f32], gates: &[u8], nll: &mut [f64]) -> Result<()> {
    let (n, experts, gate_values) = (nll.len(), mixture.experts(), mixture.gates().to_vec());
    let rows = experts + mixture.lengths();
    if log_probs.len() != rows * n || gates.len() != gate_values.len() * n {
        return Err(Error::input(format!(
            "{n} targets of {rows} rows and {} gates don't fit {} log-probabilities and {} gate values",
            gate_values.len(),
            log_probs.len(),
            gates.len()
        )));
    }
    let (proper, evidence) = log_probs.split_at(experts * n);
    let wrong = proper.iter().position(|log_prob| !log_prob.is_finite());
    let wrong_share = || evidence.iter().position(|share| share.is_nan() || *share == f32::INFINITY);
    if let Some(at) = wrong.or_else(|| Some(experts * n + wrong_share()?)) {
        let (expert, target) = (at / n, at % n);
        return Err(Error::input(format!(
            "expert {expert} gives target {target} a log-probability of {}",
            log_probs[at]
        )));
    }
    for (gate, &values) in gate_values.iter().enumerate() {
        if let Some(wrong) = gates[gate * n..][..n].iter().find(|&&value| usize::from(value) >= values) {
            return Err(Error::input(format!("gate {gate} has {values} values, {wrong} is none of them")));
        }
    }
    let mut probabilities = vec![0.0; rows];
    let mut gate = vec![0; gate_values.len()];
    for (target, nll) in nll.iter_mut().enumerate() {
        gate.iter_mut().enumerate().for_each(|(index, gate)| *gate = gates[index * n + target]);
        let log_prob = |row: usize| f64::from(log_probs[row * n + target]);
        // Scaled by the largest, so that nothing underflows that matters.
        let largest = (0..experts).map(log_prob).fold(f64::NEG_INFINITY, f64::max);
        for (row, probability) in probabilities.iter_mut().enumerate() {
            let log_prob = log_prob(row);
            // Most shares are nothing, and that is worth no exponential.
            *probability = if log_prob == f64::NEG_INFINITY { 0.0 } else { (log_prob - largest).exp() };
        }
        *nll = -(largest + mixture.update(&gate, &probabilities).ln());
    }
    Ok(())
}
