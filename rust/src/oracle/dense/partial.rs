//! Partial counts: what some shards contribute to an oracle, in a file that adds up with others.
//!
//! Such a file says what was counted: the tables, and the shards by their content. So counts of different things are
//! never added up, and no shard is added twice. Adding is exact, and shards are listed in the order of their hashes, so
//! the bytes depend on the set of shards alone: not on how it was divided, nor on the order of merging, the number of
//! threads or the shards' paths.
//!
//! Little-endian (docs/format.md has the rules):
//!
//! | bytes | |
//! |---|---|
//! | 4 | magic, 0x4E475043 |
//! | 4 | version, 2 |
//! | 8 | bytes of the whole file |
//! | 4, 4, 4 | vocabulary, number of tables, number of shards |
//! | 4, 32 | document token, fingerprint of the tokenizer (zeros: not known); not in version 1 |
//! | 4, 4 per table | order and rows, orders ascending |
//! | 32, 8, 2, n per shard | BLAKE3 of the shard's file, its tokens, length n of its name, name in UTF-8; hashes ascending |
//! | 4, n per chunk | length n of a zstd frame, the frame |
//! | 32 | BLAKE3 of everything before |
//!
//! The cells of each table, row-major, are cut into chunks of 2^18, tables one after the other. A frame
//! holds LEB128 numbers: k, the cells that aren't zero; k gaps, each the number of zeros before such a cell
//! since the one before it; then k counts less one.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use super::contexts::MAX_ORDER;
use super::counters::{Counters, Part};
use super::counts::{Counts, Stream, TableSpec};
use crate::bytes::{Fields, Reader};
use crate::counted_shards::{
    identify_open, read_records, total_tokens, united, write_record, CountedShard, HASH_BYTES,
};
use crate::leb128::{put, Numbers};
use crate::parallel::{self, Control};
use crate::tokens::Shard;
use crate::vocabulary::Vocabulary;
use crate::{zstd_frame, Error, Result};

pub const MAGIC: u32 = 0x4E47_5043;
pub const VERSION: u32 = 2;
/// Counts of a vocabulary that isn't known beyond its size.
const VERSION_WITHOUT_IDENTITY: u32 = 1;

const HEADER_BYTES: usize = 28;

/// Cells per chunk: enough for zstd to learn from, few enough for threads to share a table.
const CHUNK: usize = 1 << 18;

/// Higher levels make these numbers no smaller, and level 3 makes them larger.
const LEVEL: i32 = 1;

/// Of each eight threads, one hashes while the others count.
const HASHING_SHARE: usize = 8;

/// Counts, and the shards that they are the counts of.
#[derive(Debug)]
pub struct PartialCounts {
    counts: Counts,
    /// Hashes strictly ascending.
    shards: Vec<CountedShard>,
}

