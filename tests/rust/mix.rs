//! Mixtures against slow versions written from their formulas.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use hybridlm_core::mix::geometric::Geometric;
use hybridlm_core::mix::{create, mix, Mixture, NAMES};
use proptest::prelude::*;

const GATES: [usize; 2] = [3, 4];

#[derive(Clone, Debug)]
struct Case {
    experts: usize,
    log_probs: Vec<f32>,
    gates: Vec<u8>,
}

impl Case {
    fn len(&self) -> usize {
        self.log_probs.len() / self.experts
    }

    fn probability(&self, expert: usize, target: usize) -> f64 {
        f64::from(self.log_probs[expert * self.len() + target]).exp()
    }

    fn gate(&self, gate: usize, target: usize) -> u8 {
        self.gates[gate * self.len() + target]
    }

    fn slice(&self, range: std::ops::Range<usize>) -> Case {
        let cut = |row: usize| row * self.len() + range.start..row * self.len() + range.end;
        Case {
            experts: self.experts,
            log_probs: (0..self.experts).flat_map(|row| self.log_probs[cut(row)].to_vec()).collect(),
            gates: (0..GATES.len()).flat_map(|row| self.gates[cut(row)].to_vec()).collect(),
        }
    }

    fn mix(&self, mixture: &mut dyn Mixture) -> (Vec<f64>, Vec<f64>) {
        let mut nll = vec![0.0; self.len()];
        let mut weights = vec![0.0; self.len() * self.experts];
        mix(mixture, &self.log_probs, &self.gates, &mut nll, Some(&mut weights)).unwrap();
        (nll, weights)
    }
}

fn cases() -> impl Strategy<Value = Case> {
    (1usize..6, 0usize..80).prop_flat_map(|(experts, n)| {
        let log_probs = prop::collection::vec(-20.0f32..0.0, experts * n);
        let gates = (prop::collection::vec(0u8..3, n), prop::collection::vec(0u8..4, n));
        (log_probs, gates).prop_map(move |(log_probs, (first, second))| Case {
            experts,
            log_probs,
            gates: [first, second].concat(),
        })
    })
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * (1.0 + a.abs())
}

/// w ← w (1 − η + η p / q), then the floor; everything by name.
fn soft_bayes(weights: &mut [f64], probabilities: &[f64], rate: f64) -> f64 {
    let q: f64 = weights.iter().zip(probabilities).map(|(w, p)| w * p).sum();
    let count = weights.len() as f64;
    for (w, p) in weights.iter_mut().zip(probabilities) {
        *w = (1.0 - 1e-5) * (*w * (1.0 - rate + rate * p / q)) + 1e-5 / count;
    }
    q
}

fn slow_eg(case: &Case) -> Vec<f64> {
    let mut sets: HashMap<(usize, u8, usize), Vec<f64>> = HashMap::new();
    let rates = [0.005, 0.1];
    let mut top = vec![1.0 / 6.0; 6];
    (0..case.len())
        .map(|target| {
            let probabilities: Vec<f64> = (0..case.experts).map(|k| case.probability(k, target)).collect();
            let mut mixed = Vec::new();
            // The set that all targets share is gate 0 here.
            for gate in 0..=GATES.len() {
                let value = if gate == 0 { 0 } else { case.gate(gate - 1, target) };
                for (index, &rate) in rates.iter().enumerate() {
                    let start = vec![1.0 / case.experts as f64; case.experts];
                    let set = sets.entry((gate, value, index)).or_insert(start);
                    mixed.push(soft_bayes(set, &probabilities, rate));
                }
            }
            -soft_bayes(&mut top, &mixed, 0.02).ln()
        })
        .collect()
}

