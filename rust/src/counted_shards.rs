//! Shards that have been counted, as files of counts list them: by content, so that none is counted twice.

use std::path::{Path, PathBuf};

use crate::bytes::Fields;
use crate::parallel::{self, Control};
use crate::tokens::Shard;
use crate::{Error, Result};

pub const HASH_BYTES: usize = 32;

/// Bytes hashed between two checks whether to stop.
const HASH_PIECE: usize = 1 << 22;

/// A shard that has been counted, known by its content.
#[derive(Debug, Clone)]
pub struct CountedShard {
    /// BLAKE3 of the whole file.
    pub hash: [u8; HASH_BYTES],
    pub tokens: u64,
    /// The file's name, without its folder.
    pub name: String,
    /// How many copies of it were counted; 1 but in sparse counts.
    pub weight: u32,
    /// Where this program met it: the shard's path, or that of a file of counts. Not kept in files.
    pub source: String,
}

/// Identifies the shards at `paths` as files of counts do, which tells whether such a file contains them.
pub fn identify(paths: &[PathBuf], threads: usize, control: &Control) -> Result<Vec<CountedShard>> {
    let shards = paths.iter().map(Shard::open).collect::<Result<Vec<_>>>()?;
    identify_open(&shards, threads, || control.check())
}

pub(crate) fn identify_open(
    shards: &[Shard],
    threads: usize,
    check: impl Fn() -> Result<()> + Sync,
) -> Result<Vec<CountedShard>> {
    let mut hashes = vec![[0; HASH_BYTES]; shards.len()];
    let pieces = shards.iter().zip(&mut hashes).collect();
    parallel::for_each(threads, pieces, |(shard, hash): (&Shard, &mut [u8; HASH_BYTES])| {
        let mut hasher = blake3::Hasher::new();
        for piece in shard.bytes().into_iter().flat_map(|part| part.chunks(HASH_PIECE)) {
            check()?;
            hasher.update(piece);
        }
        *hash = hasher.finalize().into();
        Ok(())
    })?;
    let identified = shards.iter().zip(hashes).map(|(shard, hash)| {
        Ok(CountedShard {
            hash,
            tokens: shard.tokens().len() as u64,
            name: file_name(shard.path())?,
            weight: 1,
            source: shard.path().display().to_string(),
        })
    });
    identified.collect()
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    if name.len() > usize::from(u16::MAX) {
        return Err(Error::input(format!("{}: the name is too long", path.display())));
    }
    Ok(name)
}

/// Merges two lists, in the order of hashes. [`Error::Input`] names a shard that is in them twice.
pub(crate) fn united(known: &[CountedShard], new: Vec<CountedShard>) -> Result<Vec<CountedShard>> {
    let mut all = [known.to_vec(), new].concat();
    // Stable, so of two equal ones the one that was there comes first.
    all.sort_by_key(|shard| shard.hash);
    match all.windows(2).find(|pair| pair[0].hash == pair[1].hash) {
        Some(pair) => Err(Error::input(format!(
            "{}: shard {} has been counted already, as {} from {}; give each shard once",
            pair[1].source, pair[1].name, pair[0].name, pair[0].source
        ))),
        None => Ok(all),
    }
}

pub fn total_tokens(shards: &[CountedShard]) -> u64 {
    shards.iter().map(|shard| shard.tokens).sum()
}

/// Appends the record of a shard as files of counts hold it: hash, tokens, length of the name, name.
pub fn write_record(out: &mut Vec<u8>, shard: &CountedShard) {
    out.extend(shard.hash);
    out.extend(shard.tokens.to_le_bytes());
    out.extend((shard.name.len() as u16).to_le_bytes());
    out.extend(shard.name.as_bytes());
}

/// Reads `count` such records, whose hashes must ascend, and the sum of their tokens. `source` is the file.
pub fn read_records(fields: &mut impl Fields, count: u32, source: &str) -> Result<(Vec<CountedShard>, u64)> {
    // Grows with the shards that are really there.
    let mut shards: Vec<CountedShard> = Vec::new();
    let mut total = 0u64;
    for _ in 0..count {
        let hash = fields.array("a shard's hash")?;
        let tokens = fields.u64("a shard's tokens")?;
        let length = fields.u16("the length of a shard's name")?;
        let name = fields.bytes(usize::from(length), "a shard's name")?;
        let name = String::from_utf8(name).map_err(|_| fields.error("a shard's name is not UTF-8"))?;
        if shards.last().is_some_and(|last| last.hash >= hash) {
            return Err(fields.error("the shard's hash is out of order"));
        }
        total =
            total.checked_add(tokens).ok_or_else(|| fields.error("the shards' tokens don't fit 64 bits"))?;
        shards.push(CountedShard { hash, tokens, name, weight: 1, source: source.to_owned() });
    }
    Ok((shards, total))
}
