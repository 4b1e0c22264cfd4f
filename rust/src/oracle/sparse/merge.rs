//! Adding up files of counts in constant memory, each of them once or, with a weight, several times.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::BinaryHeap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::chunk::{Chunk, Packer};
use super::counts::{ChunkReader, SparseCounts};
use super::counts_file::{weighted_tokens, Writer};
use super::ngram::{Entry, NgramSpec};
use super::sample::Sample;
use crate::counted_shards::{united, CountedShard};
use crate::parallel::{self, Control};
use crate::{Error, Result};

/// Counts to be added up, as if every shard in them had been counted in `weight` copies, each a shard of its own.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    pub counts: &'a SparseCounts,
    /// At least 1.
    pub weight: u32,
}

impl<'a> From<&'a SparseCounts> for Part<'a> {
    fn from(counts: &'a SparseCounts) -> Self {
        Self { counts, weight: 1 }
    }
}

/// One file's n-grams that begin with a certain token, while they are merged.
struct Cursor<'a> {
    reader: ChunkReader<'a>,
    chunks: &'a [Chunk],
    entries: std::vec::IntoIter<Entry>,
    /// By which counts are multiplied.
    weight: u64,
    /// Of the counts as they are in the file.
    total: u64,
}

impl<'a> Cursor<'a> {
    fn new(part: &Part<'a>, first: u16) -> Result<Self> {
        let &Part { counts, weight } = part;
        let (reader, chunks) = (counts.reader()?, counts.chunks_of(first));
        Ok(Self { reader, chunks, entries: Vec::new().into_iter(), weight: weight.into(), total: 0 })
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.entries.next() {
                self.total = self.total.saturating_add(entry.count);
                // Each is at most the tokens of its file, so only forged files reach the limit.
                let times = |number: u64| number.saturating_mul(self.weight);
                let (count, documents) = (times(entry.count), times(entry.documents));
                return Ok(Some(Entry { count, documents, ..entry }));
            }
            let Some((&chunk, rest)) = self.chunks.split_first() else {
                return Ok(None);
            };
            self.chunks = rest;
            self.entries = self.reader.read(chunk)?.into_iter();
        }
    }
}

/// How many first tokens' n-grams are merged before they are written.
const WINDOW: usize = 64;

/// What counts say besides their n-grams.
struct Head {
    spec: NgramSpec,
    shards: Vec<CountedShard>,
    sample: Sample,
}

impl Head {
    /// Of several counts together. [`Error::Input`] as for [`merge`].
    fn of(parts: &[Part]) -> Result<Self> {
        let Some(&Part { counts: first, .. }) = parts.first() else {
            return Err(Error::input("no partial counts to merge"));
        };
        let mut spec = first.spec();
        let mut shards = Vec::new();
        for &Part { counts, weight } in parts {
            let NgramSpec { vocabulary, order } = counts.spec();
            spec.vocabulary =
                spec.vocabulary.united(&vocabulary).filter(|_| order == spec.order).ok_or_else(|| {
                    Error::input(format!(
                        "{}: counts of {vocabulary} up to order {order} don't add up with counts of {} up to \
                         order {}, from {}; count the shards again with the same options",
                        counts.what(),
                        first.spec().vocabulary,
                        first.spec().order,
                        first.what()
                    ))
                })?;
            let mut of_part = counts.shards().to_vec();
            for shard in &mut of_part {
                shard.weight =
                    shard.weight.checked_mul(weight).filter(|&product| product > 0).ok_or_else(|| {
                        Error::input(format!(
                            "{}: a shard of weight {} can't be given weight {weight} besides",
                            counts.what(),
                            shard.weight
                        ))
                    })?;
            }
            shards = united(&shards, of_part)?;
        }
        if weighted_tokens(&shards).is_none() {
            return Err(Error::input("the shards' tokens, times their weights, don't fit 64 bits"));
        }
        let sample = Sample::merge(parts.iter().map(|part| (part.counts.sample(), part.weight)));
        Ok(Self { spec, shards, sample })
    }
}

