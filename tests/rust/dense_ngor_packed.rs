//! The packed layout: the same oracle in fewer bytes, and every way a file can be wrong.

use hybridlm_core::oracle::dense::counts::{Counts, Stream, TableSpec};
use hybridlm_core::oracle::dense::ngor_packed::{decode, encode, MAGIC, MAGIC_WITHOUT_IDENTITY};
use hybridlm_core::oracle::dense::table::Table;
use hybridlm_core::oracle::load;
use hybridlm_core::parallel::Control;
use hybridlm_core::Error;
use proptest::prelude::*;

fn tables(vocab_size: usize, orders: usize, rows: u32, tokens: &[u16]) -> Vec<Table> {
    let rows: Vec<_> = (3..=orders).map(|order| (order, rows)).collect();
    let spec = TableSpec::with_defaults(vocab_size, orders, &rows).unwrap();
    let mut counts = Counts::new(spec.clone()).unwrap();
    counts.count(&[Stream { tokens, path: None }], 1, &Control::default()).unwrap();
    let tables = spec.tables().iter().enumerate();
    tables.map(|(i, &(order, rows))| Table { order, rows, cells: counts.quantise(i, 1) }).collect()
}

fn pack(vocab_size: usize, tables: &[Table]) -> Vec<u8> {
    encode(&vocab_size.into(), 77, tables, 1, 2, &Control::default()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_packed_is_unpacked(
        vocab_size in 2usize..90,
        orders in 1usize..=5,
        rows in 1u32..90,
        tokens in prop::collection::vec(any::<u16>(), 0..600),
        first in 0usize..2,
    ) {
        let tokens: Vec<u16> = tokens.into_iter().map(|token| token % vocab_size as u16).collect();
        let mut tables = tables(vocab_size, orders, rows, &tokens);
        // Also without the order that says how columns are sorted.
        if tables.len() > first {
            tables.drain(..first);
        }
        let data = pack(vocab_size, &tables);
        let oracle = decode(&data, "x", 2).unwrap();
        prop_assert_eq!(oracle.tables(), &tables[..]);
        prop_assert_eq!(oracle.vocabulary().size, vocab_size);
        let loaded = load(&data, "x", 1, &Control::default()).unwrap();
        let orders: Vec<usize> = tables.iter().map(|table| table.order).collect();
        prop_assert_eq!(loaded.orders(), &orders[..]);
    }

    #[test]
    fn no_bytes_bring_the_reader_down(data in prop::collection::vec(any::<u8>(), 0..300), real in any::<bool>()) {
        let magic = if data.len() % 2 == 0 { MAGIC } else { MAGIC_WITHOUT_IDENTITY };
        let data = if real { [&magic[..], &data[..]].concat() } else { data };
        let refused = matches!(decode(&data, "x", 1), Err(Error::Format { .. }));
        prop_assert!(refused);
    }
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let tables = tables(7, 3, 5, &[1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 3, 3]);
    let good = pack(7, &tables);
    for length in 0..good.len() {
        assert!(matches!(decode(&good[..length], "x", 1), Err(Error::Format { .. })), "{length}");
    }
    let longer = [&good[..], b"!"].concat();
    assert!(decode(&longer, "x", 1).unwrap_err().to_string().contains("1 bytes follow"));
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // zstd's frame header has bits that mean nothing; the tables are then the same.
        match decode(&bad, "x", 1) {
            Err(error) => assert!(matches!(error, Error::Format { .. }), "bit {bit}: {error}"),
            Ok(oracle) => assert_eq!(oracle.tables(), tables, "bit {bit}"),
        }
    }
}