impl PartialCounts {
    pub fn new(spec: TableSpec) -> Result<Self> {
        Ok(Self { counts: Counts::new(spec)?, shards: Vec::new() })
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// For counting what comes from no shard; such counts can't be written to a file.
    pub fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// By ascending hash.
    pub fn shards(&self) -> &[CountedShard] {
        &self.shards
    }

    /// Counts shards. After an error the counts hold part of them and are of no more use.
    pub fn count(&mut self, paths: &[PathBuf], threads: usize, control: &Control) -> Result<()> {
        let shards = paths.iter().map(Shard::open).collect::<Result<Vec<_>>>()?;
        let streams: Vec<Stream> =
            shards.iter().map(|shard| Stream { tokens: shard.tokens(), path: Some(shard.path()) }).collect();
        let abandoned = AtomicBool::new(false);
        let (hashed, counted) = std::thread::scope(|scope| {
            // Hashing takes a small part of the time that counting does. It runs beside it and a little ahead, so
            // that what it has read from the disk is in memory when it is counted.
            let hash = || {
                identify_open(&shards, threads.div_ceil(HASHING_SHARE), || {
                    if abandoned.load(Ordering::Relaxed) {
                        return Err(Error::Interrupted);
                    }
                    control.check()
                })
            };
            // Without a thread to be had, one comes after the other.
            let hashing = std::thread::Builder::new().spawn_scoped(scope, hash);
            let counted = self.counts.count(&streams, threads, control);
            abandoned.store(counted.is_err(), Ordering::Relaxed);
            match hashing.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(hashed)) => (hashed, counted),
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(_) => (hash(), counted),
            }
        });
        counted?;
        self.shards = united(&self.shards, hashed?)?;
        Ok(())
    }

    /// Adds what `other` counted; unchanged on an error.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let shards = united(&self.shards, other.shards.clone())?;
        self.counts.merge(&other.counts)?;
        self.shards = shards;
        Ok(())
    }

    /// Adds the counts of a file, whose content is `data` and which errors call `what`.
    ///
    /// Unchanged after an error, unless it is that of a file whose checksum is right but whose chunks are
    /// not: then the counts are of no more use.
    pub fn merge_bytes(&mut self, data: &[u8], what: &str, threads: usize, control: &Control) -> Result<()> {
        self.add(File::parse(data, what)?, threads, control)
    }

    /// The counts of a file, whose content is `data` and which errors call `what`.
    pub fn from_bytes(data: &[u8], what: &str, threads: usize, control: &Control) -> Result<Self> {
        let file = File::parse(data, what)?;
        let mut counts = Self::new(file.spec.clone())?;
        counts.add(file, threads, control)?;
        Ok(counts)
    }

    fn add(&mut self, file: File, threads: usize, control: &Control) -> Result<()> {
        let spec = self.counts.spec().united(&file.spec).ok_or_else(|| {
            let from = self.shards.first().map_or(String::new(), |shard| format!(", from {}", shard.source));
            Error::input(format!(
                "{}: counts of {} don't add up with counts of {}{from}; count the shards again with the same \
                 options",
                file.what,
                file.spec,
                self.counts.spec()
            ))
        })?;
        let shards = united(&self.shards, file.shards.clone())?;
        let expected = file.ngrams();
        let sums: Vec<Mutex<u128>> = expected.iter().map(|_| Mutex::new(0)).collect();
        let tables = self.counts.add_tables(file.tokens)?;
        let chunks = tables
            .iter_mut()
            .zip(&sums)
            .flat_map(|(table, sum)| table.parts(CHUNK).map(move |totals| (totals, sum)));
        let pieces = chunks.zip(&file.frames).collect();
        parallel::for_each(
            threads,
            pieces,
            |((mut totals, table_sum), frame): ((Part, &Mutex<u128>), &Frame)| {
                let sum = frame.add_to(&mut totals, file.tokens, file.what)?;
                *parallel::lock(table_sum) += sum;
                control.advance(totals.len() as u64)
            },
        )?;
        for ((sum, expected), (order, _)) in sums.into_iter().zip(expected).zip(file.spec.tables()) {
            let sum = parallel::into_inner(sum);
            if sum != expected {
                return Err(Error::format(
                    file.what,
                    format!("order {order} counts {sum} n-grams, but its shards hold {expected}"),
                ));
            }
        }
        self.shards = shards;
        self.counts.set_spec(spec);
        Ok(())
    }

    /// The file's bytes. `control` advances by cells.
    pub fn to_bytes(&self, threads: usize, control: &Control) -> Result<Vec<u8>> {
        let spec = self.counts.spec();
        if self.counts.tokens() != total_tokens(&self.shards) {
            return Err(Error::input(
                "these counts include tokens that came from no shard, so no file can say what they are of",
            ));
        }
        let chunks = self.counts.tables().iter().flat_map(|table| {
            (0..table.len()).step_by(CHUNK).map(move |first| (table, first..table.len().min(first + CHUNK)))
        });
        let chunks: Vec<(&Counters, Range<usize>)> = chunks.collect();
        let mut frames = vec![Vec::new(); chunks.len()];
        let pieces = chunks.into_iter().zip(&mut frames).collect();
        parallel::for_each(
            threads,
            pieces,
            |((table, range), frame): ((&Counters, Range<usize>), &mut Vec<u8>)| {
                let mut cells = vec![0; range.len()];
                table.read(range, &mut cells);
                // A chunk is compressed in milliseconds, too short to be interrupted.
                *frame = zstd_frame::compress(&pack(&cells), LEVEL, &Control::default())?;
                control.advance(cells.len() as u64)
            },
        )?;

        let mut data = Vec::new();
        let word = |data: &mut Vec<u8>, value: usize| data.extend((value as u32).to_le_bytes());
        word(&mut data, MAGIC as usize);
        word(&mut data, VERSION as usize);
        data.extend([0; 8]);
        word(&mut data, spec.vocab_size());
        word(&mut data, spec.tables().len());
        word(&mut data, self.shards.len());
        spec.vocabulary().write_identity(&mut data);
        for &(order, rows) in spec.tables() {
            word(&mut data, order);
            word(&mut data, rows as usize);
        }
        for shard in &self.shards {
            write_record(&mut data, shard);
        }
        for frame in &frames {
            word(&mut data, frame.len());
            data.extend(frame);
        }
        seal(&mut data);
        Ok(data)
    }
}

