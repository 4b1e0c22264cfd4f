//! The tables of a dense oracle: int8 log-probabilities, one row per class of contexts.

use super::contexts::MAX_ORDER;
use super::levels;
use crate::vocabulary::Vocabulary;
use crate::{Error, Result};

/// One order's quantised log-probabilities, `rows` × `vocab_size`, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub order: usize,
    pub rows: u32,
    pub cells: Vec<i8>,
}

/// Valid tables of one vocabulary, ready to be looked up: rounding to int8 leaves row sums of 0.98 to 1.06, so each
/// row carries the logarithm of its sum and every look-up subtracts it.
#[derive(Debug)]
pub struct DenseTables {
    vocabulary: Vocabulary,
    tables: Vec<Table>,
    /// Per table, per row: ln Σ exp(dequantised).
    log_sums: Vec<Vec<f32>>,
    /// Tokens counted, where the file says.
    tokens: Option<u64>,
}

impl DenseTables {
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
            if let Some(cell) = table.cells.iter().find(|&&cell| !levels::is_level(cell)) {
                return Err(Error::input(format!(
                    "order {}: {cell} is no quantised log-probability, which lie in -127..=0",
                    table.order
                )));
            }
        }
        let log_sums = tables.iter().map(|table| levels::log_sums(&table.cells, vocab_size)).collect();
        Ok(Self { vocabulary, tables, log_sums, tokens: None })
    }

    pub fn with_tokens(self, tokens: u64) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Tokens counted, where the file says.
    pub fn tokens(&self) -> Option<u64> {
        self.tokens
    }

    /// Orders ascending.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Each table with its log-sums.
    pub fn iter(&self) -> impl Iterator<Item = (&Table, &[f32])> {
        self.tables.iter().zip(self.log_sums.iter().map(Vec::as_slice))
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
