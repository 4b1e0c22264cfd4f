//! The documents that discounts are fitted on.
//!
//! The sample of a corpus is the documents with the least hashes, as many as it takes for enough tokens. So it can be
//! found from the samples of any parts of the corpus, and doesn't depend on how the corpus is divided. A document that
//! occurs twice is in it once, with the higher of its weights.

use std::collections::BTreeMap;

use crate::leb128::{put, Numbers};

/// Longer documents count as several of this many tokens, so that a book without any document token still has
/// repetition to be told from chance.
pub const DOCUMENT_TOKENS: usize = 1 << 13;

/// A sample stops growing once it has this many tokens; more would make no visible difference.
const TOKENS: usize = 2_000_000;

/// Where each document of a stream starts.
pub fn document_starts(stream: &[u16], bos: u16) -> impl Iterator<Item = usize> + '_ {
    let mut length = DOCUMENT_TOKENS;
    stream.iter().enumerate().filter_map(move |(at, &token)| {
        let starts = token == bos || length == DOCUMENT_TOKENS;
        length = if starts { 1 } else { length + 1 };
        starts.then_some(at)
    })
}

/// A document, and how many copies of it are counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub tokens: Vec<u16>,
    pub weight: u32,
}

/// Documents by their hashes.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Sample {
    documents: BTreeMap<[u8; 32], Document>,
    tokens: usize,
}

impl Sample {
    /// The most bytes that [`Sample::pack`] makes: of documents of one token each.
    pub const LONGEST: usize = 10 + (TOKENS + DOCUMENT_TOKENS) * 10;

    /// Of documents that begin with `bos`.
    pub fn of(streams: &[&[u16]], bos: u16) -> Self {
        let mut sample = Self::default();
        for stream in streams {
            let starts: Vec<usize> = document_starts(stream, bos).chain([stream.len()]).collect();
            for pair in starts.windows(2) {
                sample.add(&stream[pair[0]..pair[1]]);
            }
        }
        sample
    }

    /// Of the documents of several samples, each with how often it is counted.
    pub fn merge<'a>(samples: impl Iterator<Item = (&'a Self, u32)>) -> Self {
        let mut sample = Self::default();
        for (other, times) in samples {
            for (hash, Document { tokens, weight }) in &other.documents {
                sample.insert(*hash, tokens, weight.saturating_mul(times));
            }
        }
        sample
    }

    /// In the order of their hashes, which is as good as random.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.values()
    }

    fn add(&mut self, document: &[u16]) {
        self.insert(hash(document), document, 1);
    }

    fn insert(&mut self, hash: [u8; 32], document: &[u16], weight: u32) {
        let full = self.tokens >= TOKENS;
        if full && self.documents.last_key_value().is_some_and(|(last, _)| *last < hash) {
            return;
        }
        if let Some(known) = self.documents.get_mut(&hash) {
            known.weight = known.weight.max(weight);
            return;
        }
        self.documents.insert(hash, Document { tokens: document.to_vec(), weight });
        self.tokens += document.len();
        while let Some(last) = self.documents.last_entry() {
            if self.tokens - last.get().tokens.len() < TOKENS {
                break;
            }
            self.tokens -= last.remove().tokens.len();
        }
    }

    /// LEB128 numbers: how many documents, and of each its weight, length and tokens.
    pub fn pack(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * self.tokens);
        put(&mut out, self.documents.len() as u64);
        for Document { tokens, weight } in self.documents.values() {
            put(&mut out, u64::from(*weight));
            put(&mut out, tokens.len() as u64);
            tokens.iter().for_each(|&token| put(&mut out, u64::from(token)));
        }
        out
    }

    /// The inverse, for bytes of unknown origin; errors say what is wrong. Without weights all are 1.
    pub fn unpack(data: &[u8], vocab_size: usize, has_weights: bool) -> Result<Self, String> {
        let mut numbers = Numbers(data);
        let short = "the sample's numbers end too early or are too large";
        let mut sample = Self::default();
        for _ in 0..numbers.next().ok_or(short)? {
            if sample.tokens >= TOKENS {
                return Err("the sample has more documents than it needs".into());
            }
            let weight = if has_weights { numbers.next().ok_or(short)? } else { 1 };
            let weight = u32::try_from(weight)
                .ok()
                .filter(|&weight| weight > 0)
                .ok_or_else(|| format!("the sample has a document of weight {weight}"))?;
            let length = numbers.next().ok_or(short)?;
            if !(1..=DOCUMENT_TOKENS as u64).contains(&length) {
                return Err(format!("the sample has a document of {length} tokens"));
            }
            let tokens = (0..length).map(|_| match numbers.next() {
                Some(token) if token < vocab_size as u64 => Ok(token as u16),
                Some(token) => Err(format!("token {token} is outside the vocabulary of {vocab_size}")),
                None => Err(short.to_owned()),
            });
            let document = tokens.collect::<Result<Vec<u16>, String>>()?;
            let hash = hash(&document);
            if sample.documents.last_key_value().is_some_and(|(last, _)| *last >= hash) {
                return Err("the sample's documents are out of order".into());
            }
            sample.tokens += document.len();
            sample.documents.insert(hash, Document { tokens: document, weight });
        }
        if !numbers.0.is_empty() {
            return Err("bytes follow the sample's last document".into());
        }
        Ok(sample)
    }
}

fn hash(document: &[u16]) -> [u8; 32] {
    let bytes: Vec<u8> = document.iter().copied().flat_map(u16::to_le_bytes).collect();
    blake3::hash(&bytes).into()
}
