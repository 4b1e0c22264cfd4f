//! Bytes to pieces of a SentencePiece vocabulary and back, exactly.
//!
//! The tokenizer itself normalises (NFKC, white space collapsed), so its tokens don't give a file back.
//! Here a piece stands for plain bytes, with a space for each "▁", and a text is cut as SentencePiece's BPE
//! would cut it if it didn't normalise: characters are merged, the pair first whose piece has the best
//! score, the leftmost of equals. What has no piece, be it a rare character or no UTF-8 at all, becomes
//! byte pieces. Where normalisation changes nothing, the tokens are the tokenizer's own.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use crate::tokens::check_tokens;
use crate::{Error, Result};

/// Stretches without a space are cut after this many bytes, so that no text takes long.
const LONGEST: usize = 256;

/// What one entry of a vocabulary stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// These bytes, merged before others of a lower score.
    Text {
        bytes: Vec<u8>,
        score: f32,
    },
    Byte(u8),
    /// No bytes: control, unknown and unused pieces, which never stand in a coded text.
    None,
}

pub struct Segmenter {
    bytes: Vec<Vec<u8>>,
    pieces: HashMap<Vec<u8>, (u16, f32)>,
    byte_pieces: [Option<u16>; 256],
}

/// A pair of neighbours that makes a piece; ordered so that a heap yields the best score, then the leftmost.
struct Merge {
    score: f32,
    left: usize,
    right: usize,
    /// The piece, and how long the two were when the pair was found: if no longer, it is out of date.
    piece: u16,
    length: usize,
}

impl Ord for Merge {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Merge {}

/// A stretch of the text that is one piece so far, in a doubly linked list.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// 0: merged into its left neighbour.
    length: usize,
    previous: usize,
    next: usize,
    /// A byte piece is never merged.
    piece: u16,
    merges: bool,
}

const NOWHERE: usize = usize::MAX;

impl Segmenter {
    /// `pieces` by token id.
    pub fn new(pieces: Vec<Piece>) -> Result<Self> {
        if !(2..=1 << 16).contains(&pieces.len()) {
            return Err(Error::input(format!("a vocabulary has 2 to 65536 tokens, not {}", pieces.len())));
        }
        let mut segmenter = Self { bytes: Vec::new(), pieces: HashMap::new(), byte_pieces: [None; 256] };
        for (id, piece) in pieces.into_iter().enumerate() {
            let id = id as u16;
            segmenter.bytes.push(match piece {
                Piece::None => Vec::new(),
                Piece::Byte(byte) => {
                    segmenter.byte_pieces[usize::from(byte)] = Some(id);
                    vec![byte]
                }
                Piece::Text { bytes, score } => {
                    segmenter.pieces.entry(bytes.clone()).or_insert((id, score));
                    bytes
                }
            });
        }
        Ok(segmenter)
    }

    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of a token; none for one that stands for none.
    pub fn bytes(&self, token: u16) -> &[u8] {
        &self.bytes[usize::from(token)]
    }

    /// The bytes of all these tokens.
    pub fn decode(&self, tokens: &[u16]) -> Result<Vec<u8>> {
        check_tokens(tokens, self.vocab_size())?;
        Ok(tokens.iter().flat_map(|&token| self.bytes(token)).copied().collect())
    }

    /// Tokens that decode to exactly these bytes. InputError where the vocabulary has neither a piece nor
    /// a byte piece for some byte.
    pub fn encode(&self, data: &[u8]) -> Result<Vec<u16>> {
        let mut tokens = Vec::with_capacity(data.len() / 2);
        let mut known: HashMap<&[u8], std::ops::Range<usize>> = HashMap::new();
        let mut rest = data;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(word_length(rest));
            match known.get(word) {
                Some(range) => tokens.extend_from_within(range.clone()),
                None => {
                    let start = tokens.len();
                    self.segment(word, data.len() - rest.len(), &mut tokens)?;
                    known.insert(word, start..tokens.len());
                }
            }
            rest = after;
        }
        Ok(tokens)
    }

    fn segment(&self, word: &[u8], offset: usize, tokens: &mut Vec<u16>) -> Result<()> {
        let mut symbols = self.characters(word, offset)?;
        let mut heap = BinaryHeap::new();
        for right in 1..symbols.len() {
            self.propose(word, &symbols, right - 1, right, &mut heap);
        }
        while let Some(Merge { left, right, piece, length, .. }) = heap.pop() {
            let (a, b) = (symbols[left], symbols[right]);
            if a.length == 0 || b.length == 0 || a.length + b.length != length || a.next != right {
                continue;
            }
            symbols[left] = Symbol { length, next: b.next, piece, ..a };
            symbols[right].length = 0;
            if b.next != NOWHERE {
                symbols[b.next].previous = left;
                self.propose(word, &symbols, left, b.next, &mut heap);
            }
            if a.previous != NOWHERE {
                self.propose(word, &symbols, a.previous, left, &mut heap);
            }
        }
        tokens.extend(symbols.iter().filter(|symbol| symbol.length > 0).map(|symbol| symbol.piece));
        Ok(())
    }

    /// Each character that is a piece, and the bytes of all else.
    fn characters(&self, word: &[u8], offset: usize) -> Result<Vec<Symbol>> {
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut push = |start, length, piece, merges| {
            let index = symbols.len();
            if let Some(before) = symbols.last_mut() {
                before.next = index;
            }
            let previous = index.checked_sub(1).unwrap_or(NOWHERE);
            symbols.push(Symbol { start, length, previous, next: NOWHERE, piece, merges });
        };
        let mut at = 0;
        while at < word.len() {
            let length = character_length(&word[at..]);
            match self.pieces.get(&word[at..at + length]) {
                Some(&(piece, _)) => push(at, length, piece, true),
                None => {
                    for (index, &byte) in word[at..at + length].iter().enumerate() {
                        let piece = self.byte_pieces[usize::from(byte)].ok_or_else(|| {
                            Error::input(format!(
                                "the tokenizer has no piece for byte {byte:#04x} at offset {}; it must be \
                                 trained with byte fallback",
                                offset + at + index
                            ))
                        })?;
                        push(at + index, 1, piece, false);
                    }
                }
            }
            at += length;
        }
        Ok(symbols)
    }

    fn propose(
        &self,
        word: &[u8],
        symbols: &[Symbol],
        left: usize,
        right: usize,
        heap: &mut BinaryHeap<Merge>,
    ) {
        let (a, b) = (symbols[left], symbols[right]);
        if !(a.merges && b.merges) {
            return;
        }
        let length = a.length + b.length;
        if let Some(&(piece, score)) = self.pieces.get(&word[a.start..a.start + length]) {
            heap.push(Merge { score, left, right, piece, length });
        }
    }
}

/// Up to the next space but one at the very start; no longer than LONGEST, nor ending within a character.
fn word_length(data: &[u8]) -> usize {
    let limit = data.len().min(LONGEST);
    if let Some(space) = data[1..limit].iter().position(|&byte| byte == b' ') {
        return 1 + space;
    }
    if limit == data.len() {
        return limit;
    }
    let inside = |at: usize| data[at] & 0xc0 == 0x80;
    (limit - 3..=limit).rev().find(|&at| !inside(at)).unwrap_or(limit)
}

/// The bytes of the first character; 1 where there is none.
fn character_length(data: &[u8]) -> usize {
    let wanted = match data[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    match data.get(..wanted).map(std::str::from_utf8) {
        Some(Ok(_)) => wanted,
        _ => 1,
    }
}