/// Completes a file by its length and its checksum.
pub(crate) fn seal(data: &mut Vec<u8>) {
    let length = (data.len() + HASH_BYTES) as u64;
    data[8..16].copy_from_slice(&length.to_le_bytes());
    data.extend(blake3::hash(data).as_bytes());
}

/// The cells of a chunk as LEB128 numbers.
fn pack(cells: &[u64]) -> Vec<u8> {
    let occupied = cells.iter().filter(|&&count| count != 0).count();
    let mut out = Vec::with_capacity(2 * occupied + 16);
    put(&mut out, occupied as u64);
    let mut gap = 0;
    for &count in cells {
        if count == 0 {
            gap += 1;
        } else {
            put(&mut out, gap);
            gap = 0;
        }
    }
    cells.iter().filter(|&&count| count != 0).for_each(|&count| put(&mut out, count - 1));
    out
}

/// The longest numbers that a chunk can need: its occupied cells, then a gap and a count for each.
fn longest_content(cells: usize) -> usize {
    10 + cells * (3 + 10)
}

/// A chunk's zstd frame, and where in the file it is.
struct Frame<'a> {
    data: &'a [u8],
    offset: usize,
}

impl Frame<'_> {
    /// Adds the counts, none of which may exceed `limit`, and returns their sum.
    fn add_to(&self, totals: &mut Part, limit: u64, what: &str) -> Result<u128> {
        let name = || format!("{what}: at offset {}", self.offset);
        let content = zstd_frame::decompress(self.data, longest_content(totals.len()), &name())?;
        let invalid = |detail: &str| Error::format(name(), detail);
        let short = || invalid("the chunk's numbers end too early or are too large");
        let mut gaps = Numbers(&content);
        let occupied = gaps.next().ok_or_else(short)?;
        if occupied > totals.len() as u64 {
            return Err(invalid("the chunk has more counts than cells"));
        }
        let mut counts = Numbers(gaps.0);
        for _ in 0..occupied {
            counts.next().ok_or_else(short)?;
        }
        let mut cells = 0..totals.len();
        let mut sum = 0u128;
        for _ in 0..occupied {
            let gap = gaps.next().and_then(|gap| usize::try_from(gap).ok()).ok_or_else(short)?;
            let cell = cells.nth(gap).ok_or_else(|| invalid("a count lies beyond the chunk's cells"))?;
            let count = counts.next().ok_or_else(short)?;
            if count >= limit {
                return Err(invalid("an n-gram is counted more often than there are tokens"));
            }
            totals.add(cell, count + 1);
            sum += u128::from(count + 1);
        }
        if !counts.0.is_empty() {
            return Err(invalid("bytes follow the chunk's last count"));
        }
        Ok(sum)
    }
}

