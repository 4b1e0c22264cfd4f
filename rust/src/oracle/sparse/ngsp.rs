//! The file format NGSP, version 4. Little-endian:
//!
//! | offset | | |
//! |---|---|---|
//! | 0 | 4 bytes | `NGSP` |
//! | 4 | u32 | version, 4 |
//! | 8 | u32 | CRC-32 (IEEE) of all that follows |
//! | 12 | u16 | order N, 1 to 8 |
//! | 14 | u16 | zero |
//! | 16 | u64 | training tokens |
//! | 24 | u32 | vocabulary V |
//! | 28 | u32 | the token that documents begin with |
//! | 32 | 32 bytes | fingerprint of the tokenizer, zeros if it isn't known |
//! | 64 | N × (u32, u32) | per order from 1 on: n-grams, bytes of their stream |
//! | 64 + 8 N | | the streams |
//!
//! Order 1 has V n-grams. The streams are arithmetic-coded; see [`super::order_stream`] for those of order 2
//! and above.
//!
//! Versions 2 and 3 differ in those alone; see [`super::version_2`] and [`super::continuations`]. Version 1 has the same streams as version 2, but the
//! vocabulary is the u16 at offset 14, the orders follow at offset 24, and the document token is 1.

use super::binary_coder::{hash, BinaryCoder, ContextMixer, Decoder, Encoder};
use super::known::Invalid;
use super::ngram::MAX_ORDER;
use super::oracle::{PackedOrder, SparseOracle};
use super::order_stream;
use super::restore::{self, Restoration, RestoredOrder, Suffix};
use super::version_2;
use crate::parallel::Control;
use crate::vocabulary::{self, Vocabulary, IDENTITY_BYTES};
use crate::{Error, Result};

pub const MAGIC: [u8; 4] = *b"NGSP";
pub const VERSION: u32 = 4;
/// Of a vocabulary that isn't known beyond its size.
const VERSION_WITHOUT_IDENTITY: u32 = 1;
/// Its streams and those before have a single part.
const LAST_OF_ONE_PART: u32 = 2;
/// Candidates aren't in blocks up to this one.
const LAST_WITHOUT_BLOCKS: u32 = 3;

const CHECKED_FROM: usize = 12;
const VOCABULARY_AT: usize = 24;

/// An order has at most as many n-grams as the order below it, this many more per byte of its stream, and a few. A
/// file that claims more is refused, so that a small one can't demand any amount of memory and time. In real files an
/// n-gram takes about a byte. But where text repeats itself nearly every context has one continuation, which takes next
/// to no bytes, hence the order below (version 1 didn't allow for it).
const NGRAMS_PER_BYTE: u64 = 64;
const NGRAMS_FREE: u64 = 1 << 12;

/// The largest file that is written.
pub const MAX_BYTES: usize = 1 << 30;

/// The offset of the orders' fields.
fn orders_at(version: u32) -> usize {
    VOCABULARY_AT + if version == VERSION_WITHOUT_IDENTITY { 0 } else { 4 + IDENTITY_BYTES }
}

pub(super) fn header_bytes(order: usize) -> usize {
    orders_at(VERSION) + 8 * order
}

/// Assembles a file from each order's number of n-grams and stream, from order 1 on. None if a reader would refuse it for
/// its many n-grams in few bytes: fewer must be kept then.
pub(super) fn assemble(
    vocabulary: &Vocabulary,
    token_count: u64,
    streams: &[(usize, Vec<u8>)],
) -> Option<Vec<u8>> {
    let mut file = Vec::new();
    file.extend(MAGIC);
    file.extend(VERSION.to_le_bytes());
    file.extend([0; 4]);
    file.extend((streams.len() as u16).to_le_bytes());
    file.extend([0; 2]);
    file.extend(token_count.to_le_bytes());
    file.extend((vocabulary.size as u32).to_le_bytes());
    vocabulary.write_identity(&mut file);
    let mut below = vocabulary.size as u64;
    for (ngrams, stream) in streams {
        if *ngrams as u64 > most_ngrams(VERSION, stream.len(), below) {
            return None;
        }
        below = *ngrams as u64;
        file.extend((*ngrams as u32).to_le_bytes());
        file.extend((stream.len() as u32).to_le_bytes());
    }
    for (_, stream) in streams {
        file.extend(stream);
    }
    let checksum = crc32fast::hash(&file[CHECKED_FROM..]);
    file[8..12].copy_from_slice(&checksum.to_le_bytes());
    Some(file)
}

