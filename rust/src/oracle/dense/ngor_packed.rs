//! The file format NGOR, version 3: dense tables, each packed so that a cheap compressor does well.
//! Version 2 is the same without the identity of the tokenizer.
//!
//! A row of a table is its floor, the level of all tokens that the row never saw, and offsets above it.
//! Per table: the floors; a bit per cell saying whether it lies above its floor; the offsets of those that
//! do. Bits and offsets go column by column, frequent tokens first: how often a token is seen depends more
//! on the token than on the context. Each table is one zstd frame, found through the header.

use super::contexts::MAX_ORDER;
use super::ngor_v1::check_size;
use super::table::{check_shape, DenseTables, Table};
use crate::bytes::{checksum, Fields, Reader};
use crate::parallel::{self, Control};
use crate::vocabulary::Vocabulary;
use crate::{zstd_frame, Error, Result};

pub const MAGIC: [u8; 8] = *b"NGOR\x03\r\n\x1a";
pub const MAGIC_WITHOUT_IDENTITY: [u8; 8] = *b"NGOR\x02\r\n\x1a";

/// Rows and columns transposed at a time, so that both sides stay in the first-level cache.
const TILE: usize = 64;

/// Writes the tables, orders ascending; `tokens` is how many were counted.
pub fn encode(
    vocabulary: &Vocabulary,
    tokens: u64,
    tables: &[Table],
    zstd_level: i32,
    threads: usize,
    control: &Control,
) -> Result<Vec<u8>> {
    let cells: usize = tables.iter().map(|table| table.cells.len()).sum();
    check_size(cells)?;
    let columns = column_order(tables.first(), vocabulary.size);
    let mut frames: Vec<Vec<u8>> = vec![Vec::new(); tables.len()];
    parallel::for_each(threads, tables.iter().zip(&mut frames).collect(), |(table, frame)| {
        *frame = zstd_frame::compress(&pack(table, &columns), zstd_level, control)?;
        Ok(())
    })?;
    let mut data = Vec::with_capacity(frames.iter().map(Vec::len).sum::<usize>() + 256);
    data.extend(MAGIC);
    data.extend((vocabulary.size as u32).to_le_bytes());
    data.extend((tables.len() as u32).to_le_bytes());
    data.extend(tokens.to_le_bytes());
    vocabulary.write_identity(&mut data);
    for (table, frame) in tables.iter().zip(&frames) {
        data.extend((table.order as u32).to_le_bytes());
        data.extend(table.rows.to_le_bytes());
        data.extend((frame.len() as u64).to_le_bytes());
    }
    let header = checksum(&data);
    data.extend(header.to_le_bytes());
    frames.iter().for_each(|frame| data.extend(frame));
    Ok(data)
}

/// Bytes of one table in a packed file of zstd level 1: what the table costs, whatever file it came from.
pub(super) fn table_bytes(table: &Table, first: &Table, vocab_size: usize) -> u64 {
    let packed = pack(table, &column_order(Some(first), vocab_size));
    // Compression to memory at a valid level, which nobody interrupts, doesn't fail.
    zstd_frame::compress(&packed, 1, &Control::default()).map_or(0, |frame| frame.len() as u64)
}

/// Reads what [`encode`] wrote. `what` names the data in errors.
pub fn decode(data: &[u8], what: &str, threads: usize) -> Result<DenseTables> {
    let mut reader = Reader::new(data, what);
    let magic = reader.take(MAGIC.len(), "the magic bytes")?;
    if magic != MAGIC && magic != MAGIC_WITHOUT_IDENTITY {
        return Err(reader.error("the magic bytes are not those of a packed dense oracle"));
    }
    let vocab_size = reader.u32("the vocabulary's size")? as usize;
    let count = reader.u32("the number of tables")? as usize;
    let tokens = reader.u64("the number of tokens")?;
    let vocabulary = if magic == MAGIC_WITHOUT_IDENTITY {
        vocab_size.into()
    } else {
        Vocabulary::read_identity(vocab_size, &mut reader)?
    };
    if !(1..=MAX_ORDER).contains(&count) {
        return Err(reader.error(format!("{count} tables, where 1 to {MAX_ORDER} are possible")));
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let order = reader.u32("a table's order")? as usize;
        let rows = reader.u32("a table's rows")?;
        let bytes = reader.u64("a frame's length")?;
        headers.push((order, rows, bytes));
    }
    let expected = checksum(&data[..reader.offset()]);
    if reader.u64("the header's checksum")? != expected {
        return Err(reader.error("the header's checksum is wrong: the file was altered"));
    }
    let mut cells = 0usize;
    let mut last = 0;
    for &(order, rows, _) in &headers {
        check_shape(order, rows, vocab_size).map_err(|error| reader.error(error))?;
        if order <= last {
            return Err(reader.error(format!("order {order} is out of order")));
        }
        last = order;
        // Each product is below 2^32 by `check_shape`, and there are at most eight.
        cells += rows as usize * vocab_size;
    }
    check_size(cells).map_err(|error| reader.error(error))?;
    let mut tables = Vec::with_capacity(count);
    let mut waiting = Vec::with_capacity(count);
    for (order, rows, bytes) in headers {
        let frame = reader.take(usize::try_from(bytes).unwrap_or(usize::MAX), "a table's frame")?;
        if order == 1 {
            // It determines the order of the others' columns.
            tables.push(unpack(order, rows, &column_order(None, vocab_size), frame, what)?);
        } else {
            waiting.push((order, rows, frame, None));
        }
    }
    reader.end()?;
    let columns = column_order(tables.first(), vocab_size);
    parallel::for_each(threads, waiting.iter_mut().collect(), |(order, rows, frame, table)| {
        *table = Some(unpack(*order, *rows, &columns, frame, what)?);
        Ok(())
    })?;
    tables.extend(waiting.into_iter().filter_map(|(_, _, _, table)| table));
    let tables = DenseTables::new(vocabulary, tables).map_err(|error| Error::format(what, error))?;
    Ok(tables.with_tokens(tokens))
}

