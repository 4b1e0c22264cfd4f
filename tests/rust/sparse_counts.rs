//! Sparse partial counts against slow references, divided and merged in many ways, and damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hybridlm_core::oracle::sparse::chunk::CHUNK;
use hybridlm_core::oracle::sparse::counting::count_shards;
use hybridlm_core::oracle::sparse::counting::count_streams;
use hybridlm_core::oracle::sparse::counts::SparseCounts;
use hybridlm_core::oracle::sparse::merge::{add, heads, merge, Part};
use hybridlm_core::oracle::sparse::ngram::{Entry, NgramSpec};
use hybridlm_core::oracle::sparse::sample::{Sample, DOCUMENT_TOKENS};
use hybridlm_core::parallel::Control;
use hybridlm_core::tokens::write_shard;
use hybridlm_core::vocabulary::{Vocabulary, DEFAULT_BOS as BOS};
use hybridlm_core::zstd_frame::compress;
use hybridlm_core::{Error, Result};
use proptest::prelude::*;

const MEMORY: usize = 1 << 30;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn shards(&self, streams: &[Vec<u16>]) -> Vec<PathBuf> {
        let write = |(index, stream): (usize, &Vec<u16>)| {
            let path = self.path(&format!("{index}.bin"));
            write_shard(&path, stream).unwrap();
            path
        };
        streams.iter().enumerate().map(write).collect()
    }
}

fn count(paths: &[PathBuf], spec: NgramSpec, memory: usize, threads: usize) -> Result<SparseCounts> {
    count_shards(paths, spec, memory, None, threads, &Control::default())
}

fn merged(parts: &[&SparseCounts], threads: usize) -> Result<Vec<u8>> {
    let parts: Vec<Part> = parts.iter().map(|&counts| counts.into()).collect();
    weighted(&parts, threads)
}

fn weighted(parts: &[Part], threads: usize) -> Result<Vec<u8>> {
    merge(parts, Vec::new(), Path::new("merged"), threads, &Control::default())
}

fn load(data: &[u8]) -> Result<SparseCounts> {
    SparseCounts::from_bytes(data.to_vec(), "test", &Control::default())
}

/// All that a file holds, each chunk unpacked.
fn entries(counts: &SparseCounts) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let total = counts.for_each(0..counts.chunk_count(), &Control::default(), |entry| {
        found.push(*entry);
        Ok(())
    })?;
    counts.check_total(total)?;
    Ok(found)
}

fn random(seed: u64, length: usize, vocab_size: u16, documents: bool) -> Vec<u16> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut tokens = Vec::new();
    while tokens.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let token = ((state >> 40) as u16 % vocab_size).min((state >> 56) as u16 % vocab_size);
        tokens.push(if token == BOS && !documents { 0 } else { token });
    }
    tokens
}

/// Of each n-gram of the order, or shorter where text ends, how often and in how many documents it is.
fn naive(streams: &[Vec<u16>], order: usize, bos: u16) -> BTreeMap<Vec<u16>, (u64, u64)> {
    let mut found: BTreeMap<Vec<u16>, Vec<usize>> = BTreeMap::new();
    let mut document = 0;
    for stream in streams {
        let mut length = DOCUMENT_TOKENS;
        for start in 0..stream.len() {
            if stream[start] == bos || length == DOCUMENT_TOKENS {
                document += 1;
                length = 0;
            }
            length += 1;
            let mut end = start + 1;
            while end < stream.len() && end < start + order && (end == start + 1 || stream[end - 1] != bos) {
                end += 1;
            }
            found.entry(stream[start..end].to_vec()).or_default().push(document);
        }
    }
    let numbers = |mut documents: Vec<usize>| {
        let count = documents.len() as u64;
        documents.dedup();
        (count, documents.len() as u64)
    };
    found.into_iter().map(|(ngram, documents)| (ngram, numbers(documents))).collect()
}

