//! Counted n-grams: what some shards contribute to a sparse oracle, in a file that adds up with others.
//!
//! Such a file holds the distinct n-grams of the highest order, sorted, each with how often and in how many documents it
//! occurs. They are in chunks that are read one at a time, so files of any size are merged, and made into an oracle, in
//! constant memory. Documents don't span shards, so both numbers add up. The file also holds a sample of the documents
//! ([`Sample`]), and identifies the shards by their content. Its bytes
//! depend on the set of shards, the vocabulary and the order alone. This writes such a file and reads all of it but
//! its chunks, which [`super::chunk`] has.
//!
//! Little-endian (docs/format.md has the rules):
//!
//! | bytes | |
//! |---|---|
//! | 4 | magic, 0x4E475343 |
//! | 4 | version, 3 |
//! | 4, 4, 4 | vocabulary, order, number of shards |
//! | 4, 32 | document token, fingerprint of the tokenizer (zeros: not known); not in version 1 |
//! | 32, 8, 2, n per shard | as in other partial counts |
//! | 4 per shard | its weight; not before version 3 |
//! | 4, n | length n of a zstd frame, the frame: the sample |
//! | 2, 4, 4, n per chunk | first token, number of n-grams, length n of a zstd frame, the frame |
//! | 10 | zeros |
//! | 32 | BLAKE3 of everything before |

use std::io::{self, Read, Write};
use std::path::Path;

use super::chunk::{Chunk, CHUNK, ZSTD_LEVEL};
use super::ngram::NgramSpec;
use super::sample::Sample;
use crate::bytes::Fields;
use crate::counted_shards::{read_records, write_record, CountedShard, HASH_BYTES};
use crate::parallel::Control;
use crate::vocabulary::Vocabulary;
use crate::{zstd_frame, Error, Result};

pub const MAGIC: u32 = 0x4E47_5343;
pub const VERSION: u32 = 3;
/// Counts of a vocabulary that isn't known beyond its size.
const VERSION_WITHOUT_IDENTITY: u32 = 1;
/// The last one in which all shards are counted once.
const LAST_WITHOUT_WEIGHTS: u32 = 2;

/// Bytes read at a time where they are only hashed.
const PIECE: usize = 1 << 16;

/// In place of a chunk: there are no more.
pub const END: [u8; 10] = [0; 10];

/// Writes a file from its header, its chunks as a [`Packer`] makes them, and its checksum.
pub struct Writer<'a, W> {
    out: W,
    hasher: blake3::Hasher,
    path: &'a Path,
}

impl<'a, W: Write> Writer<'a, W> {
    pub fn new(
        out: W,
        path: &'a Path,
        spec: NgramSpec,
        shards: &[CountedShard],
        sample: &Sample,
    ) -> Result<Self> {
        let mut header = Vec::new();
        let fields = [MAGIC, VERSION, spec.vocab_size() as u32, spec.order as u32, shards.len() as u32];
        header.extend(fields.into_iter().flat_map(u32::to_le_bytes));
        spec.vocabulary.write_identity(&mut header);
        for shard in shards {
            write_record(&mut header, shard);
        }
        header.extend(shards.iter().flat_map(|shard| shard.weight.to_le_bytes()));
        let frame = zstd_frame::compress(&sample.pack(), ZSTD_LEVEL, &Control::default())?;
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

/// Corrects the checksum at the end of what may be a file.
#[cfg(feature = "forge")]
pub fn forge(data: &mut [u8]) {
    if let Some(covered) = data.len().checked_sub(HASH_BYTES) {
        let hash = blake3::hash(&data[..covered]);
        data[covered..].copy_from_slice(hash.as_bytes());
    }
}

/// What a file says before its chunks are unpacked.
pub struct Scanned {
    pub spec: NgramSpec,
    pub shards: Vec<CountedShard>,
    /// Of all shards, each as often as it was counted.
    pub tokens: u64,
    pub sample: Sample,
    pub chunks: Vec<Chunk>,
}

/// Reads fields and hashes what it reads.
struct Scanner<'a, R> {
    input: R,
    path: &'a Path,
    hasher: blake3::Hasher,
    offset: u64,
}

impl<R: Read> Fields for Scanner<'_, R> {
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

    fn error(&self, message: impl ToString) -> Error {
        let message = format!("before offset {}: {}", self.offset, message.to_string());
        Error::format(self.path.display(), message)
    }
}

impl<R: Read> Scanner<'_, R> {
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

/// The tokens of shards, each as often as it is counted; none where they don't fit 64 bits.
pub fn weighted_tokens(shards: &[CountedShard]) -> Option<u64> {
    shards.iter().try_fold(0u64, |sum, shard| {
        shard.tokens.checked_mul(u64::from(shard.weight)).and_then(|tokens| sum.checked_add(tokens))
    })
}

/// Reads a file but for its chunks, and checks its checksum.
pub fn scan(input: impl Read, path: &Path, control: &Control) -> Result<Scanned> {
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
        Vocabulary::read_identity(vocab_size, &mut scanner)?
    };
    let spec = NgramSpec::new(vocabulary, order).map_err(|error| scanner.error(error))?;
    let (mut shards, mut tokens) = read_records(&mut scanner, shard_count, &path.display().to_string())?;
    let has_weights = version > LAST_WITHOUT_WEIGHTS;
    if has_weights {
        for shard in &mut shards {
            shard.weight = scanner.u32("a shard's weight")?;
            if shard.weight == 0 {
                return Err(scanner.error("a shard of weight 0"));
            }
        }
        tokens = weighted_tokens(&shards)
            .ok_or_else(|| scanner.error("the shards' tokens, times their weights, don't fit 64 bits"))?;
    }
    let length = scanner.u32("the sample's length")? as usize;
    let frame = scanner.bytes(length, "the sample")?;
    let name = format!("{}: at offset {}", path.display(), scanner.offset - length as u64);
    let sample = zstd_frame::decompress(&frame, Sample::LONGEST, &name)?;
    let sample = Sample::unpack(&sample, spec.vocab_size(), has_weights)
        .map_err(|detail| Error::format(name, detail))?;
    let mut chunks: Vec<Chunk> = Vec::new();
    loop {
        control.check()?;
        let first = scanner.u16("a chunk's first token")?;
        let entries = scanner.u32("a chunk's number of n-grams")?;
        let bytes = scanner.u32("a chunk's length")?;
        if (first, entries, bytes) == (0, 0, 0) {
            break;
        }
        if usize::from(first) >= spec.vocab_size() || !(1..=CHUNK).contains(&(entries as usize)) {
            return Err(scanner.error(format!(
                "a chunk of {entries} n-grams that begin with {first}; 1 to {CHUNK} of a vocabulary of {} \
                 are possible",
                spec.vocab_size()
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
        Err(Error::Format { .. }) => Ok(Scanned { spec, shards, tokens, sample, chunks }),
        Err(other) => Err(other),
    }
}