/// The columns as they are stored: by falling level in the table of order 1, then by token; by token where
/// there is no such table, and in that table itself.
fn column_order(first: Option<&Table>, vocab_size: usize) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..vocab_size).collect();
    if let Some(unigram) = first.filter(|table| table.order == 1) {
        columns.sort_by_key(|&token| std::cmp::Reverse(unigram.cells[token]));
    }
    columns
}

fn pack(table: &Table, columns: &[usize]) -> Vec<u8> {
    let (rows, vocab_size) = (table.rows as usize, columns.len());
    let identity: Vec<usize>;
    let columns = if table.order == 1 {
        identity = column_order(None, vocab_size);
        &identity
    } else {
        columns
    };
    let floors: Vec<i8> =
        table.cells.chunks_exact(vocab_size).map(|row| row.iter().copied().min().unwrap_or(0)).collect();
    let mut offsets = vec![0u8; table.cells.len()];
    by_tiles(rows, vocab_size, |row, place| {
        offsets[place * rows + row] = (table.cells[row * vocab_size + columns[place]] - floors[row]) as u8;
    });
    let mut packed: Vec<u8> = floors.iter().map(|&floor| floor as u8).collect();
    packed.extend(offsets.chunks(8).map(|cells| {
        cells.iter().enumerate().fold(0u8, |byte, (bit, &offset)| byte | u8::from(offset != 0) << bit)
    }));
    packed.extend(offsets.iter().filter(|&&offset| offset != 0));
    packed
}

fn unpack(order: usize, rows: u32, columns: &[usize], frame: &[u8], what: &str) -> Result<Table> {
    let what = &format!("{what}: order {order}");
    let (height, vocab_size) = (rows as usize, columns.len());
    let size = height * vocab_size;
    let content = zstd_frame::decompress(frame, height + size.div_ceil(8) + size, what)?;
    let mut reader = Reader::new(&content, what);
    let floors = reader.take(height, "the floors")?;
    let bits = reader.take(size.div_ceil(8), "the bits")?;
    let above = bits.iter().map(|byte| byte.count_ones() as usize).sum();
    let values = reader.take(above, "the offsets")?;
    reader.end()?;
    if values.contains(&0) {
        return Err(reader.error("a cell above its floor has offset 0"));
    }
    let mut values = values.iter();
    if size % 8 != 0 && bits[size / 8] >> (size % 8) != 0 {
        return Err(reader.error("bits beyond the last cell must be zero"));
    }
    let mut offsets = vec![0u8; size];
    for (cells, &byte) in offsets.chunks_mut(8).zip(bits) {
        let mut left = byte;
        while left != 0 {
            // As many values as bits, by the count above.
            cells[left.trailing_zeros() as usize] = values.next().copied().unwrap_or_default();
            left &= left - 1;
        }
    }
    let floors = floors.to_vec();
    drop(content);
    let mut cells = vec![0i8; size];
    by_tiles(height, vocab_size, |row, place| {
        // A value outside the range of levels is refused later, with the whole table.
        let level = i16::from(floors[row] as i8) + i16::from(offsets[place * height + row]);
        cells[row * vocab_size + columns[place]] = i8::try_from(level).unwrap_or(i8::MAX);
    });
    Ok(Table { order, rows, cells })
}

/// Visits every (row, place of a column), tile by tile.
#[inline(always)]
fn by_tiles(rows: usize, columns: usize, mut visit: impl FnMut(usize, usize)) {
    for first_row in (0..rows).step_by(TILE) {
        for first_place in (0..columns).step_by(TILE) {
            for row in first_row..rows.min(first_row + TILE) {
                for place in first_place..columns.min(first_place + TILE) {
                    visit(row, place);
                }
            }
        }
    }
}