fn check(streams: &[Vec<u16>], vocabulary: impl Into<Vocabulary>, order: usize) {
    let folder = Folder::new();
    let spec = NgramSpec::new(vocabulary, order).unwrap();
    let counts = count(&folder.shards(streams), spec, MEMORY, 2).unwrap();
    let found: Vec<_> = entries(&counts)
        .unwrap()
        .iter()
        .map(|e| (e.ngram.tokens().collect(), (e.count, e.documents)))
        .collect();
    let expected: Vec<(Vec<u16>, _)> = naive(streams, order, spec.vocabulary.bos).into_iter().collect();
    assert_eq!(found, expected);
    assert_eq!(counts.tokens(), streams.iter().map(|stream| stream.len() as u64).sum::<u64>());
}

#[test]
fn counts_are_those_of_the_text() {
    let streams = [random(1, 5000, 9, true), random(2, 30_000, 9, false), vec![5], vec![3, BOS]];
    for order in [2, 3, 6, 8] {
        check(&streams, 9, order);
    }
    // More n-grams that begin with one token than fit a chunk, and keys wider than 64 bits.
    check(&[random(3, 9 * CHUNK, 4, true)], 4, 8);
    check(&[random(4, 3000, 65_535, true), vec![65_534; 9]], 65_535, 6);
    check(&[random(5, 2000, 65_535, true)], 65_535, 8);
    // Documents that begin with another token, the highest one too.
    check(&streams, Vocabulary { bos: 4, ..9.into() }, 6);
    check(&[random(4, 3000, 65_535, true), vec![65_534; 9]], Vocabulary { bos: 65_534, ..65_535.into() }, 6);
}

#[test]
fn bytes_depend_on_the_set_of_shards_alone() {
    let folder = Folder::new();
    let streams: Vec<Vec<u16>> = (0..5).map(|seed| random(seed, 20_000 + seed as usize, 50, true)).collect();
    let mut paths = folder.shards(&streams);
    let spec = NgramSpec::new(50, 5).unwrap();
    let whole = count(&paths, spec, MEMORY, 1).unwrap().to_bytes().unwrap();
    paths.reverse();
    // So little memory that tokens are done in several groups.
    assert_eq!(count(&paths, spec, 0, 3).unwrap().to_bytes().unwrap(), whole);
    let part = |paths: &[PathBuf], name: &str| {
        count_shards(paths, spec, MEMORY, Some(&folder.path(name)), 2, &Control::default()).unwrap()
    };
    let (a, b, c) = (part(&paths[..1], "a"), part(&paths[1..4], "b"), part(&paths[4..], "c"));
    assert_eq!(merged(&[&a, &b, &c], 2).unwrap(), whole);
    let ca = load(&merged(&[&c, &a], 1).unwrap()).unwrap();
    assert_eq!(merged(&[&b, &ca], 3).unwrap(), whole);
    let saved = folder.path("saved");
    b.save(&saved).unwrap();
    assert_eq!(std::fs::read(&saved).unwrap(), b.to_bytes().unwrap());
    assert_eq!(b.byte_count(), b.to_bytes().unwrap().len() as u64);
}

#[test]
fn what_does_not_add_up_is_refused() {
    let folder = Folder::new();
    let paths = folder.shards(&[random(1, 500, 9, true), random(2, 500, 9, true)]);
    let spec = NgramSpec::new(9, 4).unwrap();
    let (both, one) = (count(&paths, spec, MEMORY, 1).unwrap(), count(&paths[1..], spec, MEMORY, 1).unwrap());
    let error = merged(&[&both, &one], 1).unwrap_err();
    assert!(error.to_string().contains("has been counted already"), "{error}");
    let error = count(&[paths[0].clone(), paths[0].clone()], spec, MEMORY, 1).unwrap_err();
    assert!(error.to_string().contains("give each shard once"), "{error}");
    let other = count(&paths[..1], NgramSpec::new(9, 3).unwrap(), MEMORY, 1).unwrap();
    let error = merged(&[&one, &other], 1).unwrap_err();
    assert!(error.to_string().contains("up to order 3"), "{error}");
    assert!(matches!(merged(&[], 1), Err(Error::Input(_))));
    let of = |bos, fingerprint| {
        let spec = NgramSpec::new(Vocabulary { size: 9, bos, fingerprint }, 4).unwrap();
        count(&paths[..1], spec, MEMORY, 1).unwrap()
    };
    let error = merged(&[&one, &of(2, None)], 1).unwrap_err().to_string();
    assert!(error.contains("document token 2") && error.contains("document token 1"), "{error}");
    let error = count(&paths, NgramSpec::new(5, 3).unwrap(), MEMORY, 1).unwrap_err();
    assert!(error.to_string().contains("outside the vocabulary of 5"), "{error}");
}

