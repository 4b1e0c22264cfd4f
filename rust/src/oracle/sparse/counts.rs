//! Counted n-grams, in memory or in a file, which are read a chunk at a time.

use std::borrow::Cow;
use std::cmp::Ordering as CmpOrdering;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::chunk::{longest_content, unpack, Chunk};
use super::counts_file::{scan, Scanned, Writer, END};
use super::ngram::{Entry, Ngram, NgramSpec};
use super::sample::Sample;
use crate::counted_shards::{CountedShard, HASH_BYTES};
use crate::files::{self, AtomicFile};
use crate::parallel::Control;
use crate::tokens::check_tokens;
use crate::{zstd_frame, Error, Result};

/// n-grams that are worth a thread's while.
const PIECE: usize = 1 << 16;

/// Bytes read at a time where they are only hashed.
const BUFFER: usize = 1 << 16;

#[derive(Debug)]
enum Source {
    Memory(Vec<u8>),
    /// Opened by each reader for itself, so that any number of files may be in use.
    File(PathBuf),
}

/// The distinct n-grams of some shards, how often each occurs and in how many documents.
#[derive(Debug)]
pub struct SparseCounts {
    spec: NgramSpec,
    /// Hashes strictly ascending.
    shards: Vec<CountedShard>,
    tokens: u64,
    sample: Sample,
    chunks: Vec<Chunk>,
    source: Source,
    /// What errors call it.
    what: String,
}

impl SparseCounts {
    /// Reads a file's header, notes where its chunks are, and checks its checksum.
    pub fn open(path: &Path, control: &Control) -> Result<Self> {
        let (file, _) = files::open(path)?;
        let what = path.display().to_string();
        let scanned = scan(BufReader::with_capacity(BUFFER, file), path, control)?;
        Ok(Self::scanned(scanned, Source::File(path.to_owned()), what))
    }

    /// Reads a file's content, which errors call `what`, as [`SparseCounts::open`] does.
    pub fn from_bytes(data: Vec<u8>, what: &str, control: &Control) -> Result<Self> {
        let scanned = scan(&data[..], Path::new(what), control)?;
        Ok(Self::scanned(scanned, Source::Memory(data), what.to_owned()))
    }

    fn scanned(scanned: Scanned, source: Source, what: String) -> Self {
        let Scanned { spec, shards, tokens, sample, chunks } = scanned;
        Self { spec, shards, tokens, sample, chunks, source, what }
    }

    /// Counts of `tokens` tokens that came from no shard.
    pub fn unnamed(data: Vec<u8>, tokens: u64, control: &Control) -> Result<Self> {
        Ok(Self { tokens, ..Self::from_bytes(data, "counts", control)? })
    }

    pub fn spec(&self) -> NgramSpec {
        self.spec
    }

    /// By ascending hash.
    pub fn shards(&self) -> &[CountedShard] {
        &self.shards
    }

    /// Tokens that were counted, each as often as its shard was.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// The size of the file in bytes.
    pub fn byte_count(&self) -> u64 {
        let end = self.chunks.last().map_or(0, |chunk| chunk.offset + u64::from(chunk.bytes));
        end + (END.len() + HASH_BYTES) as u64
    }

    /// How many of these bytes are in memory.
    pub fn bytes_in_memory(&self) -> u64 {
        match &self.source {
            Source::Memory(data) => data.len() as u64,
            Source::File(_) => 0,
        }
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        match &self.source {
            Source::Memory(data) => Ok(data.clone()),
            Source::File(path) => files::read(path),
        }
    }

