//! Files of partial counts: they add up to the whole to the byte, and every way they can be wrong.

use std::path::PathBuf;

use hybridlm_core::oracle::dense::contexts::fnv1a;
use hybridlm_core::oracle::dense::counts::{TableSpec, MAX_CELLS};
use hybridlm_core::oracle::dense::partial::{PartialCounts, MAGIC};
use hybridlm_core::parallel::Control;
use hybridlm_core::tokens::write_shard;
use hybridlm_core::vocabulary::Vocabulary;
use hybridlm_core::zstd_frame::compress;
use hybridlm_core::Error;
use proptest::prelude::*;
use tempfile::TempDir;

const V: usize = 7;

fn spec() -> TableSpec {
    TableSpec::with_defaults(V, 4, &[(3, 6), (4, 40)]).unwrap()
}

fn shard(folder: &TempDir, name: &str, tokens: &[u16]) -> PathBuf {
    let path = folder.path().join(name);
    write_shard(&path, tokens).unwrap();
    path
}

fn counted(spec: &TableSpec, paths: &[PathBuf], threads: usize) -> PartialCounts {
    let mut counts = PartialCounts::new(spec.clone()).unwrap();
    counts.count(paths, threads, &Control::default()).unwrap();
    counts
}

fn bytes(counts: &PartialCounts) -> Vec<u8> {
    counts.to_bytes(1, &Control::default()).unwrap()
}

fn read(data: &[u8]) -> Result<PartialCounts, Error> {
    PartialCounts::from_bytes(data, "x.part", 2, &Control::default())
}

