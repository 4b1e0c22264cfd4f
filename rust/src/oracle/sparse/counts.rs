//! Counted n-grams: what some shards contribute to a sparse oracle, in a file that adds up with others.
//!
//! Such a file holds each distinct n-gram of the highest order with how often and in how many documents
//! it occurs, sorted, in chunks that are read one at a time: files of any size are merged, and turned into
//! an oracle, in constant memory. Documents don't span shards, so both numbers add up. It also holds a
//! sample of the documents ([`Sample`]) and says what was counted, the shards by their content. Its bytes
//! depend on the set of shards, the vocabulary and the order alone.
//!
//! Little-endian (docs/format.md has the rules):
//!
//! | bytes | |
//! |---|---|
//! | 4 | magic, 0x4E475343 |
//! | 4 | version, 2 |
//! | 4, 4, 4 | vocabulary, order, number of shards |
//! | 4, 32 | document token, fingerprint of the tokenizer (zeros: not known); not in version 1 |
//! | 32, 8, 2, n per shard | as in other partial counts |
//! | 4, n | length n of a zstd frame, the frame: the sample |
//! | 2, 4, 4, n per chunk | first token, number of n-grams, length n of a zstd frame, the frame |
//! | 10 | zeros |
//! | 32 | BLAKE3 of everything before |

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::sample::Sample;
use super::MAX_ORDER;
use crate::files::{self, AtomicFile};
use crate::parallel::{self, Control};
use crate::partial::{self, put, CountedShard, Numbers};
use crate::vocabulary::Vocabulary;
use crate::{Error, Result};

pub const MAGIC: u32 = 0x4E47_5343;
pub const VERSION: u32 = 2;
/// Counts of a vocabulary that isn't known beyond its size.
const VERSION_WITHOUT_IDENTITY: u32 = 1;

/// n-grams per chunk. So few that a merge of many files holds little of each, enough for zstd to learn from.
pub const CHUNK: usize = 1 << 14;

/// The highest zstd levels save a tenth of the bytes at ten times the time.
const LEVEL: i32 = 1;

const HASH_BYTES: usize = 32;

/// The largest vocabulary: a token and one must fit 16 bits.
pub const MAX_VOCAB: usize = u16::MAX as usize;

/// Bytes read at a time where they are only hashed.
const PIECE: usize = 1 << 16;

/// An n-gram, packed: 16 bits per token, each one higher so that 0 says that the n-gram has ended.
/// Packings sort as the tokens do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ngram(u128);

const CODE_BITS: usize = 16;

impl Ngram {
    pub fn of(token: u16) -> Self {
        Self(0).with(0, token + 1)
    }

    /// The token at `index`, one higher; 0 beyond the n-gram's end.
    pub fn code(self, index: usize) -> u16 {
        (self.0 >> (CODE_BITS * (MAX_ORDER - 1 - index))) as u16
    }

    /// With `code` at `index`, where nothing is yet.
    pub fn with(self, index: usize, code: u16) -> Self {
        Self(self.0 | u128::from(code) << (CODE_BITS * (MAX_ORDER - 1 - index)))
    }

    fn truncated(self, length: usize) -> Self {
        Self(self.0 & u128::MAX.checked_shl((CODE_BITS * (MAX_ORDER - length)) as u32).unwrap_or(0))
    }

    pub fn length(self) -> usize {
        MAX_ORDER - self.0.trailing_zeros() as usize / CODE_BITS
    }

    pub fn tokens(self) -> impl Iterator<Item = u16> {
        (0..self.length()).map(move |index| self.code(index) - 1)
    }

    /// How many tokens two n-grams that differ share from the first on.
    pub fn common(self, other: Self) -> usize {
        (self.0 ^ other.0).leading_zeros() as usize / CODE_BITS
    }
}

/// How often an n-gram occurs, and in how many documents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    pub ngram: Ngram,
    pub count: u64,
    pub documents: u64,
}

/// What all n-grams of a file are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub vocabulary: Vocabulary,
    pub order: usize,
}

impl Kind {
    pub fn new(vocabulary: impl Into<Vocabulary>, order: usize) -> Result<Self> {
        let vocabulary = vocabulary.into();
        let vocab_size = vocabulary.size;
        if vocab_size == 0 || vocab_size > MAX_VOCAB {
            return Err(Error::input(format!("a vocabulary has 1 to {MAX_VOCAB} tokens, not {vocab_size}")));
        }
        if !(2..=MAX_ORDER).contains(&order) {
            return Err(Error::input(format!("a sparse oracle has order 2 to {MAX_ORDER}, not {order}")));
        }
        vocabulary.check()?;
        Ok(Self { vocabulary, order })
    }