    /// Writes a copy of the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        match &self.source {
            Source::Memory(data) => files::write_atomically(path, data),
            Source::File(from) => {
                let (mut file, _) = files::open(from)?;
                let mut out = AtomicFile::create(path)?;
                io::copy(&mut file, &mut out).map_err(|source| Error::io(path, source))?;
                out.commit()
            }
        }
    }

    /// Whether the document token is anywhere in what was counted.
    pub fn has_document_token(&self) -> bool {
        self.chunks.iter().any(|chunk| chunk.first == self.spec.vocabulary.bos)
    }

    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// Where the chunks are that begin with `first`.
    pub(super) fn chunks_of(&self, first: u16) -> &[Chunk] {
        let start = self.chunks.partition_point(|chunk| chunk.first < first);
        let end = self.chunks.partition_point(|chunk| chunk.first <= first);
        &self.chunks[start..end]
    }

    /// What errors call it.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    pub fn read_chunk(&self, index: usize) -> Result<Vec<Entry>> {
        self.reader()?.read(self.chunks[index])
    }

    pub(super) fn reader(&self) -> Result<ChunkReader<'_>> {
        let file = match &self.source {
            Source::Memory(_) => None,
            Source::File(path) => Some(files::open(path)?.0),
        };
        Ok(ChunkReader { counts: self, file })
    }

    /// Consecutive chunks, a piece of work each: all n-grams that begin with the same token are in one piece.
    pub(super) fn pieces(&self) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let (mut start, mut held) = (0, 0);
        for (index, pair) in self.chunks.windows(2).enumerate() {
            held += pair[0].entries as usize;
            if held >= PIECE && pair[0].first != pair[1].first {
                pieces.push(start..index + 1);
                (start, held) = (index + 1, 0);
            }
        }
        if start < self.chunks.len() {
            pieces.push(start..self.chunks.len());
        }
        pieces
    }

    /// Calls `work` with every n-gram of these chunks, in order; returns the sum of their counts.
    pub fn for_each(
        &self,
        chunks: Range<usize>,
        control: &Control,
        mut work: impl FnMut(&Entry) -> Result<()>,
    ) -> Result<u64> {
        let mut total = 0u64;
        let mut last = None;
        let mut reader = self.reader()?;
        for &chunk in &self.chunks[chunks] {
            control.check()?;
            for entry in &reader.read(chunk)? {
                // Within a chunk they are known to ascend.
                if last >= Some(entry.ngram) {
                    return Err(Error::format(&self.what, "the chunks' n-grams are out of order"));
                }
                last = Some(entry.ngram);
                total = total.saturating_add(entry.count);
                work(entry)?;
            }
        }
        Ok(total)
    }

    /// How often an n-gram of up to `order` tokens occurs.
    pub fn occurrences(&self, ngram: &[u16]) -> Result<u64> {
        let mut total = 0;
        self.for_each_beginning(ngram, |entry| total += entry.count)?;
        Ok(total)
    }

    /// The tokens that follow a context of fewer than `order` tokens, ascending, and how often each does.
    ///
    /// Where a document ends, the document token that begins the next one follows; after the last one of a shard, nothing
    /// does.
    pub fn continuations(&self, context: &[u16]) -> Result<Vec<(u16, u64)>> {
        if context.len() >= self.spec.order {
            let order = self.spec.order;
            return Err(Error::input(format!("n-grams of {order} tokens were counted: a context has fewer")));
        }
        let mut found: Vec<(u16, u64)> = Vec::new();
        if context.is_empty() {
            for token in 0..self.spec.vocab_size() as u16 {
                let count = self.occurrences(&[token])?;
                if count > 0 {
                    found.push((token, count));
                }
            }
            return Ok(found);
        }
        self.for_each_beginning(context, |entry| {
            let code = entry.ngram.code(context.len());
            match found.last_mut() {
                _ if code == 0 => {}
                Some((token, count)) if *token == code - 1 => *count += entry.count,
                _ => found.push((code - 1, entry.count)),
            }
        })?;
        Ok(found)
    }

    /// Calls `work` with every n-gram that begins with these tokens, in order.
    fn for_each_beginning(&self, tokens: &[u16], mut work: impl FnMut(&Entry)) -> Result<()> {
        let order = self.spec.order;
        if tokens.is_empty() || tokens.len() > order {
            return Err(Error::input(format!(
                "n-grams of 1 to {order} tokens were counted, not {}",
                tokens.len()
            )));
        }
        check_tokens(tokens, self.spec.vocab_size())?;
        let mut wanted = Ngram::of(tokens[0]);
        for (index, &token) in tokens.iter().enumerate().skip(1) {
            wanted = wanted.with(index, token + 1);
        }
        let (chunks, mut reader) = (self.chunks_of(tokens[0]), self.reader()?);
        // The first chunk that may hold one: the last that begins below.
        let (mut low, mut high) = (0, chunks.len());
        while high - low > 1 {
            let middle = (low + high) / 2;
            match reader.read(chunks[middle])?.first() {
                Some(entry) if entry.ngram < wanted => low = middle,
                _ => high = middle,
            }
        }
        for chunk in &chunks[low..] {
            for entry in &reader.read(*chunk)? {
                match entry.ngram.truncated(tokens.len()).cmp(&wanted) {
                    CmpOrdering::Less => {}
                    CmpOrdering::Equal => work(entry),
                    CmpOrdering::Greater => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// The n-grams that begin with some consecutive tokens: the bytes of a file of no shard and without a sample, and the
    /// sum of their counts. [`SparseCounts::unnamed`] reads them.
    pub fn beginning_with(&self, first_tokens: Range<usize>, control: &Control) -> Result<(Vec<u8>, u64)> {
        let before = |token: usize| self.chunks.partition_point(|chunk| usize::from(chunk.first) < token);
        let chunks = before(first_tokens.start)..before(first_tokens.end);
        let total = self.for_each(chunks.clone(), control, |_| Ok(()))?;
        let mut writer = Writer::new(Vec::new(), Path::new("counts"), self.spec, &[], &Sample::default())?;
        let mut reader = self.reader()?;
        for chunk in &self.chunks[chunks] {
            let frame = reader.frame(*chunk)?;
            writer.write(&chunk.header())?;
            writer.write(&frame)?;
        }
        Ok((writer.finish()?, total))
    }

    /// Checks the sum of all counts: an n-gram starts at every token.
    pub fn check_total(&self, total: u64) -> Result<()> {
        if total != self.tokens {
            let tokens = self.tokens;
            return Err(Error::format(
                &self.what,
                format!("{total} n-grams are counted, but the shards hold {tokens} tokens"),
            ));
        }
        Ok(())
    }
}

pub(super) struct ChunkReader<'a> {
    pub counts: &'a SparseCounts,
    file: Option<File>,
}

impl ChunkReader<'_> {
    fn frame(&mut self, chunk: Chunk) -> Result<Cow<'_, [u8]>> {
        match (&self.counts.source, &mut self.file) {
            (Source::File(path), Some(file)) => {
                let mut frame = vec![0; chunk.bytes as usize];
                let mut read = || {
                    file.seek(SeekFrom::Start(chunk.offset))?;
                    file.read_exact(&mut frame)
                };
                read().map_err(|source| Error::io(path, source))?;
                Ok(frame.into())
            }
            (Source::Memory(data), _) => {
                let start = chunk.offset as usize;
                Ok(data[start..start + chunk.bytes as usize].into())
            }
            (Source::File(_), None) => Ok(Cow::default()),
        }
    }

    pub fn read(&mut self, chunk: Chunk) -> Result<Vec<Entry>> {
        let counts = self.counts;
        let frame = self.frame(chunk)?;
        let name = format!("{}: at offset {}", counts.what, chunk.offset);
        let content =
            zstd_frame::decompress(&frame, longest_content(chunk.entries, counts.spec.order), &name)?;
        unpack(&content, chunk, counts.spec, counts.tokens).map_err(|detail| Error::format(name, detail))
    }
}
