//! Looking up in any oracle, on any number of threads.
//!
//! These functions check the arguments, cut the work into pieces and run the oracle's kernels on them. Callers use
//! these functions and not the kernels.

use std::ops::Range;

use crate::oracle::interface::Oracle;
use crate::tokens::check_tokens;
use crate::{parallel, Error, Result};

/// The least values that a piece of work fills, so that no thread is started for next to nothing.
const PIECE: usize = 1 << 15;

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
    // With a few pieces per thread, a core that other programs slow down delays the whole less.
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