    pub fn vocab_size(&self) -> usize {
        self.vocabulary.size
    }

    /// Whether no token follows this code: the n-gram is over, or reached the next document's beginning.
    fn ends(&self, code: u16) -> bool {
        code == 0 || code == self.vocabulary.bos + 1
    }
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    first: u16,
    entries: u32,
    offset: u64,
    bytes: u32,
}

#[derive(Debug)]
enum Source {
    Memory(Vec<u8>),
    /// Opened anew by each that reads, so that any number of files may be known.
    File(PathBuf),
}

/// See the module.
#[derive(Debug)]
pub struct SparseCounts {
    kind: Kind,
    /// Hashes strictly ascending.
    shards: Vec<CountedShard>,
    tokens: u64,
    sample: Sample,
    chunks: Vec<Chunk>,
    source: Source,
    /// In errors.
    what: String,
}

impl SparseCounts {
    /// Reads a file's header, notes where its chunks are, and checks its checksum.
    pub fn open(path: &Path, control: &Control) -> Result<Self> {
        let (file, _) = files::open(path)?;
        let what = path.display().to_string();
        let scanned = scan(BufReader::with_capacity(PIECE, file), path, control)?;
        Ok(scanned.into_counts(Source::File(path.to_owned()), what))
    }

    /// [`SparseCounts::open`] of a file's content, which errors call `what`.
    pub fn from_bytes(data: Vec<u8>, what: &str, control: &Control) -> Result<Self> {
        let scanned = scan(&data[..], Path::new(what), control)?;
        Ok(scanned.into_counts(Source::Memory(data), what.to_owned()))
    }

    /// Of what came from no shard but has `tokens` tokens.
    pub(super) fn unnamed(data: Vec<u8>, tokens: u64, control: &Control) -> Result<Self> {
        Ok(Self { tokens, ..Self::from_bytes(data, "counts", control)? })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// By ascending hash.
    pub fn shards(&self) -> &[CountedShard] {
        &self.shards
    }

    /// Tokens that were counted.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// Bytes of the file.
    pub fn byte_count(&self) -> u64 {
        let end = self.chunks.last().map_or(0, |chunk| chunk.offset + u64::from(chunk.bytes));
        end + (END.len() + HASH_BYTES) as u64
    }

    /// Of them those that are in memory.
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

    /// Writes the file elsewhere.
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
        self.chunks.iter().any(|chunk| chunk.first == self.kind.vocabulary.bos)
    }

    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    pub fn read_chunk(&self, index: usize) -> Result<Vec<Entry>> {
        self.reader()?.read(self.chunks[index])
    }

    fn reader(&self) -> Result<ChunkReader<'_>> {
        let file = match &self.source {
            Source::Memory(_) => None,
            Source::File(path) => Some(files::open(path)?.0),
        };
        Ok(ChunkReader { counts: self, file })
    }

    /// All n-grams in order, which several threads unpack.
    pub fn for_each(
        &self,
        threads: usize,
        control: &Control,
        mut work: impl FnMut(&Entry) -> Result<()>,
    ) -> Result<()> {
        let mut total = 0u64;
        let mut last = None;
        for chunks in self.chunks.chunks(4 * threads.max(1)) {
            let mut unpacked: Vec<Vec<Entry>> = vec![Vec::new(); chunks.len()];
            let jobs = chunks.iter().zip(&mut unpacked).collect();
            parallel::for_each(threads, jobs, |(chunk, entries): (&Chunk, &mut Vec<Entry>)| {
                *entries = self.reader()?.read(*chunk)?;
                control.check()
            })?;
            for entry in unpacked.iter().flatten() {
                // Within a chunk they were found to ascend.
                if last >= Some(entry.ngram) {
                    return Err(Error::format(&self.what, "the chunks' n-grams are out of order"));
                }
                last = Some(entry.ngram);
                total = total.saturating_add(entry.count);
                work(entry)?;
            }
        }
        self.check_total(total)
    }

    /// An n-gram starts at every token.
    fn check_total(&self, total: u64) -> Result<()> {
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

struct ChunkReader<'a> {
    counts: &'a SparseCounts,
    file: Option<File>,
}