/// Corrects the first bytes, the last stream's length and the checksum of what may be a file of `version`, as far as it
/// is long enough, so that a reader gets to what comes after them.
#[cfg(feature = "forge")]
pub fn forge(file: &mut [u8], version: u32) {
    let put = |file: &mut [u8], at: usize, bytes: [u8; 4]| {
        if let Some(field) = file.get_mut(at..at + 4) {
            field.copy_from_slice(&bytes);
        }
    };
    put(file, 0, MAGIC);
    put(file, 4, version.to_le_bytes());
    let field = |at: usize, size: usize| {
        let bytes = file.get(at..at + size).unwrap_or_default();
        bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte))
    };
    let order = field(12, 2);
    if (1..=MAX_ORDER).contains(&order) {
        let orders = orders_at(version);
        let others: usize = (0..order - 1).map(|n| field(orders + 8 * n + 4, 4)).sum();
        let end = orders + 8 * order;
        let last = file.len().saturating_sub(end + others) as u32;
        put(file, end - 4, last.to_le_bytes());
    }
    let checksum = crc32fast::hash(file.get(CHECKED_FROM..).unwrap_or_default());
    put(file, 8, checksum.to_le_bytes());
}

/// The most n-grams of an order whose stream has that many bytes, if the order below has `below`.
fn most_ngrams(version: u32, bytes: usize, below: u64) -> u64 {
    let granted = if version == VERSION_WITHOUT_IDENTITY { 0 } else { below };
    NGRAMS_FREE + NGRAMS_PER_BYTE * bytes as u64 + granted
}

/// The checked header, and the streams.
struct Header<'a> {
    version: u32,
    vocabulary: Vocabulary,
    token_count: u64,
    /// Per order from 1 on: number of n-grams, and stream.
    orders: Vec<(usize, &'a [u8])>,
}

fn read_header<'a>(data: &'a [u8], what: &str) -> Result<Header<'a>> {
    let wrong = |offset: usize, detail: String| Error::format(what, format!("at offset {offset}: {detail}"));
    let short = |offset: usize| wrong(offset, format!("the file ends, after {} bytes", data.len()));
    let field = |offset: usize, size: usize| {
        let bytes = data.get(offset..offset + size).ok_or_else(|| short(data.len()))?;
        Ok(bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte)))
    };
    if data.get(..4) != Some(&MAGIC) {
        return Err(wrong(0, "not a sparse oracle".into()));
    }
    let version = field(4, 4)? as u32;
    if !(VERSION_WITHOUT_IDENTITY..=VERSION).contains(&version) {
        return Err(wrong(4, format!("version {version}; this program reads versions up to {VERSION}")));
    }
    let (checksum, order, token_count) = (field(8, 4)?, field(12, 2)? as usize, field(16, 8)?);
    let vocabulary_at = if version == VERSION_WITHOUT_IDENTITY { 14 } else { VOCABULARY_AT };
    let vocabulary = if version == VERSION_WITHOUT_IDENTITY {
        Vocabulary::from(field(14, 2)? as usize)
    } else {
        if field(14, 2)? != 0 {
            return Err(wrong(14, "must be zero".into()));
        }
        let mut fingerprint = [0; 32];
        let at = VOCABULARY_AT + 8;
        fingerprint.copy_from_slice(data.get(at..at + 32).ok_or_else(|| short(data.len()))?);
        let (size, bos) = (field(VOCABULARY_AT, 4)? as usize, field(VOCABULARY_AT + 4, 4)? as u32);
        Vocabulary::of_identity(size, bos, fingerprint)
            .map_err(|error| wrong(VOCABULARY_AT + 4, error.to_string()))?
    };
    let vocab_size = vocabulary.size;
    if !(1..=MAX_ORDER).contains(&order) {
        return Err(wrong(12, format!("order {order}, where 1 to {MAX_ORDER} are possible")));
    }
    if vocab_size == 0 {
        return Err(wrong(vocabulary_at, "a vocabulary of no tokens".into()));
    }
    if vocab_size > vocabulary::MAX_SIZE {
        return Err(wrong(
            vocabulary_at,
            format!("a vocabulary of {vocab_size} tokens; a token has 16 bits"),
        ));
    }
    let mut orders = Vec::with_capacity(order);
    let mut at = orders_at(version) + 8 * order;
    let mut below = vocab_size as u64;
    for n in 1..=order {
        let offset = orders_at(version) + 8 * (n - 1);
        let (ngrams, bytes) = (field(offset, 4)?, field(offset + 4, 4)? as usize);
        if n == 1 && ngrams != vocab_size as u64 {
            return Err(wrong(offset, format!("{ngrams} n-grams of order 1 for {vocab_size} tokens")));
        }
        if n > 1 && ngrams > most_ngrams(version, bytes, below) {
            return Err(wrong(offset, format!("{ngrams} n-grams of order {n} in {bytes} bytes")));
        }
        below = ngrams;
        let stream = data.get(at..at.saturating_add(bytes)).ok_or_else(|| short(data.len()))?;
        orders.push((ngrams as usize, stream));
        at += bytes;
    }
    if at != data.len() {
        return Err(wrong(at, format!("{} bytes follow the last stream", data.len() - at)));
    }
    let found = crc32fast::hash(&data[CHECKED_FROM..]);
    if u64::from(found) != checksum {
        return Err(wrong(
            8,
            format!("the checksum is {checksum:#010x}, but that of the bytes {found:#010x}"),
        ));
    }
    Ok(Header { version, vocabulary, token_count, orders })
}

