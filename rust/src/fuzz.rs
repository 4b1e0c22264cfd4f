//! One entry point per reader of untrusted bytes, for `cargo fuzz` and for the tests that run the same
//! entries for some seconds on a stable compiler.
//!
//! An entry must return, whatever the bytes: a panic, or memory out of proportion, is a bug.

use crate::oracle::sparse::format;
use crate::oracle::{self, Oracle};
use crate::parallel::Control;
use crate::partial::{self, PartialCounts};
use crate::{files, tokens};

/// What the readers may unpack here; small, so that many inputs are tried in a second.
const MAX_BYTES: usize = 1 << 20;

pub type Entry = fn(&[u8]);

/// As under `fuzz/fuzz_targets`.
pub const ENTRIES: [Entry; 5] = [oracle, sparse, shard, zstd, partial];

/// Reads an oracle file as it is, and again as what a zstd frame would hold; looks up in what is accepted.
pub fn oracle(data: &[u8]) {
    if let Ok(oracle) = oracle::load(data, "fuzz", 1, &Control::default()) {
        look_up(&*oracle);
    }
    if let Ok(oracle) = oracle::ngor::parse(data, "fuzz") {
        look_up(&oracle);
    }
}

fn look_up(oracle: &dyn Oracle) {
    let tokens = [0, (oracle.vocab_size() - 1) as u16];
    let mut out = vec![0f32; oracle.orders().len() * tokens.len()];
    let found = oracle::target_log_probs(oracle, &tokens, 0, 1, &mut out);
    assert!(found.is_ok() && out.iter().all(|value| value.is_finite() && *value < 1e-3));
}

/// Reads a sparse oracle past what would refuse nearly every altered file: the beginning, the last stream's
/// length and the checksum are made right first.
pub fn sparse(data: &[u8]) {
    let mut sealed = data.to_vec();
    format::seal(&mut sealed);
    if let Ok(oracle) = format::decode(&sealed, "fuzz", &Control::default()) {
        look_up(&oracle);
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
    if let Ok(content) = files::decompress(data, MAX_BYTES, "fuzz") {
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
