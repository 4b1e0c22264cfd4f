//! Mixes whole rows of tables without making the rows.
//!
//! A row's probabilities are exponentials of 128 levels. Instead of looking each up in memory, three tables
//! of eight floats, which fit registers, give it as a product over the level's bits: e^(−l·step) is
//! low[l mod 8] · middle[l / 8 mod 8] · high[l / 64].

use super::levels::STEP;

/// Tokens in a 256-bit register.
const LANES: usize = 8;

/// Registers of tokens that are mixed at a time, so that what a row costs once is shared by many tokens.
const REGISTERS: usize = 4;

/// One row, and the factor of its exponentials.
pub struct Row<'a> {
    pub cells: &'a [i8],
    /// The expert's weight over the row's sum.
    pub scale: f32,
}

fn powers(step: f64) -> [f32; LANES] {
    std::array::from_fn(|index| (-(index as f64) * step * STEP).exp() as f32)
}

/// Writes Σ_rows scale · e^(cell · step) for every token.
pub fn mix_rows(rows: &[Row], out: &mut [f32]) {
    let (low, middle) = (powers(1.0), powers(8.0));
    let step = powers(64.0)[1];
    #[cfg(target_arch = "x86_64")]
    if cfg!(not(feature = "portable")) && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature.
        return unsafe { mix_rows_avx2(rows, &low, &middle, step, out) };
    }
    mix_rows_from(0, rows, &low, &middle, step, out);
}

/// The definition; the same operations in the same order as with registers, so the same floats.
fn mix_rows_from(first: usize, rows: &[Row], low: &[f32; 8], middle: &[f32; 8], step: f32, out: &mut [f32]) {
    for (token, value) in out.iter_mut().enumerate().skip(first) {
        let mut sum = 0.0;
        for row in rows {
            let level = row.cells[token].unsigned_abs() as usize;
            let high = if level >> 6 & 1 == 0 { row.scale } else { row.scale * step };
            sum += low[level & 7] * middle[level >> 3 & 7] * high;
        }
        *value = sum;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn mix_rows_avx2(rows: &[Row], low: &[f32; 8], middle: &[f32; 8], step: f32, out: &mut [f32]) {
    use std::arch::x86_64::*;

    const TOKENS: usize = LANES * REGISTERS;
    let whole = out.len() - out.len() % TOKENS;
    // SAFETY: both arrays are one register long; unaligned loads need no more.
    let (low_register, middle_register) =
        unsafe { (_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(middle.as_ptr())) };
    for (first, out) in (0..).step_by(TOKENS).zip(out[..whole].chunks_exact_mut(TOKENS)) {
        let mut sums = [_mm256_setzero_ps(); REGISTERS];
        for row in rows {
            let (scale, scale_step) = (_mm256_set1_ps(row.scale), _mm256_set1_ps(row.scale * step));
            let cells = row.cells[first..first + TOKENS].chunks_exact(LANES);
            for (sum, cells) in sums.iter_mut().zip(cells) {
                // SAFETY: eight bytes are there.
                let cells = unsafe { _mm_loadl_epi64(cells.as_ptr().cast()) };
                let level = _mm256_abs_epi32(_mm256_cvtepi8_epi32(cells));
                // Permutations look at the lowest three bits of an index only.
                let fine = _mm256_permutevar8x32_ps(low_register, level);
                let coarse = _mm256_permutevar8x32_ps(middle_register, _mm256_srli_epi32::<3>(level));
                // Bit 6 becomes the sign, which is what blending looks at.
                let bit = _mm256_castsi256_ps(_mm256_slli_epi32::<25>(level));
                let high = _mm256_blendv_ps(scale, scale_step, bit);
                *sum = _mm256_add_ps(*sum, _mm256_mul_ps(_mm256_mul_ps(fine, coarse), high));
            }
        }
        for (out, sum) in out.chunks_exact_mut(LANES).zip(sums) {
            // SAFETY: eight floats are there.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
        }
    }
    mix_rows_from(whole, rows, low, middle, step, out);
}
