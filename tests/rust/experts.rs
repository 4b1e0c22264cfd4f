//! The adaptive experts against slow, obvious versions of themselves.

use std::collections::{BTreeMap, HashMap};

use hybridlm_core::experts::adaptive::{AdaptiveExperts, Config, Scored, CLASS_GATES, GATES, NAMES};
use hybridlm_core::experts::backoff::{self, Backoff};
use hybridlm_core::experts::cache::Cache;
use hybridlm_core::experts::longest_match::{self, LongestMatch};
use proptest::prelude::*;

const VOCAB: usize = 7;

/// Of these experts, five as always, but shorter.
const LENGTHS: [usize; 5] = [1, 2, 3, 4, 6];

fn tokens(longest: usize) -> impl Strategy<Value = Vec<u16>> {
    // Repeated stretches, so that long contexts come back.
    let piece = prop::collection::vec(0u16..VOCAB as u16, 1..12);
    prop::collection::vec((piece, 1usize..4), 0..longest)
        .prop_map(|pieces| pieces.into_iter().flat_map(|(piece, times)| piece.repeat(times)).collect())
}

fn small() -> Config {
    Config {
        backoff: backoff::Config { lengths: &LENGTHS, contexts: 1 << 12 },
        longest_match: longest_match::Config { least: 3, memory: 1 << 10 },
    }
}

/// Interpolated Kneser–Ney with learned trust, in float64 over hash maps.
#[derive(Default)]
struct SlowBackoff {
    lengths: Vec<usize>,
    history: Vec<u16>,
    counts: HashMap<Vec<u16>, BTreeMap<u16, u32>>,
    unigrams: BTreeMap<u16, u32>,
    trusts: HashMap<(usize, u32, u32), (f64, f64)>,
}

impl SlowBackoff {
    fn context(&self, n: usize) -> Vec<u16> {
        (1..=n).map(|back| self.history.len().checked_sub(back).map_or(0, |at| self.history[at])).collect()
    }

    fn class(n: usize, successors: &BTreeMap<u16, u32>) -> (usize, u32, u32) {
        let types = successors.len() as u32;
        let mean = f64::from(successors.values().sum::<u32>()) / f64::from(types);
        let octave = mean.log2().floor();
        let quarter = ((mean / octave.exp2() - 1.0) * 4.0).floor();
        (n, (32 - types.leading_zeros()).min(15), ((4.0 * octave + quarter) as u32).min(15))
    }

    /// b of a context and the share of it that a token has.
    fn seen(&self, n: usize, token: u16) -> Option<((usize, u32, u32), f64, f64)> {
        let successors = self.counts.get(&self.context(n))?;
        let class = Self::class(n, successors);
        let total = f64::from(successors.values().sum::<u32>());
        let types = successors.len() as f64;
        let factor = self.trusts.get(&class).map_or(1.0, |trust| trust.0);
        let b = (0.75 * types / total * factor).clamp(0.005, 0.995);
        let share = successors.get(&token).map_or(0.0, |&c| (f64::from(c) - 0.75) / (total - 0.75 * types));
        Some((class, b, share))
    }

    fn probability(&self, token: u16) -> f64 {
        let count = f64::from(*self.unigrams.get(&token).unwrap_or(&0));
        let total = f64::from(self.unigrams.values().sum::<u32>());
        let mut p = (count + 0.5) / (total + 0.5 * VOCAB as f64);
        for &n in &self.lengths {
            if let Some((_, b, share)) = self.seen(n, token) {
                p = b * p + (1.0 - b) * share;
            }
        }
        p
    }

