//! Shards: what is read back, and what is refused.

use std::fs;
use std::path::PathBuf;

use hybridlm_core::tokens::{check_vocabulary, write_shard, Shard, HEADER_BYTES};
use hybridlm_core::Error;
use proptest::prelude::*;

fn bytes(header: &[i32], tokens: &[u16]) -> Vec<u8> {
    let mut bytes: Vec<u8> = header.iter().flat_map(|field| field.to_le_bytes()).collect();
    bytes.resize(HEADER_BYTES, 0);
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    bytes
}

fn open(data: &[u8]) -> (tempfile::TempDir, PathBuf, Result<Shard, Error>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard.bin");
    fs::write(&path, data).unwrap();
    let shard = Shard::open(&path);
    (folder, path, shard)
}

fn refusal(data: &[u8]) -> String {
    let (_folder, path, shard) = open(data);
    match shard {
        Err(Error::Format { what, message }) => {
            assert_eq!(what, path.display().to_string());
            message
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    for tokens in [vec![], vec![1u16, 1023, 65535]] {
        write_shard(&path, &tokens).unwrap();
        assert_eq!(Shard::open(&path).unwrap().tokens(), tokens);
        assert_eq!(fs::read(&path).unwrap(), bytes(&[20_240_520, 1, tokens.len() as i32], &tokens));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left in the folder");
}

#[test]
fn each_wrong_field_is_named() {
    let good = bytes(&[20_240_520, 1, 2], &[5, 6]);
    assert!(open(&good).2.is_ok());
    assert!(refusal(&good[..0]).contains("too few"));
    assert!(refusal(&good[..1023]).contains("too few"));
    assert!(refusal(&bytes(&[20_240_521, 1, 2], &[5, 6])).contains("not a token shard"));
    assert!(refusal(&bytes(&[20_240_520, 2, 2], &[5, 6])).contains("version 2"));
    assert!(refusal(&bytes(&[20_240_520, 1, -2], &[5, 6])).contains("-2 tokens"));
    assert!(refusal(&bytes(&[20_240_520, 1, i32::MAX], &[5, 6])).contains("4294968318"));
    assert!(refusal(&bytes(&[20_240_520, 1, 2, 0, 9], &[5, 6])).contains("offset 16"));
    for length in HEADER_BYTES..good.len() {
        assert!(refusal(&good[..length]).contains("make 1028 bytes"), "{length}");
    }
    assert!(refusal(&[&good[..], &[0]].concat()).contains("1029"));
}

#[test]
fn flipped_bits_of_the_header_are_refused() {
    let good = bytes(&[20_240_520, 1, 2], &[5, 6]);
    // All bits of the fields that say something, one of each that must be zero.
    for bit in (0..96).chain((96..HEADER_BYTES * 8).step_by(33)) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        refusal(&bad);
    }
}

#[test]
fn missing_files_and_folders_are_the_systems_errors() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Shard::open(folder.path().join("none")), Err(Error::Io { .. })));
    assert!(matches!(Shard::open(folder.path()), Err(Error::Io { .. })));
    assert!(Shard::open("/dev/null").unwrap_err().to_string().contains("not a regular file"));
    let unwritable = folder.path().join("no such folder").join("a.bin");
    assert!(matches!(write_shard(unwritable, &[1]), Err(Error::Io { .. })));
}

#[test]
fn a_token_outside_the_vocabulary_is_given_with_its_offset() {
    let path = PathBuf::from("x.bin");
    check_vocabulary(&[1, 1023], 0, 1024, &path).unwrap();
    let error = check_vocabulary(&[1, 1024], 100, 1024, &path).unwrap_err().to_string();
    let found = "x.bin: token 1024 at offset 1226 is outside the vocabulary of 1024: ";
    assert_eq!(
        error,
        format!("{found}name the tokenizer that made the shard, or the size of its vocabulary")
    );
}

#[test]
fn a_part_is_what_the_whole_has_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.bin");
    let tokens: Vec<u16> = (0..1000).collect();
    write_shard(&path, &tokens).unwrap();
    assert_eq!(Shard::count(&path).unwrap(), 1000);
    assert_eq!(Shard::read(&path, 10, Some(5)).unwrap(), tokens[10..15]);
    assert_eq!(Shard::read(&path, 990, None).unwrap(), tokens[990..]);
    assert_eq!(Shard::read(&path, 1000, None).unwrap(), []);
    for (start, count) in [(1001, None), (990, Some(11)), (usize::MAX, Some(2))] {
        assert!(matches!(Shard::read(&path, start, count), Err(Error::Input(_))));
    }
    assert_eq!(Shard::open(&path).unwrap().bytes().concat(), fs::read(&path).unwrap());
}

#[test]
fn a_shard_that_shrinks_after_it_was_opened_stays_what_it_was() {
    let (_folder, path, shard) = open(&bytes(&[20_240_520, 1, 100_000], &vec![7; 100_000]));
    let shard = shard.unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1100).unwrap();
    assert!(shard.tokens().iter().all(|&token| token == 7));
    assert!(Shard::open(&path).unwrap_err().to_string().contains("make 201024 bytes"));
}

proptest! {
    #[test]
    fn no_bytes_bring_the_reader_down(mut data in prop::collection::vec(any::<u8>(), 0..1200), real in any::<bool>()) {
        if real && data.len() >= 8 {
            data[..8].copy_from_slice(&bytes(&[20_240_520, 1], &[])[..8]);
        }
        if let Ok(shard) = open(&data).2 {
            prop_assert_eq!(data.len(), HEADER_BYTES + 2 * shard.tokens().len());
        }
    }
}
