//! What a file is, by how it begins, so that a refusal can say what was given in place of what was asked for.

use crate::oracle::dense::{ngor_packed, partial};
use crate::oracle::sparse::{arpa, counts_file, ngsp};
use crate::tokens;

/// Enough to tell text from anything else.
const BEGINNING: usize = 512;

/// A noun for bytes that begin so; none for what is unknown here.
#[must_use]
pub fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    let bytes = &bytes[..bytes.len().min(BEGINNING)];
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if starts(&tokens::MAGIC.to_le_bytes()) {
        return Some("a token shard");
    }
    if starts(&ngsp::MAGIC)
        || starts(&ngor_packed::MAGIC[..4])
        || bytes.trim_ascii_start().starts_with(arpa::MAGIC)
    {
        return Some("an oracle");
    }
    if starts(&partial::MAGIC.to_le_bytes()) || starts(&counts_file::MAGIC.to_le_bytes()) {
        return Some("partial counts");
    }
    // Those of files that only Python reads.
    let foreign: [(&[u8], &'static str); 8] = [
        (b"RAGP", "an artifact"),
        (b"HLMZ", "a file that `hybridlm compress` made"),
        (b"\x28\xb5\x2f\xfd", "an oracle in the reference's layout, or other data compressed by zstd"),
        (b"\x1f\x8b", "data compressed by gzip"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"PAR1", "a Parquet file"),
        (b"PK\x03\x04", "a zip archive"),
        (b"%PDF", "a PDF"),
    ];
    // Text may begin with the letters of some, but none of them is text.
    if is_text(bytes) {
        return Some("text");
    }
    // Its first piece, such as <unk> or <pad>: field 1 of field 1, in protobuf's wire format.
    if matches!(bytes, [0x0a, _, 0x0a, _, b'<', ..]) {
        return Some("a SentencePiece model");
    }
    foreign.iter().find(|(magic, _)| starts(magic)).map(|&(_, kind)| kind)
}

/// Whether these are characters, the last of them perhaps cut off, and no control characters but white space.
fn is_text(bytes: &[u8]) -> bool {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => match std::str::from_utf8(&bytes[..error.valid_up_to()])
        {
            Ok(text) => text,
            Err(_) => return false,
        },
        Err(_) => return false,
    };
    !text.is_empty() && text.chars().all(|one| !one.is_control() || one.is_ascii_whitespace())
}
