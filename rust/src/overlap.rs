//! Which of a validation text's n-grams occur in training shards, and which of its documents do as a whole.
//!
//! n-grams are told apart by their polynomial hashes modulo the prime 2^61 − 1 (Karp and Rabin 1987, "Efficient randomized
//! pattern-matching algorithms"): two different ones of up to n tokens collide with probability n / 2^61, so that none is
//! expected to among 10^7 validation and 10^9 training tokens. Only validation text is held in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use crate::parallel::{self, Control};
use crate::tokens::Shard;
use crate::{Error, Result};

/// The longest n-grams that are looked for.
pub const MAX_LENGTH: usize = 1 << 12;

const PRIME: u64 = (1 << 61) - 1;
const BASE: u64 = 0x12_9a3c_75b1_4de5;

/// Training tokens that one thread looks through at a time, and then says how far it is.
const PIECE: usize = 1 << 20;

/// A place in the shards that were given: which of them, and at which of its tokens.
pub type Place = (usize, usize);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentOverlap {
    /// Where the document begins in the validation shards, with its document token if it has one.
    pub place: Place,
    /// How many tokens it has, without the document token.
    pub tokens: usize,
    /// Of each length, how many n-grams it has and how many of them occur in training.
    pub ngrams: Vec<u64>,
    pub found: Vec<u64>,
    /// The first training document with exactly its tokens.
    pub copy_of: Option<Place>,
}

/// The n-grams of `validation` shards, of each of `lengths`, that occur in `train` shards; none reaches from one
/// document into the next. `control` advances by training tokens.
pub fn overlap(
    train: &[PathBuf],
    validation: &[PathBuf],
    bos: u16,
    lengths: &[usize],
    threads: usize,
    control: &Control,
) -> Result<Vec<DocumentOverlap>> {
    if lengths.is_empty() || !lengths.windows(2).all(|pair| pair[0] < pair[1]) {
        return Err(Error::input("lengths of n-grams must be given in ascending order"));
    }
    if lengths[0] < 1 || lengths[lengths.len() - 1] > MAX_LENGTH {
        return Err(Error::input(format!("n-grams have 1 to {MAX_LENGTH} tokens, not {lengths:?}")));
    }
    let open = |paths: &[PathBuf]| paths.iter().map(Shard::open).collect::<Result<Vec<_>>>();
    let (train, validation) = (open(train)?, open(validation)?);
    let hasher = Hasher::new(lengths);
    let tables = Tables::new(&validation, bos, &hasher, control)?;
    let copies = Copies::new(&validation, bos);

    let pieces: Vec<(&Shard, Range<usize>)> = train
        .iter()
        .flat_map(|shard| {
            let length = shard.tokens().len();
            (0..length).step_by(PIECE).map(move |start| (shard, start..(start + PIECE).min(length)))
        })
        .collect();
    parallel::run_with(
        threads,
        pieces.len(),
        || Ok(Vec::new()),
        |prefixes, index| {
            let (shard, range) = &pieces[index];
            tables.mark(shard.tokens(), range.clone(), bos, &hasher, prefixes);
            control.advance(range.len() as u64)
        },
        drop,
    )?;
    parallel::run(threads, train.len(), |index| {
        copies.look_for(index, train[index].tokens(), bos);
        control.check()
    })?;

    let mut found = Vec::new();
    for (index, shard) in validation.iter().enumerate() {
        let mut prefixes = Vec::new();
        for document in documents(shard.tokens(), bos) {
            control.check()?;
            let text = &shard.tokens()[document.text.clone()];
            let (ngrams, found_in_training) = tables.count(text, &hasher, &mut prefixes);
            found.push(DocumentOverlap {
                place: (index, document.start),
                tokens: text.len(),
                ngrams,
                found: found_in_training,
                copy_of: copies.of(text),
            });
        }
    }
    Ok(found)
}

struct Document {
    /// Of its document token, if it has one.
    start: usize,
    text: Range<usize>,
}

/// The documents of a shard that have any tokens. What comes before the first document token is one, too.
fn documents(tokens: &[u16], bos: u16) -> impl Iterator<Item = Document> + '_ {
    let mut next = 0;
    std::iter::from_fn(move || loop {
        if next >= tokens.len() {
            return None;
        }
        let start = next;
        let first = if tokens[start] == bos { start + 1 } else { start };
        let length = tokens[first..].iter().position(|&token| token == bos);
        let end = length.map_or(tokens.len(), |length| first + length);
        next = end;
        if first < end {
            return Some(Document { start, text: first..end });
        }
    })
}

/// Hashes of n-grams of some lengths.
struct Hasher {
    lengths: Vec<usize>,
    /// BASE to the power of each length.
    powers: Vec<u64>,
}

impl Hasher {
    fn new(lengths: &[usize]) -> Self {
        let power = |&length: &usize| (0..length).fold(1, |power, _| multiply(power, BASE));
        Self { powers: lengths.iter().map(power).collect(), lengths: lengths.to_vec() }
    }

    /// Makes `prefixes[i]` the hash of the first i tokens.
    fn prefixes(tokens: &[u16], prefixes: &mut Vec<u64>) {
        prefixes.clear();
        prefixes.push(0);
        let mut hash = 0;
        for &token in tokens {
            hash = add(multiply(hash, BASE), u64::from(token) + 1);
            prefixes.push(hash);
        }
    }

    /// The hash of the n-gram of the length `which` at `start`.
    #[inline]
    fn hash(&self, prefixes: &[u64], start: usize, which: usize) -> u64 {
        let before = multiply(prefixes[start], self.powers[which]);
        add(prefixes[start + self.lengths[which]], PRIME - before)
    }
}