    fn update(&mut self, token: u16) {
        let p = self.probability(token);
        // d ln p / d ln factor of each class by a difference: what would a little more trust have given?
        let mut gradients = Vec::new();
        for &n in &self.lengths.clone() {
            if let Some((class, b, _)) = self.seen(n, token) {
                let mut shorter = self.probability_with(token, n, b * (1.0 + 1e-6));
                shorter = (shorter - p) / p / 1e-6;
                gradients.push((class, shorter));
            }
        }
        for (class, gradient) in gradients {
            let trust = self.trusts.entry(class).or_insert((1.0, 0.0));
            let rate = f64::max(0.003, 0.5 / (trust.1 + 20.0));
            let change = (1.0 + rate * gradient.max(-20.0)).clamp(0.5, 2.0);
            *trust = ((trust.0 * change).clamp(0.1, 20.0), trust.1 + 1.0);
        }
        let mut known = false;
        for &n in self.lengths.clone().iter().rev() {
            let context = self.context(n);
            let count = self.counts.entry(context).or_default().entry(token).or_insert(0);
            *count += 1;
            if *count > 1 {
                known = true;
                break;
            }
        }
        if !known {
            *self.unigrams.entry(token).or_insert(0) += 1;
        }
        self.history.push(token);
    }

    /// The probability if the context of n tokens had another b.
    fn probability_with(&self, token: u16, changed: usize, backoff: f64) -> f64 {
        let count = f64::from(*self.unigrams.get(&token).unwrap_or(&0));
        let total = f64::from(self.unigrams.values().sum::<u32>());
        let mut p = (count + 0.5) / (total + 0.5 * VOCAB as f64);
        for &n in &self.lengths {
            if let Some((_, b, share)) = self.seen(n, token) {
                let b = if n == changed { backoff } else { b };
                p = b * p + (1.0 - b) * share;
            }
        }
        p
    }
}

fn rows(experts: &AdaptiveExperts) -> Vec<Vec<f32>> {
    let mut out = vec![0.0; NAMES.len() * experts.vocab_size()];
    experts.rows(&mut out);
    out.chunks(experts.vocab_size()).map(<[f32]>::to_vec).collect()
}