/// Counts of two tokenizers don't add up; what isn't known of a part isn't known of the whole.
#[test]
fn a_sum_is_of_the_tokenizer_of_its_parts() {
    let folder = Folder::new();
    let paths = folder.shards(&[random(1, 500, 9, true), random(2, 500, 9, true)]);
    let part = |path: &PathBuf, fingerprint| {
        let spec = NgramSpec::new(Vocabulary { size: 9, bos: 2, fingerprint }, 4).unwrap();
        count(std::slice::from_ref(path), spec, MEMORY, 1).unwrap()
    };
    let known = part(&paths[0], Some([7; 32]));
    assert_eq!(load(&known.to_bytes().unwrap()).unwrap().spec(), known.spec());
    for (other, expected) in [(Some([7; 32]), Some([7; 32])), (None, None)] {
        for parts in [[&known, &part(&paths[1], other)], [&part(&paths[1], other), &known]] {
            let sum = load(&merged(&parts, 1).unwrap()).unwrap();
            assert_eq!(sum.spec().vocabulary, Vocabulary { size: 9, bos: 2, fingerprint: expected });
        }
    }
    let error = merged(&[&known, &part(&paths[1], Some([8; 32]))], 1).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer 080808080808…") && error.contains("tokenizer 070707070707…"),
        "{error}"
    );
}

#[test]
fn a_sample_is_found_in_the_samples_of_any_parts() {
    // Documents of very different lengths, one of them twice, more than a sample takes.
    let documents: Vec<Vec<u16>> = (0..700)
        .map(|seed| [vec![BOS], random(seed % 699, 10 + (seed as usize * 37) % 9000, 500, false)].concat())
        .collect();
    let whole = Sample::of(&[&documents.concat()], BOS);
    let parts: Vec<Sample> = documents.chunks(90).map(|part| Sample::of(&[&part.concat()], BOS)).collect();
    let merged = |parts: &[Sample]| Sample::merge(parts.iter().rev().map(|part| (part, 1)));
    assert_eq!(merged(&parts), whole);
    let (left, right) = (merged(&parts[..3]), merged(&parts[3..]));
    assert_eq!(merged(&[right, left]), whole);
    let tokens: usize = whole.documents().map(|document| document.tokens.len()).sum();
    assert!((2_000_000..2_000_000 + DOCUMENT_TOKENS).contains(&tokens), "{tokens}");
    assert_eq!(Sample::unpack(&whole.pack(), 500, true).unwrap(), whole);
    assert!(whole.pack().len() < Sample::LONGEST);
    assert!(Sample::unpack(&whole.pack(), 100, true).unwrap_err().contains("outside the vocabulary"));
}

