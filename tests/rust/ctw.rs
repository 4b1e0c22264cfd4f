//! Context-tree weighting against its definition: the weighted block probability of the whole string,
//! computed by recursion over all contexts, in float64 and without any sequential trick.

use std::collections::BTreeMap;

use hybridlm_core::baseline::ctw::{Config, ContextTree};
use proptest::prelude::*;

const KT: f32 = 0.5;

/// The bytes before a bit, newest first, and the bit.
type Event = (Vec<u8>, bool);

fn config(depth: usize) -> Config {
    Config { depth, alpha: KT, ..Config::default() }
}

/// The Krichevsky–Trofimov block probability of these bits.
fn estimate(bits: &[bool]) -> f64 {
    let mut counts = [0.0, 0.0];
    let mut probability = 1.0;
    for &bit in bits {
        probability *= (counts[usize::from(bit)] + 0.5) / (counts[0] + counts[1] + 1.0);
        counts[usize::from(bit)] += 1.0;
    }
    probability
}

/// P_w of the node at `depth` that saw these events.
fn weighted(events: &[Event], depth: usize, deepest: usize) -> f64 {
    let bits: Vec<bool> = events.iter().map(|(_, bit)| *bit).collect();
    if depth == deepest {
        return estimate(&bits);
    }
    let mut children: BTreeMap<u8, Vec<Event>> = BTreeMap::new();
    for (context, bit) in events {
        children.entry(context[depth]).or_default().push((context.clone(), *bit));
    }
    let product: f64 = children.values().map(|child| weighted(child, depth + 1, deepest)).product();
    0.5 * estimate(&bits) + 0.5 * product
}

/// −log₂ of the block probability of `text`.
fn reference_bits(text: &[u8], depth: usize) -> f64 {
    let mut trees: BTreeMap<(u32, u8), Vec<Event>> = BTreeMap::new();
    for (index, &byte) in text.iter().enumerate() {
        let context: Vec<u8> =
            (1..=depth).map(|back| index.checked_sub(back).map_or(0, |at| text[at])).collect();
        for place in 0..8u32 {
            let prefix = if place == 0 { 0 } else { byte >> (8 - place) };
            let bit = byte >> (7 - place) & 1 == 1;
            trees.entry((place, prefix)).or_default().push((context.clone(), bit));
        }
    }
    -trees.values().map(|events| weighted(events, 0, depth).log2()).sum::<f64>()
}

fn coded_bits(text: &[u8], depth: usize) -> f64 {
    let mut tree = ContextTree::new(config(depth)).unwrap();
    text.iter().map(|&byte| tree.code(byte)).sum()
}

fn sum_of_next(tree: &ContextTree) -> f64 {
    (0..=255).map(|byte| (-tree.clone().code(byte)).exp2()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn code_lengths_are_those_of_the_definition(
        text in prop::collection::vec(prop::sample::select(b"ab\x00\xff ".to_vec()), 0..120),
        depth in 1usize..=4,
    ) {
        let (coded, reference) = (coded_bits(&text, depth), reference_bits(&text, depth));
        prop_assert!((coded - reference).abs() < 1e-3 + 1e-5 * reference, "{coded} {reference}");
    }

    #[test]
    fn the_next_byte_has_probability_one(
        text in prop::collection::vec(0u8..4, 0..300),
        depth in 1usize..=8,
    ) {
        let mut tree = ContextTree::new(config(depth)).unwrap();
        text.iter().for_each(|&byte| { tree.code(byte); });
        prop_assert!((sum_of_next(&tree) - 1.0).abs() < 1e-5);
    }
}

#[test]
fn a_full_tree_still_predicts_and_keeps_to_its_memory() {
    let mut tree = ContextTree::new(Config { memory: 1 << 16, ..config(5) }).unwrap();
    let mut state = 1u32;
    for _ in 0..20_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        tree.code((state >> 24) as u8 & 15);
    }
    assert!(tree.memory() <= 1 << 16);
    assert!((sum_of_next(&tree) - 1.0).abs() < 1e-5);
    // Random nibbles: nothing to learn beyond their 4 bits, and those are learned.
    let bits: f64 = (0..1000).map(|i| tree.code((i * 7 % 16) as u8)).sum();
    assert!(bits < 5_000.0, "{bits}");
}

#[test]
fn halving_keeps_a_long_run_predictable() {
    let mut tree = ContextTree::new(config(3)).unwrap();
    let bits: Vec<f64> = (0..10_000).map(|_| tree.code(b'a')).collect();
    assert!(bits[9_999] < 0.05);
}

#[test]
fn impossible_settings_are_refused() {
    for (depth, alpha, memory) in
        [(0, 0.5, 1 << 20), (9, 0.5, 1 << 20), (5, 0.0, 1 << 20), (5, f32::NAN, 1 << 20), (5, 0.5, 100)]
    {
        assert!(ContextTree::new(Config { depth, alpha, memory }).is_err());
    }
}