fn score(experts: &mut AdaptiveExperts, tokens: &[u16]) -> Scored {
    experts.score(tokens, None).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn back_off_is_what_the_slow_one_says(stream in tokens(12), which in 0usize..4) {
        let lengths: &[usize] = [&[1][..], &[1, 2, 3], &LENGTHS, &[2, 5]][which];
        let mut slow = SlowBackoff { lengths: lengths.to_vec(), ..SlowBackoff::default() };
        let mut fast = Backoff::new(VOCAB, backoff::Config { lengths, contexts: 1 << 14 }).unwrap();
        for &token in &stream {
            for v in 0..VOCAB as u16 {
                let (wanted, found) = (slow.probability(v), f64::from(fast.probability(v)));
                prop_assert!((wanted - found).abs() < 2e-4 * wanted, "{wanted} {found}");
                let evidence = fast.evidence(v);
                for (index, &n) in lengths.iter().enumerate() {
                    let ((_, types, mean), _, share) = slow.seen(n, v).unwrap_or_default();
                    prop_assert_eq!(u32::from(evidence.classes[index]), 16 * types + mean);
                    prop_assert!((f64::from(evidence.shares[index]) - share).abs() < 1e-5);
                }
            }
            slow.update(token);
            fast.update(token);
        }
    }

    #[test]
    fn rows_are_distributions_and_hold_what_is_scored(stream in tokens(20)) {
        let mut experts = AdaptiveExperts::new(VOCAB, small()).unwrap();
        for &token in &stream {
            for (expert, row) in rows(&experts).iter().enumerate() {
                let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
                prop_assert!((sum - 1.0).abs() < 1e-5, "{} sums to {sum}", NAMES[expert]);
                for v in 0..VOCAB as u16 {
                    prop_assert_eq!(row[usize::from(v)], experts.probabilities(v)[expert]);
                }
            }
            let mut shares = vec![0.0; CLASS_GATES.len() * VOCAB];
            experts.share_rows(&mut shares);
            for (row, class) in shares.chunks(VOCAB).zip(experts.classes()) {
                let sum: f64 = row.iter().map(|&share| f64::from(share)).sum();
                prop_assert!((sum - f64::from(class > 0)).abs() < 1e-5);
            }
            for v in 0..VOCAB as u16 {
                let column = shares.iter().skip(usize::from(v)).step_by(VOCAB).copied();
                prop_assert!(column.eq(experts.shares(v)));
            }
            prop_assert!(experts.gates().iter().zip(GATES).all(|(&gate, values)| usize::from(gate) < values));
            let before = experts.probabilities(token);
            prop_assert_eq!(before, experts.update(token));
        }
    }

    #[test]
    fn a_batch_is_the_sequence_however_it_is_cut(stream in tokens(30), cut in 0usize..200) {
        let cut = cut.min(stream.len());
        let n = stream.len();
        let whole = score(&mut AdaptiveExperts::new(VOCAB, small()).unwrap(), &stream);
        let mut experts = AdaptiveExperts::new(VOCAB, small()).unwrap();
        let mut cut_rows = vec![0.0; NAMES.len() * cut * VOCAB];
        let parts = [experts.score(&stream[..cut], Some(&mut cut_rows)).unwrap(), score(&mut experts, &stream[cut..])];
        let mut alone = AdaptiveExperts::new(VOCAB, small()).unwrap();
        for (index, &token) in stream.iter().enumerate() {
            let (part, at, length) = if index < cut { (&parts[0], index, cut) } else { (&parts[1], index - cut, n - cut) };
            let same = |values: &[u8], wanted: &[u8], at: usize, n: usize| {
                wanted.iter().enumerate().all(|(row, value)| values[row * n + at] == *value)
            };
            prop_assert!(same(&whole.gates, &alone.gates(), index, n) && same(&part.gates, &alone.gates(), at, length));
            prop_assert!(same(&whole.classes, &alone.classes(), index, n));
            prop_assert!(same(&part.classes, &alone.classes(), at, length));
            for (row, share) in alone.shares(token).into_iter().enumerate() {
                prop_assert_eq!(share.ln(), whole.shares[row * n + index]);
                prop_assert_eq!(share.ln(), part.shares[row * length + at]);
            }
            let rows = rows(&alone);
            for (expert, probability) in alone.update(token).into_iter().enumerate() {
                prop_assert_eq!(probability.ln(), whole.log_probs[expert * n + index]);
                prop_assert_eq!(probability.ln(), part.log_probs[expert * length + at]);
                if index < cut {
                    let row = &cut_rows[(expert * cut + index) * VOCAB..][..VOCAB];
                    prop_assert!(row.iter().zip(&rows[expert]).all(|(found, p)| *found == p.ln()));
                }
            }
        }
    }

    #[test]
    fn the_future_changes_nothing(stream in tokens(30), other in 0u16..VOCAB as u16) {
        prop_assume!(!stream.is_empty());
        let mut changed = stream.clone();
        *changed.last_mut().unwrap() = other;
        let n = stream.len();
        let a = score(&mut AdaptiveExperts::new(VOCAB, small()).unwrap(), &stream);
        let b = score(&mut AdaptiveExperts::new(VOCAB, small()).unwrap(), &changed);
        let but_last = |values: &[f32]| values.chunks(n).flat_map(|row| row[..n - 1].to_vec()).collect::<Vec<_>>();
        prop_assert_eq!(but_last(&a.log_probs), but_last(&b.log_probs));
        prop_assert_eq!(but_last(&a.shares), but_last(&b.shares));
        prop_assert_eq!((a.gates, a.classes), (b.gates, b.classes)); // the last token's own, too
    }

    #[test]
    fn a_match_points_at_what_came_after_the_same_tokens(stream in tokens(30)) {
        let mut model = LongestMatch::new(longest_match::Config { least: 3, memory: 1 << 10 }).unwrap();
        for (seen, &token) in stream.iter().enumerate() {
            if let Some(expected) = model.expected() {
                let recent = &stream[seen - expected.length..seen];
                let earlier = (expected.length..seen).any(|at| {
                    &stream[at - expected.length..at] == recent && stream[at] == expected.token
                });
                prop_assert!(earlier, "{expected:?} at {seen}");
                prop_assert!(expected.confidence > 0.0 && expected.confidence < 1.0);
            }
            model.update(token);
        }
    }
}

fn learn(model: &mut Backoff, tokens: impl IntoIterator<Item = u16>) {
    for token in tokens {
        model.update(token);
    }
}

