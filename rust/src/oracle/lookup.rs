//! Frozen oracles: n-gram models that were estimated once and are only looked up from then on.
//!
//! An estimator implements [`Oracle`], two kernels that run on one thread over a piece of the work.
//! The functions of this module check the arguments, cut the work into pieces and run the kernels on
//! as many threads as asked for; callers use those.
//!
//! Positions: predicting position `i` of a stream means ln p(· | tokens[..i]), over the whole stream
//! before it. Each order of an oracle is one expert, so K = `orders().len()`.

pub mod dense;
mod mix;
pub mod ngor;
pub mod packed;
pub mod sparse;
pub mod survey;

use std::ops::Range;

use crate::vocabulary::Vocabulary;
use crate::{parallel, tokens, Error, Result};

/// Values a piece of work fills at least, so that threads are not started for next to nothing.
const PIECE: usize = 1 << 15;

/// A frozen n-gram model of K experts, one per order. Every expert is a normalised distribution over
/// the vocabulary in every context.
pub trait Oracle: Send + Sync {
    /// The name that `--estimator` selects it by.
    fn estimator(&self) -> &'static str;

    /// What its token ids mean, as far as its file says.
    fn vocabulary(&self) -> &Vocabulary;

    fn vocab_size(&self) -> usize {
        self.vocabulary().size
    }

    /// Ascending.
    fn orders(&self) -> &[usize];

    /// What `oracle inspect` shows beyond the above.
    fn info(&self) -> Info;

    /// Writes ln p_k(tokens[i] | tokens[..i]) for each `i` of `range` to `out[k][i - range.start]`.
    ///
    /// The caller has checked that tokens are below the vocabulary's size, that the range lies within
    /// the tokens, and that `out` holds K slices of `range.len()`.
    fn target_kernel(&self, tokens: &[u16], range: Range<usize>, out: &mut [&mut [f32]]);

    /// Writes ln p_k(v | tokens[..positions[m]]) to `out[k][m * V + v]`; checked by the caller likewise,
    /// positions being at most `tokens.len()`.
    fn rows_kernel(&self, tokens: &[u16], positions: &[usize], out: &mut [&mut [f32]]);

    /// Writes Σ_k weights[k][m] · p_k(v | tokens[..positions[m]]) to `out[m * V + v]`: probabilities, not
    /// logarithms. Checked by the caller likewise. An estimator that can avoid making the K rows should.
    fn mixture_kernel(&self, tokens: &[u16], positions: &[usize], weights: &[&[f32]], out: &mut [f32]) {
        let vocab_size = self.vocab_size();
        let mut rows = vec![0f32; self.orders().len() * vocab_size];
        for (index, (position, out)) in positions.iter().zip(out.chunks_exact_mut(vocab_size)).enumerate() {
            let mut planes: Vec<&mut [f32]> = rows.chunks_exact_mut(vocab_size).collect();
            self.rows_kernel(tokens, std::slice::from_ref(position), &mut planes);
            out.fill(0.0);
            for (row, weights) in planes.iter().zip(weights) {
                let weight = weights[index];
                out.iter_mut().zip(row.iter()).for_each(|(sum, log_prob)| *sum += weight * log_prob.exp());
            }
        }
    }

    /// The tables, for an estimator that is one dense row per context.
    fn dense(&self) -> Option<&dense::DenseOracle> {
        None
    }
}

/// Reads an oracle file of any kind, which its first bytes tell. `what` names the data in errors.
pub fn load(data: &[u8], what: &str, threads: usize, control: &parallel::Control) -> Result<Box<dyn Oracle>> {
    match data {
        _ if [packed::MAGIC, packed::MAGIC_WITHOUT_IDENTITY].iter().any(|magic| data.starts_with(magic)) => {
            Ok(Box::new(packed::decode(data, what, threads)?))
        }
        _ if data.starts_with(&sparse::format::MAGIC) => {
            Ok(Box::new(sparse::format::decode(data, what, control)?))
        }
        _ if data.starts_with(&ZSTD_MAGIC) => Ok(Box::new(ngor::decode(data, what)?)),
        _ => Err(Error::format(what, "not an oracle: it begins like none of the formats known here")),
    }
}

