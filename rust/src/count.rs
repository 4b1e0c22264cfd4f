//! Counting n-grams into dense tables: `counts[row of the context][token]`, for orders 1 to 8.
//!
//! What bounds this is the cache, so counters are one byte wide while counting and spill into the 64-bit
//! totals when they wrap; each thread has its own. Additions commute: the totals depend neither on the
//! number of threads nor on the order of the shards. N-grams don't reach from one shard into another, and
//! a shard's first n − 1 tokens, whose context isn't whole, count only for the lower orders.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use crate::hash::{self, MAX_ORDER};
use crate::memory::{Integer, Zeroed};
use crate::oracle::dense;
use crate::parallel::{self, Control};
use crate::{quant, tokens, Error, Result};

/// What is counted: a vocabulary, and the rows of each order's table, orders ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    vocab_size: usize,
    tables: Vec<(usize, u32)>,
}

impl Layout {
    /// Rows of orders 3 to 8 where nothing else is asked for.
    pub const DEFAULT_ROWS: [(usize, u32); 6] =
        [(3, 4096), (4, 2048), (5, 1024), (6, 512), (7, 256), (8, 256)];

    pub fn new(vocab_size: usize, tables: &[(usize, u32)]) -> Result<Self> {
        let mut tables = tables.to_vec();
        tables.sort_unstable();
        if tables.is_empty() {
            return Err(Error::input("no orders to count"));
        }
        for &(order, rows) in &tables {
            dense::check_shape(order, rows, vocab_size)?;
        }
        if let Some(pair) = tables.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::input(format!("order {} appears twice", pair[0].0)));
        }
        let cells: u64 = tables.iter().map(|&(_, rows)| u64::from(rows) * vocab_size as u64).sum();
        if cells > MAX_CELLS {
            return Err(Error::input(format!(
                "{cells} cells are more than a dense oracle can have, {MAX_CELLS}; use fewer rows"
            )));
        }
        Ok(Self { vocab_size, tables })
    }

    /// Orders 1 to `orders`, with the default rows but where `rows` names others.
    pub fn with_defaults(vocab_size: usize, orders: usize, rows: &[(usize, u32)]) -> Result<Self> {
        if !(1..=MAX_ORDER).contains(&orders) {
            return Err(Error::input(format!("orders run from 1 to {MAX_ORDER}, not {orders}")));
        }
        if let Some((order, _)) = rows.iter().find(|(order, _)| !(3..=orders).contains(order)) {
            return Err(Error::input(format!(
                "rows can be chosen for orders 3 to {orders}, not for order {order}"
            )));
        }
        let chosen = |order| {
            let named = |list: &[(usize, u32)]| list.iter().find(|(o, _)| *o == order).map(|&(_, rows)| rows);
            named(rows).or_else(|| named(&Self::DEFAULT_ROWS)).unwrap_or(1)
        };
        let tables: Vec<_> = (1..=orders)
            .map(|order| (order, if order == 2 { vocab_size as u32 } else { chosen(order) }))
            .collect();
        Self::new(vocab_size, &tables)
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// (order, rows), orders ascending.
    pub fn tables(&self) -> &[(usize, u32)] {
        &self.tables
    }

    fn cells(&self, rows: u32) -> usize {
        rows as usize * self.vocab_size
    }
}

/// Cells of all tables together: what a reader of oracles will take memory for.
pub const MAX_CELLS: u64 = 1 << 30;

/// A stream of tokens to be counted, and the file it comes from if it comes from one.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    pub tokens: &'a [u16],
    pub path: Option<&'a Path>,
}

/// The counts of everything counted so far.
#[derive(Debug)]
pub struct Counts {
    layout: Layout,
    tables: Vec<Zeroed<u64>>,
    tokens: u64,
}

/// Tokens counted in one go: long enough that bringing an order's counters into the cache doesn't show,
/// short enough that threads finish together and a request to stop is soon seen.
const BLOCK: usize = 1 << 21;

