//! Online experts against counts that are added up anew for every token.

use std::collections::HashMap;

use hybridlm_core::experts::reference::{OnlineExperts, NAMES};
use proptest::prelude::*;

const V: usize = 9;

/// The definition, quadratic: predictions of `tokens[position]` from everything before it.
fn slow(tokens: &[u16], position: usize) -> [Vec<f64>; 4] {
    let at = |index: usize, back: usize| if index >= back { usize::from(tokens[index - back]) } else { 0 };
    let row = |index: usize| ((1_000_003 * at(index, 2)) ^ (1009 * at(index, 1))) % 8192;
    let mut counts = [const { [0.0; V] }; 4];
    for (past, &token) in tokens[..position].iter().enumerate() {
        let token = usize::from(token);
        counts[0][token] += 1.0;
        counts[1][token] += f64::from(at(past, 1) == at(position, 1));
        counts[2][token] += f64::from(row(past) == row(position));
        counts[3][token] += 0.999f64.powi((position - 1 - past) as i32);
    }
    counts.map(|counts| {
        let sum: f64 = counts.iter().sum();
        counts.iter().map(|count| ((count + 1.0) / (sum + V as f64)).ln()).collect()
    })
}

proptest! {
    #[test]
    fn scores_are_those_of_the_definition(
        tokens in prop::collection::vec(0u16..V as u16, 1..80),
        cuts in prop::collection::vec(0usize..80, 0..3),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut <= tokens.len()).collect();
        cuts.extend([0, tokens.len()]);
        cuts.sort_unstable();
        let mut experts = OnlineExperts::new(V).unwrap();
        for cut in cuts.windows(2) {
            let part = &tokens[cut[0]..cut[1]];
            let mut out = vec![0f32; NAMES.len() * part.len()];
            let mut rows = vec![0f32; NAMES.len() * part.len() * V];
            experts.score(part, &mut out, Some(&mut rows)).unwrap();
            for (offset, &token) in part.iter().enumerate() {
                let expected = slow(&tokens, cut[0] + offset);
                for k in 0..NAMES.len() {
                    let found = f64::from(out[k * part.len() + offset]);
                    prop_assert!((found - expected[k][usize::from(token)]).abs() < 1e-5);
                    let row = &rows[(k * part.len() + offset) * V..][..V];
                    let near = |(&found, wanted): (&f32, &f64)| (f64::from(found) - wanted).abs() < 1e-5;
                    prop_assert!(row.iter().zip(&expected[k]).all(near));
                    prop_assert_eq!(row[usize::from(token)], out[k * part.len() + offset]);
                }
            }
        }
        let mut rows = vec![0f32; NAMES.len() * V];
        experts.next_log_probs(&mut rows);
        for (row, expected) in rows.chunks(V).zip(slow(&tokens, tokens.len())) {
            prop_assert!(row.iter().zip(expected).all(|(&found, expected)| (f64::from(found) - expected).abs() < 1e-5));
        }
    }
}

#[test]
fn the_cache_stays_exact_past_every_rescaling() {
    // 0.999^-230,000 is 1e100, so the scale has been brought back by the end.
    let tokens: Vec<u16> = (0..300_000u32).map(|i| (i % 7 * i % V as u32) as u16).collect();
    let mut experts = OnlineExperts::new(V).unwrap();
    experts.observe(&tokens).unwrap();
    let mut rows = vec![0f32; NAMES.len() * V];
    experts.next_log_probs(&mut rows);
    let mut decayed = [0.0f64; V];
    for &token in &tokens {
        decayed.iter_mut().for_each(|count| *count *= 0.999);
        decayed[usize::from(token)] += 1.0;
    }
    let sum: f64 = decayed.iter().sum();
    for (found, count) in rows[3 * V..].iter().zip(decayed) {
        assert!((f64::from(*found) - ((count + 1.0) / (sum + V as f64)).ln()).abs() < 1e-5);
    }
}

#[test]
fn a_token_outside_the_vocabulary_changes_nothing() {
    let mut experts = OnlineExperts::new(V).unwrap();
    let mut before = vec![0f32; NAMES.len() * V];
    experts.next_log_probs(&mut before);
    assert!(experts.score(&[1, 2, 9], &mut [0.0; 12], None).is_err());
    assert!(experts.score(&[1], &mut [0.0; 4], Some(&mut [0.0; 8])).is_err());
    assert!(experts.observe(&[1, 9]).is_err());
    let mut after = vec![0f32; NAMES.len() * V];
    experts.next_log_probs(&mut after);
    assert_eq!(before, after);
    assert!(OnlineExperts::new(1).is_err() && OnlineExperts::new(65_537).is_err());
}

/// Such a vocabulary has four billion pairs of tokens; what is taken is for those that occur.
#[test]
fn counts_of_a_large_vocabulary_are_those_of_a_map() {
    const LARGE: usize = 65_535;
    let mut state = 1u64;
    let mut tokens: Vec<u16> = Vec::new();
    for _ in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let spread = if state >> 62 == 0 { LARGE as u64 } else { 60 };
        tokens.push(((state >> 20) % spread * 977 % LARGE as u64) as u16);
    }
    let mut experts = OnlineExperts::new(LARGE).unwrap();
    let mut found = vec![0f32; NAMES.len() * tokens.len()];
    experts.score(&tokens, &mut found, None).unwrap();
    let mut counts: [HashMap<(usize, u16), f64>; 3] = Default::default();
    let mut totals: [HashMap<usize, f64>; 3] = Default::default();
    let (mut older, mut newer) = (0usize, 0usize);
    for (at, &token) in tokens.iter().enumerate() {
        let rows = [0, newer, ((1_000_003 * older) ^ (1009 * newer)) % 8192];
        for (k, row) in rows.into_iter().enumerate() {
            let (count, total) =
                (counts[k].entry((row, token)).or_default(), totals[k].entry(row).or_default());
            let expected = ((*count + 1.0) / (*total + LARGE as f64)).ln();
            assert!(
                (f64::from(found[k * tokens.len() + at]) - expected).abs() < 1e-5,
                "{} at {at}",
                NAMES[k]
            );
            *count += 1.0;
            *total += 1.0;
        }
        (older, newer) = (newer, usize::from(token));
    }
}
