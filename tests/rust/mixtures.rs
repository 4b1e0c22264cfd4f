//! Mixtures against slow versions written from their formulas.

use std::collections::HashMap;

use hybridlm_core::mixtures::geometric::Geometric;
use hybridlm_core::mixtures::{create, score, Mixture, Sources, NAMES};
use proptest::prelude::*;

const GATES: [usize; 2] = [3, 4];
const LENGTHS: usize = 2;

/// The mixture over `experts` experts. All but the last are ready at the start, and are the base of counts.
fn start(name: &str, experts: usize) -> Box<dyn Mixture> {
    let base: Vec<usize> = (0..experts.max(2) - 1).collect();
    let sources =
        Sources { experts, gates: &GATES, base: &base, lengths: LENGTHS, ready: &base[..experts - 1] };
    create(name, sources).unwrap()
}

/// The weights that it begins with: nine tenths for those that are ready.
fn first_weights(experts: usize) -> Vec<f64> {
    match experts {
        1 => vec![1.0],
        _ => [vec![0.9 / (experts - 1) as f64; experts - 1], vec![0.1]].concat(),
    }
}

#[derive(Clone, Debug, Default)]
struct Case {
    experts: usize,
    log_probs: Vec<f32>,
    gates: Vec<u8>,
    /// For a mixture that takes evidence.
    shares: Vec<f32>,
    classes: Vec<u8>,
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

    fn share(&self, length: usize, target: usize) -> f64 {
        f64::from(self.shares[length * self.len() + target]).exp()
    }

    fn class(&self, length: usize, target: usize) -> u8 {
        self.classes[length * self.len() + target]
    }

    fn slice(&self, range: std::ops::Range<usize>) -> Case {
        let cut = |row: usize| row * self.len() + range.start..row * self.len() + range.end;
        Case {
            experts: self.experts,
            log_probs: (0..self.experts).flat_map(|row| self.log_probs[cut(row)].to_vec()).collect(),
            gates: (0..GATES.len()).flat_map(|row| self.gates[cut(row)].to_vec()).collect(),
            shares: (0..LENGTHS).flat_map(|row| self.shares[cut(row)].to_vec()).collect(),
            classes: (0..LENGTHS).flat_map(|row| self.classes[cut(row)].to_vec()).collect(),
        }
    }

    fn mix(&self, mixture: &mut dyn Mixture) -> Vec<f64> {
        let taken = mixture.lengths() * self.len();
        let log_probs = [&self.log_probs[..], &self.shares[..taken]].concat();
        let gates = [&self.gates[..], &self.classes[..taken]].concat();
        let mut nll = vec![0.0; self.len()];
        score(mixture, &log_probs, &gates, &mut nll).unwrap();
        nll
    }

    /// [`Self::mix`] target by target, with the weights that each met.
    fn mix_with_weights(&self, mixture: &mut dyn Mixture) -> (Vec<f64>, Vec<f64>) {
        let (mut nll, mut weights) = (Vec::new(), Vec::new());
        for target in 0..self.len() {
            let one = self.slice(target..target + 1);
            let gates = [&one.gates[..], &one.classes[..mixture.lengths()]].concat();
            let mut met = vec![0.0; self.experts + mixture.lengths()];
            mixture.weights(&gates, &mut met);
            weights.extend(met);
            nll.extend(one.mix(mixture));
        }
        (nll, weights)
    }
}