fn refusal(data: &[u8]) -> String {
    match read(data) {
        Err(Error::Format { what, message }) => {
            assert!(what.starts_with("x.part"));
            format!("{what}: {message}")
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

/// Two shards' file, small enough to be damaged in every place.
fn example() -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let one = shard(&folder, "one.bin", &[1, 2, 3, 1, 2, 3, 1, 2, 6]);
    let two = shard(&folder, "zwei.bin", &[1; 400]);
    bytes(&counted(&spec(), &[one, two], 1))
}

/// Makes checksum and length right again, so that what is behind them is reached.
fn sealed(mut content: Vec<u8>) -> Vec<u8> {
    let length = (content.len() + 32) as u64;
    content[8..16].copy_from_slice(&length.to_le_bytes());
    content.extend(blake3::hash(&content).as_bytes());
    content
}

fn unsealed(data: &[u8]) -> Vec<u8> {
    data[..data.len() - 32].to_vec()
}

fn leb128(numbers: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    for &number in numbers {
        let mut rest = number;
        while rest >= 128 {
            out.push(rest as u8 | 128);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out
}

/// A file of one table of order 1 over a vocabulary of 3, with one shard and one chunk as given.
fn crafted(tokens: u64, chunk: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    for word in [MAGIC, 2, 0, 0, 3, 1, 1, 2] {
        content.extend(word.to_le_bytes());
    }
    content.extend([8; 32]);
    for word in [1u32, 1] {
        content.extend(word.to_le_bytes());
    }
    content.extend([9; 32]);
    content.extend(tokens.to_le_bytes());
    content.extend([2, 0, b'a', b'b']);
    let frame = compress(chunk, 1, &Control::default()).unwrap();
    content.extend((frame.len() as u32).to_le_bytes());
    content.extend(frame);
    sealed(content)
}

#[test]
fn the_layout_is_the_documented_one() {
    // Three tokens 0 and two tokens 2: two occupied cells, no zero before the first and one before the
    // second, counts less one.
    let data = crafted(5, &leb128(&[2, 0, 1, 2, 1]));
    let counts = read(&data).unwrap();
    assert_eq!(counts.counts().tables()[0].to_vec(), [3, 0, 2]);
    assert_eq!((counts.shards()[0].name.as_str(), counts.shards()[0].hash), ("ab", [9; 32]));
    assert_eq!(
        *counts.counts().spec().vocabulary(),
        Vocabulary { size: 3, bos: 2, fingerprint: Some([8; 32]) }
    );
    assert_eq!(bytes(&counts), data);
}

/// Tokens 0, 1, 4, 9, ... modulo 13, counted when these versions of the format were made.
#[test]
fn golden_files_mean_what_they_always_meant() {
    let fingerprint = Some(std::array::from_fn(|index| index as u8 + 1));
    golden("counts.part", 16.into());
    golden("counts_v2.part", Vocabulary { size: 16, bos: 3, fingerprint });
}

fn golden(name: &str, vocabulary: Vocabulary) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/good/").to_owned();
    let counts = read(&std::fs::read(folder + name).unwrap()).unwrap();
    assert_eq!(*counts.counts().spec().vocabulary(), vocabulary);
    assert_eq!((counts.shards()[0].name.as_str(), counts.counts().tokens()), ("tokens.bin", 400));
    let tokens: Vec<u16> = (0..400u32).map(|i| (i * i % 13) as u16).collect();
    assert_eq!(counts.counts().spec().tables(), [(1, 1), (2, 16), (3, 8), (4, 5)]);
    for (table, &(order, rows)) in counts.counts().tables().iter().zip(counts.counts().spec().tables()) {
        let mut naive = vec![0; rows as usize * 16];
        for gram in tokens.windows(order) {
            let row = match order {
                1 => 0,
                2 => usize::from(gram[0]),
                _ => fnv1a(&gram[..order - 1]) as usize % rows as usize,
            };
            naive[row * 16 + usize::from(gram[order - 1])] += 1;
        }
        assert_eq!(table.to_vec(), naive);
    }
}

#[test]
fn a_shard_is_known_by_its_content() {
    let folder = TempDir::new().unwrap();
    let path = shard(&folder, "a.bin", &[1, 2, 3]);
    let counts = counted(&spec(), std::slice::from_ref(&path), 1);
    let known = &counts.shards()[0];
    assert_eq!(known.hash, *blake3::hash(&std::fs::read(path).unwrap()).as_bytes());
    assert_eq!((known.tokens, known.name.as_str()), (3, "a.bin"));
}

#[test]
fn large_counts_survive() {
    for count in [1, 127, 128, 129, 1 << 32, 1 << 62, u64::MAX >> 1] {
        let data = crafted(count, &leb128(&[1, 1, count - 1]));
        let counts = read(&data).unwrap();
        assert_eq!(counts.counts().tables()[0].to_vec(), [0, count, 0]);
        assert_eq!(bytes(&counts), data);
    }
}

#[test]
fn chunks_are_cut_across_rows() {
    let folder = TempDir::new().unwrap();
    // 3 × 10^5 cells of order 3: two chunks, and the cut is in the middle of a row.
    let spec = TableSpec::with_defaults(1000, 3, &[(3, 300)]).unwrap();
    let tokens: Vec<u16> = (0..50_000u32).map(|i| (i * i % 997) as u16).collect();
    let counts = counted(&spec, &[shard(&folder, "a.bin", &tokens)], 2);
    let again = read(&bytes(&counts)).unwrap();
    for (one, two) in counts.counts().tables().iter().zip(again.counts().tables()) {
        assert!(one.to_vec() == two.to_vec());
    }
    assert_eq!(counts.to_bytes(3, &Control::default()).unwrap(), bytes(&again));
}

#[test]
fn every_truncation_is_refused() {
    let data = example();
    for length in 0..data.len() {
        refusal(&data[..length]);
    }
    refusal(&[&data[..], &[0]].concat());
}

#[test]
fn every_flipped_bit_is_refused() {
    let data = example();
    read(&data).unwrap();
    for bit in 0..data.len() * 8 {
        let mut bad = data.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        refusal(&bad);
    }
}

/// With the checksum made right again, no byte leads to a panic, a large allocation or silence about
/// fields that must be as they are.
#[test]
fn every_changed_byte_behind_a_right_checksum_is_refused_or_is_another_file() {
    let good = unsealed(&example());
    for index in 0..good.len() {
        for change in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[index] ^= change;
            if (8..16).contains(&index) {
                // `sealed` writes the length, so this is a good file.
                continue;
            }
            let bad = sealed(bad);
            match read(&bad) {
                // A shard's hash or name is not to be known from anything else in the file.
                Ok(counts) => assert!(!counts.shards().is_empty()),
                Err(error) => assert!(matches!(error, Error::Format { .. }), "{index}: {error}"),
            }
        }
    }
    for length in 64..good.len() {
        refusal(&sealed(good[..length].to_vec()));
    }
    assert!(refusal(&sealed([&good[..], &[0]].concat())).contains("1 bytes follow"));
}

#[test]
fn each_header_field_is_checked() {
    let good = unsealed(&example());
    let with = |offset: usize, value: u32| {
        let mut bad = good.clone();
        bad[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        refusal(&sealed(bad))
    };
    assert!(with(0, 20_240_520).contains("not how partial counts begin"));
    assert!(with(4, 0).contains("version 0; this program reads versions up to 2"));
    assert!(with(4, 3).contains("version 3"));
    assert!(with(28, 7).contains("document token 7 is outside the vocabulary of 7 tokens"));
    assert!(with(28, u32::MAX).contains("outside any vocabulary"));
    assert!(with(16, 1).contains("2 to 65536 tokens, not 1"));
    assert!(with(16, u32::MAX).contains("2 to 65536 tokens"));
    assert!(with(20, 0).contains("0 tables"));
    assert!(with(20, 9).contains("9 tables"));
    assert!(with(24, u32::MAX).contains("offset"));
    assert!(with(64, 2).contains("order"));
    assert!(with(72, 1).contains("order 1 is out of order"));
    assert!(with(84, u32::MAX).contains("cells"));
    assert!(with(84, (MAX_CELLS / V as u64) as u32).contains("more than a dense oracle can have"));
    // The first shard's tokens, behind its hash.
    assert!(with(64 + 4 * 8 + 32, 1 << 20).contains("n-grams, but its shards hold"));
    let data = example();
    let mut long = data.clone();
    long[8] ^= 1;
    assert!(refusal(&long).contains("make it again"));
    let mut damaged = data;
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert!(refusal(&damaged).contains("checksum"));
}

#[test]
fn chunks_that_lie_are_refused() {
    let cases: [(u64, &[u64], &str); 7] = [
        (5, &[2, 0, 1, 2], "too early"),
        (5, &[4, 0, 0, 0, 0, 0, 0, 0, 0], "more counts than cells"),
        (5, &[2, 0, 2, 2, 1], "beyond the chunk"),
        (5, &[1, 0, 5], "more often than there are tokens"),
        (5, &[1, 0, 3], "order 1 counts 4 n-grams, but its shards hold 5"),
        (5, &[1, 0, 4, 0], "bytes follow"),
        (5, &[], "too early"),
    ];
    for (tokens, numbers, message) in cases {
        let shown = refusal(&crafted(tokens, &leb128(numbers)));
        assert!(shown.contains(message), "{shown}");
    }
    // A number of more than 64 bits, and one that never ends.
    for tail in [[&[0xff; 9][..], &[2]].concat(), vec![0x80; 30]] {
        assert!(refusal(&crafted(5, &[&[1, 0][..], &tail].concat())).contains("too large"));
    }
    // Three cells can't need a kilobyte.
    assert!(refusal(&crafted(5, &[0; 1000])).contains("allowed"));
}

#[test]
fn different_things_are_not_added() {
    let folder = TempDir::new().unwrap();
    let one = shard(&folder, "one.bin", &[1, 2, 3]);
    let two = shard(&folder, "two.bin", &[3, 2, 1]);
    let mut counts = counted(&spec(), &[one], 1);
    let before = bytes(&counts);
    let others = [
        TableSpec::with_defaults(V + 1, 4, &[(3, 6), (4, 40)]).unwrap(),
        TableSpec::with_defaults(V, 3, &[(3, 6)]).unwrap(),
        TableSpec::with_defaults(V, 4, &[(3, 6), (4, 41)]).unwrap(),
        TableSpec::with_defaults(Vocabulary { bos: 2, ..V.into() }, 4, &[(3, 6), (4, 40)]).unwrap(),
    ];
    for other in others {
        let other = counted(&other, std::slice::from_ref(&two), 1);
        let error = counts.merge_bytes(&bytes(&other), "p", 1, &Control::default()).unwrap_err();
        assert!(error.to_string().contains("p: counts of "), "{error}");
        counts.merge(&other).unwrap_err();
        assert_eq!(bytes(&counts), before);
    }
}

/// Counts of two tokenizers don't add up; what isn't known of a part isn't known of the whole.
#[test]
fn a_sum_is_of_the_tokenizer_of_its_parts() {
    let folder = TempDir::new().unwrap();
    let paths = [shard(&folder, "one.bin", &[1, 2, 3]), shard(&folder, "two.bin", &[3, 2, 1])];
    let part = |path: &PathBuf, fingerprint| {
        let vocabulary = Vocabulary { size: V, bos: 2, fingerprint };
        let spec = TableSpec::with_defaults(vocabulary, 4, &[(3, 6), (4, 40)]).unwrap();
        counted(&spec, std::slice::from_ref(path), 1)
    };
    for (first, second, expected) in [
        (Some([7; 32]), Some([7; 32]), Some([7; 32])),
        (Some([7; 32]), None, None),
        (None, Some([7; 32]), None),
    ] {
        let (mut sum, other) = (part(&paths[0], first), part(&paths[1], second));
        let mut again = read(&bytes(&sum)).unwrap();
        sum.merge(&other).unwrap();
        again.merge_bytes(&bytes(&other), "p", 1, &Control::default()).unwrap();
        assert_eq!(bytes(&sum), bytes(&again));
        assert_eq!(sum.counts().spec().vocabulary().fingerprint, expected);
    }
    let (mut one, other) = (part(&paths[0], Some([7; 32])), part(&paths[1], Some([8; 32])));
    let error = one.merge_bytes(&bytes(&other), "p", 1, &Control::default()).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer 080808080808…") && error.contains("tokenizer 070707070707…"),
        "{error}"
    );
    assert!(error.contains("one.bin"), "{error}");
}

#[test]
fn a_shard_is_added_once() {
    let folder = TempDir::new().unwrap();
    let one = shard(&folder, "one.bin", &[1, 2, 3]);
    let copy = shard(&folder, "copy.bin", &[1, 2, 3]);
    let two = shard(&folder, "two.bin", &[3, 2, 1]);
    let mut counts = counted(&spec(), &[one.clone(), two], 1);
    let before = bytes(&counts);
    let part = bytes(&counted(&spec(), std::slice::from_ref(&copy), 1));
    let error = counts.merge_bytes(&part, "p1", 1, &Control::default()).unwrap_err();
    let expected = format!(
        "p1: shard copy.bin has been counted already, as one.bin from {}; give each shard once",
        one.display()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(bytes(&counts), before);
    let mut fresh = PartialCounts::new(spec()).unwrap();
    assert!(fresh.count(&[one, copy], 1, &Control::default()).unwrap_err().to_string().contains("one.bin"));
}

#[test]
fn tokens_from_nowhere_are_not_written() {
    use hybridlm_core::oracle::dense::counts::Stream;
    let mut counts = PartialCounts::new(spec()).unwrap();
    let stream = Stream { tokens: &[1, 2], path: None };
    counts.counts_mut().count(&[stream], 1, &Control::default()).unwrap();
    assert!(matches!(counts.to_bytes(1, &Control::default()), Err(Error::Input(_))));
}

#[test]
fn stopping_is_possible() {
    let folder = TempDir::new().unwrap();
    let path = shard(&folder, "a.bin", &[1; 5000]);
    let control = Control::default();
    control.cancel();
    let mut counts = PartialCounts::new(spec()).unwrap();
    assert!(matches!(counts.count(&[path], 2, &control), Err(Error::Interrupted)));
    assert!(matches!(PartialCounts::new(spec()).unwrap().to_bytes(2, &control), Err(Error::Interrupted)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However shards are divided and in whatever order the parts are merged: the same bytes.
    #[test]
    fn merged_parts_are_the_whole(
        streams in prop::collection::vec(prop::collection::vec(0..V as u16, 0..300), 1..6),
        groups in prop::collection::vec(0usize..3, 6),
        keys in prop::collection::vec(any::<u32>(), 6),
        threads in 1usize..4,
    ) {
        let folder = TempDir::new().unwrap();
        // The first token tells shards apart that would be equal.
        let paths: Vec<PathBuf> = streams
            .iter()
            .enumerate()
            .map(|(index, tokens)| {
                let tokens = [&[index as u16], &tokens[..]].concat();
                shard(&folder, &format!("{index}.bin"), &tokens)
            })
            .collect();
        let whole = bytes(&counted(&spec(), &paths, 1));

        let mut order: Vec<usize> = (0..paths.len()).collect();
        order.sort_by_key(|&index| keys[index]);
        let parts: Vec<Vec<u8>> = (0..3)
            .map(|group| {
                let chosen: Vec<_> =
                    order.iter().filter(|&&i| groups[i] == group).map(|&i| paths[i].clone()).collect();
                counted(&spec(), &chosen, threads).to_bytes(threads, &Control::default()).unwrap()
            })
            .collect();
        let add = |left: &[u8], right: &[u8]| {
            let mut left = read(left).unwrap();
            left.merge_bytes(right, "right", threads, &Control::default()).unwrap();
            bytes(&left)
        };
        prop_assert_eq!(&add(&add(&parts[0], &parts[1]), &parts[2]), &whole);
        prop_assert_eq!(&add(&parts[0], &add(&parts[1], &parts[2])), &whole);
        prop_assert_eq!(&add(&parts[2], &add(&parts[1], &parts[0])), &whole);
    }

    #[test]
    fn any_bytes_are_refused(data in prop::collection::vec(any::<u8>(), 0..200), second in any::<bool>()) {
        refusal(&data);
        let version = 1 + u32::from(second);
        let mut content = [&MAGIC.to_le_bytes()[..], &version.to_le_bytes(), &[0; 8], &data].concat();
        content.truncate(content.len().max(28));
        if content.len() >= 28 {
            prop_assert!(read(&sealed(content)).is_err());
        }
    }
}