/// The file of the sum of `parts` without its n-grams: what a build needs besides these.
pub fn heads(parts: &[Part]) -> Result<Vec<u8>> {
    let Head { spec, shards, sample } = Head::of(parts)?;
    Writer::new(Vec::new(), Path::new("counts"), spec, &shards, &sample)?.finish()
}

/// Adds files up into `out`, which errors call `path`. `control` advances by the bytes that were read.
///
/// [`Error::Input`] when they are of different vocabularies or orders, or two of them of the same shard.
pub fn merge<W: Write>(parts: &[Part], out: W, path: &Path, threads: usize, control: &Control) -> Result<W> {
    let Head { spec, shards, sample } = Head::of(parts)?;
    let mut writer = Writer::new(out, path, spec, &shards, &sample)?;
    let totals: Vec<_> = parts.iter().map(|_| AtomicU64::new(0)).collect();
    for window in (0..spec.vocab_size()).collect::<Vec<_>>().chunks(WINDOW) {
        let mut merged: Vec<Vec<u8>> = vec![Vec::new(); window.len()];
        let jobs = window.iter().zip(&mut merged).collect();
        parallel::for_each(threads, jobs, |(&first, merged): (&usize, &mut Vec<u8>)| {
            let first = first as u16;
            let mut cursors: Vec<Cursor> =
                parts.iter().map(|part| Cursor::new(part, first)).collect::<Result<_>>()?;
            let bytes: u64 =
                cursors.iter().flat_map(|cursor| cursor.chunks).map(|c| u64::from(c.bytes)).sum();
            *merged = merge_sorted(&mut cursors, Packer::new(first, spec), control)?;
            for (total, cursor) in totals.iter().zip(&cursors) {
                total.fetch_add(cursor.total, Ordering::Relaxed);
            }
            control.advance(bytes)
        })?;
        for merged in &merged {
            writer.write(merged)?;
        }
    }
    for (part, total) in parts.iter().zip(totals) {
        part.counts.check_total(total.into_inner())?;
    }
    writer.finish()
}

/// Adds counts up in memory, without saying of which shards.
pub fn add(parts: &[Part], threads: usize, control: &Control) -> Result<SparseCounts> {
    let totals = parts.iter().map(|part| part.counts.tokens().saturating_mul(u64::from(part.weight)));
    let total = totals.fold(0, u64::saturating_add);
    let sum = merge(parts, Vec::new(), Path::new("counts"), threads, control)?;
    SparseCounts::unnamed(sum, total, control)
}

fn merge_sorted(cursors: &mut [Cursor], mut packer: Packer, control: &Control) -> Result<Vec<u8>> {
    let mut heads = BinaryHeap::new();
    let mut entries = Vec::with_capacity(cursors.len());
    for (index, cursor) in cursors.iter_mut().enumerate() {
        let entry = cursor.next()?;
        heads.extend(entry.map(|entry| Reverse((entry.ngram, index))));
        entries.push(entry);
    }
    let mut sum: Option<Entry> = None;
    while let Some(mut head) = heads.peek_mut() {
        let Reverse((ngram, index)) = *head;
        let Some(entry) = entries[index] else { break };
        entries[index] = cursors[index].next()?;
        match entries[index] {
            Some(next) if next.ngram <= ngram => {
                let what = &cursors[index].reader.counts.what();
                return Err(Error::format(what, "the chunks' n-grams are out of order"));
            }
            Some(next) => head.0 .0 = next.ngram,
            None => {
                PeekMut::pop(head);
            }
        }
        match &mut sum {
            Some(sum) if sum.ngram == ngram => {
                // Each is at most the tokens of its file, so only forged files reach the limit.
                sum.count = sum.count.saturating_add(entry.count);
                sum.documents = sum.documents.saturating_add(entry.documents);
            }
            _ => {
                if let Some(sum) = sum.replace(entry) {
                    if packer.push(sum)? {
                        control.check()?;
                    }
                }
            }
        }
    }
    if let Some(sum) = sum {
        packer.push(sum)?;
    }
    packer.finish()
}