fn cases() -> impl Strategy<Value = Case> {
    (1usize..6, 0usize..80).prop_flat_map(|(experts, n)| {
        let log_probs = prop::collection::vec(-20.0f32..0.0, experts * n);
        let gates = (prop::collection::vec(0u8..3, n), prop::collection::vec(0u8..4, n));
        // Few classes, so that they come back; a context may be unknown, a token new to it.
        let evidence = prop::collection::vec((0u8..4, any::<bool>(), -8.0f32..0.0), LENGTHS * n);
        (log_probs, gates, evidence).prop_map(move |(log_probs, (first, second), evidence)| Case {
            experts,
            log_probs,
            gates: [first, second].concat(),
            shares: (evidence.iter())
                .map(|&(class, seen, share)| if class > 0 && seen { share } else { f32::NEG_INFINITY })
                .collect(),
            classes: evidence.iter().map(|&(class, ..)| class * 19).collect(),
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

/// Sets of weights by gate, value and rate, and those over the sets.
#[derive(Clone, Default)]
struct SlowEg {
    sets: HashMap<(usize, u8, usize), Vec<f64>>,
    top: Vec<f64>,
}

impl SlowEg {
    /// The set that all targets share is gate 0 here.
    fn update(&mut self, probabilities: &[f64], gates: &[u8], rates: &[f64], start: &[f64]) -> f64 {
        let count = rates.len() * (gates.len() + 1);
        self.top.resize(count, 1.0 / count as f64);
        let mut mixed = Vec::new();
        let before = self.sets.clone();
        for (gate, &value) in std::iter::once(&0).chain(gates).enumerate() {
            for (index, &rate) in rates.iter().enumerate() {
                // A value's first weights are what all targets so far have taught.
                let start = before.get(&(0, 0, index)).map_or(start, |common| common);
                let set = self.sets.entry((gate, value, index)).or_insert_with(|| start.to_vec());
                mixed.push(soft_bayes(set, probabilities, rate));
            }
        }
        soft_bayes(&mut self.top, &mixed, 0.02)
    }
}

const RATES: [f64; 2] = [0.005, 0.1];

fn slow_eg(case: &Case) -> Vec<f64> {
    let mut eg = SlowEg::default();
    (0..case.len())
        .map(|target| {
            let probabilities: Vec<f64> = (0..case.experts).map(|k| case.probability(k, target)).collect();
            let gates = [case.gate(0, target), case.gate(1, target)];
            -eg.update(&probabilities, &gates, &RATES, &first_weights(case.experts)).ln()
        })
        .collect()
}

/// Back-off weights by length and class: the weight, and how often it was used.
struct SlowHierarchy {
    /// By length: what a class's first weight is multiplied by.
    factors: [(f64, f64); LENGTHS],
    trusts: HashMap<(usize, u8), (f64, f64)>,
}

impl SlowHierarchy {
    fn backoff(&self, length: usize, class: u8) -> (f64, f64) {
        // The class's mean count: its low four bits count quarters of a doubling.
        let quarters = f64::from(class % 16);
        let octave = (quarters / 4.0).floor();
        let mean = match class % 16 {
            0 => 1.02,
            _ => octave.exp2() * (1.0 + (quarters - 4.0 * octave + 0.5) / 4.0),
        };
        *self.trusts.get(&(length, class)).unwrap_or(&(0.75 / mean * self.factors[length].0, 0.0))
    }

    fn probability(&self, base: f64, evidence: &[(u8, f64)], stretched: Option<usize>) -> f64 {
        let mut p = base;
        for (length, &(class, share)) in evidence.iter().enumerate().filter(|(_, (class, _))| *class > 0) {
            let mut b = self.backoff(length, class).0.clamp(0.005, 0.999);
            if stretched == Some(length) {
                b *= 1.0 + 1e-7;
            }
            p = b * p + (1.0 - b) * share;
        }
        p
    }

    fn update(&mut self, base: f64, evidence: &[(u8, f64)]) -> f64 {
        let p = self.probability(base, evidence, None);
        let gradients: Vec<_> = (evidence.iter().enumerate())
            .filter(|(_, (class, _))| *class > 0)
            .map(|(length, &(class, _))| {
                let gradient = (self.probability(base, evidence, Some(length)) - p) / p / 1e-7;
                (length, class, gradient)
            })
            .collect();
        let moved = |(value, seen): (f64, f64), gradient: f64, least: f64| {
            let rate = f64::max(0.003, 0.5 / (seen + 20.0));
            let changed: f64 = value * (1.0 + rate * gradient.max(-20.0)).clamp(0.5, 2.0);
            (changed.clamp(least, 4.0), seen + 1.0)
        };
        for (length, class, gradient) in gradients {
            let trust = moved(self.backoff(length, class), gradient, 0.001);
            self.trusts.insert((length, class), trust);
            self.factors[length] = moved(self.factors[length], gradient, 0.1);
        }
        p
    }
}

fn slow_stacked(case: &Case) -> Vec<f64> {
    let [mut first, mut second, mut last]: [SlowEg; 3] = Default::default();
    let [mut below, mut above] =
        [1.0, 4.0].map(|factor| SlowHierarchy { factors: [(factor, 0.0); LENGTHS], trusts: HashMap::new() });
    let start = first_weights(case.experts);
    let ready = case.experts.max(2) - 1;
    let of_base: Vec<f64> = start[..ready].iter().map(|w| w / start[..ready].iter().sum::<f64>()).collect();
    let of_all = [start.iter().map(|w| 0.9 * w).collect(), vec![0.1]].concat();
    (0..case.len())
        .map(|target| {
            let mut p: Vec<f64> = (0..case.experts).map(|k| case.probability(k, target)).collect();
            let gates = [case.gate(0, target), case.gate(1, target)];
            let evidence: Vec<_> =
                (0..LENGTHS).map(|n| (case.class(n, target), case.share(n, target))).collect();
            let base = first.update(&p[..ready], &[], &[0.02], &of_base);
            p.push(below.update(base, &evidence));
            let mixed = second.update(&p, &gates, &RATES, &of_all);
            let counted = above.update(mixed, &evidence);
            -last.update(&[mixed, counted, base], &gates, &RATES, &[0.8, 0.1, 0.1]).ln()
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
        let nll = case.mix(&mut *start("eg", case.experts));
        for (found, wanted) in nll.iter().zip(slow_eg(&case)) {
            prop_assert!(close(*found, wanted), "{found} {wanted}");
        }
    }

    #[test]
    fn stacked_is_its_formula(case in cases()) {
        let nll = case.mix(&mut *start("stacked", case.experts));
        for (found, wanted) in nll.iter().zip(slow_stacked(&case)) {
            // The slow one's gradients are differences.
            prop_assert!((found - wanted).abs() < 1e-5 * (1.0 + wanted.abs()), "{found} {wanted}");
        }
    }

    #[test]
    fn fixed_share_is_a_hidden_markov_model(case in cases()) {
        for (name, share) in [("fixed-share", 0.02), ("bayes", 0.0)] {
            let nll = case.mix(&mut *start(name, case.experts));
            for (found, wanted) in nll.iter().zip(slow_fixed_share(&case, share)) {
                prop_assert!(close(*found, wanted), "{name} {found} {wanted}");
            }
        }
    }

    #[test]
    fn bayes_is_never_far_from_the_best_expert(case in cases()) {
        let nll = case.mix(&mut *start("bayes", case.experts));
        let loss = |k: usize| -> f64 { (0..case.len()).map(|t| -f64::from(case.log_probs[k * case.len() + t])).sum() };
        let best = (0..case.experts).map(loss).fold(f64::INFINITY, f64::min);
        prop_assert!(nll.iter().sum::<f64>() <= best + (case.experts as f64).ln() + 1e-6);
    }

    #[test]
    fn weights_are_a_distribution_and_give_the_score(case in cases()) {
        for name in NAMES {
            let (nll, weights) = case.mix_with_weights(&mut *start(name, case.experts));
            for (target, nll) in nll.iter().enumerate() {
                let rows = weights.len() / case.len();
                let weights = &weights[target * rows..][..rows];
                prop_assert!(weights.iter().all(|&w| w >= 0.0));
                prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                let value = |row: usize| match row.checked_sub(case.experts) {
                    None => case.probability(row, target),
                    Some(length) => case.share(length, target),
                };
                let mixed: f64 = weights.iter().enumerate().map(|(row, w)| w * value(row)).sum();
                prop_assert!(close(*nll, -mixed.ln()));
            }
        }
    }

    #[test]
    fn cuts_change_no_bit(case in cases(), cut in 0usize..80) {
        let cut = cut.min(case.len());
        for name in NAMES {
            let whole = case.mix(&mut *start(name, case.experts));
            let mut mixture = start(name, case.experts);
            let mut parts = case.slice(0..cut).mix(&mut *mixture);
            parts.extend(case.slice(cut..case.len()).mix(&mut *mixture));
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
            let before = case.mix_with_weights(&mut *start(name, case.experts));
            let after = changed.mix_with_weights(&mut *start(name, case.experts));
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
        let mut mixture = Geometric::new(experts, &[], vocab).unwrap();
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
    let case = Case { experts: 2, log_probs, gates: vec![0; 2 * n], ..Case::default() };
    let total = |name: &str| -> f64 { case.mix(&mut *start(name, 2)).iter().sum() };
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
    let case = Case { experts: 2, log_probs, gates: vec![0; 2000], ..Case::default() };
    let nll = case.mix(&mut *start("bayes", 2));
    assert!(nll[999] > 15.0, "the debt is not paid yet");
    let log_probs: Vec<f32> = (0..2000)
        .map(|t| if t < 600 { -1.0 } else { -21.0 })
        .chain((0..2000).map(|t| if t < 600 { -21.0 } else { -1.0 }))
        .collect();
    let case = Case { experts: 2, log_probs, gates: vec![0; 4000], ..Case::default() };
    let nll = case.mix(&mut *start("bayes", 2));
    assert!(nll[1999] < 1.0 + 1e-6);
}

#[test]
fn what_cannot_be_mixed_is_refused() {
    let refused = |name, sources: Sources| create(name, sources).is_err();
    let three = Sources { experts: 3, base: &[0, 2], ..Sources::default() };
    assert!(!refused("eg", three) && !refused("stacked", three));
    assert!(refused("best", three) && refused("eg", Sources::default()));
    assert!(
        refused("eg", Sources { gates: &[0], ..three }) && refused("eg", Sources { gates: &[257], ..three })
    );
    assert!(refused("stacked", Sources { base: &[], ..three }));
    assert!(refused("stacked", Sources { base: &[3], ..three }));
    assert!(refused("stacked", Sources { lengths: 9, ..three }));
    assert!(!refused("eg", Sources { ready: &[0, 2], ..three }));
    for ready in [&[3][..], &[1, 0], &[1, 1]] {
        assert!(refused("eg", Sources { ready, ..three }) && Geometric::new(3, ready, 5).is_err());
    }
    let attempt = |log_probs: &[f32], gates: &[u8]| {
        let sources = Sources { experts: 2, gates: &[3], ..Sources::default() };
        score(&mut *create("eg", sources).unwrap(), log_probs, gates, &mut [0.0])
    };
    assert!(attempt(&[-1.0, -2.0], &[2]).is_ok());
    assert!(attempt(&[-1.0, -2.0], &[3]).unwrap_err().to_string().contains("gate 0"));
    assert!(attempt(&[-1.0], &[2]).is_err());
    assert!(attempt(&[-1.0, -2.0], &[]).is_err());
    assert!(attempt(&[-1.0, f32::NAN], &[0]).unwrap_err().to_string().contains("expert 1"));
    assert!(attempt(&[f32::NEG_INFINITY, -1.0], &[0]).is_err());
    let stacked = |log_probs: &[f32]| {
        let sources = Sources { experts: 1, base: &[0], lengths: 1, ..Sources::default() };
        score(&mut *create("stacked", sources).unwrap(), log_probs, &[16], &mut [0.0])
    };
    assert!(stacked(&[-1.0, f32::NEG_INFINITY]).is_ok());
    assert!(stacked(&[-1.0, f32::NAN]).unwrap_err().to_string().contains("expert 1"));
    assert!(stacked(&[f32::NEG_INFINITY, -1.0]).unwrap_err().to_string().contains("expert 0"));
    assert!(Geometric::new(0, &[], 5).is_err() && Geometric::new(2, &[], 1).is_err());
    let mut geometric = Geometric::new(1, &[], 2).unwrap();
    assert!(geometric.mix(&[-0.7, -0.7], &[2], &mut [0.0]).is_err());
    assert!(geometric.mix(&[-0.7], &[0], &mut [0.0]).is_err());
    assert!(geometric.mix(&[-0.7, f32::NAN], &[0], &mut [0.0]).is_err());
}