fn pseudo_random(n: usize, vocab: u16) -> Vec<u16> {
    let mut state = 12_345u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u16 % vocab
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn a_repeated_passage_is_matched_and_trusted() {
    let passage = pseudo_random(200, 50);
    let mut model = LongestMatch::new(longest_match::Config { least: 5, memory: 1 << 10 }).unwrap();
    for _ in 0..4 {
        passage.iter().for_each(|&token| model.update(token));
    }
    let expected = model.expected().unwrap();
    assert_eq!((expected.token, expected.length), (passage[0], 32));
    assert!(expected.confidence > 0.95);
}

#[test]
fn a_match_never_reads_what_the_ring_has_lost() {
    // The passage comes back only after the ring has been filled with something else.
    let passage = pseudo_random(40, 50);
    let noise: Vec<u16> = (0..512).map(|i| 60 + i % 97).collect();
    let mut model = LongestMatch::new(longest_match::Config { least: 5, memory: 256 }).unwrap();
    [&passage[..], &noise[..], &passage[..]].concat().iter().for_each(|&token| model.update(token));
    assert_eq!(model.expected(), None);
}

#[test]
fn the_cache_is_a_decayed_count() {
    let stream = pseudo_random(5_000, VOCAB as u16);
    let mut cache = Cache::new(VOCAB);
    stream.iter().for_each(|&token| cache.update(token));
    for v in 0..VOCAB as u16 {
        let ages = stream.iter().rev().enumerate();
        let weight = |wanted: Option<u16>| -> f64 {
            let counted = ages.clone().filter(|(_, &token)| wanted.is_none_or(|wanted| wanted == token));
            counted.map(|(age, _)| 0.99f64.powi(age as i32 + 1)).sum()
        };
        let wanted = (weight(Some(v)) + 1.0 / VOCAB as f64) / (weight(None) + 1.0);
        assert!((f64::from(cache.probability(v)) - wanted).abs() < 1e-4 * wanted);
    }
}

#[test]
fn a_full_model_forgets_and_goes_on() {
    let config = backoff::Config { lengths: &[1, 2, 3, 4], contexts: 256 };
    let mut model = Backoff::new(50, config).unwrap();
    // Far more contexts than there is room for, then something regular.
    learn(&mut model, pseudo_random(20_000, 50));
    let mut row = vec![0.0; 50];
    model.row(&mut row);
    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    learn(&mut model, (0..2_000).map(|i| i % 10));
    assert!(model.probability(0) > 0.9);
}

#[test]
fn many_successors_and_large_counts() {
    // One context with every token behind it, then a count beyond 16 bits.
    let mut model = Backoff::new(400, backoff::Config { lengths: &[1], contexts: 1 << 12 }).unwrap();
    learn(&mut model, (1..400).flat_map(|token| [0, token]));
    learn(&mut model, std::iter::repeat_n(5, 200_000));
    let mut row = vec![0.0; 400];
    model.row(&mut row);
    assert!((row.iter().map(|&p| f64::from(p)).sum::<f64>() - 1.0).abs() < 1e-5);
    assert!(row[5] > 0.99);
    model.update(0);
    model.row(&mut row);
    assert!((1..400).all(|token| row[token] > 1e-4), "every token has followed token 0");
}

#[test]
fn impossible_settings_are_refused() {
    let backoff = |lengths: &'static [usize], contexts| {
        Backoff::new(VOCAB, backoff::Config { lengths, contexts }).is_err()
    };
    assert!(backoff(&[0], 256) && backoff(&[9], 256) && backoff(&[], 256) && backoff(&[2, 2], 256));
    assert!(backoff(&[3], 255) && backoff(&[3], 300) && backoff(&[3], 1 << 31) && !backoff(&[3], 256));
    assert!(Backoff::new(1, Default::default()).is_err());
    let matching = |least, memory| LongestMatch::new(longest_match::Config { least, memory }).is_err();
    assert!(matching(0, 256) && matching(33, 256) && matching(5, 300));
    let mut experts = AdaptiveExperts::new(VOCAB, small()).unwrap();
    assert!(experts.observe(&[VOCAB as u16]).is_err());
}
