//! Laplace-smoothed log-probabilities as int8, and back.
//!
//! lp = ln((c + 1) / (Σc + V)) in float64, clamped to [−10, 0], stored as lp / (10 / 127) rounded to the
//! nearest integer, ties to even. All of this is part of the file format.

pub const FLOOR: f64 = -10.0;
pub const STEP: f64 = 10.0 / 127.0;

/// Counts up to here are quantised once per row; nearly all cells are among them.
const SMALL: usize = 64;

pub fn quantise(count: u64, row_total: u64, vocab_size: usize) -> i8 {
    // Two u64s below 2^63 and a small number: the sums stay exact until they leave the 53 bits of a
    // float64, and from there the quotient is off by one part in 2^53.
    let probability = (count as f64 + 1.0) / (row_total as f64 + vocab_size as f64);
    (probability.ln().clamp(FLOOR, 0.0) / STEP).round_ties_even() as i8
}

/// Quantises a whole row, one count for each token of the vocabulary.
pub fn quantise_row(counts: &[u64], out: &mut [i8]) {
    let (total, vocab_size) = (counts.iter().sum(), counts.len());
    let small: [i8; SMALL] = std::array::from_fn(|count| quantise(count as u64, total, vocab_size));
    for (&count, level) in counts.iter().zip(out) {
        *level = match small.get(count as usize) {
            Some(&level) => level,
            None => quantise(count, total, vocab_size),
        };
    }
}

pub fn is_level(cell: i8) -> bool {
    (-127..=0).contains(&cell)
}

/// Per row, ln Σ exp(dequantised), computed in float64.
pub fn log_sums(cells: &[i8], vocab_size: usize) -> Vec<f32> {
    let weights: [f64; 256] = std::array::from_fn(|bits| (f64::from(bits as u8 as i8) * STEP).exp());
    let row_sum = |row: &[i8]| row.iter().map(|&cell| weights[usize::from(cell as u8)]).sum::<f64>();
    cells.chunks_exact(vocab_size).map(|row| row_sum(row).ln() as f32).collect()
}