impl ChunkReader<'_> {
    fn read(&mut self, chunk: Chunk) -> Result<Vec<Entry>> {
        let counts = self.counts;
        let frame = match (&counts.source, &mut self.file) {
            (Source::File(path), Some(file)) => {
                let mut frame = vec![0; chunk.bytes as usize];
                let mut read = || {
                    file.seek(SeekFrom::Start(chunk.offset))?;
                    file.read_exact(&mut frame)
                };
                read().map_err(|source| Error::io(path, source))?;
                frame
            }
            (Source::Memory(data), _) => {
                let start = chunk.offset as usize;
                data[start..start + chunk.bytes as usize].to_vec()
            }
            (Source::File(_), None) => return Ok(Vec::new()),
        };
        let name = format!("{}: at offset {}", counts.what, chunk.offset);
        let content = files::decompress(&frame, longest_content(chunk.entries, counts.kind.order), &name)?;
        unpack(&content, chunk, counts.kind, counts.tokens).map_err(|detail| Error::format(name, detail))
    }
}

/// What one file has of the n-grams that begin with one token, as they are merged.
struct Cursor<'a> {
    reader: ChunkReader<'a>,
    chunks: &'a [Chunk],
    entries: std::vec::IntoIter<Entry>,
    total: u64,
}

impl<'a> Cursor<'a> {
    fn new(counts: &'a SparseCounts, first: u16) -> Result<Self> {
        let start = counts.chunks.partition_point(|chunk| chunk.first < first);
        let end = counts.chunks.partition_point(|chunk| chunk.first <= first);
        let reader = counts.reader()?;
        Ok(Self { reader, chunks: &counts.chunks[start..end], entries: Vec::new().into_iter(), total: 0 })
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

/// First tokens whose n-grams are merged before they are written.
const WINDOW: usize = 64;

/// Adds files up into `out`, which errors call `path`. `control` advances by the bytes that were read.
///
/// [`Error::Input`] when they are of different kinds, or of the same shard.
pub fn merge<W: Write>(
    parts: &[&SparseCounts],
    out: W,
    path: &Path,
    threads: usize,
    control: &Control,
) -> Result<W> {
    let Some(first) = parts.first() else {
        return Err(Error::input("no partial counts to merge"));
    };
    let mut kind = first.kind;
    let mut shards = Vec::new();
    for part in parts {
        let Kind { vocabulary, order } = part.kind;
        kind.vocabulary =
            kind.vocabulary.united(&vocabulary).filter(|_| order == kind.order).ok_or_else(|| {
                Error::input(format!(
                    "{}: counts of {vocabulary} up to order {order} don't add up with counts of {} up to \
                     order {}, from {}; count the shards again with the same options",
                    part.what, first.kind.vocabulary, first.kind.order, first.what
                ))
            })?;
        shards = partial::united(&shards, part.shards.clone())?;
    }
    let sample = Sample::merge(parts.iter().map(|part| &part.sample));
    let mut writer = Writer::new(out, path, kind, &shards, &sample)?;
    let totals: Vec<_> = parts.iter().map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
    for window in (0..kind.vocab_size()).collect::<Vec<_>>().chunks(WINDOW) {
        let mut merged: Vec<Vec<u8>> = vec![Vec::new(); window.len()];
        let jobs = window.iter().zip(&mut merged).collect();
        parallel::for_each(threads, jobs, |(&first, merged): (&usize, &mut Vec<u8>)| {
            let first = first as u16;
            let mut cursors: Vec<Cursor> =
                parts.iter().map(|part| Cursor::new(part, first)).collect::<Result<_>>()?;
            let bytes: u64 =
                cursors.iter().flat_map(|cursor| cursor.chunks).map(|c| u64::from(c.bytes)).sum();
            *merged = merge_sorted(&mut cursors, Packer::new(first, kind), control)?;
            for (total, cursor) in totals.iter().zip(&cursors) {
                total.fetch_add(cursor.total, std::sync::atomic::Ordering::Relaxed);
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
    let mut heads = std::collections::BinaryHeap::new();
    let mut entries = Vec::with_capacity(cursors.len());
    for (index, cursor) in cursors.iter_mut().enumerate() {
        let entry = cursor.next()?;
        heads.extend(entry.map(|entry| std::cmp::Reverse((entry.ngram, index))));
        entries.push(entry);
    }
    let mut sum: Option<Entry> = None;
    while let Some(mut head) = heads.peek_mut() {
        let std::cmp::Reverse((ngram, index)) = *head;
        let Some(entry) = entries[index] else { break };
        entries[index] = cursors[index].next()?;
        match entries[index] {
            Some(next) if next.ngram <= ngram => {
                let what = &cursors[index].reader.counts.what;
                return Err(Error::format(what, "the chunks' n-grams are out of order"));
            }
            Some(next) => head.0 .0 = next.ngram,
            None => {
                std::collections::binary_heap::PeekMut::pop(head);
            }
        }
        match &mut sum {
            Some(sum) if sum.ngram == ngram => {
                // Each is at most its file's tokens.
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

/// Puts the n-grams that begin with one token, in order, into chunks.
pub(super) struct Packer {
    first: u16,
    kind: Kind,
    previous: Ngram,
    entries: u32,
    shared: Vec<u8>,
    tokens: Vec<u8>,
    counts: Vec<u8>,
    repeats: Vec<u8>,
    out: Vec<u8>,
}

impl Packer {
    pub fn new(first: u16, kind: Kind) -> Self {
        Self {
            first,
            kind,
            previous: Ngram::of(first),
            entries: 0,
            shared: Vec::new(),
            tokens: Vec::new(),
            counts: Vec::new(),
            repeats: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Whether a chunk was completed.
    pub fn push(&mut self, entry: Entry) -> Result<bool> {
        let Entry { ngram, count, documents } = entry;
        // The n-gram that has nothing after its first token is equal to what comes before the first chunk.
        let shared = ngram.common(self.previous).min(ngram.length());
        self.shared.push(shared as u8);
        let mut known = self.previous.code(shared);
        for index in shared..self.kind.order {
            let code = ngram.code(index);
            put(&mut self.tokens, u64::from(code - known));
            known = 0;
            if self.kind.ends(code) {
                break;
            }
        }
        put(&mut self.counts, count - 1);
        put(&mut self.repeats, count - documents);
        self.previous = ngram;
        self.entries += 1;
        if self.entries as usize == CHUNK {
            self.flush()?;
            return Ok(true);
        }
        Ok(false)
    }

    fn flush(&mut self) -> Result<()> {
        let parts = [&self.shared, &self.tokens, &self.counts, &self.repeats];
        let content: Vec<u8> = parts.into_iter().flatten().copied().collect();
        // Nothing watches a chunk's own compression, which takes less than a millisecond.
        let frame = files::compress(&content, LEVEL, &Control::default())?;
        self.out.extend(self.first.to_le_bytes());
        self.out.extend(self.entries.to_le_bytes());
        self.out.extend((frame.len() as u32).to_le_bytes());
        self.out.extend(frame);
        for part in [&mut self.shared, &mut self.tokens, &mut self.counts, &mut self.repeats] {
            part.clear();
        }
        self.previous = Ngram::of(self.first);
        self.entries = 0;
        Ok(())
    }

    /// The chunks as they are in a file.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        if self.entries > 0 {
            self.flush()?;
        }
        Ok(self.out)
    }
}

/// The longest content that a chunk can have.
fn longest_content(entries: u32, order: usize) -> usize {
    entries as usize * (1 + 3 * (order - 1) + 10 + 10)
}

/// The inverse of [`Packer`], for bytes of unknown origin.
fn unpack(content: &[u8], chunk: Chunk, kind: Kind, tokens: u64) -> std::result::Result<Vec<Entry>, String> {
    let count = chunk.entries as usize;
    let short = || "the chunk's numbers end too early or are too large".to_owned();
    let (shared, rest) = content.split_at_checked(count).ok_or_else(short)?;
    let mut numbers = Numbers(rest);
    let mut entries = Vec::with_capacity(count);
    let mut previous = Ngram::of(chunk.first);
    for (index, &shared) in shared.iter().enumerate() {
        let shared = usize::from(shared);
        let fits = if index == 0 { shared == 1 } else { (1..=previous.length()).contains(&shared) };
        if !fits || shared >= kind.order || shared > 1 && kind.ends(previous.code(shared - 1)) {
            return Err("an n-gram shares more with the one before it than there is".into());
        }
        let mut ngram = previous.truncated(shared);
        let mut known = u64::from(previous.code(shared));
        for at in shared..kind.order {
            let step = numbers.next().ok_or_else(short)?;
            if at == shared && step == 0 && index > 0 {
                return Err("an n-gram is out of order".into());
            }
            let code = known.checked_add(step).filter(|&code| code <= kind.vocab_size() as u64);
            let code =
                code.ok_or_else(|| format!("a token is outside the vocabulary of {}", kind.vocab_size()))?;
            known = 0;
            ngram = ngram.with(at, code as u16);
            if kind.ends(code as u16) {
                break;
            }
        }
        entries.push(Entry { ngram, count: 0, documents: 0 });
        previous = ngram;
    }
    for entry in &mut entries {
        let less = numbers.next().ok_or_else(short)?;
        if less >= tokens {
            return Err("an n-gram is counted more often than there are tokens".into());
        }
        entry.count = less + 1;
    }
    for entry in &mut entries {
        let repeats = numbers.next().ok_or_else(short)?;
        if repeats >= entry.count {
            return Err("an n-gram is in no document".into());
        }
        entry.documents = entry.count - repeats;
    }
    if !numbers.0.is_empty() {
        return Err("bytes follow the chunk's last number".into());
    }
    Ok(entries)
}

/// In place of a chunk: there are no more.
const END: [u8; 10] = [0; 10];

/// Writes a file from its header, its chunks as a [`Packer`] makes them, and its checksum.
pub(super) struct Writer<'a, W> {
    out: W,
    hasher: blake3::Hasher,
    path: &'a Path,
}

impl<'a, W: Write> Writer<'a, W> {
    pub fn new(out: W, path: &'a Path, kind: Kind, shards: &[CountedShard], sample: &Sample) -> Result<Self> {
        let mut header = Vec::new();
        let words = [MAGIC, VERSION, kind.vocab_size() as u32, kind.order as u32, shards.len() as u32];
        header.extend(words.into_iter().flat_map(u32::to_le_bytes));
        kind.vocabulary.write_identity(&mut header);
        for shard in shards {
            partial::write_shard(&mut header, shard);
        }
        let frame = files::compress(&sample.pack(), LEVEL, &Control::default())?;
        header.extend((frame.len() as u32).to_le_bytes());
        header.extend(frame);
        let mut writer = Self { out, hasher: blake3::Hasher::new(), path };
        writer.write(&header)?;
        Ok(writer)
    }

    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        self.hasher.update(data);
        self.out.write_all(data).map_err(|source| Error::io(self.path, source))
    }

    pub fn finish(mut self) -> Result<W> {
        self.write(&END)?;
        let hash = self.hasher.finalize();
        self.out.write_all(hash.as_bytes()).map_err(|source| Error::io(self.path, source))?;
        Ok(self.out)
    }
}

/// Makes the checksum at the end of what may be a file right.
pub(crate) fn seal(data: &mut [u8]) {
    if let Some(covered) = data.len().checked_sub(HASH_BYTES) {
        let hash = blake3::hash(&data[..covered]);
        data[covered..].copy_from_slice(hash.as_bytes());
    }
}

/// What a file says before its chunks are unpacked.
struct Scanned {
    kind: Kind,
    shards: Vec<CountedShard>,
    tokens: u64,
    sample: Sample,
    chunks: Vec<Chunk>,
}

impl Scanned {
    fn into_counts(self, source: Source, what: String) -> SparseCounts {
        let Self { kind, shards, tokens, sample, chunks } = self;
        SparseCounts { kind, shards, tokens, sample, chunks, source, what }
    }
}

/// Reads fields and hashes what it reads.
struct Scanner<'a, R> {
    input: R,
    path: &'a Path,
    hasher: blake3::Hasher,
    offset: u64,
}

impl<R: Read> Scanner<'_, R> {
    fn error(&self, message: impl ToString) -> Error {
        let message = format!("before offset {}: {}", self.offset, message.to_string());
        Error::format(self.path.display(), message)
    }

    fn fill(&mut self, buffer: &mut [u8], field: &str) -> Result<()> {
        self.input.read_exact(buffer).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.error(format!("the file ends within {field}; it is incomplete, make it again"))
            }
            _ => Error::io(self.path, source),
        })?;
        self.hasher.update(buffer);
        self.offset += buffer.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        self.fill(&mut array, field)?;
        Ok(array)
    }

    fn u32(&mut self, field: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// Memory grows with what is really there.
    fn bytes(&mut self, length: usize, field: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut piece = [0; PIECE];
        while bytes.len() < length {
            let step = PIECE.min(length - bytes.len());
            self.fill(&mut piece[..step], field)?;
            bytes.extend_from_slice(&piece[..step]);
        }
        Ok(bytes)
    }

    fn skip(&mut self, length: usize, field: &str) -> Result<()> {
        let mut piece = [0; PIECE];
        let mut left = length;
        while left > 0 {
            let step = PIECE.min(left);
            self.fill(&mut piece[..step], field)?;
            left -= step;
        }
        Ok(())
    }
}

fn scan(input: impl Read, path: &Path, control: &Control) -> Result<Scanned> {
    let mut scanner = Scanner { input, path, hasher: blake3::Hasher::new(), offset: 0 };
    let magic = scanner.u32("the magic number")?;
    if magic != MAGIC {
        return Err(
            scanner.error(format!("{magic:#010x} is not how sparse partial counts begin, {MAGIC:#010x}"))
        );
    }
    let version = scanner.u32("the version")?;
    if !(VERSION_WITHOUT_IDENTITY..=VERSION).contains(&version) {
        return Err(scanner.error(format!("version {version}; this program reads versions up to {VERSION}")));
    }
    let (vocab_size, order) = (scanner.u32("the vocabulary")? as usize, scanner.u32("the order")? as usize);
    let shard_count = scanner.u32("the number of shards")?;
    let vocabulary = if version == VERSION_WITHOUT_IDENTITY {
        vocab_size.into()
    } else {
        let bos = scanner.u32("the document token")?;
        let fingerprint = scanner.array("the tokenizer's fingerprint")?;
        Vocabulary::of_identity(vocab_size, bos, fingerprint).map_err(|error| scanner.error(error))?
    };
    let kind = Kind::new(vocabulary, order).map_err(|error| scanner.error(error))?;
    // Grows with the shards that are really there.
    let mut shards: Vec<CountedShard> = Vec::new();
    let mut tokens = 0u64;
    for _ in 0..shard_count {
        let hash = scanner.array("a shard's hash")?;
        let held = u64::from_le_bytes(scanner.array("a shard's tokens")?);
        let length = u16::from_le_bytes(scanner.array("the length of a shard's name")?);
        let name = scanner.bytes(usize::from(length), "a shard's name")?;
        let name = String::from_utf8(name).map_err(|_| scanner.error("a shard's name is not UTF-8"))?;
        if shards.last().is_some_and(|last| last.hash >= hash) {
            return Err(scanner.error("the shard's hash is out of order"));
        }
        tokens =
            tokens.checked_add(held).ok_or_else(|| scanner.error("the shards' tokens don't fit 64 bits"))?;
        shards.push(CountedShard { hash, tokens: held, name, source: path.display().to_string() });
    }
    let length = scanner.u32("the sample's length")? as usize;
    let frame = scanner.bytes(length, "the sample")?;
    let name = format!("{}: at offset {}", path.display(), scanner.offset - length as u64);
    let sample = Sample::unpack(&files::decompress(&frame, Sample::LONGEST, &name)?, kind.vocab_size())
        .map_err(|detail| Error::format(name, detail))?;
    let mut chunks: Vec<Chunk> = Vec::new();
    loop {
        control.check()?;
        let first = u16::from_le_bytes(scanner.array("a chunk's first token")?);
        let entries = scanner.u32("a chunk's number of n-grams")?;
        let bytes = scanner.u32("a chunk's length")?;
        if (first, entries, bytes) == (0, 0, 0) {
            break;
        }
        if usize::from(first) >= kind.vocab_size() || !(1..=CHUNK).contains(&(entries as usize)) {
            return Err(scanner.error(format!(
                "a chunk of {entries} n-grams that begin with {first}; 1 to {CHUNK} of a vocabulary of {} \
                 are possible",
                kind.vocab_size()
            )));
        }
        if chunks.last().is_some_and(|last| last.first > first) {
            return Err(scanner.error("the chunk is out of order"));
        }
        chunks.push(Chunk { first, entries, offset: scanner.offset, bytes });
        scanner.skip(bytes as usize, "a chunk")?;
    }
    let hash = scanner.hasher.finalize();
    if scanner.array::<HASH_BYTES>("the checksum")? != *hash.as_bytes() {
        return Err(scanner.error("the checksum is wrong: the file is damaged; make it again"));
    }
    let end = scanner.offset;
    match scanner.array::<1>("nothing") {
        Ok(_) => Err(Error::format(path.display(), format!("bytes follow the end at offset {end}"))),
        Err(Error::Format { .. }) => Ok(Scanned { kind, shards, tokens, sample, chunks }),
        Err(other) => Err(other),
    }
}
