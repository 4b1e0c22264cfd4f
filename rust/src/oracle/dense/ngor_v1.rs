//! The file format NGOR, version 1: dense tables in one zstd frame.
//!
//! Inside the frame, little-endian: u32 magic, u32 number of tables, then per table u32 order, u32 rows,
//! u32 columns and rows × columns int8, orders ascending.

use super::contexts::MAX_ORDER;
use super::table::{check_shape, DenseTables, Table};
use crate::bytes::{Fields, Reader};
use crate::parallel::Control;
use crate::{zstd_frame, Error, Result};

pub const MAGIC: u32 = 0x4E47_4F52;

/// What a reader will unpack at most, and so what a writer will pack at most.
pub const MAX_BYTES: usize = 1 << 30;

const HEADER_BYTES: usize = 8;
const TABLE_HEADER_BYTES: usize = 12;

/// Writes the tables, orders ascending, compressed at a zstd level.
pub fn encode(
    vocab_size: usize,
    tables: &[Table],
    zstd_level: i32,
    threads: usize,
    control: &Control,
) -> Result<Vec<u8>> {
    let cells: usize = tables.iter().map(|table| table.cells.len()).sum();
    let bytes = HEADER_BYTES + TABLE_HEADER_BYTES * tables.len() + cells;
    if bytes > MAX_BYTES {
        return Err(Error::input(format!(
            "tables of {bytes} bytes are too large for a dense oracle, which has up to {MAX_BYTES}; use fewer rows"
        )));
    }
    let mut content = Vec::with_capacity(bytes);
    let word = |content: &mut Vec<u8>, value: usize| content.extend((value as u32).to_le_bytes());
    word(&mut content, MAGIC as usize);
    word(&mut content, tables.len());
    for table in tables {
        word(&mut content, table.order);
        word(&mut content, table.rows as usize);
        word(&mut content, vocab_size);
        content.extend(table.cells.iter().map(|&cell| cell as u8));
    }
    zstd_frame::compress_on_threads(content, zstd_level, threads, control)
}

/// Reads what [`encode`] wrote. `what` names the data in errors.
pub fn decode(data: &[u8], what: &str) -> Result<DenseTables> {
    parse(&zstd_frame::decompress(data, MAX_BYTES, what)?, what)
}

/// Reads what is inside the frame.
pub fn parse(content: &[u8], what: &str) -> Result<DenseTables> {
    let mut reader = Reader::new(content, what);
    let magic = reader.u32("the magic number")?;
    if magic != MAGIC {
        return Err(reader.error(format!("the magic number is {magic:#010x}, not {MAGIC:#010x}")));
    }
    let count = reader.u32("the number of tables")? as usize;
    if !(1..=MAX_ORDER).contains(&count) {
        return Err(reader.error(format!("{count} tables, where 1 to {MAX_ORDER} are possible")));
    }
    let mut tables: Vec<Table> = Vec::with_capacity(count);
    let mut vocab_size = None;
    for _ in 0..count {
        let order = reader.u32("a table's order")? as usize;
        let rows = reader.u32("a table's rows")?;
        let columns = reader.u32("a table's columns")? as usize;
        check_shape(order, rows, columns).map_err(|error| reader.error(error))?;
        if *vocab_size.get_or_insert(columns) != columns {
            return Err(reader.error(format!("{columns} columns where the first table has others")));
        }
        if tables.last().is_some_and(|last| last.order >= order) {
            return Err(reader.error(format!("order {order} is out of order")));
        }
        // Below 2^32 by `check_shape`.
        let cells = reader.take(rows as usize * columns, &format!("the table of order {order}"))?;
        tables.push(Table { order, rows, cells: cells.iter().map(|&cell| cell as i8).collect() });
    }
    reader.end()?;
    let tables = DenseTables::new(vocab_size.unwrap_or_default(), tables);
    tables.map_err(|error| Error::format(what, error))
}
