//! Shards: streams of uint16 tokens in files.
//!
//! 256 little-endian int32, of which the first three are 20240520, 1 and the number of tokens and the
//! rest zero, then the tokens as little-endian uint16. The file ends there.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::files::{self, AtomicFile};
use crate::{Error, Result};

pub const MAGIC: i32 = 20_240_520;
pub const VERSION: i32 = 1;
pub const HEADER_BYTES: usize = 1024;

// Tokens are read in place, and the format's byte order is that of every machine this runs on.
#[cfg(target_endian = "big")]
compile_error!("shards are mapped and read in place, which needs a little-endian machine");

/// A validated shard, mapped into memory. Don't shorten the file while it is open: the operating system
/// ends a process that reads a mapping beyond the file's end.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mmap,
}

impl Shard {
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, length) = files::open(path)?;
        if length == 0 {
            // An empty file cannot be mapped.
            check_header(&[], path)?;
        }
        let map = map(&file).map_err(|source| Error::io(path, source))?;
        check_header(&map, path)?;
        Ok(Self { path: path.to_owned(), map })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn tokens(&self) -> &[u16] {
        // SAFETY: a u16 may hold any bits; `align_to` finds the aligned part.
        let (before, tokens, after) = unsafe { self.map[HEADER_BYTES..].align_to::<u16>() };
        // Mappings begin on a page and the size is even, so the aligned part is everything.
        debug_assert!(before.is_empty() && after.is_empty());
        tokens
    }
}

fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is read-only; that the file must not shrink meanwhile is documented on `Shard`.
    let map = unsafe { Mmap::map(file)? };
    #[cfg(unix)]
    map.advise(memmap2::Advice::Sequential)?;
    Ok(map)
}

/// Checks magic, version, the reserved zeros and that the size is exactly what the header says.
pub fn check_header(file: &[u8], path: &Path) -> Result<()> {
    let wrong = |detail: String| Err(Error::format(path.display(), detail));
    if file.len() < HEADER_BYTES {
        let length = file.len();
        return wrong(format!(
            "{length} bytes are too few for a shard, whose header alone has {HEADER_BYTES}"
        ));
    }
    let mut fields =
        file[..HEADER_BYTES].chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let mut field = || fields.next().unwrap_or_default();
    let (magic, version, tokens) = (field(), field(), field());
    if magic != MAGIC {
        return wrong(format!("not a token shard: it begins with {magic}, not {MAGIC}"));
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
    if file.len() as u64 != wanted {
        return wrong(format!("{tokens} tokens make {wanted} bytes, but the file has {}", file.len()));
    }
    Ok(())
}

/// Refuses the first token that is outside the vocabulary, with its offset in the file.
///
/// `first` is the position of `tokens[0]` in the shard.
pub fn check_vocabulary(tokens: &[u16], first: usize, vocab_size: usize, path: &Path) -> Result<()> {
    match out_of_vocabulary(tokens, vocab_size) {
        Some(index) => Err(Error::format(
            path.display(),
            format!(
                "token {} at offset {} is outside the vocabulary of {vocab_size}",
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