/// A zstd frame's first bytes.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A self-describing value, so that each estimator can report what only it has.
#[derive(Debug, Clone, PartialEq)]
pub enum Info {
    Int(u64),
    Float(f64),
    Text(String),
    List(Vec<Info>),
    Map(Vec<(&'static str, Info)>),
}

/// ln p_k(tokens[start + j] | tokens[..start + j]) as `out[k * (N - start) + j]`: shape [K, N - start].
pub fn target_log_probs(
    oracle: &dyn Oracle,
    tokens: &[u16],
    start: usize,
    threads: usize,
    out: &mut [f32],
) -> Result<()> {
    check_tokens(tokens, oracle.vocab_size())?;
    if start > tokens.len() {
        return Err(Error::input(format!("start {start} lies beyond the {} tokens", tokens.len())));
    }
    let targets = tokens.len() - start;
    check_length(out, &[oracle.orders().len(), targets])?;
    parallel::for_each(threads, pieces(out, targets, 1, threads), |mut piece| {
        let range = start + piece.range.start..start + piece.range.end;
        oracle.target_kernel(tokens, range, &mut piece.planes);
        Ok(())
    })
}

/// ln p_k(v | tokens[..positions[m]]) as `out[(k * M + m) * V + v]`: shape [K, M, V].
pub fn log_probs(
    oracle: &dyn Oracle,
    tokens: &[u16],
    positions: &[usize],
    threads: usize,
    out: &mut [f32],
) -> Result<()> {
    check_tokens(tokens, oracle.vocab_size())?;
    check_positions(positions, tokens.len())?;
    check_length(out, &[oracle.orders().len(), positions.len(), oracle.vocab_size()])?;
    parallel::for_each(threads, pieces(out, positions.len(), oracle.vocab_size(), threads), |mut piece| {
        oracle.rows_kernel(tokens, &positions[piece.range.clone()], &mut piece.planes);
        Ok(())
    })
}

/// The mixture Σ_k w_k p_k(v | tokens[..positions[m]]) as `out[m * V + v]`: shape [M, V], probabilities.
///
/// `weights[k * M + m]` are those of expert k at position m, non-negative and finite.
pub fn mixture(
    oracle: &dyn Oracle,
    tokens: &[u16],
    positions: &[usize],
    weights: &[f32],
    threads: usize,
    out: &mut [f32],
) -> Result<()> {
    let (experts, columns, vocab_size) = (oracle.orders().len(), positions.len(), oracle.vocab_size());
    check_tokens(tokens, vocab_size)?;
    check_positions(positions, tokens.len())?;
    check_length(weights, &[experts, columns])?;
    check_length(out, &[columns, vocab_size])?;
    if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
        return Err(Error::input(format!("{weight} is no weight of a mixture")));
    }
    parallel::for_each(threads, pieces(out, columns, vocab_size, threads), |mut piece| {
        let weights: Vec<&[f32]> =
            weights.chunks_exact(columns).map(|weights| &weights[piece.range.clone()]).collect();
        for out in &mut piece.planes {
            oracle.mixture_kernel(tokens, &positions[piece.range.clone()], &weights, out);
        }
        Ok(())
    })
}

/// A range of the columns of a [K, columns, width] array, and its K stretches of memory.
struct Piece<'a> {
    range: Range<usize>,
    planes: Vec<&'a mut [f32]>,
}

fn pieces(out: &mut [f32], columns: usize, width: usize, threads: usize) -> Vec<Piece<'_>> {
    if columns == 0 || width == 0 || out.is_empty() {
        return Vec::new();
    }
    // A few pieces per thread even out what other programs take from some of the cores.
    let wanted = if threads <= 1 { 1 } else { (threads * 4).min(out.len().div_ceil(PIECE)) };
    let step = columns.div_ceil(wanted.clamp(1, columns));
    let mut pieces: Vec<Piece> = (0..columns)
        .step_by(step)
        .map(|first| Piece { range: first..columns.min(first + step), planes: Vec::new() })
        .collect();
    for plane in out.chunks_exact_mut(columns * width) {
        for (piece, part) in pieces.iter_mut().zip(plane.chunks_mut(step * width)) {
            piece.planes.push(part);
        }
    }
    pieces
}

pub(crate) fn check_tokens(stream: &[u16], vocab_size: usize) -> Result<()> {
    match tokens::out_of_vocabulary(stream, vocab_size) {
        Some(index) => Err(Error::input(format!(
            "token {} at position {index} is outside the vocabulary of {vocab_size}",
            stream[index]
        ))),
        None => Ok(()),
    }
}

fn check_positions(positions: &[usize], length: usize) -> Result<()> {
    match positions.iter().find(|&&position| position > length) {
        Some(position) => {
            Err(Error::input(format!("position {position} lies beyond the stream's {length} tokens")))
        }
        None => Ok(()),
    }
}

fn check_length(out: &[f32], shape: &[usize]) -> Result<()> {
    let wanted = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
    if wanted != Some(out.len()) {
        return Err(Error::input(format!("the result's shape {shape:?} doesn't fit {} values", out.len())));
    }
    Ok(())
}