/// As many copies as the weight says: this is what a weight means.
#[test]
fn counts_of_a_weight_are_those_of_so_many_copies() {
    let folder = Folder::new();
    let streams = [random(1, 9000, 9, true), random(2, 7000, 9, true), random(3, 12_000, 9, false)];
    let paths = folder.shards(&streams);
    let spec = NgramSpec::new(9, 5).unwrap();
    let weights = [3, 1, 7];
    let counts: Vec<_> =
        paths.iter().map(|path| count(std::slice::from_ref(path), spec, MEMORY, 1).unwrap()).collect();
    let parts = |which: &[usize]| -> Vec<Part> {
        which.iter().map(|&index| Part { counts: &counts[index], weight: weights[index] }).collect()
    };
    let whole = load(&weighted(&parts(&[0, 1, 2]), 2).unwrap()).unwrap();
    let copies: Vec<Vec<u16>> = streams
        .iter()
        .zip(weights)
        .flat_map(|(stream, weight)| vec![stream.clone(); weight as usize])
        .collect();
    let found: Vec<(Vec<u16>, _)> = entries(&whole)
        .unwrap()
        .iter()
        .map(|e| (e.ngram.tokens().collect(), (e.count, e.documents)))
        .collect();
    assert_eq!(found, naive(&copies, 5, BOS).into_iter().collect::<Vec<_>>());
    // The chunks are the same bytes, too.
    let streams: Vec<&[u16]> = copies.iter().map(Vec::as_slice).collect();
    let expected = count_streams(&streams, spec, 2, &Control::default()).unwrap();
    let all = |counts: &SparseCounts| counts.beginning_with(0..9, &Control::default()).unwrap();
    assert_eq!(all(&whole), all(&expected));
    assert_eq!((whole.tokens(), all(&whole).1), (expected.tokens(), expected.tokens()));
    let of_shard = |counts: &SparseCounts| counts.shards()[0].hash;
    for (counts, weight) in counts.iter().zip(weights) {
        let shard = whole.shards().iter().find(|shard| shard.hash == of_shard(counts)).unwrap();
        assert_eq!((shard.weight, shard.tokens), (weight, counts.tokens()));
    }
    for document in whole.sample().documents() {
        let has = |counts: &SparseCounts| counts.sample().documents().any(|d| d.tokens == document.tokens);
        let of_shards =
            counts.iter().zip(weights).filter(|(counts, _)| has(counts)).map(|(_, weight)| weight);
        assert_eq!(Some(document.weight), of_shards.max());
    }
    // However they are added up, and weights multiply.
    let first = load(&weighted(&parts(&[2, 0]), 1).unwrap()).unwrap();
    let again = weighted(&[parts(&[1]), vec![(&first).into()]].concat(), 3).unwrap();
    assert_eq!(again, whole.to_bytes().unwrap());
    let twice = weighted(&[Part { counts: &whole, weight: 2 }], 1).unwrap();
    let doubled: Vec<Part> =
        parts(&[0, 1, 2]).iter().map(|part| Part { weight: 2 * part.weight, ..*part }).collect();
    assert_eq!(weighted(&doubled, 1).unwrap(), twice);
    let unnamed = add(&doubled, 1, &Control::default()).unwrap();
    assert_eq!((unnamed.tokens(), all(&unnamed)), (2 * whole.tokens(), all(&load(&twice).unwrap())));
    assert_eq!(load(&heads(&doubled).unwrap()).unwrap().tokens(), 2 * whole.tokens());
}

#[test]
fn a_document_of_two_weights_is_sampled_with_the_higher() {
    let document = [vec![BOS], random(4, 50, 9, false)].concat();
    let sample = Sample::of(&[&document], BOS);
    for weights in [[2, 5], [5, 2]] {
        let merged = Sample::merge(weights.iter().map(|&weight| (&sample, weight)));
        assert_eq!(merged.documents().map(|document| document.weight).collect::<Vec<_>>(), [5]);
        assert_eq!(Sample::unpack(&merged.pack(), 9, true).unwrap(), merged);
    }
}

#[test]
fn weights_that_cannot_be_are_refused() {
    let folder = Folder::new();
    let paths = folder.shards(&[random(1, 500, 9, true)]);
    let one = count(&paths, NgramSpec::new(9, 4).unwrap(), MEMORY, 1).unwrap();
    let large = Part { counts: &one, weight: u32::MAX };
    let largest = load(&weighted(&[large], 1).unwrap()).unwrap();
    assert_eq!(largest.tokens(), 500 * u64::from(u32::MAX));
    let error = weighted(&[Part { counts: &largest, weight: 2 }], 1).unwrap_err();
    assert!(error.to_string().contains("weight 4294967295 can't be given weight 2 besides"), "{error}");
    let error = weighted(&[Part { counts: &one, weight: 0 }], 1).unwrap_err();
    assert!(matches!(error, Error::Input(_)), "{error}");
}

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(name)
}

