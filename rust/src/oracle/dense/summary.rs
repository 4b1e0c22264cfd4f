//! Figures of a dense table: how full it is, and what it knows beyond the unigram.

use super::levels::STEP;
use super::ngor_packed;
use super::table::Table;
use crate::oracle::interface::Info;

const BITS: f64 = std::f64::consts::LOG2_E;

/// Figures of one table; `unigram` is the lowest order's, against which the others are held.
pub fn table(
    table: &Table,
    log_sums: &[f32],
    unigram: &Table,
    vocab_size: usize,
) -> Vec<(&'static str, Info)> {
    let reference = (unigram.order == 1).then(|| log_probabilities(&unigram.cells));
    let (mut used_rows, mut used_cells) = (0u64, 0u64);
    let (mut entropy, mut gain, mut weight) = (0.0, 0.0, 0.0);
    let mut tokens = 0.0;
    let weights: [f64; 256] = std::array::from_fn(|bits| (f64::from(bits as u8 as i8) * STEP).exp());
    for (row, &log_sum) in table.cells.chunks_exact(vocab_size).zip(log_sums) {
        // An unseen token of a row that saw S tokens has probability 1 / (S + V), so the lowest level
        // tells how many tokens the row saw, to the step's ±4%, and at least that many at the clamp.
        let floor = row.iter().copied().min().unwrap_or(0);
        let seen = ((-f64::from(floor) * STEP).exp() - vocab_size as f64).max(0.0);
        let above = row.iter().filter(|&&cell| cell > floor).count() as u64;
        if above == 0 {
            continue;
        }
        used_rows += 1;
        used_cells += above;
        tokens += seen;
        let (mut row_entropy, mut row_gain) = (0.0, 0.0);
        let scale = (-f64::from(log_sum)).exp();
        for (token, &cell) in row.iter().enumerate() {
            let log_probability = f64::from(cell) * STEP - f64::from(log_sum);
            let probability = weights[usize::from(cell as u8)] * scale;
            row_entropy -= probability * log_probability;
            if let Some(reference) = &reference {
                row_gain += probability * (log_probability - reference[token]);
            }
        }
        entropy += seen * row_entropy;
        gain += seen * row_gain;
        weight += seen;
    }
    let mean = |sum: f64| if weight > 0.0 { sum / weight * BITS } else { 0.0 };
    let mut figures = vec![
        ("order", Info::Int(table.order as u64)),
        ("rows", Info::Int(u64::from(table.rows))),
        ("used_rows", Info::Int(used_rows)),
        ("used_cells", Info::Int(used_cells)),
        ("cells", Info::Int(table.cells.len() as u64)),
        ("tokens_estimate", Info::Int(tokens as u64)),
        ("entropy_bits", Info::Float(mean(entropy))),
        ("packed_bytes", Info::Int(ngor_packed::table_bytes(table, unigram, vocab_size))),
    ];
    if reference.is_some() {
        figures.push(("gain_over_unigram_bits", Info::Float(mean(gain).max(0.0))));
    }
    figures
}

/// Renormalised log-probabilities (nats) of one row.
fn log_probabilities(row: &[i8]) -> Vec<f64> {
    let log_sum = row.iter().map(|&cell| (f64::from(cell) * STEP).exp()).sum::<f64>().ln();
    row.iter().map(|&cell| f64::from(cell) * STEP - log_sum).collect()
}
