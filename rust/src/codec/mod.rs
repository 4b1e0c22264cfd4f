//! Lossless coding by the mixture: the proof of a score is a file of that size which decodes.
//!
//! Bytes are cut into pieces of the vocabulary ([`segment`]), each token's distribution comes from the
//! frozen oracle, the adaptive experts and their mixture ([`predict`]), is rounded to integers
//! ([`quantise`]), and drives a range coder (the crate `constriction`). The decoder makes the same
//! predictions from what it has decoded. Both run the same code on one thread; it adds, multiplies,
//! divides and compares floats in a fixed order, and takes exponentials where an oracle holds logarithms:
//! a file decodes where those come out the same, that is, with the same build on the same kind of machine.

pub mod predict;
pub mod quantise;
pub mod segment;

use constriction::stream::queue::{DefaultRangeDecoder, DefaultRangeEncoder};
use constriction::stream::{Decode, Encode};

use crate::parallel::Control;
use crate::{Error, Result};
use predict::Predictor;
use quantise::Frequencies;
use segment::Segmenter;

/// Tokens between two looks at whether to stop.
const PIECE: usize = 1 << 12;

/// Coded bytes, and what the model says that they should take.
pub struct Coded {
    pub payload: Vec<u8>,
    /// −Σ log₂ p of the tokens, before any rounding.
    pub bits: f64,
    pub tokens: usize,
}

/// Codes `data` with a predictor at its start. `control` counts bytes.
pub fn compress(
    data: &[u8],
    segmenter: &Segmenter,
    predictor: &mut Predictor,
    control: &Control,
) -> Result<Coded> {
    let tokens = segmenter.encode(data)?;
    let mut coder = DefaultRangeEncoder::new();
    let mut frequencies = Frequencies::new(predictor.vocab_size())?;
    let mut bits = 0.0;
    for piece in tokens.chunks(PIECE) {
        for &token in piece {
            let row = predictor.predict();
            frequencies.round(row);
            bits -= f64::from(row[usize::from(token)]).log2();
            coder
                .encode_symbol(token, &frequencies)
                .map_err(|error| Error::input(format!("the range coder: {error}")))?;
            predictor.update(token);
        }
        control.advance(segmenter.decode(piece)?.len() as u64)?;
    }
    let words = coder.into_compressed().unwrap_or_else(|never| match never {});
    let mut payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    // The decoder takes what is missing at the end for zeros.
    while payload.last() == Some(&0) {
        payload.pop();
    }
    Ok(Coded { payload, bits, tokens: tokens.len() })
}

/// The `length` bytes that were coded, with a predictor at its start.
///
/// A payload that isn't what [`compress`] gave yields other bytes or [`Error::Format`]; the caller has
/// checksums to tell. `name` stands for it in errors.
pub fn decompress(
    payload: &[u8],
    length: usize,
    segmenter: &Segmenter,
    predictor: &mut Predictor,
    control: &Control,
    name: &str,
) -> Result<Vec<u8>> {
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
    let mut data = Vec::new();
    let mut pieces = 0usize;
    while data.len() < length {
        frequencies.round(predictor.predict());
        let token = coder
            .decode_symbol(&frequencies)
            .map_err(|error| Error::format(name, format!("not decodable: {error}")))?;
        let bytes = segmenter.bytes(token);
        if bytes.is_empty() || bytes.len() > length - data.len() {
            return Err(Error::format(
                name,
                "decodes to something that was never coded: altered or truncated",
            ));
        }
        data.extend_from_slice(bytes);
        predictor.update(token);
        pieces += 1;
        if pieces % PIECE == 0 {
            control.check()?;
        }
        control.advance(bytes.len() as u64)?;
    }
    Ok(data)
}