/// A file whose checksum and structure are right; its chunks are still packed.
struct File<'a> {
    what: &'a str,
    spec: TableSpec,
    shards: Vec<CountedShard>,
    tokens: u64,
    frames: Vec<Frame<'a>>,
}

impl<'a> File<'a> {
    fn parse(data: &'a [u8], what: &'a str) -> Result<Self> {
        let mut reader = Reader::new(data, what);
        let magic = reader.u32("the magic number")?;
        if magic != MAGIC {
            return Err(reader.error(format!("{magic:#010x} is not how partial counts begin, {MAGIC:#010x}")));
        }
        let version = reader.u32("the version")?;
        if !(VERSION_WITHOUT_IDENTITY..=VERSION).contains(&version) {
            return Err(
                reader.error(format!("version {version}; this program reads versions up to {VERSION}"))
            );
        }
        let length = reader.u64("the file's length")?;
        if length != data.len() as u64 {
            let found = data.len();
            return Err(
                reader.error(format!("a file of {length} bytes, but {found} are here; make it again"))
            );
        }
        let covered = data.len().checked_sub(HASH_BYTES).filter(|&covered| covered >= HEADER_BYTES);
        let Some(covered) = covered else {
            return Err(reader.error(format!("{length} bytes are too few")));
        };
        if blake3::hash(&data[..covered]).as_bytes() != &data[covered..] {
            return Err(Error::format(what, "the checksum is wrong: the file is damaged; make it again"));
        }

        let mut reader = Reader::new(&data[..covered], what);
        reader.take(16, "the start")?;
        let vocab_size = reader.u32("the vocabulary")? as usize;
        let table_count = reader.u32("the number of tables")? as usize;
        if !(1..=MAX_ORDER).contains(&table_count) {
            return Err(reader.error(format!("{table_count} tables, where 1 to {MAX_ORDER} are possible")));
        }
        let shard_count = reader.u32("the number of shards")?;
        let vocabulary = if version == VERSION_WITHOUT_IDENTITY {
            vocab_size.into()
        } else {
            Vocabulary::read_identity(vocab_size, &mut reader)?
        };
        let mut tables = Vec::with_capacity(table_count);
        for _ in 0..table_count {
            let order = reader.u32("a table's order")? as usize;
            if tables.last().is_some_and(|&(last, _)| last >= order) {
                return Err(reader.error(format!("order {order} is out of order")));
            }
            tables.push((order, reader.u32("a table's rows")?));
        }
        let spec = TableSpec::new(vocabulary, &tables).map_err(|error| reader.error(error))?;

        let (shards, tokens) = read_records(&mut reader, shard_count, what)?;

        let cells = |rows: u32| rows as usize * vocab_size;
        let chunk_count: usize = tables.iter().map(|&(_, rows)| cells(rows).div_ceil(CHUNK)).sum();
        let mut frames = Vec::new();
        for _ in 0..chunk_count {
            let length = reader.u32("a chunk's length")? as usize;
            let offset = reader.offset();
            frames.push(Frame { data: reader.take(length, "a chunk")?, offset });
        }
        reader.end()?;
        Ok(Self { what, spec, shards, tokens, frames })
    }

    /// The n-grams of each table: all of a shard's tokens but the first n − 1.
    fn ngrams(&self) -> Vec<u128> {
        let of_order = |&(order, _): &(usize, u32)| {
            let of_shard = |shard: &CountedShard| u128::from(shard.tokens.saturating_sub(order as u64 - 1));
            self.shards.iter().map(of_shard).sum()
        };
        self.spec.tables().iter().map(of_order).collect()
    }
}