/// Cells whose numbers are worked out ahead of being counted, within the first-level cache.
const BATCH: usize = 2048;

/// With more cells per token than this, counters of a thread's own cost more than they save.
const DIRECT: usize = 16;

impl Counts {
    pub fn new(layout: Layout) -> Result<Self> {
        let tables = layout.tables.iter().map(|&(order, rows)| zeroed(order, layout.cells(rows)));
        Ok(Self { tables: tables.collect::<Result<_>>()?, layout, tokens: 0 })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Counts per order, row-major, in the layout's order.
    pub fn tables(&self) -> &[Zeroed<u64>] {
        &self.tables
    }

    /// Tokens in the streams counted so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Counts whole streams. After an error the counts hold part of them and are of no more use.
    pub fn count(&mut self, streams: &[Stream], threads: usize, control: &Control) -> Result<()> {
        let tokens: usize = streams.iter().map(|stream| stream.tokens.len()).sum();
        let cells: usize = self.tables.iter().map(|table| table.len()).sum();
        // Blocks get smaller when there would be too few of them to share out evenly.
        let block = BLOCK.min(tokens.div_ceil(threads.max(1) * 4)).max(BATCH);
        let jobs: Vec<(Stream, Range<usize>)> = streams
            .iter()
            .flat_map(|&stream| {
                let length = stream.tokens.len();
                (0..length).step_by(block).map(move |start| (stream, start..length.min(start + block)))
            })
            .collect();
        let layout = &self.layout;
        if tokens < cells / DIRECT {
            for (stream, block) in jobs {
                check_block(&stream, &block, layout.vocab_size)?;
                for (table, totals) in layout.tables.iter().zip(&mut self.tables) {
                    for_each_cell(layout, table, stream.tokens, block.clone(), |cell| totals[cell] += 1);
                }
                control.advance(block.len() as u64)?;
            }
        } else {
            let totals: Vec<&[AtomicU64]> = self.tables.iter_mut().map(|table| as_atomic(table)).collect();
            let finished = Mutex::new(Vec::new());
            parallel::run_with(
                threads,
                jobs.len(),
                || Narrow::new(layout),
                |narrow, job| {
                    let (stream, block) = &jobs[job];
                    check_block(stream, block, layout.vocab_size)?;
                    narrow.count(layout, stream.tokens, block.clone(), &totals);
                    control.advance(block.len() as u64)
                },
                |narrow| finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(narrow),
            )?;
            let narrows = finished.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.add(&narrows, threads)?;
        }
        self.tokens += tokens as u64;
        Ok(())
    }

    /// Adds the threads' counters to the totals.
    fn add(&mut self, narrows: &[Narrow], threads: usize) -> Result<()> {
        const PIECE: usize = 1 << 18;
        let pieces = self.tables.iter_mut().enumerate().flat_map(|(index, totals)| {
            totals.chunks_mut(PIECE).enumerate().map(move |(piece, totals)| (index, piece * PIECE, totals))
        });
        parallel::for_each(threads, pieces.collect(), |(index, first, totals): (usize, usize, &mut [u64])| {
            for narrow in narrows {
                let counters = &narrow.tables[index][first..][..totals.len()];
                totals.iter_mut().zip(counters).for_each(|(total, &counter)| *total += u64::from(counter));
            }
            Ok(())
        })
    }

    /// Adds what `other` counted; unchanged on an error.
    pub fn merge(&mut self, other: &Counts) -> Result<()> {
        if self.layout != other.layout {
            return Err(Error::input("counts of different vocabularies, orders or rows don't add up"));
        }
        // No cell exceeds the number of tokens, so where that doesn't overflow none does.
        self.tokens = self
            .tokens
            .checked_add(other.tokens)
            .ok_or_else(|| Error::input("the merged counts don't fit 64 bits"))?;
        for (totals, counts) in self.tables.iter_mut().zip(&other.tables) {
            totals.iter_mut().zip(counts.iter()).for_each(|(total, &count)| *total += count);
        }
        Ok(())
    }

    /// The table at `index` of the layout as int8 log-probabilities.
    pub fn quantise(&self, index: usize, threads: usize) -> Vec<i8> {
        let vocab_size = self.layout.vocab_size;
        let counts = &self.tables[index];
        let mut cells = vec![0i8; counts.len()];
        let step = vocab_size * (counts.len() / vocab_size).div_ceil(threads.max(1) * 4);
        let pieces = counts.chunks(step).zip(cells.chunks_mut(step)).collect();
        // The job never fails.
        let _ = parallel::for_each(threads, pieces, |(counts, cells): (&[u64], &mut [i8])| {
            quant::quantise_rows(counts, vocab_size, cells);
            Ok(())
        });
        cells
    }
}

fn zeroed<T: Integer>(order: usize, cells: usize) -> Result<Zeroed<T>> {
    Zeroed::new(cells).ok_or_else(|| {
        Error::input(format!(
            "order {order}: no memory for {cells} counters of {} bytes; use fewer rows",
            size_of::<T>()
        ))
    })
}

fn as_atomic(table: &mut [u64]) -> &[AtomicU64] {
    // SAFETY: AtomicU64 has the size, alignment and bit validity of u64, and the exclusive borrow is held
    // for as long as the shared one lives.
    unsafe { &*(table as *mut [u64] as *const [AtomicU64]) }
}

/// Checks the tokens of a block and of its context, which may lie in a block that is not checked yet.
fn check_block(stream: &Stream, block: &Range<usize>, vocab_size: usize) -> Result<()> {
    let first = block.start.saturating_sub(MAX_ORDER - 1);
    let tokens = &stream.tokens[first..block.end];
    if let Some(path) = stream.path {
        return tokens::check_vocabulary(tokens, first, vocab_size, path);
    }
    match tokens::out_of_vocabulary(tokens, vocab_size) {
        Some(index) => Err(Error::input(format!(
            "token {} at position {} is outside the vocabulary of {vocab_size}",
            tokens[index],
            first + index
        ))),
        None => Ok(()),
    }
}

/// Calls `add(cell)` for every n-gram of one table that ends within `block`; cells are below
/// `rows * vocab_size` if the tokens of the block and of its context are below `vocab_size`.
#[inline(always)]
fn for_each_cell(
    layout: &Layout,
    &(order, rows): &(usize, u32),
    tokens: &[u16],
    block: Range<usize>,
    mut add: impl FnMut(usize),
) {
    let context = order - 1;
    let mut cells = [0u32; BATCH];
    let mut start = block.start.max(context);
    while start < block.end {
        let end = block.end.min(start + BATCH);
        let cells = &mut cells[..end - start];
        hash::context_cells(&tokens[start - context..end], order, rows, layout.vocab_size as u32, cells);
        cells.iter().for_each(|&cell| add(cell as usize));
        start = end;
    }
}

/// One thread's counters: a byte per cell, which wraps into the totals.
struct Narrow {
    tables: Vec<Zeroed<u8>>,
}

impl Narrow {
    fn new(layout: &Layout) -> Result<Self> {
        let tables = layout.tables.iter().map(|&(order, rows)| zeroed(order, layout.cells(rows)));
        Ok(Self { tables: tables.collect::<Result<_>>()? })
    }

    fn count(&mut self, layout: &Layout, tokens: &[u16], block: Range<usize>, totals: &[&[AtomicU64]]) {
        for ((table, counters), totals) in layout.tables.iter().zip(&mut self.tables).zip(totals) {
            let counters = &mut counters[..];
            for_each_cell(layout, table, tokens, block.clone(), |cell| {
                let counter = &mut counters[cell];
                *counter = counter.wrapping_add(1);
                if *counter == 0 {
                    totals[cell].fetch_add(256, Ordering::Relaxed);
                }
            });
        }
    }
}
