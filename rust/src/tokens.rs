//! Shards: streams of uint16 tokens in files.
//!
//! 256 little-endian int32, of which the first three are 20240520, 1 and the number of tokens and the
//! rest zero, then the tokens as little-endian uint16. The file ends there.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::files::{self, AtomicFile};
use crate::kinds::looks_like;
use crate::memory::Zeroed;
use crate::{Error, Result};

pub const MAGIC: i32 = 20_240_520;
pub const VERSION: i32 = 1;
pub const HEADER_BYTES: usize = 1024;

// A file's bytes are read as tokens, and the format's byte order is that of every machine this runs on.
#[cfg(target_endian = "big")]
compile_error!("shards are read without converting a byte, which needs a little-endian machine");

/// A validated shard, read into memory.
///
/// Not mapped: the operating system ends a process that reads a mapping beyond the end of a file that has become
/// shorter, and a file that is overwritten meanwhile would be counted as something that it never was. It takes as much
/// memory as the pages of a mapping that is read.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    header: [u8; HEADER_BYTES],
    tokens: Zeroed<u16>,
}

impl Shard {
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (header, count, file) = begin(path)?;
        let mut tokens = Zeroed::new(count).ok_or_else(|| no_memory(path, count))?;
        read_tokens(file, 0, &mut tokens, path)?;
        Ok(Self { path: path.to_owned(), header, tokens })
    }

    /// How many tokens a shard has, by its header and its size.
    pub fn count(path: impl AsRef<Path>) -> Result<usize> {
        Ok(begin(path.as_ref())?.1)
    }

    /// The tokens from `start` on, `count` of them or all.
    pub fn read(path: impl AsRef<Path>, start: usize, count: Option<usize>) -> Result<Vec<u16>> {
        let path = path.as_ref();
        let (_, length, file) = begin(path)?;
        let end = match count {
            None => length.max(start),
            Some(count) => start.saturating_add(count),
        };
        if end > length {
            return Err(Error::input(format!(
                "{}: tokens {start} to {end} asked for, but it holds {length}",
                path.display()
            )));
        }
        let mut tokens = Vec::new();
        tokens.try_reserve_exact(end - start).map_err(|_| no_memory(path, end - start))?;
        tokens.resize(end - start, 0);
        read_tokens(file, start, &mut tokens, path)?;
        Ok(tokens)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file, in two parts.
    pub fn bytes(&self) -> [&[u8]; 2] {
        // SAFETY: every byte of a u16 slice is initialised, and bytes need no alignment.
        [&self.header, unsafe { self.tokens.align_to::<u8>().1 }]
    }

    pub fn tokens(&self) -> &[u16] {
        &self.tokens
    }
}

/// A shard's checked header, how many tokens it has, and the file that they are in.
fn begin(path: &Path) -> Result<([u8; HEADER_BYTES], usize, File)> {
    let (mut file, length) = files::open(path)?;
    let mut beginning = Vec::with_capacity(HEADER_BYTES);
    (&mut file)
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut beginning)
        .map_err(|source| Error::io(path, source))?;
    let count = check_beginning(&beginning, length, path)?;
    let mut header = [0; HEADER_BYTES];
    header.copy_from_slice(&beginning);
    Ok((header, count, file))
}

fn no_memory(path: &Path, tokens: usize) -> Error {
    Error::input(format!(
        "{}: there is no memory for its {tokens} tokens; divide it into smaller shards",
        path.display()
    ))
}

/// Fills `tokens` with those of a shard's file from `start` on.
fn read_tokens(mut file: File, start: usize, tokens: &mut [u16], path: &Path) -> Result<()> {
    // SAFETY: any two bytes are a u16, and bytes need no alignment.
    let bytes = unsafe { tokens.align_to_mut::<u8>().1 };
    let read = file
        .seek(SeekFrom::Start(HEADER_BYTES as u64 + 2 * start as u64))
        .and_then(|_| file.read_exact(bytes));
    read.map_err(|source| match source.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::format(path.display(), "became shorter while it was read; make it again")
        }
        _ => Error::io(path, source),
    })
}

/// Checks magic, version, the reserved zeros and that the size is exactly what the header says.
pub fn check_header(file: &[u8], path: &Path) -> Result<()> {
    check_beginning(file, file.len() as u64, path).map(drop)
}

