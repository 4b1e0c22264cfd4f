//! What a file is, by how it begins, so that a refusal can say what was given in place of what was asked for.

/// Enough to tell text from anything else.
const BEGINNING: usize = 512;

/// A noun for bytes that begin so; none for what is unknown here.
#[must_use]
pub fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    let bytes = &bytes[..bytes.len().min(BEGINNING)];
    if bytes.trim_ascii_start().starts_with(b"\\data\\") {
        return Some("an oracle");
    }
    // The magics of our own formats are repeated here, because their readers ask here what else a file may be.
    let kinds: [(&[u8], &'static str); 13] = [
        (&20_240_520_u32.to_le_bytes(), "a token shard"),
        (b"NGSP", "an oracle"),
        (b"NGOR", "an oracle"),
        (b"CPGN", "partial counts"),
        (b"CSGN", "partial counts"),
        (b"RAGP", "an artifact"),
        (b"HLMZ", "a file that `hybridlm compress` made"),
        (b"\x28\xb5\x2f\xfd", "an oracle in the reference's layout, or other data compressed by zstd"),
        (b"\x1f\x8b", "data compressed by gzip"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"PAR1", "a Parquet file"),
        (b"PK\x03\x04", "a zip archive"),
        (b"%PDF", "a PDF"),
    ];
    // Text may begin with the letters of some, but none of those files is text.
    if is_text(bytes) {
        return Some("text");
    }
    // Its first piece, such as <unk> or <pad>: field 1 of field 1, in protobuf's wire format.
    if matches!(bytes, [0x0a, _, 0x0a, _, b'<', ..]) {
        return Some("a SentencePiece model");
    }
    kinds.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|&(_, kind)| kind)
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
