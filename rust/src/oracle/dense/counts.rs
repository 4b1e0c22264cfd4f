//! Counting n-grams into dense tables: `counts[row of the context][token]`, for orders 1 to 8.
//!
//! Counting is bound by the cache, so each thread has counters of one byte, which carry into a second byte elsewhere
//! when they wrap. Additions commute: the totals depend neither on the number of threads nor on the order of the
//! shards. N-grams don't reach from one shard into another, and a shard's first n − 1 tokens, whose context is
//! incomplete, count for the lower orders only.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use super::contexts::{self, MAX_ORDER};
use super::counters::{Counters, Part};
use super::levels;
use super::table::check_shape;
use crate::memory::{self, Zeroed};
use crate::parallel::{self, Control};
use crate::vocabulary::Vocabulary;
use crate::{simd, tokens, Error, Result};

/// What is counted: a vocabulary, and the rows of each order's table, orders ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    vocabulary: Vocabulary,
    tables: Vec<(usize, u32)>,
}

impl TableSpec {
    /// Rows of orders 3 to 8 where nothing else is asked for.
    pub const DEFAULT_ROWS: [(usize, u32); 6] =
        [(3, 4096), (4, 2048), (5, 1024), (6, 512), (7, 256), (8, 256)];

    pub fn new(vocabulary: impl Into<Vocabulary>, tables: &[(usize, u32)]) -> Result<Self> {
        let vocabulary = vocabulary.into();
        let vocab_size = vocabulary.size;
        let mut tables = tables.to_vec();
        tables.sort_unstable();
        if tables.is_empty() {
            return Err(Error::input("no orders to count"));
        }
        for &(order, rows) in &tables {
            check_shape(order, rows, vocab_size)?;
        }
        if let Some(pair) = tables.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::input(format!("order {} appears twice", pair[0].0)));
        }
        let cells: u64 = tables.iter().map(|&(_, rows)| u64::from(rows) * vocab_size as u64).sum();
        if cells > MAX_CELLS {
            return Err(Error::input(format!(
                "{cells} cells are more than a dense oracle can have, {MAX_CELLS}: order 2 has a row for each of the \
                 {vocab_size} tokens; use fewer orders or rows, or the sparse estimator, which stores only n-grams that \
                 occur"
            )));
        }
        vocabulary.check()?;
        Ok(Self { vocabulary, tables })
    }

    /// Orders 1 to `orders`, with the default rows except where `rows` gives others.
    pub fn with_defaults(
        vocabulary: impl Into<Vocabulary>,
        orders: usize,
        rows: &[(usize, u32)],
    ) -> Result<Self> {
        let vocabulary = vocabulary.into();
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
            .map(|order| (order, if order == 2 { vocabulary.size as u32 } else { chosen(order) }))
            .collect();
        Self::new(vocabulary, &tables)
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub fn vocab_size(&self) -> usize {
        self.vocabulary.size
    }

    /// (order, rows), orders ascending.
    pub fn tables(&self) -> &[(usize, u32)] {
        &self.tables
    }

    /// What the sum of counts of both is of; none if they don't add up.
    pub fn united(&self, other: &Self) -> Option<Self> {
        let vocabulary = self.vocabulary.united(&other.vocabulary)?;
        (self.tables == other.tables).then(|| Self { vocabulary, tables: self.tables.clone() })
    }

    /// What `new` allocates for the cells of every table.
    fn allocate<T>(&self, new: impl Fn(usize) -> Option<T>) -> Result<Vec<T>> {
        let table = |&(order, rows): &(usize, u32)| {
            let cells = rows as usize * self.vocab_size();
            let refused =
                || Error::input(format!("order {order}: no memory for {cells} counters; use fewer rows"));
            new(cells).ok_or_else(refused)
        };
        self.tables.iter().map(table).collect()
    }

    /// The smallest table of the other orders. Its columns sum to the counts of order 1, which then need no counting
    /// of their own.
    fn unigram_source(&self) -> Option<usize> {
        let others = self.tables.iter().enumerate().skip(1);
        let smallest = others.min_by_key(|(_, &(_, rows))| rows).map(|(index, _)| index);
        smallest.filter(|_| self.tables[0].0 == 1)
    }
}

impl fmt::Display for TableSpec {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}, with rows", self.vocabulary)?;
        self.tables.iter().try_for_each(|(order, rows)| write!(out, " {order}={rows}"))
    }
}

/// The most cells of all tables together: a reader of oracles accepts no more.
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
    spec: TableSpec,
    tables: Vec<Counters>,
    tokens: u64,
}