/// Of the golden file of version 2.
fn golden_vocabulary() -> Vocabulary {
    Vocabulary { size: 16, bos: 3, fingerprint: Some(std::array::from_fn(|index| index as u8 + 1)) }
}

/// Readers must understand them for ever; what they hold is worked out from the text here.
#[test]
fn golden_files_mean_what_they_always_meant() {
    for (name, vocabulary, weight) in [
        ("sparse_counts.part", 16.into(), 1),
        ("sparse_counts_v2.part", golden_vocabulary(), 1),
        ("sparse_counts_v3.part", golden_vocabulary(), 3),
    ] {
        let counts = SparseCounts::open(&golden("good").join(name), &Control::default()).unwrap();
        // The golden shard: 0, 1, 4, 9, ... modulo 13.
        let stream: Vec<u16> = (0..400u32).map(|i| (i * i % 13) as u16).collect();
        let tokens = 400 * u64::from(weight);
        assert_eq!((counts.spec(), counts.tokens()), (NgramSpec::new(vocabulary, 4).unwrap(), tokens));
        let shard = &counts.shards()[0];
        assert_eq!((shard.name.as_str(), shard.tokens, shard.weight), ("tokens.bin", 400, weight));
        let found = entries(&counts).unwrap();
        let found: Vec<(Vec<u16>, _)> =
            found.iter().map(|e| (e.ngram.tokens().collect(), (e.count, e.documents))).collect();
        let expected = naive(&vec![stream.clone(); weight as usize], 4, vocabulary.bos);
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        let sample = Sample::of(&[&stream], vocabulary.bos);
        assert_eq!(*counts.sample(), Sample::merge([(&sample, weight)].into_iter()));
    }
}

#[test]
fn bad_golden_files_are_refused_for_what_is_wrong() {
    for (name, part) in [
        ("version", "version 4; this program reads versions up to 3"),
        ("document_token", "document token 16 is outside the vocabulary of 16 tokens"),
        ("truncated_identity", "the file ends within the tokenizer's fingerprint"),
        ("no_weight", "a shard of weight 0"),
        ("sampled_weight", "the sample has a document of weight 0"),
    ] {
        let data = std::fs::read(golden(&format!("bad/sparse_counts_{name}.part"))).unwrap();
        let error = read(&data).unwrap_err();
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(part), "{error}");
    }
}

#[test]
#[ignore = "rewrites the golden files; for a new version of the format"]
fn golden_files_are_made_like_this() {
    let spec = NgramSpec::new(golden_vocabulary(), 4).unwrap();
    let counts = count(&[golden("good/tokens.bin")], spec, MEMORY, 1).unwrap();
    let file = weighted(&[Part { counts: &counts, weight: 3 }], 1).unwrap();
    let with = |offset: usize, value: u32| {
        let mut file = file.clone();
        file[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        sealed(file)
    };
    std::fs::write(golden("good/sparse_counts_v3.part"), &file).unwrap();
    // The record of tokens.bin is at offset 56; its weight and the length of the sample's frame follow.
    let sample_at = WEIGHT_AT + 8;
    let sampled = sample_at + field(&file, sample_at - 4) as usize;
    let mut sample = counts.sample().pack();
    // After the number of documents comes the first one's weight.
    sample[1] = 0;
    let frame = compress(&sample, 1, &Control::default()).unwrap();
    let unsampled =
        [&file[..sample_at - 4], &(frame.len() as u32).to_le_bytes(), &frame, &file[sampled..]].concat();
    for (name, data) in [
        ("version", with(4, 4)),
        ("document_token", with(20, 16)),
        ("truncated_identity", file[..50].to_vec()),
        ("no_weight", with(WEIGHT_AT, 0)),
        ("sampled_weight", sealed(unsampled)),
    ] {
        std::fs::write(golden(&format!("bad/sparse_counts_{name}.part")), data).unwrap();
    }
}

/// Of the only shard, whose name has 10 bytes.
const WEIGHT_AT: usize = 56 + 32 + 8 + 2 + 10;

fn field(file: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(file[offset..offset + 4].try_into().unwrap())
}

// Damaged files.

fn small() -> Vec<u8> {
    let folder = Folder::new();
    let paths = folder.shards(&[random(7, 900, 12, true), random(8, 300, 12, true)]);
    count(&paths, NgramSpec::new(12, 4).unwrap(), MEMORY, 1).unwrap().to_bytes().unwrap()
}

/// Opening and unpacking everything.
fn read(data: &[u8]) -> Result<Vec<Entry>> {
    entries(&load(data)?)
}

fn sealed(mut data: Vec<u8>) -> Vec<u8> {
    let covered = data.len() - 32;
    let hash = blake3::hash(&data[..covered]);
    data[covered..].copy_from_slice(hash.as_bytes());
    data
}

#[test]
fn truncated_and_altered_files_are_refused() {
    let file = small();
    read(&file).unwrap();
    for length in (0..file.len()).step_by(7) {
        assert!(matches!(read(&file[..length]), Err(Error::Format { .. })), "{length} bytes");
    }
    for bit in (0..8 * file.len()).step_by(5) {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(read(&damaged), Err(Error::Format { .. })), "bit {bit}");
    }
    let longer = read(&[&file[..], b"x"].concat()).unwrap_err();
    assert!(longer.to_string().contains("bytes follow"), "{longer}");
}