/// [`check_header`] of a file of `length` bytes that begins with `file`; how many tokens it has.
fn check_beginning(file: &[u8], length: u64, path: &Path) -> Result<usize> {
    let wrong = |detail: String| Err(Error::format(path.display(), detail));
    if !file.starts_with(&MAGIC.to_le_bytes()) {
        if let Some(kind) = looks_like(file) {
            let hint = if kind == "text" { "; `hybridlm data shard` makes shards of text" } else { "" };
            return wrong(format!("not a token shard: it looks like {kind}{hint}"));
        }
    }
    if file.len() < HEADER_BYTES {
        return wrong(format!(
            "{length} bytes are too few for a shard, whose header alone has {HEADER_BYTES}"
        ));
    }
    let mut fields =
        file[..HEADER_BYTES].chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let mut field = || fields.next().unwrap_or_default();
    let (magic, version, tokens) = (field(), field(), field());
    if magic != MAGIC {
        return wrong(format!(
            "not a token shard: it begins with {magic}, not {MAGIC}; tokens without a header, as uint16, become a \
             shard by `hybridlm.write_shard`"
        ));
    }
    if version != VERSION {
        return wrong(format!("shard version {version} at offset 4; this program reads version {VERSION}"));
    }
    if tokens < 0 {
        return wrong(format!("{tokens} tokens declared at offset 8"));
    }
    if let Some(index) = fields.position(|field| field != 0) {
        return wrong(format!("offset {} of the header must be zero", 12 + 4 * index));
    }
    let wanted = HEADER_BYTES as u64 + 2 * tokens as u64;
    if length != wanted {
        return wrong(format!("{tokens} tokens make {wanted} bytes, but the file has {length}"));
    }
    Ok(tokens as usize)
}

/// Refuses the first token that is outside the vocabulary, with its offset in the file.
///
/// `first` is the position of `tokens[0]` in the shard.
pub fn check_vocabulary(tokens: &[u16], first: usize, vocab_size: usize, path: &Path) -> Result<()> {
    match out_of_vocabulary(tokens, vocab_size) {
        Some(index) => Err(Error::format(
            path.display(),
            format!(
                "token {} at offset {} is outside the vocabulary of {vocab_size}: name the tokenizer that made \
                 the shard, or the size of its vocabulary",
                tokens[index],
                HEADER_BYTES + 2 * (first + index)
            ),
        )),
        None => Ok(()),
    }
}

/// The position of the first token that is not below `vocab_size`.
pub fn out_of_vocabulary(tokens: &[u16], vocab_size: usize) -> Option<usize> {
    // Taking the maximum vectorises; a search that may stop early doesn't, and is needed for the error only.
    let largest = tokens.iter().fold(0, |largest, &token| largest.max(token));
    if usize::from(largest) < vocab_size {
        return None;
    }
    tokens.iter().position(|&token| usize::from(token) >= vocab_size)
}

/// Refuses a stream with a token that is not below `vocab_size`, and names its position.
pub fn check_tokens(stream: &[u16], vocab_size: usize) -> Result<()> {
    match out_of_vocabulary(stream, vocab_size) {
        Some(index) => Err(Error::input(format!(
            "token {} at position {index} is outside the vocabulary of {vocab_size}",
            stream[index]
        ))),
        None => Ok(()),
    }
}

/// Writes a shard; it appears under `path` only when complete.
pub fn write_shard(path: impl AsRef<Path>, tokens: &[u16]) -> Result<()> {
    let path = path.as_ref();
    let count = i32::try_from(tokens.len())
        .map_err(|_| Error::input(format!("{} tokens are too many for one shard", tokens.len())))?;
    let mut header = [0u8; HEADER_BYTES];
    for (field, value) in header.chunks_exact_mut(4).zip([MAGIC, VERSION, count]) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    let mut file = AtomicFile::create(path)?;
    let mut write = || {
        file.write_all(&header)?;
        // SAFETY: every byte of a u16 slice is initialised.
        file.write_all(unsafe { tokens.align_to::<u8>().1 })
    };
    write().map_err(|source| Error::io(path, source))?;
    file.commit()
}