/// Tokens counted in one go: so many that bringing an order's counters into the cache costs next to nothing, so few
/// that threads finish together and a request to stop is soon seen.
const BLOCK: usize = 1 << 21;

/// Cells whose numbers are computed before they are counted; these fit the first-level cache well.
const BATCH: usize = 512;

/// A block of a stream.
type Job<'a> = (Stream<'a>, Range<usize>);

/// Cells added up or merged in one go.
const PIECE: usize = 1 << 17;

/// Rows of the threads' counters that are transposed in one go: a cache line for each token.
const BAND: usize = 64;

/// How many tokens ahead counters are prefetched: the processor's own prefetcher doesn't follow such strides.
const AHEAD: usize = 32;

/// With more cells per token than this, separate counters for each thread cost more than they save.
const DIRECT: usize = 16;

impl Counts {
    pub fn new(spec: TableSpec) -> Result<Self> {
        Ok(Self { tables: spec.allocate(Counters::new)?, spec, tokens: 0 })
    }

    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Counts per order, row-major, in the order of the spec.
    pub fn tables(&self) -> &[Counters] {
        &self.tables
    }

    /// Whether the document token is anywhere in what was counted, as far as the orders counted can tell.
    pub fn has_document_token(&self) -> bool {
        let (vocab_size, bos) = (self.spec.vocab_size(), usize::from(self.spec.vocabulary.bos));
        let mut count = [0];
        let table = &self.tables[0];
        (bos..table.len()).step_by(vocab_size).any(|cell| {
            table.read(cell..cell + 1, &mut count);
            count[0] > 0
        })
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
        let jobs: Vec<Job> = streams
            .iter()
            .flat_map(|&stream| {
                let length = stream.tokens.len();
                (0..length).step_by(block).map(move |start| (stream, start..length.min(start + block)))
            })
            .collect();
        if tokens < cells / DIRECT {
            self.count_directly(&jobs, control)?;
        } else {
            self.count_narrowly(&jobs, threads, control)?;
        }
        self.tokens += tokens as u64;
        Ok(())
    }

    fn count_directly(&mut self, jobs: &[Job], control: &Control) -> Result<()> {
        let spec = &self.spec;
        for (stream, block) in jobs {
            check_block(stream, block, spec.vocabulary.size)?;
            for (table, totals) in spec.tables.iter().zip(&mut self.tables) {
                let mut totals = totals.whole();
                let by_row = (spec.vocabulary.size as u32, 1);
                for_cells(table, by_row, stream.tokens, block.clone(), |cells, _| {
                    cells.iter().for_each(|&cell| totals.add(cell as usize, 1));
                });
            }
            control.advance(block.len() as u64)?;
        }
        Ok(())
    }

    fn count_narrowly(&mut self, jobs: &[Job], threads: usize, control: &Control) -> Result<()> {
        let spec = &self.spec;
        let source = spec.unigram_source();
        let sums_before = source.map(|index| self.column_sums(index));
        let totals = &self.tables;
        let finished = Mutex::new(Vec::new());
        parallel::run_with(
            threads,
            jobs.len(),
            || Narrow::new(spec),
            |narrow, job| {
                let (stream, block) = &jobs[job];
                check_block(stream, block, spec.vocabulary.size)?;
                narrow.count(spec, usize::from(source.is_some()), stream.tokens, block.clone(), totals);
                control.advance(block.len() as u64)
            },
            |narrow| parallel::lock(&finished).push(narrow),
        )?;
        let narrows = parallel::into_inner(finished);
        self.add(&narrows, threads)?;
        if let (Some(index), Some(before)) = (source, sums_before) {
            let after = self.column_sums(index);
            let heads = self.spec.tables[index].0 - 1;
            let mut unigrams = self.tables[0].whole();
            for (token, (after, before)) in after.into_iter().zip(before).enumerate() {
                unigrams.add(token, after - before);
            }
            // The tokens whose context is too short for that table.
            for (stream, block) in jobs.iter().filter(|(_, block)| block.start < heads) {
                let head = &stream.tokens[block.start..block.end.min(heads)];
                head.iter().for_each(|&token| unigrams.add(usize::from(token), 1));
            }
        }
        Ok(())
    }

    fn column_sums(&self, index: usize) -> Vec<u64> {
        let vocab_size = self.spec.vocabulary.size;
        let (mut row, mut sums) = (vec![0; vocab_size], vec![0; vocab_size]);
        for first in (0..self.tables[index].len()).step_by(vocab_size) {
            self.tables[index].read(first..first + vocab_size, &mut row);
            sums.iter_mut().zip(&row).for_each(|(sum, count)| *sum += count);
        }
        sums
    }

