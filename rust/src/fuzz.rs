//! One entry point per reader of untrusted bytes, for `cargo fuzz` and for the tests that run the same
//! entries for some seconds on a stable compiler.
//!
//! An entry must return, whatever the bytes: a panic, or memory out of proportion, is a bug.

use crate::codec::predict::Predictor;
use crate::codec::segment::{Piece, Segmenter};
use crate::oracle::dense::ngor_v1;
use crate::oracle::dense::oracle::DenseOracle;
use crate::oracle::dense::partial::{self, PartialCounts};
use crate::oracle::sparse::counts::SparseCounts;
use crate::oracle::sparse::trie::Trie;
use crate::oracle::sparse::{counts_file, ngsp};
use crate::oracle::{self, Oracle};
use crate::parallel::Control;
use crate::{codec as coder, tokens, zstd_frame, Result};

/// What the readers may unpack here; small, so that many inputs are tried in a second.
const MAX_BYTES: usize = 1 << 20;

pub type Entry = fn(&[u8]);

/// As under `fuzz/fuzz_targets`.
pub const ENTRIES: [Entry; 7] = [oracle, sparse, shard, zstd, partial, codec, sparse_counts];

/// Reads an oracle file as it is, and again as what a zstd frame would hold; looks up in what is accepted.
pub fn oracle(data: &[u8]) {
    if let Ok(oracle) = oracle::load(data, "fuzz", 1, &Control::default()) {
        look_up(&*oracle);
    }
    if let Ok(tables) = ngor_v1::parse(data, "fuzz") {
        look_up(&DenseOracle::from(tables));
    }
}

fn look_up(oracle: &dyn Oracle) {
    let tokens = [0, (oracle.vocab_size() - 1) as u16];
    let mut out = vec![0f32; oracle.orders().len() * tokens.len()];
    let found = oracle::target_log_probs(oracle, &tokens, 0, 1, &mut out);
    assert!(found.is_ok() && out.iter().all(|value| value.is_finite() && *value < 1e-3));
}

/// Reads a sparse oracle after its beginning, the last stream's length and the checksum were made right, without
/// which nearly every altered file would be refused at once.
pub fn sparse(data: &[u8]) {
    for version in 1..=ngsp::VERSION {
        let mut sealed = data.to_vec();
        ngsp::forge(&mut sealed, version);
        if let Ok(oracle) = ngsp::decode(&sealed, "fuzz", 1, &Control::default()) {
            look_up(&oracle);
        }
    }
}

/// Checks a shard's header.
pub fn shard(data: &[u8]) {
    if tokens::check_header(data, std::path::Path::new("fuzz")).is_ok() {
        assert!(data.len() >= tokens::HEADER_BYTES);
    }
}

/// Unpacks a zstd frame.
pub fn zstd(data: &[u8]) {
    if let Ok(content) = zstd_frame::decompress(data, MAX_BYTES, "fuzz") {
        assert!(content.len() <= MAX_BYTES);
    }
}

/// Reads partial counts as they are, and again with length and checksum made right.
pub fn partial(data: &[u8]) {
    let read = |data: &[u8]| PartialCounts::from_bytes(data, "fuzz", 1, &Control::default());
    let mut sealed = data.to_vec();
    if sealed.len() >= 16 {
        partial::seal(&mut sealed);
    }
    for data in [data, &sealed] {
        if let Ok(counts) = read(data) {
            let written = counts.to_bytes(1, &Control::default());
            assert!(written.is_ok_and(|written| read(&written).is_ok()));
        }
    }
}

/// Reads sparse partial counts as they are, and again with their checksum made right; makes a trie of them.
pub fn sparse_counts(data: &[u8]) {
    let control = Control::default();
    let mut sealed = data.to_vec();
    counts_file::forge(&mut sealed);
    for data in [data, &sealed] {
        let Ok(counts) = SparseCounts::from_bytes(data.to_vec(), "fuzz", &control) else { continue };
        for rare in [0, 1] {
            if let Ok(trie) = Trie::build(&counts, rare, 1, &control) {
                assert!(trie.orders.iter().all(|order| order.masses.iter().all(|mass| mass.is_finite())));
            }
        }
    }
}

/// Codes bytes and decodes them again, and decodes what was never coded, with a small vocabulary that lacks some
/// bytes.
pub fn codec(data: &[u8]) {
    const LONGEST: usize = 512;
    let data = &data[..data.len().min(LONGEST)];
    let text = |bytes: &[u8]| Piece::Text { bytes: bytes.to_vec(), score: -(bytes.len() as f32) };
    let words: [&[u8]; 6] = [b" ", b"t", b"h", b"th", b" th", "é".as_bytes()];
    let bytes = (0..=250).map(Piece::Byte);
    let pieces = [Piece::None].into_iter().chain(bytes).chain(words.map(text)).collect();
    let attempt = || -> Result<()> {
        let segmenter = Segmenter::new(pieces)?;
        let control = Control::default();
        let predictor = || Predictor::new(segmenter.vocab_size(), None, None, "stacked", 0);
        let coded = coder::compress(data, &segmenter, &mut predictor()?, &control)?;
        let decode = |payload: &[u8], length| {
            let mut predictor = predictor()?;
            coder::decompress(payload, length, &coded.checks, &segmenter, &mut predictor, &control, "fuzz")
        };
        if let Ok(decoded) = decode(data, data.len()) {
            assert_eq!(decoded.len(), data.len());
        }
        assert!(decode(&coded.payload, data.len())? == data);
        Ok(())
    };
    // Only bytes that the vocabulary lacks may be refused.
    assert!(attempt().is_ok() || data.iter().any(|&byte| byte > 250));
}
