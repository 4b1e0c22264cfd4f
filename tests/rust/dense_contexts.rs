//! The context hash against its published vectors and against a loop.

use hybridlm_core::oracle::dense::contexts::{
    context_row_at, context_rows, context_rows_in, fnv1a, MAX_ORDER,
};
use proptest::prelude::*;

fn words(text: &str) -> Vec<u16> {
    text.bytes().map(u16::from).collect()
}

#[test]
fn published_vectors_of_fnv1a_32() {
    // From the test suite in the FNV reference source: octets are words below 256.
    for (text, hash) in [
        ("", 0x811c_9dc5),
        ("a", 0xe40c_292c),
        ("b", 0xe70c_2de5),
        ("foo", 0xa9f3_7ed7),
        ("foobar", 0xbf9c_f968),
        ("chongo was here!\n", 0xd49930d5),
    ] {
        assert_eq!(fnv1a(&words(text)), hash, "{text:?}");
    }
}

#[test]
fn a_word_is_not_split_into_octets() {
    assert_eq!(fnv1a(&[0x1234]), (0x811c_9dc5u32 ^ 0x1234).wrapping_mul(0x0100_0193));
    assert_ne!(fnv1a(&[0x1234]), fnv1a(&[0x34, 0x12]));
}

#[test]
fn order_one_has_one_row_and_order_two_is_the_previous_token() {
    let tokens = [7, 9, 65535, 3];
    assert_eq!(context_row_at(&tokens, 2, 1, 1), 0);
    assert_eq!(context_row_at(&tokens, 3, 2, 65536), 65535);
    assert_eq!(context_row_at(&tokens, 0, 2, 65536), 0);
}

proptest! {
    #[test]
    fn rows_in_bulk_are_those_of_a_loop(
        tokens in prop::collection::vec(any::<u16>(), 0..3000),
        order in 1..=MAX_ORDER,
        rows in prop_oneof![Just(1u32), Just(256), Just(65536), Just(1 << 20), 1u32..100_000],
        cut in 0.0..1.0f64,
    ) {
        let rows = match order { 1 => 1, 2 => 65536, _ => rows };
        let start = (cut * tokens.len() as f64) as usize;
        let mut found = vec![u32::MAX; tokens.len() - start];
        context_rows_in(&tokens, start..tokens.len(), order, rows, &mut found);
        for (offset, &row) in found.iter().enumerate() {
            let position = start + offset;
            // Before the stream's start is token 0.
            let padded: Vec<u16> = std::iter::repeat_n(0, MAX_ORDER).chain(tokens.iter().copied()).collect();
            let context = &padded[MAX_ORDER + position + 1 - order..MAX_ORDER + position];
            let expected = match order { 1 => 0, 2 => u32::from(context[0]), _ => fnv1a(context) % rows };
            prop_assert_eq!(row, expected);
        }
        if tokens.len() + 1 >= order {
            let mut whole = vec![0; tokens.len() + 1 - order];
            context_rows(&tokens, order, rows, &mut whole);
            for (index, &row) in whole.iter().enumerate() {
                prop_assert_eq!(row, context_row_at(&tokens, index + order - 1, order, rows));
            }
        }
    }
}