/// Reads a file, on up to two threads. `control` advances by bytes, and can stop it.
pub fn decode(data: &[u8], what: &str, threads: usize, control: &Control) -> Result<SparseOracle> {
    let header = read_header(data, what)?;
    let orders = read_orders(&header, what, threads, control)?;
    let stream_bytes = header.orders.iter().map(|(_, stream)| stream.len()).collect();
    Ok(SparseOracle::new(header.vocabulary, orders, header.token_count, stream_bytes))
}

/// Reads all orders, from order 0 on.
fn read_orders(header: &Header, what: &str, threads: usize, control: &Control) -> Result<Vec<PackedOrder>> {
    let mut packed = Vec::with_capacity(header.orders.len() + 1);
    let [mut shorter, mut contexts] = read_unigrams(header, what)?;
    control.advance(header.orders[0].1.len() as u64)?;
    for (n, &(ngrams, stream)) in (2..).zip(&header.orders[1..]) {
        let mut restoration = Restoration::new(&contexts, ngrams);
        let visit = |backoff, continuations: &[(Suffix, i8)]| restoration.add(backoff, continuations);
        let read = read_order(header.version, stream, [&shorter, &contexts], ngrams, threads, control, visit);
        // Whoever cancels doesn't want to know more.
        control.check()?;
        read.map_err(|detail| wrong_stream(what, n, &detail))?;
        let (successors, restored) = restoration.finish();
        contexts.complete(successors);
        packed.push(PackedOrder::from(shorter));
        (shorter, contexts) = (contexts, restored);
        control.advance(stream.len() as u64)?;
    }
    packed.extend([shorter, contexts].map(PackedOrder::from));
    Ok(packed)
}

fn wrong_stream(what: &str, n: usize, detail: &str) -> Error {
    Error::format(what, format!("the stream of order {n} {detail}"))
}

/// Reads the orders 0 and 1.
fn read_unigrams(header: &Header, what: &str) -> Result<[RestoredOrder; 2]> {
    let root = restore::root(header.vocabulary.size, header.token_count);
    let mut coder = Decoder::new(header.orders[0].1);
    let steps = code_unigrams(&mut coder, None, header.vocabulary.size);
    if !is_finished(&coder) {
        return Err(wrong_stream(what, 1, ANOTHER_LENGTH));
    }
    let unigrams = restore::unigrams(&root, &steps);
    Ok([root, unigrams])
}

/// Reads an order from 2 on, and calls `visit` with the step of each context and its continuations; or says what is wrong.
fn read_order(
    version: u32,
    stream: &[u8],
    [shorter, contexts]: [&RestoredOrder; 2],
    ngrams: usize,
    threads: usize,
    control: &Control,
    mut visit: impl FnMut(i8, &[(Suffix, i8)]),
) -> std::result::Result<(), String> {
    let go_on = |coder: &Decoder<'_>| control.check().is_ok() && coder.missing() <= MISSING;
    let mut found = 0;
    let (read, is_finished) = if version <= LAST_OF_ONE_PART {
        let mut coder = Decoder::new(stream);
        let read =
            version_2::code_order(&mut coder, shorter, contexts, None, ngrams, |coder, _| go_on(coder));
        let read = read.map(|symbols| {
            found = symbols.tokens.len();
            let suffixes = restore::suffixes(shorter, contexts, &symbols);
            restore::for_each_context(&symbols, &suffixes, visit);
        });
        (read, is_finished(&coder))
    } else {
        let parts = order_stream::parts(stream).ok_or("is shorter than its first part")?;
        let mut coders = parts.map(Decoder::new);
        let visit = |backoff, continuations: &[(Suffix, i8)]| {
            found += continuations.len();
            visit(backoff, continuations);
        };
        let (pair, has_blocks) = ([shorter, contexts], version > LAST_WITHOUT_BLOCKS);
        let read = order_stream::decode(&mut coders, pair, has_blocks, ngrams, threads, go_on, visit);
        (read, coders.iter().all(is_finished))
    };
    read.map_err(|invalid| match invalid {
        Invalid::Interrupted => "ends too early".to_owned(),
        Invalid::NoContinuation => "promises a continuation that is not there".to_owned(),
        Invalid::TooMany => format!("holds more than {ngrams} n-grams"),
    })?;
    if found != ngrams {
        return Err(format!("holds {found} n-grams, not {ngrams}"));
    }
    if !is_finished {
        return Err(ANOTHER_LENGTH.to_owned());
    }
    Ok(())
}