/// The forward algorithm of the hidden Markov model whose state, the best expert, is drawn anew with
/// probability `share` before every target.
fn slow_fixed_share(case: &Case, share: f64) -> Vec<f64> {
    let k = case.experts as f64;
    let mut belief = vec![1.0 / k; case.experts];
    (0..case.len())
        .map(|target| {
            let joint: Vec<f64> =
                (0..case.experts).map(|e| belief[e] * case.probability(e, target)).collect();
            let sum: f64 = joint.iter().sum();
            belief = joint.iter().map(|p| (1.0 - share) * p / sum + share / k).collect();
            -sum.ln()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn eg_is_its_formula(case in cases()) {
        let (nll, _) = case.mix(&mut *create("eg", case.experts, &GATES).unwrap());
        for (found, wanted) in nll.iter().zip(slow_eg(&case)) {
            prop_assert!(close(*found, wanted), "{found} {wanted}");
        }
    }

    #[test]
    fn fixed_share_is_a_hidden_markov_model(case in cases()) {
        for (name, share) in [("fixed-share", 0.02), ("bayes", 0.0)] {
            let (nll, _) = case.mix(&mut *create(name, case.experts, &GATES).unwrap());
            for (found, wanted) in nll.iter().zip(slow_fixed_share(&case, share)) {
                prop_assert!(close(*found, wanted), "{name} {found} {wanted}");
            }
        }
    }

    #[test]
    fn bayes_is_never_far_from_the_best_expert(case in cases()) {
        let (nll, _) = case.mix(&mut *create("bayes", case.experts, &GATES).unwrap());
        let loss = |k: usize| -> f64 { (0..case.len()).map(|t| -f64::from(case.log_probs[k * case.len() + t])).sum() };
        let best = (0..case.experts).map(loss).fold(f64::INFINITY, f64::min);
        prop_assert!(nll.iter().sum::<f64>() <= best + (case.experts as f64).ln() + 1e-6);
    }

    #[test]
    fn weights_are_a_distribution_and_give_the_score(case in cases()) {
        for name in NAMES {
            let (nll, weights) = case.mix(&mut *create(name, case.experts, &GATES).unwrap());
            for (target, nll) in nll.iter().enumerate() {
                let weights = &weights[target * case.experts..][..case.experts];
                prop_assert!(weights.iter().all(|&w| w >= 0.0));
                prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                let mixed: f64 = weights.iter().enumerate().map(|(k, w)| w * case.probability(k, target)).sum();
                prop_assert!(close(*nll, -mixed.ln()));
            }
        }
    }

    #[test]
    fn cuts_change_no_bit(case in cases(), cut in 0usize..80) {
        let cut = cut.min(case.len());
        for name in NAMES {
            let (whole, _) = case.mix(&mut *create(name, case.experts, &GATES).unwrap());
            let mut mixture = create(name, case.experts, &GATES).unwrap();
            let (mut parts, _) = case.slice(0..cut).mix(&mut *mixture);
            parts.extend(case.slice(cut..case.len()).mix(&mut *mixture).0);
            prop_assert_eq!(&whole, &parts);
        }
    }

    #[test]
    fn the_future_changes_no_bit(case in cases()) {
        prop_assume!(case.len() > 1);
        let n = case.len();
        let mut changed = case.clone();
        (0..case.experts).for_each(|k| changed.log_probs[k * n + n - 1] = -0.5 - k as f32);
        for name in NAMES {
            let before = case.mix(&mut *create(name, case.experts, &GATES).unwrap());
            let after = changed.mix(&mut *create(name, case.experts, &GATES).unwrap());
            prop_assert_eq!(&before.0[..n - 1], &after.0[..n - 1]);
            prop_assert_eq!(before.1, after.1); // the last target's own weights, too
        }
    }

    #[test]
    fn geometric_rows_sum_to_one_and_follow_the_gradient(
        logits in prop::collection::vec(-6.0f32..0.0, 2 * 9 * 5),
        targets in prop::collection::vec(0u16..5, 9),
    ) {
        let (experts, n, vocab) = (2, 9, 5);
        let mut rows = logits;
        for row in rows.chunks_mut(vocab) {
            let sum = row.iter().map(|l| l.exp()).sum::<f32>().ln();
            row.iter_mut().for_each(|l| *l -= sum);
        }
        let mut mixture = Geometric::new(experts, vocab).unwrap();
        let mut out = vec![0.0; vocab];
        for target in 0..n {
            let at = |k: usize| &rows[(k * n + target) * vocab..][..vocab];
            mixture.row(&[at(0), at(1)], &mut out);
            prop_assert!((out.iter().map(|l| l.exp()).sum::<f64>() - 1.0).abs() < 1e-9);
            let log_p = |exponents: &[f64]| -> f64 {
                let score = |v: usize| (0..experts).map(|k| exponents[k] * f64::from(at(k)[v])).sum::<f64>();
                score(usize::from(targets[target])) - (0..vocab).map(|v| score(v).exp()).sum::<f64>().ln()
            };
            let before = mixture.exponents().to_vec();
            let mut nll = [0.0];
            mixture.mix(&[at(0), at(1)].concat(), &targets[target..=target], &mut nll).unwrap();
            prop_assert!((nll[0] + log_p(&before)).abs() < 1e-9);
            let rate = f64::max(0.001, 0.02 / ((target + 1) as f64).sqrt());
            for k in 0..experts {
                let mut more = before.clone();
                more[k] += 1e-6;
                let gradient = (log_p(&more) - log_p(&before)) / 1e-6;
                prop_assert!((mixture.exponents()[k] - before[k] - rate * gradient).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn eg_finds_a_mixture_that_beats_every_expert() {
    // Each expert is right on every other target: the best expert has 1.2 nats, half of each 0.7.
    let n = 4_000;
    let good = |k: usize, t: usize| if (t * 7 / 3) % 2 == k { 0.9f32.ln() } else { 0.1f32.ln() };
    let log_probs: Vec<f32> = (0..2).flat_map(|k| (0..n).map(move |t| good(k, t))).collect();
    let case = Case { experts: 2, log_probs, gates: vec![0; 2 * n] };
    let total = |name: &str| -> f64 { case.mix(&mut *create(name, 2, &GATES).unwrap()).0.iter().sum() };
    let best = 0.5 * n as f64 * -(0.9f64.ln() + 0.1f64.ln());
    assert!(total("eg") < 0.7 * best);
    assert!(total("eg") < total("bayes"));
}

#[test]
fn a_bayesian_weight_comes_back_from_the_depths() {
    // The second expert loses 10 nats a target for 200 targets, then wins them back twice over.
    let log_probs: Vec<f32> = (0..1000)
        .map(|t| if t < 600 { -1.0 } else { -21.0 })
        .chain((0..1000).map(|t| if t < 600 { -21.0 } else { -1.0 }))
        .collect();
    let case = Case { experts: 2, log_probs, gates: vec![0; 2000] };
    let (nll, _) = case.mix(&mut *create("bayes", 2, &GATES).unwrap());
    assert!(nll[999] > 15.0, "the debt is not paid yet");
    let log_probs: Vec<f32> = (0..2000)
        .map(|t| if t < 600 { -1.0 } else { -21.0 })
        .chain((0..2000).map(|t| if t < 600 { -21.0 } else { -1.0 }))
        .collect();
    let case = Case { experts: 2, log_probs, gates: vec![0; 4000] };
    let (nll, _) = case.mix(&mut *create("bayes", 2, &GATES).unwrap());
    assert!(nll[1999] < 1.0 + 1e-6);
}

#[test]
fn what_cannot_be_mixed_is_refused() {
    assert!(create("best", 3, &[]).is_err());
    assert!(create("eg", 0, &[]).is_err());
    assert!(create("eg", 3, &[0]).is_err() && create("eg", 3, &[257]).is_err());
    let attempt = |log_probs: &[f32], gates: &[u8]| {
        mix(&mut *create("eg", 2, &[3]).unwrap(), log_probs, gates, &mut [0.0], None)
    };
    assert!(attempt(&[-1.0, -2.0], &[2]).is_ok());
    assert!(attempt(&[-1.0, -2.0], &[3]).unwrap_err().to_string().contains("gate 0"));
    assert!(attempt(&[-1.0], &[2]).is_err());
    assert!(attempt(&[-1.0, -2.0], &[]).is_err());
    assert!(attempt(&[-1.0, f32::NAN], &[0]).unwrap_err().to_string().contains("expert 1"));
    assert!(attempt(&[f32::NEG_INFINITY, -1.0], &[0]).is_err());
    assert!(Geometric::new(0, 5).is_err() && Geometric::new(2, 1).is_err());
    let mut geometric = Geometric::new(1, 2).unwrap();
    assert!(geometric.mix(&[-0.7, -0.7], &[2], &mut [0.0]).is_err());
    assert!(geometric.mix(&[-0.7], &[0], &mut [0.0]).is_err());
    assert!(geometric.mix(&[-0.7, f32::NAN], &[0], &mut [0.0]).is_err());
}