    /// Adds the threads' counters to the totals.
    fn add(&mut self, narrows: &[Narrow], threads: usize) -> Result<()> {
        let vocab_size = self.spec.vocabulary.size;
        let rows_at_once = (PIECE / vocab_size).max(1);
        let mut pieces = Vec::new();
        for (index, (&(_, rows), totals)) in self.spec.tables.iter().zip(&mut self.tables).enumerate() {
            for (piece, part) in totals.parts(rows_at_once * vocab_size).enumerate() {
                let first = piece * rows_at_once;
                pieces.push((index, first..(first + rows_at_once).min(rows as usize), part));
            }
        }
        parallel::for_each(threads, pieces, |(index, rows, mut totals): (usize, Range<usize>, Part)| {
            for narrow in narrows {
                let (ones, carries) = &narrow.tables[index];
                let all_rows = self.spec.tables[index].1 as usize;
                simd::wide_registers(
                    #[inline(always)]
                    || add_by_token(ones, carries, all_rows, rows.clone(), vocab_size, &mut totals),
                );
            }
            Ok(())
        })
    }

    /// Adds what `other` counted; unchanged on an error.
    pub fn merge(&mut self, other: &Counts) -> Result<()> {
        let spec = self.spec.united(&other.spec).ok_or_else(|| {
            Error::input(format!("counts of {} don't add up with counts of {}", other.spec, self.spec))
        })?;
        let mut counts = Vec::new();
        for (totals, other) in self.add_tables(other.tokens)?.iter_mut().zip(&other.tables) {
            for (piece, mut totals) in totals.parts(PIECE).enumerate() {
                counts.resize(totals.len(), 0);
                other.read(piece * PIECE..piece * PIECE + totals.len(), &mut counts);
                counts.iter().enumerate().for_each(|(index, &count)| totals.add(index, count));
            }
        }
        self.spec = spec;
        Ok(())
    }

    /// For whoever adds counts: their sum may be of an unknown tokenizer where these were not.
    pub(crate) fn set_spec(&mut self, spec: TableSpec) {
        self.spec = spec;
    }

    /// The tables, for whoever adds the counts of `tokens` more tokens; unchanged on an error.
    pub(crate) fn add_tables(&mut self, tokens: u64) -> Result<&mut [Counters]> {
        // No cell exceeds the number of tokens, so where that doesn't overflow none does.
        self.tokens = self
            .tokens
            .checked_add(tokens)
            .ok_or_else(|| Error::input("the merged counts don't fit 64 bits"))?;
        Ok(&mut self.tables)
    }

    /// The table at `index` of the spec as int8 log-probabilities.
    pub fn quantise(&self, index: usize, threads: usize) -> Vec<i8> {
        let vocab_size = self.spec.vocabulary.size;
        let counts = &self.tables[index];
        let mut cells = vec![0i8; counts.len()];
        let rows = (counts.len() / vocab_size).div_ceil(threads.max(1) * 4);
        let pieces = cells.chunks_mut(rows * vocab_size).enumerate();
        // The job never fails.
        let _ = parallel::for_each(threads, pieces.collect(), |(piece, cells): (usize, &mut [i8])| {
            let mut row = vec![0; vocab_size];
            for (index, levels) in cells.chunks_exact_mut(vocab_size).enumerate() {
                let first = (piece * rows + index) * vocab_size;
                counts.read(first..first + vocab_size, &mut row);
                levels::quantise_row(&row, levels);
            }
            Ok(())
        });
        cells
    }
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

/// Calls `add(cells, largest)` with the cells of all n-grams of one table that end within `block`, some at a
/// time. A cell is row × row stride + token × token stride.
#[inline(always)]
fn for_cells(
    &(order, rows): &(usize, u32),
    strides: (u32, u32),
    tokens: &[u16],
    block: Range<usize>,
    mut add: impl FnMut(&[u32], u32),
) {
    let context = order - 1;
    let mut cells = [0u32; BATCH];
    let mut start = block.start.max(context);
    while start < block.end {
        let end = block.end.min(start + BATCH);
        let cells = &mut cells[..end - start];
        let largest = contexts::context_cells(&tokens[start - context..end], order, rows, strides, cells);
        add(cells, largest);
        start = end;
    }
}

/// One thread's counters: of each table a byte per cell, and as much again for what they carry.
///
/// They are token-major, where the totals are row-major: the frequent tokens' counters then share few cache lines, and
/// 4K aliasing is rarer. (With row-major counters, a token's counters in different rows are a multiple of the
/// vocabulary's size apart, so a load often matches the lower twelve address bits of a store that is still pending.)
struct Narrow {
    tables: Vec<(Zeroed<u8>, Zeroed<u8>)>,
}

impl Narrow {
    fn new(spec: &TableSpec) -> Result<Self> {
        Ok(Self { tables: spec.allocate(|cells| Some((Zeroed::new(cells)?, Zeroed::new(cells)?)))? })
    }

