//! The file format NGOR, version 1: dense tables in one zstd frame.
//!
//! Inside the frame, little-endian: u32 magic, u32 number of tables, then per table u32 order, u32 rows,
//! u32 columns and rows × columns int8, orders ascending.

use super::dense::{check_shape, DenseOracle, Table};
use super::sparse::format;
use super::Oracle;
use crate::files;
use crate::hash::MAX_ORDER;
use crate::parallel::Control;
use crate::{Error, Result};

pub const MAGIC: u32 = 0x4E47_4F52;

/// What a reader will unpack at most, and so what a writer will pack at most.
pub const MAX_BYTES: usize = 1 << 30;

const HEADER_BYTES: usize = 8;
const TABLE_HEADER_BYTES: usize = 12;

/// Writes the tables, orders ascending, compressed at a zstd level.
pub fn encode(vocab_size: usize, tables: &[Table], level: i32, control: &Control) -> Result<Vec<u8>> {
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
    files::compress(&content, level, control)
}

/// Reads what [`encode`] wrote. `what` names the data in errors.
pub fn decode(data: &[u8], what: &str) -> Result<DenseOracle> {
    let content = files::decompress(data, MAX_BYTES, what)?;
    let invalid = |offset: usize, detail: String| {
        Error::format(what, format!("at offset {offset} of the unpacked oracle: {detail}"))
    };
    let mut reader = Reader { content: &content, offset: 0 };
    let short = |reader: &Reader, wanted: usize, field: &str| {
        let left = reader.content.len() - reader.offset;
        invalid(reader.offset, format!("{field} needs {wanted} bytes where {left} are left"))
    };
    let word = |reader: &mut Reader, field: &str| {
        let error = short(reader, 4, field);
        reader.take(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).ok_or(error)
    };
    let magic = word(&mut reader, "the magic number")?;
    if magic != MAGIC {
        return Err(invalid(0, format!("the magic number is {magic:#010x}, not {MAGIC:#010x}")));
    }
    let count = word(&mut reader, "the number of tables")? as usize;
    if !(1..=MAX_ORDER).contains(&count) {
        return Err(invalid(4, format!("{count} tables, where 1 to {MAX_ORDER} are possible")));
    }
    let mut tables: Vec<Table> = Vec::with_capacity(count);
    let mut vocab_size = None;
    for _ in 0..count {
        let at = reader.offset;
        let order = word(&mut reader, "a table's order")? as usize;
        let rows = word(&mut reader, "a table's rows")?;
        let columns = word(&mut reader, "a table's columns")? as usize;
        check_shape(order, rows, columns).map_err(|error| invalid(at, error.to_string()))?;
        if *vocab_size.get_or_insert(columns) != columns {
            return Err(invalid(at + 8, format!("{columns} columns where the first table has others")));
        }
        if tables.last().is_some_and(|last| last.order >= order) {
            return Err(invalid(at, format!("order {order} is out of order")));
        }
        // Below 2^32 by `check_shape`.
        let size = rows as usize * columns;
        let error = short(&reader, size, &format!("the table of order {order}"));
        let bytes = reader.take(size).ok_or(error)?;
        tables.push(Table { order, rows, cells: bytes.iter().map(|&byte| byte as i8).collect() });
    }
    if reader.offset != content.len() {
        let left = content.len() - reader.offset;
        return Err(invalid(reader.offset, format!("{left} bytes follow the last table")));
    }
    let oracle = DenseOracle::new(vocab_size.unwrap_or_default(), tables);
    oracle.map_err(|error| Error::format(what, error))
}

/// Reads an oracle of any kind, which its first bytes tell.
pub fn load(data: &[u8], what: &str, control: &Control) -> Result<Box<dyn Oracle>> {
    if data.starts_with(&format::MAGIC) {
        return Ok(Box::new(format::decode(data, what, control)?));
    }
    Ok(Box::new(decode(data, what)?))
}

struct Reader<'a> {
    content: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let taken = self.content.get(self.offset..self.offset.checked_add(bytes)?)?;
        self.offset += bytes;
        Some(taken)
    }
}