#[test]
fn headers_that_lie_are_refused_by_field() {
    let file = small();
    let refused = |offset: usize, bytes: &[u8], part: &str| {
        let mut file = file.clone();
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        match read(&sealed(file)) {
            Err(error @ Error::Format { .. }) => {
                assert!(error.to_string().contains(part), "{error} doesn't say {part:?}");
            }
            other => panic!("{other:?}"),
        }
    };
    refused(0, b"XXXX", "not how sparse partial counts begin");
    refused(4, &9u32.to_le_bytes(), "version 9");
    refused(8, &0u32.to_le_bytes(), "1 to 65535 tokens");
    refused(8, &11u32.to_le_bytes(), "outside the vocabulary of 11");
    refused(12, &1u32.to_le_bytes(), "order 2 to 8");
    refused(12, &3u32.to_le_bytes(), "shares more with the one before it");
    refused(16, &u32::MAX.to_le_bytes(), "");
    refused(20, &12u32.to_le_bytes(), "document token 12 is outside the vocabulary of 12");
    refused(20, &u32::MAX.to_le_bytes(), "outside any vocabulary");
    let tokens = u64::from_le_bytes(file[88..96].try_into().unwrap());
    refused(88, &(tokens + 1).to_le_bytes(), "but the shards hold 1201 tokens");
    refused(88, &u64::MAX.to_le_bytes(), "don't fit 64 bits");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_division_gives_the_same_bytes(
        streams in prop::collection::vec(prop::collection::vec(0u16..6, 0..200), 1..5),
        order in 2usize..=8,
        bos in 0u16..6,
        split in any::<prop::sample::Index>(),
        threads in 1usize..4,
    ) {
        let mut streams = streams;
        streams.sort();
        streams.dedup();
        check(&streams, Vocabulary { bos, ..6.into() }, order);
        let folder = Folder::new();
        let paths = folder.shards(&streams);
        let spec = NgramSpec::new(Vocabulary { bos, ..6.into() }, order).unwrap();
        let at = split.index(paths.len());
        let (left, right) = (count(&paths[..at], spec, MEMORY, 1).unwrap(), count(&paths[at..], spec, 0, threads).unwrap());
        let whole = count(&paths, spec, MEMORY, threads).unwrap().to_bytes().unwrap();
        prop_assert_eq!(merged(&[&right, &left], threads).unwrap(), whole);
    }

    /// A forger who gets the checksum right still gets an error, or counts that are in order and add up.
    #[test]
    fn forged_files_do_no_harm(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut file = small();
        let covered = file.len() - 32;
        for (index, byte) in damage {
            file[index.index(covered)] = byte;
        }
        match read(&sealed(file)) {
            Ok(entries) => prop_assert!(entries.windows(2).all(|pair| pair[0].ngram < pair[1].ngram)),
            Err(Error::Format { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
