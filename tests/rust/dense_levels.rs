//! Rounding to int8, in the corners and against the formula.

use hybridlm_core::oracle::dense::levels::{log_sums, quantise, quantise_row, STEP};

#[test]
fn corners() {
    // 1/1024 is ln 2^-10 = -6.931..., 88.03 steps.
    assert_eq!(quantise(0, 0, 1024), -88);
    assert_eq!(quantise(u64::MAX / 2, u64::MAX / 2, 2), 0);
    // Below e^-10 everything is the clamp.
    assert_eq!(quantise(0, 21_002, 1024), -127);
    assert_eq!(quantise(0, u64::MAX / 2, 1024), -127);
}

#[test]
fn rows_are_quantised_cell_by_cell() {
    let counts: Vec<u64> = (0..512).map(|i| if i % 3 == 0 { 0 } else { i * i * 7 }).collect();
    for row in counts.chunks(128) {
        let mut cells = vec![1i8; 128];
        quantise_row(row, &mut cells);
        let total = row.iter().sum();
        assert!(row.iter().zip(cells).all(|(&count, cell)| cell == quantise(count, total, 128)));
    }
}

#[test]
fn a_rows_log_sum_is_that_of_its_levels() {
    let cells: Vec<i8> = (0..256).map(|i| -(i % 128) as i8).collect();
    for (row, log_sum) in cells.chunks(64).zip(log_sums(&cells, 64)) {
        let sum: f64 = row.iter().map(|&cell| (f64::from(cell) * STEP).exp()).sum();
        assert!((sum.ln() - f64::from(log_sum)).abs() < 1e-6);
    }
}
