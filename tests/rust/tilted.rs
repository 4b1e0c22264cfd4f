//! A network tilted by n-grams: whatever the network says and whatever the file holds, a distribution.

use std::sync::Arc;

use hybridlm_core::experts::tilted::Tilted;
use hybridlm_core::fingerprint::Stateful;
use hybridlm_core::oracle::sparse::oracle::SparseOracle;
use hybridlm_core::oracle::Oracle;
use proptest::prelude::*;

use crate::sparse::{built, load, sealed, text};

/// Rows [n, V] of ln p, each normalised in double precision. Where `logits` ends it begins again; of a very small one
/// the network says that it can't come.
fn network(logits: &[f64], count: usize, vocab_size: usize) -> Vec<f32> {
    let mut found = Vec::with_capacity(count * vocab_size);
    for row in 0..count {
        let of = |token: usize| match logits[(row * 31 + token) % logits.len()] {
            logit if logit < -190.0 => f64::NEG_INFINITY,
            logit => logit,
        };
        // Some token can come.
        let row: Vec<f64> = (0..vocab_size).map(|token| if token == 1 { 0.0 } else { of(token) }).collect();
        let largest = row.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = row.iter().map(|logit| (logit - largest).exp()).sum();
        found.extend(row.iter().map(|logit| (logit - largest - sum.ln()) as f32));
    }
    found
}