/// The most zeros that a decoder supplies past the end of a stream: it reads four bytes ahead, and the encoder may have
/// omitted a run of zeros.
const MISSING: u32 = 64;

fn is_finished(coder: &Decoder<'_>) -> bool {
    coder.is_finished() && coder.missing() <= MISSING
}

const ANOTHER_LENGTH: &str = "has another length than its n-grams";

/// A file of the same model in another version, from 2 on.
#[cfg(feature = "forge")]
pub fn rewrite(data: &[u8], what: &str, version: u32) -> Result<Vec<u8>> {
    let header = read_header(data, what)?;
    let control = Control::default();
    let mut streams = vec![(header.orders[0].0, header.orders[0].1.to_vec())];
    let [mut shorter, mut contexts] = read_unigrams(&header, what)?;
    for (n, &(ngrams, stream)) in (2..).zip(&header.orders[1..]) {
        let mut symbols = restore::Symbols { first: vec![0], ..restore::Symbols::default() };
        let mut restoration = Restoration::new(&contexts, ngrams);
        let visit = |backoff, continuations: &[(Suffix, i8)]| {
            restoration.add(backoff, continuations);
            symbols.backoffs.push(backoff);
            symbols.tokens.extend(continuations.iter().map(|(suffix, _)| suffix.token));
            symbols.ratios.extend(continuations.iter().map(|(_, step)| step));
            symbols.first.push(symbols.tokens.len() as u32);
        };
        read_order(header.version, stream, [&shorter, &contexts], ngrams, 1, &control, visit)
            .map_err(|detail| wrong_stream(what, n, &detail))?;
        let stream = if version <= LAST_OF_ONE_PART {
            let mut coder = Encoder::new();
            let coded =
                version_2::code_order(&mut coder, &shorter, &contexts, Some(&symbols), ngrams, |_, _| true);
            debug_assert!(coded.is_ok_and(|coded| coded == symbols));
            coder.finish()
        } else {
            let (pair, suffixes) = ([&shorter, &contexts], restore::suffixes(&shorter, &contexts, &symbols));
            order_stream::join([
                order_stream::encode_continuations(pair, &symbols, version > LAST_WITHOUT_BLOCKS, &control)?,
                order_stream::encode_weights(pair, &symbols, &suffixes, &control)?,
            ])
        };
        streams.push((ngrams, stream));
        let (successors, restored) = restoration.finish();
        contexts.complete(successors);
        (shorter, contexts) = (contexts, restored);
    }
    let mut file = assemble(&header.vocabulary, header.token_count, &streams)
        .ok_or_else(|| Error::format(what, "more n-grams than its version can hold"))?;
    forge(&mut file, version);
    Ok(file)
}

/// The stream of order 1.
pub(super) fn encode_unigrams(steps: &[u8]) -> Vec<u8> {
    let mut coder = Encoder::new();
    code_unigrams(&mut coder, Some(steps), steps.len());
    coder.finish()
}

/// Codes each token's step in the context of those before it: neighbours in a tokenizer's vocabulary are about equally
/// frequent.
fn code_unigrams<C: BinaryCoder>(coder: &mut C, source: Option<&[u8]>, vocab_size: usize) -> Vec<u8> {
    const BITS: u32 = 8;
    let mut mixer = ContextMixer::new(16, 8 + BITS as usize + 1);
    let mut steps = Vec::with_capacity(vocab_size);
    let (mut last, mut before) = (0u8, 0u8);
    for token in 0..vocab_size {
        let step = source.map_or(0, |source| u32::from(source[token]));
        let mean = (u32::from(last) + u32::from(before)) / 2;
        let contexts =
            [hash(1, 0), hash(2, u32::from(last >> 2)), hash(3, mean >> 3), hash(4, (token as u32) >> 5)];
        let other = 8 + BITS as usize;
        let coded = mixer.code_symbol(coder, step, BITS, &contexts, 0, other) as u8;
        steps.push(coded);
        (before, last) = (last, coded);
    }
    steps
}
