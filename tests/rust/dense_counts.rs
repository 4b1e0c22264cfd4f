//! Counting against a map from n-grams to numbers.

use std::collections::HashMap;
use std::path::Path;

use hybridlm_core::oracle::dense::contexts::fnv1a;
use hybridlm_core::oracle::dense::counters::Counters;
use hybridlm_core::oracle::dense::counts::{Counts, Stream, TableSpec};
use hybridlm_core::oracle::dense::levels::quantise;
use hybridlm_core::parallel::Control;
use hybridlm_core::Error;
use proptest::prelude::*;

/// The definition, n-gram by n-gram.
fn naive(spec: &TableSpec, streams: &[&[u16]]) -> Vec<HashMap<(u32, u16), u64>> {
    let table = |&(order, rows): &(usize, u32)| {
        let mut counts = HashMap::new();
        for gram in streams.iter().flat_map(|stream| stream.windows(order)) {
            let (context, token) = (&gram[..order - 1], gram[order - 1]);
            let row = match order {
                1 => 0,
                2 => u32::from(context[0]),
                _ => fnv1a(context) % rows,
            };
            *counts.entry((row, token)).or_default() += 1;
        }
        counts
    };
    spec.tables().iter().map(table).collect()
}

fn count(spec: &TableSpec, streams: &[&[u16]], threads: usize) -> Counts {
    let mut counts = Counts::new(spec.clone()).unwrap();
    let streams: Vec<Stream> = streams.iter().map(|&tokens| Stream { tokens, path: None }).collect();
    counts.count(&streams, threads, &Control::default()).unwrap();
    counts
}

fn cells(counts: &Counts) -> Vec<Vec<u64>> {
    counts.tables().iter().map(|table| table.to_vec()).collect()
}

fn assert_equal(counts: &Counts, expected: &[HashMap<(u32, u16), u64>]) {
    let vocab_size = counts.spec().vocab_size();
    for (table, expected) in cells(counts).iter().zip(expected) {
        assert_eq!(table.iter().sum::<u64>(), expected.values().sum::<u64>());
        for (&(row, token), &count) in expected {
            assert_eq!(table[row as usize * vocab_size + usize::from(token)], count);
        }
    }
}

/// Pseudo-random tokens, small ones far more frequent, so that counters of one byte wrap many times.
fn skewed(length: usize, vocab_size: u64, mut state: u64) -> Vec<u16> {
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 33
    };
    (0..length).map(|_| (next() % (1 + next() % vocab_size)) as u16).collect()
}

#[test]
fn long_streams_with_wrapping_counters_on_any_number_of_threads() {
    // Tables that no power of two divides, and one that is added up in more than one piece.
    let rows = [(3, 4096), (4, 64), (5, 48), (6, 7), (7, 100), (8, 1)];
    let spec = TableSpec::with_defaults(43, 8, &rows).unwrap();
    // More than two blocks, so that work is shared and n-grams reach across the blocks' borders.
    let (long, short) = (skewed(1_200_000, 43, 1), skewed(70_000, 43, 2));
    // n-grams that occur more often than a thread's two bytes hold.
    let alternating = [5, 3].repeat(100_000);
    let streams: [&[u16]; 5] = [&long, &[], &short, &[3], &alternating];
    let expected = naive(&spec, &streams);
    let single = count(&spec, &streams, 1);
    assert_equal(&single, &expected);
    for threads in [2, 3, 8] {
        assert!(cells(&count(&spec, &streams, threads)) == cells(&single));
    }
}

#[test]
fn shards_counted_apart_and_merged_in_any_order() {
    let spec = TableSpec::with_defaults(100, 5, &[]).unwrap();
    let (a, b) = (skewed(300_000, 100, 3), skewed(50, 100, 4));
    let whole = count(&spec, &[&a, &b], 2);
    assert_eq!(whole.tokens(), 300_050);
    let mut merged = count(&spec, &[&b], 1);
    merged.merge(&count(&spec, &[&a], 1)).unwrap();
    assert!(cells(&merged) == cells(&whole) && merged.tokens() == whole.tokens());
}

#[test]
fn counts_of_other_layouts_are_not_merged() {
    let small = TableSpec::with_defaults(10, 3, &[]).unwrap();
    let mut counts = count(&small, &[&[1, 2, 3]], 1);
    let before = cells(&counts);
    for other in [
        TableSpec::with_defaults(11, 3, &[]).unwrap(),
        TableSpec::with_defaults(10, 4, &[]).unwrap(),
        TableSpec::with_defaults(10, 3, &[(3, 8)]).unwrap(),
    ] {
        assert!(matches!(counts.merge(&Counts::new(other).unwrap()), Err(Error::Input(_))));
    }
    assert!(cells(&counts) == before);
}

