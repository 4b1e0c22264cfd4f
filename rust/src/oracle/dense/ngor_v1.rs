//! The file format NGOR, version 1: dense tables in one zstd frame.
//!
//! Inside the frame, little-endian: u32 magic, u32 number of tables, then per table u32 order, u32 rows,
//! u32 columns and rows × columns int8, orders ascending.

use std::io::Read;

use super::contexts::MAX_ORDER;
use super::table::{check_shape, DenseTables, Table};
use crate::bytes::{Fields, Reader};
use crate::parallel::Control;
use crate::zstd_frame::{self, LIMIT_VARIABLE};
use crate::{Error, Result};

pub const MAGIC: u32 = 0x4E47_4F52;

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
    check_size(bytes)?;
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

/// Refuses tables of more bytes than a reader would take; a few kilobytes can unpack to any number of them.
pub(super) fn check_size(bytes: usize) -> Result<()> {
    let most = zstd_frame::limit()?;
    if bytes <= most {
        return Ok(());
    }
    Err(Error::input(format!(
        "tables of {bytes} bytes are more than the {most} that a dense oracle may have; {LIMIT_VARIABLE} allows more"
    )))
}

/// Reads what [`encode`] wrote. `what` names the data in errors.
pub fn decode(data: &[u8], what: &str) -> Result<DenseTables> {
    // The tables themselves are checked one by one, so what is declared matters only where it is absurd.
    let most = HEADER_BYTES + TABLE_HEADER_BYTES * MAX_ORDER + zstd_frame::limit()?.max(1 << 30);
    let mut frame = Frame { decoder: zstd_frame::begin(data, most, what)?, offset: 0, what };
    let tables = read_tables(&mut frame)?;
    let mut more = [0];
    match frame.decoder.read(&mut more) {
        Ok(0) => zstd_frame::end(frame.decoder, what)?,
        Ok(_) => {
            return Err(Error::format(
                what,
                format!("bytes follow the end of the data at offset {}", frame.offset),
            ))
        }
        Err(error) => return Err(frame.damaged(&error)),
    }
    DenseTables::new(tables.vocab_size, tables.tables).map_err(|error| Error::format(what, error))
}

/// Reads what is inside the frame.
pub fn parse(content: &[u8], what: &str) -> Result<DenseTables> {
    let mut reader = Reader::new(content, what);
    let tables = read_tables(&mut reader)?;
    reader.end()?;
    DenseTables::new(tables.vocab_size, tables.tables).map_err(|error| Error::format(what, error))
}

/// Fields of a frame that is unpacked as it is read, so that no more than the tables is ever in memory.
struct Frame<'a> {
    decoder: zstd::Decoder<'static, &'a [u8]>,
    offset: usize,
    what: &'a str,
}

impl Frame<'_> {
    fn damaged(&self, error: &std::io::Error) -> Error {
        Error::format(self.what, format!("the zstd frame is damaged: {error}"))
    }
}

impl Fields for Frame<'_> {
    fn fill(&mut self, buffer: &mut [u8], field: &str) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.decoder.read(&mut buffer[filled..]) {
                Ok(0) => {
                    let message = format!("the data ends within {field} at offset {}", self.offset);
                    return Err(Error::format(self.what, message));
                }
                Ok(bytes) => filled += bytes,
                Err(error) => return Err(self.damaged(&error)),
            }
        }
        self.offset += filled;
        Ok(())
    }

    fn error(&self, message: impl ToString) -> Error {
        Error::format(self.what, format!("before offset {}: {}", self.offset, message.to_string()))
    }
}

struct Tables {
    vocab_size: usize,
    tables: Vec<Table>,
}

fn read_tables(fields: &mut impl Fields) -> Result<Tables> {
    let magic = fields.u32("the magic number")?;
    if magic != MAGIC {
        return Err(fields.error(format!("the magic number is {magic:#010x}, not {MAGIC:#010x}")));
    }
    let count = fields.u32("the number of tables")? as usize;
    if !(1..=MAX_ORDER).contains(&count) {
        return Err(fields.error(format!("{count} tables, where 1 to {MAX_ORDER} are possible")));
    }
    let mut tables: Vec<Table> = Vec::with_capacity(count);
    let mut vocab_size = None;
    let mut total = 0;
    for _ in 0..count {
        let order = fields.u32("a table's order")? as usize;
        let rows = fields.u32("a table's rows")?;
        let columns = fields.u32("a table's columns")? as usize;
        check_shape(order, rows, columns).map_err(|error| fields.error(error))?;
        if *vocab_size.get_or_insert(columns) != columns {
            return Err(fields.error(format!("{columns} columns where the first table has others")));
        }
        if tables.last().is_some_and(|last| last.order >= order) {
            return Err(fields.error(format!("order {order} is out of order")));
        }
        // Each product is below 2^32 by `check_shape`, and there are at most eight.
        total += rows as usize * columns;
        check_size(total).map_err(|error| fields.error(error))?;
        let cells = fields.bytes(rows as usize * columns, &format!("the table of order {order}"))?;
        tables.push(Table { order, rows, cells: cells.into_iter().map(|cell| cell as i8).collect() });
    }
    Ok(Tables { vocab_size: vocab_size.unwrap_or_default(), tables })
}
