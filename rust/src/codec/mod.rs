//! Lossless coding by the mixture: the proof of a score is a file of that size which decodes.
//!
//! Bytes are cut into pieces of the vocabulary ([`segment`]), each token's distribution comes from the
//! experts and their mixture ([`predict`]), is rounded to integers ([`frequencies`]), and drives a range coder
//! (the crate `constriction`). The decoder makes the same predictions from what it has decoded. Both run
//! the same code on one thread. What is here adds, multiplies, divides and compares floats in a fixed
//! order, and takes exponentials where an oracle holds logarithms; a neural model is run by whoever hands
//! it in. A file decodes where all of it comes out the same: with the same build on the same kind of
//! machine. Where it doesn't, that is noticed early, by [`Checks`].

pub mod frequencies;
pub mod predict;
pub mod segment;

use constriction::stream::queue::{DefaultRangeDecoder, DefaultRangeEncoder};
use constriction::stream::{Decode, Encode};

use crate::parallel::Control;
use crate::{Error, Result};
use frequencies::Frequencies;
use predict::Predictor;
use segment::Segmenter;

/// Tokens between two checks whether to stop.
const PIECE: usize = 64;
/// Tokens whose distributions are compared before anything else.
const FIRST: usize = 64;
/// Bytes of content that share a checksum.
pub const BLOCK: usize = 1 << 16;

const OTHERWISE: &str = "what comes out is not what went in: made by another build or on another kind of \
                         machine, whose arithmetic differs, or altered";

/// What a decoder compares its own work with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checks {
    /// CRC-32 of the first [`FIRST`] tokens' frequencies: shows at once that arithmetic differs.
    pub first: u32,
    /// CRC-32 of each whole [`BLOCK`] of the content: shows it before much is decoded in vain.
    pub blocks: Vec<u32>,
}

/// Coded bytes, and what the model says that they should take.
pub struct Coded {
    pub payload: Vec<u8>,
    pub checks: Checks,
    /// −Σ log₂ p of the tokens, before any rounding.
    pub bits: f64,
    pub tokens: usize,
}

/// The checksum of the first distributions.
#[derive(Default)]
struct FirstRows {
    rows: usize,
    hasher: crc32fast::Hasher,
}

impl FirstRows {
    fn add(&mut self, frequencies: &Frequencies) {
        if self.rows < FIRST {
            self.rows += 1;
            frequencies.add_to(&mut self.hasher);
        }
    }

    fn finish(self) -> u32 {
        self.hasher.finalize()
    }
}

fn check_fresh(predictor: &Predictor) -> Result<()> {
    match predictor.learned() {
        0 => Ok(()),
        learned => Err(Error::input(format!(
            "this predictor has learned {learned} tokens; coding begins with a new one"
        ))),
    }
}

/// Codes `data` with a predictor at its start. `control` counts bytes.
pub fn compress(
    data: &[u8],
    segmenter: &Segmenter,
    predictor: &mut Predictor,
    control: &Control,
) -> Result<Coded> {
    check_fresh(predictor)?;
    let tokens = segmenter.encode(data)?;
    let mut coder = DefaultRangeEncoder::new();
    let mut frequencies = Frequencies::new(predictor.vocab_size())?;
    let mut first = FirstRows::default();
    let mut bits = 0.0;
    for piece in tokens.chunks(PIECE) {
        for &token in piece {
            let row = predictor.predict()?;
            frequencies.round(row);
            bits -= f64::from(row[usize::from(token)]).log2();
            first.add(&frequencies);
            coder
                .encode_symbol(token, &frequencies)
                .map_err(|error| Error::input(format!("the range coder: {error}")))?;
            predictor.update(token)?;
        }
        control.advance(piece.iter().map(|&token| segmenter.bytes(token).len() as u64).sum())?;
    }
    let words = coder.into_compressed().unwrap_or_else(|never| match never {});
    let mut payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    // The decoder takes what is missing at the end for zeros.
    while payload.last() == Some(&0) {
        payload.pop();
    }
    let blocks = data.chunks_exact(BLOCK).map(crc32fast::hash).collect();
    let checks = Checks { first: first.finish(), blocks };
    Ok(Coded { payload, checks, bits, tokens: tokens.len() })
}

/// The `length` bytes that were coded, with a predictor at its start.
///
/// A payload that isn't what [`compress`] gave, or arithmetic that isn't what it had, yields [`Error::Format`]
/// as soon as a check fails; in what follows the last whole block it may also yield other bytes, and the
/// caller has a checksum to tell. `name` stands for the payload in errors. A block that has no checksum is
/// not checked.
pub fn decompress(
    payload: &[u8],
    length: usize,
    checks: &Checks,
    segmenter: &Segmenter,
    predictor: &mut Predictor,
    control: &Control,
    name: &str,
) -> Result<Vec<u8>> {
    check_fresh(predictor)?;
    let words: Vec<u32> = payload
        .chunks(4)
        .map(|bytes| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            u32::from_le_bytes(word)
        })
        .collect();
    let mut coder = DefaultRangeDecoder::from_compressed(words).unwrap_or_else(|never| match never {});
    let mut frequencies = Frequencies::new(predictor.vocab_size())?;
    let otherwise = |offset: usize| Error::format(name, format!("from byte {offset} on {OTHERWISE}"));
    let mut first = Some(FirstRows::default());
    let mut blocks = checks.blocks.iter().zip(0..);
    let mut next_block = blocks.next();
    let mut data = Vec::new();
    let mut tokens = 0usize;
    while data.len() < length {
        frequencies.round(predictor.predict()?);
        let token = coder.decode_symbol(&frequencies).map_err(|_| otherwise(data.len()))?;
        if let Some(rows) = &mut first {
            rows.add(&frequencies);
        }
        let bytes = segmenter.bytes(token);
        if bytes.is_empty() || bytes.len() > length - data.len() {
            return Err(otherwise(data.len()));
        }
        data.extend_from_slice(bytes);
        tokens += 1;
        if tokens == FIRST || data.len() == length {
            if let Some(rows) = first.take() {
                if rows.finish() != checks.first {
                    return Err(otherwise(0));
                }
            }
        }
        while let Some((&checksum, index)) = next_block {
            let Some(block) = data.get(index * BLOCK..(index + 1) * BLOCK) else { break };
            if crc32fast::hash(block) != checksum {
                return Err(otherwise(index * BLOCK));
            }
            next_block = blocks.next();
        }
        predictor.update(token)?;
        control.advance(bytes.len() as u64)?;
    }
    // An encoder omits trailing zeros, and a decoder that has read all symbols needs no further words.
    if payload.last() == Some(&0) || !coder.maybe_exhausted() {
        return Err(Error::format(name, "bytes follow the payload"));
    }
    Ok(data)
}