/// Scores `tokens` from their second on, whole, in two pieces and by rows, beside the definition over whole rows.
fn holds(oracle: SparseOracle, tokens: &[u16], logits: &[f64], exponent: f64) {
    let (vocab_size, count) = (oracle.vocab_size(), tokens.len() - 1);
    let oracle: Arc<dyn Oracle> = Arc::new(oracle);
    let made = || {
        let mut tilted = Tilted::new(Arc::clone(&oracle)).unwrap();
        let learned = tilted.state().len() / 2;
        let state: Vec<f64> =
            (0..2 * learned).map(|index| if index < learned { exponent } else { 0.01 }).collect();
        tilted.restore(&state).unwrap();
        tilted
    };
    let rows = network(logits, count, vocab_size);
    let said = |range: std::ops::Range<usize>, asked: &[u16], ends: &[u32]| -> (Vec<f32>, Vec<f32>) {
        let targets = range.clone().map(|at| rows[at * vocab_size + usize::from(tokens[at + 1])]).collect();
        let others = range.enumerate().flat_map(|(index, at)| {
            let asked = &asked[ends[index] as usize..ends[index + 1] as usize];
            asked.iter().map(move |&token| (at, token))
        });
        (targets, others.map(|(at, token)| rows[at * vocab_size + usize::from(token)]).collect())
    };

    let mut by_rows = made();
    let (mut shown, mut from_rows) = (vec![0.0; rows.len()], vec![0.0; count]);
    by_rows.mix_rows(tokens, 1, &rows, &mut shown, &mut from_rows).unwrap();
    for (at, row) in shown.chunks_exact(vocab_size).enumerate() {
        let sum: f64 = row.iter().map(|&log_prob| f64::from(log_prob).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "target {at}: {sum}");
    }

    for cut in [count, count / 2, 1] {
        let mut tilted = made();
        let mut found = Vec::new();
        for piece in [0..cut, cut..count] {
            let seen = &tokens[..piece.end + 1];
            let (asked, ends) = tilted.raised_tokens(seen, piece.start + 1).unwrap();
            let (mut log_probs, others) = said(piece.clone(), &asked, &ends);
            tilted.mix(seen, piece.start + 1, &others, &mut log_probs).unwrap();
            found.extend(log_probs);
        }
        assert_eq!(found, from_rows, "cut at {cut}");
        assert!(tilted.fingerprint() == by_rows.fingerprint());
    }

    // As the codec has it, from probabilities.
    let mut tilted = made();
    for (at, row) in rows.chunks_exact(vocab_size).enumerate() {
        let row: Vec<f32> = row.iter().map(|&log_prob| f64::from(log_prob).exp() as f32).collect();
        let mut probabilities = vec![0.0; vocab_size];
        tilted.tilt_probabilities(&tokens[..at + 1], &row, &mut probabilities).unwrap();
        let sum: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
        assert!((sum - 1.0).abs() < 1e-5 && probabilities.iter().all(|&p| p >= 0.0), "target {at}: {sum}");
        tilted.update(&tokens[..at + 1], &row, tokens[at + 1]).unwrap();
    }
    assert!([tilted, by_rows].iter().all(|tilted| tilted.state().iter().all(|value| value.is_finite())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_model_makes_a_distribution_of_any_other(
        seed in any::<u64>(), order in 3usize..=8, vocab_size in prop::sample::select(vec![2u16, 5, 40, 65_535]),
        length in 20usize..3000, max_bytes in 500usize..4000,
        logits in prop::collection::vec(-200.0f64..5.0, 1..40), exponent in prop::sample::select(vec![0.0, 0.3, 4.0]),
    ) {
        let file = built(
            &[text(seed, length, vocab_size)], usize::from(vocab_size), order, max_bytes + usize::from(vocab_size), 1,
        );
        let oracle = load(&file).unwrap();
        if oracle.raising_orders() > 0 {
            let count = if vocab_size > 1000 { 6 } else { 60 };
            holds(oracle, &text(seed ^ u64::from(exponent > 1.0), count, vocab_size), &logits, exponent);
        }
    }

    /// Of a forger who gets the checksum right.
    #[test]
    fn a_forged_model_makes_a_distribution_too(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        logits in prop::collection::vec(-200.0f64..5.0, 1..40), exponent in prop::sample::select(vec![0.0, 0.3, 4.0]),
    ) {
        let mut file = built(&[text(22, 3000, 20)], 20, 6, 900, 1);
        let start = 64 + 8 * 6;
        for (index, byte) in damage {
            let at = start + index.index(file.len() - start);
            file[at] = byte;
        }
        if let Ok(oracle) = load(&sealed(file)) {
            if oracle.raising_orders() > 0 {
                holds(oracle, &text(23, 60, 20), &logits, exponent);
            }
        }
    }
}

fn ordinary() -> (Arc<dyn Oracle>, Vec<u16>) {
    let file = built(&[text(22, 3000, 20)], 20, 5, 900, 1);
    (Arc::new(load(&file).unwrap()), text(22, 40, 20))
}

#[test]
fn what_is_no_number_teaches_nothing() {
    let (oracle, tokens) = ordinary();
    let mut tilted = Tilted::new(oracle).unwrap();
    let before = tilted.state();
    let (asked, _) = tilted.raised_tokens(&tokens, 1).unwrap();
    assert!(!asked.is_empty());
    let mut log_probs = vec![f32::NAN; tokens.len() - 1];
    tilted.mix(&tokens, 1, &vec![f32::NAN; asked.len()], &mut log_probs).unwrap();
    assert_eq!(tilted.state(), before);
    let mut log_probs = vec![-3.0; tokens.len() - 1];
    tilted.mix(&tokens, 1, &vec![-3.0; asked.len()], &mut log_probs).unwrap();
    assert!(log_probs.iter().all(|value| value.is_finite()) && tilted.state() != before);
}

#[test]
fn a_state_that_learning_never_reaches_is_refused() {
    let mut tilted = Tilted::new(ordinary().0).unwrap();
    let good = tilted.state();
    let half = good.len() / 2;
    for (at, wrong) in
        [(0, 4.1), (0, -0.1), (0, 1e300), (0, f64::NAN), (half, 0.0), (half, f64::INFINITY), (half, f64::NAN)]
    {
        let mut state = good.clone();
        state[at] = wrong;
        assert!(tilted.restore(&state).is_err(), "{wrong} at {at}");
    }
    for length in [0, half, 2 * half - 1, 2 * half + 1] {
        assert!(tilted.restore(&vec![1.0; length]).is_err(), "{length} values");
    }
    assert_eq!(tilted.state(), good);
    tilted.restore(&good).unwrap();
}

#[test]
fn what_does_not_fit_teaches_nothing() {
    let (oracle, tokens) = ordinary();
    let mut tilted = Tilted::new(oracle).unwrap();
    let before = tilted.fingerprint();
    let (asked, _) = tilted.raised_tokens(&tokens, 1).unwrap();
    assert!(asked.len() > 1);
    for length in [asked.len() - 1, asked.len() + 1] {
        let mut log_probs = vec![-2.0; tokens.len() - 1];
        assert!(tilted.mix(&tokens, 1, &vec![-3.0; length], &mut log_probs).is_err());
        assert!(tilted.fingerprint() == before);
    }
}
