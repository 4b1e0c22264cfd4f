//! Counting: from tokens to [`SparseCounts`].
//!
//! For each token, the places where it stands are sorted by what follows them; equal n-grams are then neighbours. Threads
//! take one token after the other, and a chunk's n-grams begin with the same token, so the chunks come out in order. To
//! limit memory, only the places of a group of tokens are collected at a time, and the text is read once per group.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::chunk::Packer;
use super::counts::SparseCounts;
use super::counts_file::Writer;
use super::ngram::{Entry, Ngram, NgramSpec};
use super::sample::{document_starts, Sample};
use crate::counted_shards::{identify_open, united};
use crate::files::AtomicFile;
use crate::parallel::{self, Control};
use crate::tokens::{self, Shard};
use crate::{Error, Result};

/// About how much memory counting takes per token of a group: its place, what is being sorted, and the chunks made.
const BYTES_PER_TOKEN: usize = 20;

/// Counts shards. The result is kept in memory (some 5 bytes per token), or in a file if `out` is given;
/// besides that, counting takes about `memory` bytes. `control` advances by tokens.
pub fn count_shards(
    paths: &[PathBuf],
    spec: NgramSpec,
    memory: usize,
    out: Option<&Path>,
    threads: usize,
    control: &Control,
) -> Result<SparseCounts> {
    let shards = paths.iter().map(Shard::open).collect::<Result<Vec<_>>>()?;
    for shard in &shards {
        tokens::check_vocabulary(shard.tokens(), 0, spec.vocab_size(), shard.path())?;
    }
    let known = united(&[], identify_open(&shards, threads, || control.check())?)?;
    let streams: Vec<&[u16]> = shards.iter().map(Shard::tokens).collect();
    let sample = Sample::of(&streams, spec.vocabulary.bos);
    match out {
        None => {
            let writer = Writer::new(Vec::new(), Path::new("counts"), spec, &known, &sample)?;
            let data = count(&streams, spec, memory, threads, control, true, writer)?;
            SparseCounts::from_bytes(data, "counts", control)
        }
        Some(path) => {
            let writer = Writer::new(AtomicFile::create(path)?, path, spec, &known, &sample)?;
            count(&streams, spec, memory, threads, control, true, writer)?.commit()?;
            SparseCounts::open(path, control)
        }
    }
}

/// Counts tokens that come from no shard, into memory. `control` doesn't advance.
pub fn count_streams(
    streams: &[&[u16]],
    spec: NgramSpec,
    threads: usize,
    control: &Control,
) -> Result<SparseCounts> {
    for stream in streams {
        if let Some(at) = tokens::out_of_vocabulary(stream, spec.vocab_size()) {
            let token = stream[at];
            return Err(Error::input(format!(
                "token {token} at offset {at} is outside the vocabulary of {}",
                spec.vocab_size()
            )));
        }
    }
    let sample = Sample::of(streams, spec.vocabulary.bos);
    let writer = Writer::new(Vec::new(), Path::new("counts"), spec, &[], &sample)?;
    let total = streams.iter().map(|stream| stream.len() as u64).sum();
    SparseCounts::unnamed(count(streams, spec, usize::MAX, threads, control, false, writer)?, total, control)
}

#[allow(clippy::too_many_arguments)]
fn count<W: Write>(
    streams: &[&[u16]],
    spec: NgramSpec,
    memory: usize,
    threads: usize,
    control: &Control,
    reports: bool,
    writer: Writer<W>,
) -> Result<W> {
    // Tokens are packed one higher, so that zero can say that an n-gram has ended.
    let bits = usize::BITS - spec.vocab_size().leading_zeros();
    let job =
        Job { text: Text::new(streams, spec.vocabulary.bos)?, spec, bits, memory, threads, control, reports };
    if bits as usize * (spec.order - 1) <= 64 {
        job.count::<u64, W>(writer)
    } else {
        job.count::<u128, W>(writer)
    }
}

/// Streams; places are numbered through all of them.
struct Text<'a> {
    streams: &'a [&'a [u16]],
    /// Where each stream starts, and the end.
    starts: Vec<usize>,
    /// Where each document starts; each stream's first is one.
    documents: Vec<u32>,
}

impl<'a> Text<'a> {
    fn new(streams: &'a [&'a [u16]], bos: u16) -> Result<Self> {
        let (mut starts, mut documents) = (vec![0], Vec::new());
        for stream in streams {
            let start = starts[starts.len() - 1];
            if start + stream.len() > u32::MAX as usize {
                return Err(Error::input(
                    "more than 2^32 tokens at once; count the shards in groups and merge",
                ));
            }
            documents.extend(document_starts(stream, bos).map(|at| (start + at) as u32));
            starts.push(start + stream.len());
        }
        Ok(Self { streams, starts, documents })
    }
}

struct Job<'a> {
    text: Text<'a>,
    spec: NgramSpec,
    bits: u32,
    memory: usize,
    threads: usize,
    control: &'a Control,
    /// Whether `control` advances.
    reports: bool,
}