#[test]
fn tokens_outside_the_vocabulary_are_refused_wherever_they_are() {
    let spec = TableSpec::with_defaults(16, 8, &[(3, 4), (4, 4), (5, 4), (6, 4), (7, 4), (8, 4)]).unwrap();
    for (length, at) in
        [(20, 0), (20, 19), (1_100_000, 524_287), (1_100_000, 524_288), (1_100_000, 1_099_999)]
    {
        let mut tokens = vec![3u16; length];
        tokens[at] = 16;
        for (path, expected) in [
            (None, format!("token 16 at position {at} is")),
            (Some(Path::new("x.bin")), format!("x.bin: token 16 at offset {} is", 1024 + 2 * at)),
        ] {
            let stream = Stream { tokens: &tokens, path };
            let mut counts = Counts::new(spec.clone()).unwrap();
            let error = counts.count(&[stream], 2, &Control::default()).unwrap_err();
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }
}

#[test]
fn layouts_that_make_no_sense_are_refused() {
    for (vocab_size, orders, rows) in [
        (1, 8, vec![]),
        (70_000, 8, vec![]),
        (1024, 0, vec![]),
        (1024, 9, vec![]),
        (1024, 8, vec![(3, 0)]),
        (1024, 8, vec![(3, 1 << 22)]),
        (1024, 8, vec![(2, 5)]),
        (1024, 3, vec![(4, 5)]),
    ] {
        assert!(matches!(TableSpec::with_defaults(vocab_size, orders, &rows), Err(Error::Input(_))));
    }
}

#[test]
fn a_request_to_stop_stops() {
    let spec = TableSpec::with_defaults(16, 2, &[]).unwrap();
    let control = Control::default();
    control.cancel();
    for length in [10, 2_000_000] {
        let tokens = vec![1u16; length];
        let mut counts = Counts::new(spec.clone()).unwrap();
        let stopped = counts.count(&[Stream { tokens: &tokens, path: None }], 2, &control);
        assert!(matches!(stopped, Err(Error::Interrupted)));
    }
}

proptest! {
    #[test]
    fn any_stream_any_layout(
        streams in prop::collection::vec(prop::collection::vec(0u16..12, 0..60), 0..4),
        orders in 1usize..=8,
        rows in prop::collection::vec(1u32..40, 6),
        threads in 1usize..4,
    ) {
        let rows: Vec<_> = (3..=orders).zip(rows).collect();
        let spec = TableSpec::with_defaults(12, orders, &rows).unwrap();
        let streams: Vec<&[u16]> = streams.iter().map(Vec::as_slice).collect();
        let counts = count(&spec, &streams, threads);
        assert_equal(&counts, &naive(&spec, &streams));
        for index in 0..orders {
            let cells = counts.quantise(index, threads);
            for (row, cells) in counts.tables()[index].to_vec().chunks(12).zip(cells.chunks(12)) {
                for (&count, &cell) in row.iter().zip(cells) {
                    prop_assert_eq!(cell, quantise(count, row.iter().sum(), 12));
                }
            }
        }
    }

    #[test]
    fn counters_are_64_bits_wide(
        adds in prop::collection::vec((0usize..1500, 0u64..1 << 40), 0..40),
        high in prop::collection::vec(0usize..1500, 0..10),
        numbers in prop::collection::vec(any::<u16>(), 1500),
        times in 0usize..4,
        part in 1usize..1600,
        (start, end) in (0usize..1500, 0usize..=1500),
    ) {
        let mut counters = Counters::new(1500).unwrap();
        let mut naive = vec![0u64; 1500];
        for _ in 0..times {
            for (index, mut counters) in counters.parts(part).enumerate() {
                let numbers = &numbers[index * part..][..counters.len()];
                let byte = |upper: usize| numbers.iter().map(move |number| number.to_le_bytes()[upper]);
                let (lower, upper): (Vec<_>, Vec<_>) = (byte(0).collect(), byte(1).collect());
                let cut = numbers.len() / 3;
                counters.add_bytes(0, &lower[..cut], &upper[..cut]);
                counters.add_bytes(cut, &lower[cut..], &upper[cut..]);
            }
            naive.iter_mut().zip(&numbers).for_each(|(count, &number)| *count += u64::from(number));
        }
        for &(index, count) in &adds {
            counters.whole().add(index, count);
            naive[index] += count;
        }
        for &index in &high {
            counters.add_high(index);
            naive[index] += 1 << 16;
        }
        prop_assert_eq!(&counters.to_vec(), &naive);
        let range = start.min(end)..end;
        let mut read = vec![7; range.len()];
        counters.read(range.clone(), &mut read);
        prop_assert_eq!(&read, &naive[range]);
    }
}
