//! The dense estimator: for each order a table of int8 log-probabilities, one row per hashed context.

use std::ops::Range;

use super::{mix, Info, Oracle};
use crate::hash::{self, MAX_ORDER};
use crate::quant;
use crate::vocabulary::Vocabulary;
use crate::{Error, Result};

/// One order's quantised log-probabilities, `rows` × `vocab_size`, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub order: usize,
    pub rows: u32,
    pub cells: Vec<i8>,
}

/// Tables ready to be looked up: rounding to int8 leaves row sums of 0.98 to 1.06, so each row carries
/// the logarithm of its sum and every look-up subtracts it.
#[derive(Debug)]
pub struct DenseOracle {
    vocabulary: Vocabulary,
    orders: Vec<usize>,
    tables: Vec<Table>,
    /// Per table, per row: ln Σ exp(dequantised).
    log_sums: Vec<Vec<f32>>,
    /// Tokens counted, where the file says.
    tokens: Option<u64>,
}

/// Positions looked up at a time, so that their rows stay in the first-level cache.
const BLOCK: usize = 1024;

impl DenseOracle {
    /// `tables` in any order; each must be a valid one and no order may appear twice.
    pub fn new(vocabulary: impl Into<Vocabulary>, mut tables: Vec<Table>) -> Result<Self> {
        let vocabulary = vocabulary.into();
        let vocab_size = vocabulary.size;
        tables.sort_by_key(|table| table.order);
        if tables.is_empty() {
            return Err(Error::input("an oracle needs at least one table"));
        }
        for pair in tables.windows(2) {
            if pair[0].order == pair[1].order {
                return Err(Error::input(format!("order {} appears twice", pair[0].order)));
            }
        }
        for table in &tables {
            check_shape(table.order, table.rows, vocab_size)?;
            if table.cells.len() != table.rows as usize * vocab_size {
                return Err(Error::input(format!("order {}: cells don't fill the table", table.order)));
            }
            if let Some(cell) = table.cells.iter().find(|&&cell| !quant::is_level(cell)) {
                return Err(Error::input(format!(
                    "order {}: {cell} is no quantised log-probability, which lie in -127..=0",
                    table.order
                )));
            }
        }
        let log_sums = tables.iter().map(|table| quant::log_sums(&table.cells, vocab_size)).collect();
        let orders = tables.iter().map(|table| table.order).collect();
        Ok(Self { vocabulary, orders, tables, log_sums, tokens: None })
    }

    pub fn with_tokens(self, tokens: u64) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Writes the log-probability of each token, given the row of its context; up to a block of them.
    fn look_up(&self, table: &[i8], log_sums: &[f32], rows: &[u32], tokens: &[u16], out: &mut [f32]) {
        let vocab_size = self.vocabulary.size as u32;
        let (mut places, mut cells) = ([0u32; BLOCK], [0i8; BLOCK]);
        hash::wide_registers(
            #[inline(always)]
            || {
                // One thing at a time: the look-ups overlap in memory, and the arithmetic vectorises. So do the
                // maxima, and one check of each a block is cheaper than one a look-up.
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
                    *value = f32::from(cell) * quant::STEP as f32 - *value;
                }
            },
        );
    }

    /// Per row of the table at `index`, ln Σ exp(dequantised).
    pub fn log_sums(&self, index: usize) -> &[f32] {
        &self.log_sums[index]
    }
}

/// The facts of the format: order 1 is one row, order 2 has the previous token as its row.
pub fn check_shape(order: usize, rows: u32, vocab_size: usize) -> Result<()> {
    if !(2..=1 << 16).contains(&vocab_size) {
        return Err(Error::input(format!("a vocabulary has 2 to 65536 tokens, not {vocab_size}")));
    }
    if !(1..=MAX_ORDER).contains(&order) {
        return Err(Error::input(format!("orders run from 1 to {MAX_ORDER}, not {order}")));
    }
    match order {
        1 if rows != 1 => Err(Error::input(format!("order 1 has one row, not {rows}"))),
        2 if rows as usize != vocab_size => {
            Err(Error::input(format!("order 2 has a row per token, {vocab_size}, not {rows}")))
        }
        _ if rows == 0 => Err(Error::input(format!("order {order} has no rows"))),
        // Cells are numbered with 32 bits.
        _ if u64::from(rows) * vocab_size as u64 > u64::from(u32::MAX) => {
            Err(Error::input(format!("order {order}: {rows} rows of {vocab_size} are more than 2^32 cells")))
        }
        _ => Ok(()),
    }
}

impl Oracle for DenseOracle {
    fn estimator(&self) -> &'static str {
        "dense"
    }

    fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn orders(&self) -> &[usize] {
        &self.orders
    }

    fn info(&self) -> Info {
        let tables = self.tables.iter().zip(&self.log_sums).map(|(table, log_sums)| {
            Info::Map(super::survey::table(table, log_sums, &self.tables[0], self.vocabulary.size))
        });
        let mut info = vec![("tables", Info::List(tables.collect()))];
        if let Some(tokens) = self.tokens {
            info.insert(0, ("tokens", Info::Int(tokens)));
        }
        Info::Map(info)
    }

    fn target_kernel(&self, tokens: &[u16], range: Range<usize>, out: &mut [&mut [f32]]) {
        let mut rows = [0u32; BLOCK];
        for ((table, log_sums), out) in self.tables.iter().zip(&self.log_sums).zip(out) {
            for (index, values) in out.chunks_mut(BLOCK).enumerate() {
                let first = range.start + index * BLOCK;
                let block = first..first + values.len();
                let rows = &mut rows[..block.len()];
                hash::context_rows_in(tokens, block.clone(), table.order, table.rows, rows);
                self.look_up(&table.cells, log_sums, rows, &tokens[block], values);
            }
        }
    }

    fn rows_kernel(&self, tokens: &[u16], positions: &[usize], out: &mut [&mut [f32]]) {
        for ((table, log_sums), out) in self.tables.iter().zip(&self.log_sums).zip(out) {
            for (values, &position) in out.chunks_exact_mut(self.vocabulary.size).zip(positions) {
                let row = hash::context_row_at(tokens, position, table.order, table.rows) as usize;
                let cells = &table.cells[row * self.vocabulary.size..][..self.vocabulary.size];
                for (value, &level) in values.iter_mut().zip(cells) {
                    *value = f32::from(level) * quant::STEP as f32 - log_sums[row];
                }
            }
        }
    }

    fn mixture_kernel(&self, tokens: &[u16], positions: &[usize], weights: &[&[f32]], out: &mut [f32]) {
        let mut rows: Vec<mix::Row> = Vec::with_capacity(self.tables.len());
        for (index, (&position, out)) in
            positions.iter().zip(out.chunks_exact_mut(self.vocabulary.size)).enumerate()
        {
            rows.clear();
            for ((table, log_sums), weights) in self.tables.iter().zip(&self.log_sums).zip(weights) {
                let row = hash::context_row_at(tokens, position, table.order, table.rows) as usize;
                let cells = &table.cells[row * self.vocabulary.size..][..self.vocabulary.size];
                rows.push(mix::Row { cells, scale: weights[index] * (-log_sums[row]).exp() });
            }
            mix::mix(&rows, out);
        }
    }

    fn dense(&self) -> Option<&DenseOracle> {
        Some(self)
    }
}