    /// Counts a block for all tables but the first `skipped`.
    fn count(
        &mut self,
        spec: &TableSpec,
        skipped: usize,
        tokens: &[u16],
        block: Range<usize>,
        totals: &[Counters],
    ) {
        let tables = spec.tables.iter().zip(&mut self.tables).zip(totals);
        for ((table, (ones, carries)), totals) in tables.skip(skipped) {
            let rows = table.1 as usize;
            let (ones, carries) = (&mut ones[..], &mut carries[..]);
            for_cells(table, (1, rows as u32), tokens, block.clone(), |cells, largest| {
                // A check of each cell would add a fifth to the time of counting.
                assert!((largest as usize) < ones.len());
                for &cell in cells {
                    let cell = cell as usize;
                    // SAFETY: no cell exceeds the largest, which was just checked.
                    let one = unsafe { ones.get_unchecked_mut(cell) };
                    *one = one.wrapping_add(1);
                    if *one == 0 {
                        carries[cell] = carries[cell].wrapping_add(1);
                        if carries[cell] == 0 {
                            totals.add_high(cell % rows * spec.vocabulary.size + cell / rows);
                        }
                    }
                }
            });
        }
    }
}

/// Adds one thread's counters of some rows of a table to the totals of these rows.
#[inline(always)]
fn add_by_token(
    ones: &[u8],
    carries: &[u8],
    all_rows: usize,
    rows: Range<usize>,
    vocab_size: usize,
    totals: &mut Part,
) {
    // Band by band, so that the totals are visited in their order.
    let (mut lower, mut upper) = (vec![0; BAND * vocab_size], vec![0; BAND * vocab_size]);
    for first in rows.clone().step_by(BAND) {
        let band = first..rows.end.min(first + BAND);
        transpose(ones, all_rows, band.clone(), vocab_size, &mut lower);
        transpose(carries, all_rows, band.clone(), vocab_size, &mut upper);
        let cells = band.len() * vocab_size;
        totals.add_bytes((first - rows.start) * vocab_size, &lower[..cells], &upper[..cells]);
    }
}

/// Transposes the token-major counters of `band`'s rows into `out`, row-major: a butterfly transpose of blocks of
/// 8 × 8 bytes, and the rest byte by byte.
#[inline(always)]
fn transpose(counters: &[u8], all_rows: usize, band: Range<usize>, vocab_size: usize, out: &mut [u8]) {
    let (whole_tokens, whole_rows) = (vocab_size / 8 * 8, band.len() / 8 * 8);
    for token in (0..whole_tokens).step_by(8) {
        for ahead in (token + AHEAD..vocab_size).take(8) {
            memory::prefetch(&counters[ahead * all_rows + band.start]);
        }
        for row in (0..whole_rows).step_by(8) {
            let mut words: [u64; 8] = std::array::from_fn(|index| {
                let first = (token + index) * all_rows + band.start + row;
                let mut word = [0; 8];
                word.copy_from_slice(&counters[first..first + 8]);
                u64::from_le_bytes(word)
            });
            swap::<4>(&mut words, 0xffff_ffff);
            swap::<2>(&mut words, 0xffff_0000_ffff);
            swap::<1>(&mut words, 0xff_00ff_00ff_00ff);
            for (index, word) in words.iter().enumerate() {
                let first = (row + index) * vocab_size + token;
                out[first..first + 8].copy_from_slice(&word.to_le_bytes());
            }
        }
    }
    for token in 0..vocab_size {
        let rest = if token < whole_tokens { whole_rows..band.len() } else { 0..band.len() };
        for row in rest {
            out[row * vocab_size + token] = counters[token * all_rows + band.start + row];
        }
    }
}

/// One stage of the butterfly: swaps every second group of `DISTANCE` bytes with its neighbour in the word `DISTANCE`
/// further on. The mask selects the other groups.
#[inline(always)]
fn swap<const DISTANCE: usize>(words: &mut [u64; 8], mask: u64) {
    for index in 0..8 {
        if index & DISTANCE == 0 {
            let (one, other) = (words[index], words[index + DISTANCE]);
            let swapped = ((one >> (8 * DISTANCE)) ^ other) & mask;
            words[index] = one ^ (swapped << (8 * DISTANCE));
            words[index + DISTANCE] = other ^ swapped;
        }
    }
}
