//! Atomic files and bounded decompression.

use std::fs;
use std::io::Write;

use hybridlm_core::files::{write_atomically, AtomicFile};
use hybridlm_core::parallel::Control;
use hybridlm_core::zstd_frame::{compress, compress_on_threads, decompress, StreamDecoder};
use hybridlm_core::Error;
use proptest::prelude::*;

#[test]
fn a_file_appears_only_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    write_atomically(&path, b"old").unwrap();
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(&[7; 100_000]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the abandoned file is removed");
    write_atomically(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn frames_that_are_damaged_or_too_large_are_refused() {
    let data: Vec<u8> = (0..100_000u32).flat_map(|i| i.wrapping_mul(i).to_le_bytes()).collect();
    let frame = compress(&data, 3, &Control::default()).unwrap();
    assert_eq!(decompress(&frame, data.len(), "x").unwrap(), data);
    let refused = |frame: &[u8], bytes| match decompress(frame, bytes, "x") {
        Err(Error::Format { what, .. }) => assert_eq!(what, "x"),
        other => panic!("{other:?}"),
    };
    refused(&frame, data.len() - 1);
    refused(&[&frame[..], b"!"].concat(), data.len());
    refused(&[&frame[..], &frame[..]].concat(), 2 * data.len());
    refused(b"", 10);
    // A frame that doesn't say how much it holds is read no further than allowed.
    let undeclared = zstd::encode_all(&vec![0u8; 1 << 20][..], 1).unwrap();
    assert!(decompress(&undeclared, 1 << 20, "x").is_ok());
    refused(&undeclared, (1 << 20) - 1);
    for cut in [1, 4, 10, frame.len() / 2, frame.len() - 1] {
        refused(&frame[..cut], data.len());
    }
    for at in [20, frame.len() / 2, frame.len() - 1] {
        let mut bad = frame.clone();
        bad[at] ^= 0x10;
        refused(&bad, data.len());
    }
}

#[test]
fn threads_change_no_byte_of_a_frame() {
    let data: Vec<u8> = (0..6_000_000u32).map(|i| (i.wrapping_mul(i) >> 20) as u8 % 7).collect();
    let frame = |threads| compress_on_threads(data.clone(), 5, threads, &Control::default()).unwrap();
    let one = frame(1);
    assert!(frame(2) == one && frame(5) == one);
    assert!(decompress(&one, data.len(), "x").unwrap() == data);
    let control = Control::default();
    control.cancel();
    assert!(matches!(compress_on_threads(data, 22, 2, &control), Err(Error::Interrupted)));
}

#[test]
fn a_level_that_zstd_lacks_and_a_request_to_stop() {
    for level in [0, 23, -1] {
        assert!(matches!(compress(b"x", level, &Control::default()), Err(Error::Input(_))));
    }
    let control = Control::default();
    control.cancel();
    assert!(matches!(compress(&[1; 1000], 3, &control), Err(Error::Interrupted)));
}

proptest! {
    #[test]
    fn any_bytes_come_back(data in prop::collection::vec(0u8..4, 0..5000), level in 1..=22) {
        let frame = compress(&data, level, &Control::default()).unwrap();
        prop_assert_eq!(decompress(&frame, data.len(), "x").unwrap(), data);
    }

    #[test]
    fn no_bytes_bring_decompression_down(mut data in prop::collection::vec(any::<u8>(), 0..300), real in any::<bool>()) {
        if real && data.len() > 4 {
            data[..4].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
        }
        if let Ok(content) = decompress(&data, 1 << 20, "x") {
            prop_assert!(content.len() <= 1 << 20);
        }
    }
}

/// All content of `data`, given in pieces of `input` bytes and taken in pieces of `output`.
fn decode_stream(data: &[u8], input: usize, output: usize) -> Result<(Vec<u8>, bool), Error> {
    let mut decoder = StreamDecoder::new("stream")?;
    let (mut content, mut piece) = (Vec::new(), vec![0; output]);
    for part in data.chunks(input) {
        let mut written = decoder.decode(part, &mut piece)?;
        content.extend_from_slice(&piece[..written]);
        while written == output {
            written = decoder.decode(&[], &mut piece)?;
            content.extend_from_slice(&piece[..written]);
        }
    }
    Ok((content, decoder.inside_frame()))
}

proptest! {
    #[test]
    fn a_stream_of_frames_is_the_same_in_pieces_of_any_size(
        parts in prop::collection::vec(prop::collection::vec(0u8..3, 0..2000), 0..4),
        input in 1usize..300,
        output in 1usize..3000,
        cut in any::<prop::sample::Index>(),
    ) {
        let frames: Vec<Vec<u8>> =
            parts.iter().map(|part| compress(part, 3, &Control::default()).unwrap()).collect();
        let data = frames.concat();
        let (content, inside) = decode_stream(&data, input, output).unwrap();
        prop_assert_eq!(content, parts.concat());
        prop_assert!(!inside);
        if !data.is_empty() {
            let cut = cut.index(data.len());
            let ends: Vec<usize> =
                frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) }).collect();
            let (_, inside) = decode_stream(&data[..cut], input, output).unwrap();
            prop_assert_eq!(inside, cut != 0 && !ends.contains(&cut));
        }
    }
}
