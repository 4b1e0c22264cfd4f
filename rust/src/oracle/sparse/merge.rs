//! Adding up files of counts in constant memory.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::BinaryHeap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::chunk::{Chunk, Packer};
use super::counts::{ChunkReader, SparseCounts};
use super::counts_file::Writer;
use super::ngram::{Entry, NgramSpec};
use super::sample::Sample;
use crate::counted_shards::{united, CountedShard};
use crate::parallel::{self, Control};
use crate::{Error, Result};

/// One file's n-grams that begin with a certain token, while they are merged.
struct Cursor<'a> {
    reader: ChunkReader<'a>,
    chunks: &'a [Chunk],
    entries: std::vec::IntoIter<Entry>,
    total: u64,
}

impl<'a> Cursor<'a> {
    fn new(counts: &'a SparseCounts, first: u16) -> Result<Self> {
        let reader = counts.reader()?;
        Ok(Self { reader, chunks: counts.chunks_of(first), entries: Vec::new().into_iter(), total: 0 })
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.entries.next() {
                self.total = self.total.saturating_add(entry.count);
                return Ok(Some(entry));
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
    fn of(parts: &[&SparseCounts]) -> Result<Self> {
        let Some(first) = parts.first() else {
            return Err(Error::input("no partial counts to merge"));
        };
        let mut spec = first.spec();
        let mut shards = Vec::new();
        for part in parts {
            let NgramSpec { vocabulary, order } = part.spec();
            spec.vocabulary =
                spec.vocabulary.united(&vocabulary).filter(|_| order == spec.order).ok_or_else(|| {
                    Error::input(format!(
                        "{}: counts of {vocabulary} up to order {order} don't add up with counts of {} up to \
                         order {}, from {}; count the shards again with the same options",
                        part.what(),
                        first.spec().vocabulary,
                        first.spec().order,
                        first.what()
                    ))
                })?;
            shards = united(&shards, part.shards().to_vec())?;
        }
        let sample = Sample::merge(parts.iter().map(|part| part.sample()));
        Ok(Self { spec, shards, sample })
    }
}

/// The file of the sum of `parts` without its n-grams: what a build needs besides these.
pub fn heads(parts: &[&SparseCounts]) -> Result<Vec<u8>> {
    let Head { spec, shards, sample } = Head::of(parts)?;
    Writer::new(Vec::new(), Path::new("counts"), spec, &shards, &sample)?.finish()
}

/// Adds files up into `out`, which errors call `path`. `control` advances by the bytes that were read.
///
/// [`Error::Input`] when they are of different vocabularies or orders, or two of them of the same shard.
pub fn merge<W: Write>(
    parts: &[&SparseCounts],
    out: W,
    path: &Path,
    threads: usize,
    control: &Control,
) -> Result<W> {
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
        part.check_total(total.into_inner())?;
    }
    writer.finish()
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
