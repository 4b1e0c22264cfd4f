//! The oracle's file format: round trips, and every way a file can be wrong.

use hybridlm_core::oracle::dense::ngor_v1::{decode, encode};
use hybridlm_core::oracle::dense::table::Table;
use hybridlm_core::oracle::load;
use hybridlm_core::parallel::Control;
use hybridlm_core::zstd_frame::{compress, decompress};
use hybridlm_core::Error;
use proptest::prelude::*;

const V: usize = 5;

fn tables() -> Vec<Table> {
    let cells = |count: usize, step: usize| (0..count).map(|i| -((i * step % 128) as i8)).collect();
    vec![
        Table { order: 1, rows: 1, cells: cells(V, 3) },
        Table { order: 2, rows: V as u32, cells: cells(V * V, 7) },
        Table { order: 4, rows: 3, cells: cells(V * 3, 11) },
    ]
}

fn frame(content: &[u8]) -> Vec<u8> {
    compress(content, 1, &Control::default()).unwrap()
}

fn unpacked() -> Vec<u8> {
    decompress(&encode(V, &tables(), 1, 1, &Control::default()).unwrap(), 1000, "x").unwrap()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn refusal(data: &[u8]) -> String {
    match decode(data, "x.ngor") {
        Err(Error::Format { what, message }) => {
            assert_eq!(what, "x.ngor");
            message
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let mut expected = words(&[0x4E47_4F52, 3]);
    for table in tables() {
        expected.extend(words(&[table.order as u32, table.rows, V as u32]));
        expected.extend(table.cells.iter().map(|&cell| cell as u8));
    }
    assert_eq!(unpacked(), expected);
}

#[test]
fn what_is_encoded_is_decoded() {
    for level in [1, 19, 22] {
        let data = encode(V, &tables(), level, 2, &Control::default()).unwrap();
        let oracle = decode(&data, "x").unwrap();
        assert_eq!(oracle.tables(), tables());
        let oracle = load(&data, "x", 1, &Control::default()).unwrap();
        assert_eq!((oracle.vocab_size(), oracle.orders()), (V, &[1usize, 2, 4][..]));
        assert_eq!(oracle.estimator(), "dense");
    }
}

#[test]
fn every_truncation_is_refused() {
    let content = unpacked();
    for length in 0..content.len() {
        refusal(&frame(&content[..length]));
    }
    assert!(refusal(&frame(&[&content[..], &[0]].concat())).contains("bytes follow the end"));
    let data = frame(&content);
    for length in 0..data.len() {
        refusal(&data[..length]);
    }
}

#[test]
fn every_flipped_bit_of_the_packed_file_is_refused() {
    let data = encode(V, &tables(), 22, 2, &Control::default()).unwrap();
    let good = decode(&data, "x").unwrap();
    for bit in 0..data.len() * 8 {
        let mut bad = data.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // zstd's own frame header has a bit that means nothing; the content is then untouched.
        match decode(&bad, "x") {
            Err(error) => assert!(matches!(error, Error::Format { .. })),
            Ok(oracle) => assert_eq!(oracle.tables(), good.tables(), "bit {bit}"),
        }
    }
}

#[test]
fn wrong_fields_are_named() {
    let header = |words_: &[u32]| refusal(&frame(&words(words_)));
    assert!(header(&[0x4E47_4F53, 1]).contains("magic"));
    assert!(header(&[0x4E47_4F52, 0]).contains("0 tables"));
    assert!(header(&[0x4E47_4F52, 9]).contains("9 tables"));
    assert!(header(&[0x4E47_4F52, u32::MAX]).contains("4294967295 tables"));
    let table = |fields: &[u32; 3]| header(&[&[0x4E47_4F52, 1], &fields[..]].concat());
    assert!(table(&[0, 1, 5]).contains("not 0"));
    assert!(table(&[9, 1, 5]).contains("not 9"));
    assert!(table(&[1, 2, 5]).contains("one row"));
    assert!(table(&[2, 4, 5]).contains("row per token"));
    assert!(table(&[3, 0, 5]).contains("no rows"));
    assert!(table(&[3, 4, 0]).contains("vocabulary"));
    assert!(table(&[3, 4, u32::MAX]).contains("vocabulary"));
    assert!(table(&[3, u32::MAX, 65536]).contains("more than 2^32"));
    // Claims of gigabytes that aren't there cost nothing.
    assert!(table(&[3, 1024, 65536]).contains("the data ends within the table of order 3"));
    assert!(table(&[3, 65535, 65536]).contains("HYBRIDLM_MAX_UNPACKED_BYTES allows more"));
}

#[test]
fn tables_that_repeat_descend_or_disagree_are_refused() {
    let one = [&words(&[1, 1, 5])[..], &[0; 5]].concat();
    let three = |v: u32| [&words(&[3, 1, v])[..], &vec![0; v as usize]].concat();
    let file = |tables: &[Vec<u8>]| {
        let header = words(&[0x4E47_4F52, tables.len() as u32]);
        refusal(&frame(&[header, tables.concat()].concat()))
    };
    assert!(file(&[one.clone(), one.clone()]).contains("out of order"));
    assert!(file(&[three(5), one.clone()]).contains("out of order"));
    assert!(file(&[one, three(6)]).contains("6 columns"));
}

#[test]
fn cells_are_log_probabilities() {
    for cell in [1u8, 127, 128] {
        let mut content = unpacked();
        let last = content.len() - 1;
        content[last] = cell;
        assert!(refusal(&frame(&content)).contains("-127..=0"));
    }
}

#[test]
fn a_bomb_is_refused_before_it_goes_off() {
    // A frame whose header promises two gigabytes: magic, descriptor (8-byte size, no window), size.
    let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(2u64 << 30).to_le_bytes(), &[0; 16]].concat();
    assert!(refusal(&frame).contains("declares 2147483648 bytes"));
}

proptest! {
    #[test]
    fn random_contents_never_bring_the_reader_down(
        fields in prop::collection::vec(prop_oneof![0u32..12, any::<u32>()], 0..12),
        tail in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut content = words(&[0x4E47_4F52]);
        content.extend(words(&fields));
        content.extend(tail);
        let _ = decode(&frame(&content), "x");
    }
}
