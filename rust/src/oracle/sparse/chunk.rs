//! The chunks of a file of counts: sorted n-grams that begin with the same token.

use super::ngram::{Entry, Ngram, NgramSpec};
use crate::leb128::{put, Numbers};
use crate::parallel::Control;
use crate::{zstd_frame, Result};

/// n-grams per chunk: so few that a merge of many files holds little of each, enough for zstd to learn from.
pub const CHUNK: usize = 1 << 14;

/// The highest zstd levels save a tenth of the bytes at ten times the time.
pub const ZSTD_LEVEL: i32 = 1;

/// Where a chunk is in a file, and what its header says.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    pub first: u16,
    pub entries: u32,
    pub offset: u64,
    pub bytes: u32,
}

impl Chunk {
    /// What precedes the chunk's frame in a file.
    pub fn header(&self) -> Vec<u8> {
        let mut header = self.first.to_le_bytes().to_vec();
        header.extend(self.entries.to_le_bytes());
        header.extend(self.bytes.to_le_bytes());
        header
    }
}

/// Packs sorted n-grams that begin with the same token into chunks.
pub struct Packer {
    first: u16,
    spec: NgramSpec,
    previous: Ngram,
    entries: u32,
    shared: Vec<u8>,
    tokens: Vec<u8>,
    counts: Vec<u8>,
    repeats: Vec<u8>,
    out: Vec<u8>,
}

impl Packer {
    pub fn new(first: u16, spec: NgramSpec) -> Self {
        Self {
            first,
            spec,
            previous: Ngram::of(first),
            entries: 0,
            shared: Vec::new(),
            tokens: Vec::new(),
            counts: Vec::new(),
            repeats: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Adds an n-gram; returns whether that completed a chunk.
    pub fn push(&mut self, entry: Entry) -> Result<bool> {
        let Entry { ngram, count, documents } = entry;
        // At the beginning of a chunk the previous n-gram is the first token alone, which may be this one too.
        let shared = ngram.common(self.previous).min(ngram.length());
        self.shared.push(shared as u8);
        let mut known = self.previous.code(shared);
        for index in shared..self.spec.order {
            let code = ngram.code(index);
            put(&mut self.tokens, u64::from(code - known));
            known = 0;
            if self.spec.ends(code) {
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
        // A chunk is compressed in less than a millisecond, too short to be interrupted.
        let frame = zstd_frame::compress(&content, ZSTD_LEVEL, &Control::default())?;
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

    /// The bytes of the chunks as a file holds them.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        if self.entries > 0 {
            self.flush()?;
        }
        Ok(self.out)
    }
}

/// The most bytes that a chunk's content can have.
pub fn longest_content(entries: u32, order: usize) -> usize {
    entries as usize * (1 + 3 * (order - 1) + 10 + 10)
}

/// The inverse of [`Packer`], for bytes of unknown origin.
pub fn unpack(
    content: &[u8],
    chunk: Chunk,
    spec: NgramSpec,
    tokens: u64,
) -> std::result::Result<Vec<Entry>, String> {
    let count = chunk.entries as usize;
    let short = || "the chunk's numbers end too early or are too large".to_owned();
    let (shared, rest) = content.split_at_checked(count).ok_or_else(short)?;
    let mut numbers = Numbers(rest);
    let mut entries = Vec::with_capacity(count);
    let mut previous = Ngram::of(chunk.first);
    for (index, &shared) in shared.iter().enumerate() {
        let shared = usize::from(shared);
        let fits = if index == 0 { shared == 1 } else { (1..=previous.length()).contains(&shared) };
        if !fits || shared >= spec.order || shared > 1 && spec.ends(previous.code(shared - 1)) {
            return Err("an n-gram shares more with the one before it than there is".into());
        }
        let mut ngram = previous.truncated(shared);
        let mut known = u64::from(previous.code(shared));
        for at in shared..spec.order {
            let step = numbers.next().ok_or_else(short)?;
            if at == shared && step == 0 && index > 0 {
                return Err("an n-gram is out of order".into());
            }
            let code = known.checked_add(step).filter(|&code| code <= spec.vocab_size() as u64);
            let code =
                code.ok_or_else(|| format!("a token is outside the vocabulary of {}", spec.vocab_size()))?;
            known = 0;
            ngram = ngram.with(at, code as u16);
            if spec.ends(code as u16) {
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