#[inline]
fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    add((product & u128::from(PRIME)) as u64, (product >> 61) as u64)
}

#[inline]
fn add(a: u64, b: u64) -> u64 {
    let sum = a + b;
    if sum >= PRIME {
        sum - PRIME
    } else {
        sum
    }
}

/// A set of hashes by open addressing, each with a mark that threads may set at once.
struct Table {
    /// One more than the hash; 0 is empty.
    slots: Vec<u64>,
    marks: Vec<AtomicU64>,
    shift: u32,
}

impl Table {
    fn with_capacity(ngrams: usize) -> Self {
        let size = (ngrams + ngrams / 2 + 2).next_power_of_two();
        let marks = (0..size.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { slots: vec![0; size], marks, shift: 64 - size.trailing_zeros() }
    }

    /// Where the hash is, or would be.
    #[inline]
    fn slot(&self, hash: u64) -> usize {
        // Fibonacci hashing: the upper bits depend on all bits of the hash.
        let mut slot = ((hash + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize;
        while self.slots[slot] != 0 && self.slots[slot] != hash + 1 {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        slot
    }

    fn insert(&mut self, hash: u64) {
        let slot = self.slot(hash);
        self.slots[slot] = hash + 1;
    }

    /// Marks the hash if it is there; returns whether it is.
    #[inline]
    fn mark(&self, hash: u64) -> bool {
        let slot = self.slot(hash);
        if self.slots[slot] == 0 {
            return false;
        }
        let (word, bit) = (&self.marks[slot / 64], 1 << (slot % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        true
    }

    fn is_marked(&self, hash: u64) -> bool {
        let slot = self.slot(hash);
        self.marks[slot / 64].load(Ordering::Relaxed) & 1 << (slot % 64) != 0
    }
}

/// A table for the n-grams of each length.
struct Tables(Vec<Table>);

impl Tables {
    fn new(validation: &[Shard], bos: u16, hasher: &Hasher, control: &Control) -> Result<Self> {
        let texts = || {
            validation.iter().flat_map(|shard| {
                documents(shard.tokens(), bos).map(move |document| &shard.tokens()[document.text])
            })
        };
        let ngrams = |length: usize| texts().map(|text| (text.len() + 1).saturating_sub(length)).sum();
        let mut tables: Vec<Table> =
            hasher.lengths.iter().map(|&length| Table::with_capacity(ngrams(length))).collect();
        let mut prefixes = Vec::new();
        for text in texts() {
            control.check()?;
            Hasher::prefixes(text, &mut prefixes);
            for (which, table) in tables.iter_mut().enumerate() {
                for start in 0..(text.len() + 1).saturating_sub(hasher.lengths[which]) {
                    table.insert(hasher.hash(&prefixes, start, which));
                }
            }
        }
        Ok(Self(tables))
    }

    /// Marks what begins in `range` of a training shard.
    fn mark(&self, tokens: &[u16], range: Range<usize>, bos: u16, hasher: &Hasher, prefixes: &mut Vec<u64>) {
        let longest = hasher.lengths.last().copied().unwrap_or(0);
        let seen = &tokens[range.start..(range.end + longest).min(tokens.len())];
        for document in documents(seen, bos) {
            let text = &seen[document.text.clone()];
            Hasher::prefixes(text, prefixes);
            // Beyond the range are only the ends of what begins in it.
            let starts = text.len().min(range.len().saturating_sub(document.text.start));
            for start in 0..starts {
                for (which, table) in self.0.iter().enumerate() {
                    // What has no shorter n-gram in common with validation text has no longer one.
                    if start + hasher.lengths[which] > text.len()
                        || !table.mark(hasher.hash(prefixes, start, which))
                    {
                        break;
                    }
                }
            }
        }
    }

    /// Of each length, the n-grams of a validation document, and how many of them are marked.
    fn count(&self, text: &[u16], hasher: &Hasher, prefixes: &mut Vec<u64>) -> (Vec<u64>, Vec<u64>) {
        Hasher::prefixes(text, prefixes);
        let counts = self.0.iter().enumerate().map(|(which, table)| {
            let ngrams = (text.len() + 1).saturating_sub(hasher.lengths[which]);
            let marked = (0..ngrams).filter(|&start| table.is_marked(hasher.hash(prefixes, start, which)));
            (ngrams as u64, marked.count() as u64)
        });
        counts.unzip()
    }
}

/// Validation documents by their BLAKE3, and the first training document that is the same.
struct Copies(Mutex<HashMap<[u8; 32], Option<Place>>>);

impl Copies {
    fn new(validation: &[Shard], bos: u16) -> Self {
        let texts = validation.iter().flat_map(|shard| {
            documents(shard.tokens(), bos).map(move |document| &shard.tokens()[document.text])
        });
        Self(Mutex::new(texts.map(|text| (digest(text), None)).collect()))
    }

    fn look_for(&self, shard: usize, tokens: &[u16], bos: u16) {
        for document in documents(tokens, bos) {
            let digest = digest(&tokens[document.text]);
            let mut copies = parallel::lock(&self.0);
            if let Some(first) = copies.get_mut(&digest) {
                let place = (shard, document.start);
                // Whichever thread comes first.
                *first = Some(first.map_or(place, |found| found.min(place)));
            }
        }
    }

    fn of(&self, text: &[u16]) -> Option<Place> {
        let copies = parallel::lock(&self.0);
        copies.get(&digest(text)).copied().flatten()
    }
}

fn digest(tokens: &[u16]) -> [u8; 32] {
    // SAFETY: every byte of a u16 slice is initialised.
    *blake3::hash(unsafe { tokens.align_to::<u8>().1 }).as_bytes()
}
