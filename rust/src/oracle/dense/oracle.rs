//! The dense estimator's oracle: for each order a table of int8 log-probabilities, one row per class of contexts.

use std::ops::Range;

use super::contexts;
use super::levels::STEP;
use super::row_mixture::{mix_rows, Row};
use super::summary;
use super::table::DenseTables;
use crate::oracle::interface::{Info, Oracle};
use crate::simd;
use crate::vocabulary::Vocabulary;

/// The oracle that tables are.
#[derive(Debug)]
pub struct DenseOracle {
    orders: Vec<usize>,
    tables: DenseTables,
}

impl From<DenseTables> for DenseOracle {
    fn from(tables: DenseTables) -> Self {
        Self { orders: tables.tables().iter().map(|table| table.order).collect(), tables }
    }
}

/// Positions looked up at a time, so that their rows stay in the first-level cache.
const BLOCK: usize = 1024;

impl DenseOracle {
    /// Writes the log-probability of each token, given the row of its context; up to a block of them.
    fn look_up(&self, table: &[i8], log_sums: &[f32], rows: &[u32], tokens: &[u16], out: &mut [f32]) {
        let vocab_size = self.vocab_size() as u32;
        let (mut places, mut cells) = ([0u32; BLOCK], [0i8; BLOCK]);
        simd::wide_registers(
            #[inline(always)]
            || {
                // In separate passes the loads overlap, and the arithmetic and the maxima vectorise. One bounds
                // check per block is cheaper than one per look-up.
                let (mut largest_row, mut largest_place) = (0, 0);
                for ((place, &row), &token) in places.iter_mut().zip(rows).zip(tokens) {
                    *place = row * vocab_size + u32::from(token);
                    largest_row = largest_row.max(row);
                    largest_place = largest_place.max(*place);
                }
                assert!((largest_place as usize) < table.len() && (largest_row as usize) < log_sums.len());
                for (cell, &place) in cells[..rows.len()].iter_mut().zip(&places) {
                    // SAFETY: no place exceeds the largest, which has been checked.
                    *cell = unsafe { *table.get_unchecked(place as usize) };
                }
                for (value, &row) in out.iter_mut().zip(rows) {
                    // SAFETY: as above.
                    *value = unsafe { *log_sums.get_unchecked(row as usize) };
                }
                for (value, &cell) in out.iter_mut().zip(&cells) {
                    *value = f32::from(cell) * STEP as f32 - *value;
                }
            },
        );
    }
}

impl Oracle for DenseOracle {
    fn estimator(&self) -> &'static str {
        "dense"
    }

    fn vocabulary(&self) -> &Vocabulary {
        self.tables.vocabulary()
    }

    fn orders(&self) -> &[usize] {
        &self.orders
    }

    fn info(&self) -> Info {
        let tables = self.tables.iter().map(|(table, log_sums)| {
            Info::Map(summary::table(table, log_sums, &self.tables.tables()[0], self.vocab_size()))
        });
        let mut info = vec![("tables", Info::List(tables.collect()))];
        if let Some(tokens) = self.tables.tokens() {
            info.insert(0, ("tokens", Info::Int(tokens)));
        }
        Info::Map(info)
    }

    fn target_kernel(&self, tokens: &[u16], range: Range<usize>, out: &mut [&mut [f32]]) {
        let mut rows = [0u32; BLOCK];
        for ((table, log_sums), out) in self.tables.iter().zip(out) {
            for (index, values) in out.chunks_mut(BLOCK).enumerate() {
                let first = range.start + index * BLOCK;
                let block = first..first + values.len();
                let rows = &mut rows[..block.len()];
                contexts::context_rows_in(tokens, block.clone(), table.order, table.rows, rows);
                self.look_up(&table.cells, log_sums, rows, &tokens[block], values);
            }
        }
    }

    fn rows_kernel(&self, tokens: &[u16], positions: &[usize], out: &mut [&mut [f32]]) {
        for ((table, log_sums), out) in self.tables.iter().zip(out) {
            for (values, &position) in out.chunks_exact_mut(self.vocab_size()).zip(positions) {
                let row = contexts::context_row_at(tokens, position, table.order, table.rows) as usize;
                let cells = &table.cells[row * self.vocab_size()..][..self.vocab_size()];
                for (value, &level) in values.iter_mut().zip(cells) {
                    *value = f32::from(level) * STEP as f32 - log_sums[row];
                }
            }
        }
    }

    fn mixture_kernel(&self, tokens: &[u16], positions: &[usize], weights: &[&[f32]], out: &mut [f32]) {
        let mut rows: Vec<Row> = Vec::with_capacity(self.orders.len());
        for (index, (&position, out)) in
            positions.iter().zip(out.chunks_exact_mut(self.vocab_size())).enumerate()
        {
            rows.clear();
            for ((table, log_sums), weights) in self.tables.iter().zip(weights) {
                let row = contexts::context_row_at(tokens, position, table.order, table.rows) as usize;
                let cells = &table.cells[row * self.vocab_size()..][..self.vocab_size()];
                rows.push(Row { cells, scale: weights[index] * (-log_sums[row]).exp() });
            }
            mix_rows(&rows, out);
        }
    }

    fn dense(&self) -> Option<&DenseTables> {
        Some(&self.tables)
    }
}