impl Job<'_> {
    fn count<K: Key, W: Write>(&self, mut writer: Writer<W>) -> Result<W> {
        let mut occurrences = vec![0usize; self.spec.vocab_size()];
        for &token in self.text.streams.iter().copied().flatten() {
            occurrences[usize::from(token)] += 1;
        }
        let most = (self.memory / BYTES_PER_TOKEN).max(1 << 16);
        let mut start = 0;
        while start < occurrences.len() {
            let (mut end, mut held) = (start, 0);
            while end < occurrences.len() && (end == start || held + occurrences[end] <= most) {
                held += occurrences[end];
                end += 1;
            }
            if held > 0 {
                self.count_group::<K, W>(start, &occurrences[start..end], &mut writer)?;
            }
            start = end;
        }
        writer.finish()
    }

    /// Counts the n-grams that begin with the tokens from `first` on; `occurrences` is how often each occurs.
    fn count_group<K: Key, W: Write>(
        &self,
        first: usize,
        occurrences: &[usize],
        writer: &mut Writer<W>,
    ) -> Result<()> {
        let mut places = vec![0u32; occurrences.iter().sum()];
        let mut next = Vec::with_capacity(occurrences.len());
        let mut lists = Vec::with_capacity(occurrences.len());
        let mut bound = 0;
        for count in occurrences {
            next.push(bound);
            lists.push(bound..bound + count);
            bound += count;
        }
        for (stream, &start) in self.text.streams.iter().zip(&self.text.starts) {
            self.control.check()?;
            for (at, &token) in stream.iter().enumerate() {
                // Tokens before the first one wrap around.
                if let Some(slot) = next.get_mut(usize::from(token).wrapping_sub(first)) {
                    places[*slot] = (start + at) as u32;
                    *slot += 1;
                }
            }
        }
        let mut packed: Vec<Vec<u8>> = vec![Vec::new(); lists.len()];
        let jobs = lists.into_iter().zip(&mut packed).enumerate().collect();
        parallel::for_each(self.threads, jobs, |(index, (list, packed)): (usize, (_, &mut Vec<u8>))| {
            let places: &[u32] = &places[list];
            *packed = self.sort::<K>((first + index) as u16, places)?;
            self.control.advance(if self.reports { places.len() as u64 } else { 0 })
        })?;
        packed.iter().try_for_each(|packed| writer.write(packed))
    }

    /// The chunks of the n-grams that begin at `places`, which ascend.
    fn sort<K: Key>(&self, first: u16, places: &[u32]) -> Result<Vec<u8>> {
        let Text { streams, starts, documents } = &self.text;
        let rest = Rest { length: self.spec.order - 1, bits: self.bits, bos: self.spec.vocabulary.bos };
        let (mut stream, mut document) = (0, 0);
        let pack = |&place: &u32| {
            // Most often it is the same document or the next one.
            if documents.get(document + 1).is_some_and(|&start| start <= place) {
                document += documents[document + 1..].partition_point(|&start| start <= place);
            }
            while starts[stream + 1] <= place as usize {
                stream += 1;
            }
            let follow = place as usize + 1 - starts[stream];
            (K::pack(&streams[stream][follow..], rest), document as u32)
        };
        let mut found: Vec<(K, u32)> = places.iter().map(pack).collect();
        found.sort_unstable();
        let mut packer = Packer::new(first, self.spec);
        for group in found.chunk_by(|a, b| a.0 == b.0) {
            let changes = group.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
            packer.push(Entry {
                ngram: group[0].0.unpack(first, rest),
                count: group.len() as u64,
                documents: 1 + changes as u64,
            })?;
        }
        packer.finish()
    }
}

/// What follows an n-gram's first token: up to `length` tokens of `bits` bits each, none after the document token.
#[derive(Clone, Copy)]
struct Rest {
    length: usize,
    bits: u32,
    bos: u16,
}

/// A sortable packing of the tokens after an n-gram's first, in as few bits as they need.
trait Key: Copy + Ord + Send {
    /// Of the first of `tokens`: fewer where the stream or the document ends.
    fn pack(tokens: &[u16], rest: Rest) -> Self;
    fn unpack(self, first: u16, rest: Rest) -> Ngram;
}

macro_rules! impl_key {
    ($type:ty) => {
        impl Key for $type {
            fn pack(tokens: &[u16], Rest { length, bits, bos }: Rest) -> Self {
                let mut key: Self = 0;
                let mut left = length as u32;
                for &token in tokens.iter().take(length) {
                    key = (key << bits) | (Self::from(token) + 1);
                    left -= 1;
                    if token == bos {
                        break;
                    }
                }
                // A shift by all bits, which Rust refuses, would only ever move zero.
                key.checked_shl(left * bits).unwrap_or(0)
            }

            fn unpack(self, first: u16, Rest { length, bits, .. }: Rest) -> Ngram {
                let mut ngram = Ngram::of(first);
                for index in 0..length {
                    let code = (self >> (bits as usize * (length - 1 - index))) & ((1 << bits) - 1);
                    ngram = ngram.with(index + 1, code as u16);
                }
                ngram
            }
        }
    };
}
impl_key!(u64);
impl_key!(u128);
