//! Every n-gram of a corpus, up to an order, as a sorted trie with counts.
//!
//! Level n holds the n-grams of order n, in lexicographic order of their tokens, oldest first; the
//! n-grams that extend one n-gram by a token are contiguous on the next level. Level 0 is the empty
//! context and level 1 the whole vocabulary, seen or not.

use std::ops::Range;

use crate::parallel::{self, Control};
use crate::{Error, Result};

/// Documents begin with this token, so an n-gram that reaches it ends there: what stood before a
/// document says nothing about it.
pub const BOS: u16 = 1;

/// Stands between streams, which no n-gram spans, and beyond the last. No vocabulary holds it.
const SEPARATOR: u16 = u16::MAX;

/// The largest vocabulary: [`SEPARATOR`] must stay free.
pub const MAX_VOCAB: usize = u16::MAX as usize;

/// Streams of tokens, each an n-gram's whole world, split into documents.
pub struct Corpus {
    /// The streams, each followed by a separator, then padding for the longest n-gram.
    tokens: Vec<u16>,
    /// Where each document starts, ascending. Long documents are cut into several, so that a book
    /// without any [`BOS`] still has repetition to be told from chance.
    documents: Vec<u32>,
    vocab_size: usize,
    token_count: u64,
}

/// Longer documents count as several of this many tokens.
const DOCUMENT_TOKENS: usize = 1 << 13;

impl Corpus {
    /// [`Error::Input`] when a token is outside the vocabulary or there are too many of them.
    pub fn new<'a>(streams: impl IntoIterator<Item = &'a [u16]>, vocab_size: usize) -> Result<Self> {
        if vocab_size == 0 || vocab_size > MAX_VOCAB {
            return Err(Error::input(format!("a vocabulary has 1 to {MAX_VOCAB} tokens, not {vocab_size}")));
        }
        let mut corpus = Self { tokens: Vec::new(), documents: Vec::new(), vocab_size, token_count: 0 };
        let mut streams: Vec<&[u16]> = streams.into_iter().collect();
        // Whatever order they come in, the same shards are the same corpus.
        streams.sort_unstable();
        for stream in streams {
            corpus.push(stream)?;
        }
        corpus.tokens.extend([SEPARATOR; super::MAX_ORDER]);
        Ok(corpus)
    }

    fn push(&mut self, stream: &[u16]) -> Result<()> {
        if let Some(at) = stream.iter().position(|&token| usize::from(token) >= self.vocab_size) {
            return Err(Error::input(format!(
                "token {} at offset {at} is outside the vocabulary of {}",
                stream[at], self.vocab_size
            )));
        }
        if self.tokens.len() + stream.len() + 1 + super::MAX_ORDER > u32::MAX as usize {
            return Err(Error::input("more than 2^32 training tokens; build from fewer shards"));
        }
        let mut length = DOCUMENT_TOKENS;
        for (at, &token) in stream.iter().enumerate() {
            if token == BOS || length == DOCUMENT_TOKENS {
                self.documents.push((self.tokens.len() + at) as u32);
                length = 0;
            }
            length += 1;
        }
        self.tokens.extend_from_slice(stream);
        self.tokens.push(SEPARATOR);
        self.token_count += stream.len() as u64;
        Ok(())
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Tokens over all streams.
    pub fn token_count(&self) -> u64 {
        self.token_count
    }

    pub fn document_count(&self) -> usize {
        self.documents.len()
    }

    /// The tokens of each document in turn. A document runs to the next one's start or its stream's end.
    pub fn documents(&self) -> impl Iterator<Item = &[u16]> {
        let ends = self.documents.iter().skip(1).copied().chain([self.tokens.len() as u32]);
        self.documents.iter().zip(ends).map(|(&start, end)| {
            let document = &self.tokens[start as usize..end as usize];
            document.split(|&token| token == SEPARATOR).next().unwrap_or_default()
        })
    }

    /// Whether two positions, the first the earlier, lie in different documents.
    fn apart(&self, earlier: u32, later: u32) -> bool {
        let next = self.documents.partition_point(|&start| start <= earlier);
        self.documents.get(next).is_some_and(|&start| start <= later)
    }

    /// For each token of the vocabulary, where it stands.
    fn positions_by_token(&self) -> (Vec<usize>, Vec<u32>) {
        let mut bounds = vec![0; self.vocab_size + 2];
        for &token in self.tokens.iter().filter(|&&token| token != SEPARATOR) {
            bounds[usize::from(token) + 2] += 1;
        }
        for index in 1..bounds.len() {
            bounds[index] += bounds[index - 1];
        }
        let mut positions = vec![0; self.token_count as usize];
        for (position, &token) in self.tokens.iter().enumerate().filter(|(_, &token)| token != SEPARATOR) {
            let slot = &mut bounds[usize::from(token) + 1];
            positions[*slot] = position as u32;
            *slot += 1;
        }
        bounds.pop();
        (bounds, positions)
    }
}

/// The n-grams of one order.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Level {
    /// Each n-gram's last token.
    pub words: Vec<u16>,
    /// Each n-gram without its oldest token: an index into the level below.
    pub suffixes: Vec<u32>,
    pub counts: Vec<u32>,
    /// n-gram `i` is continued by `first[i]..first[i + 1]` of the level above. Empty at the top.
    pub first: Vec<u32>,
}

impl Level {
    pub fn len(&self) -> usize {
        self.words.len()
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Where the level above holds the continuations of `context`.
    pub fn successors(&self, context: usize) -> Range<usize> {
        self.first[context] as usize..self.first[context + 1] as usize
    }
}

/// See the module.
pub struct Trie {
    pub levels: Vec<Level>,
    /// In how many documents each n-gram of the top order occurs.
    pub documents: Vec<u32>,
}

impl Trie {
    /// Sorts the corpus. Needs about 14 bytes per distinct n-gram over all orders.
    pub fn build(corpus: &Corpus, order: usize, threads: usize, control: &Control) -> Result<Self> {
        debug_assert!((1..=super::MAX_ORDER).contains(&order));
        // Tokens are stored one higher, so that zero can say that an n-gram has ended.
        let bits = usize::BITS - corpus.vocab_size.leading_zeros();
        if bits as usize * (order - 1) <= 64 {
            Self::sorted::<u64>(corpus, order, bits, threads, control)
        } else {
            Self::sorted::<u128>(corpus, order, bits, threads, control)
        }
    }

    fn sorted<K: Key>(
        corpus: &Corpus,
        order: usize,
        bits: u32,
        threads: usize,
        control: &Control,
    ) -> Result<Self> {
        let (bounds, positions) = corpus.positions_by_token();
        let mut branches = Vec::new();
        branches.resize_with(corpus.vocab_size, Branch::default);
        let jobs = branches.iter_mut().zip(bounds.windows(2)).collect();
        parallel::for_each(threads, jobs, |(branch, bounds): (&mut Branch, &[usize])| {
            *branch = Branch::grow::<K>(corpus, &positions[bounds[0]..bounds[1]], order, bits);
            control.check()
        })?;
        drop(positions);
        let mut trie = Self::join(branches, &bounds, order)?;
        trie.link_suffixes(threads, control)?;
        Ok(trie)
    }

    fn join(branches: Vec<Branch>, bounds: &[usize], order: usize) -> Result<Self> {
        let vocab_size = branches.len();
        let tokens = bounds.last().copied().unwrap_or(0);
        let mut levels = vec![Level::default(); order + 1];
        levels[0] = Level {
            words: vec![0],
            suffixes: vec![0],
            counts: vec![tokens as u32],
            first: vec![0, vocab_size as u32],
        };
        levels[1].words = (0..vocab_size).map(|token| token as u16).collect();
        levels[1].suffixes = vec![0; vocab_size];
        levels[1].counts = bounds.windows(2).map(|pair| (pair[1] - pair[0]) as u32).collect();
        let mut documents = Vec::new();
        for (n, level) in levels.iter_mut().enumerate().skip(2) {
            let total: usize = branches.iter().map(|branch| branch.levels[n - 2].words.len()).sum();
            if total >= u32::MAX as usize {
                return Err(Error::input(format!(
                    "more than 2^32 n-grams of order {n}; build from fewer shards"
                )));
            }
            level.words.reserve_exact(total);
            level.counts.reserve_exact(total);
        }
        for mut branch in branches {
            for n in 2..=order {
                let grown = &mut branch.levels[n - 2];
                let base = levels[n].words.len() as u32;
                levels[n - 1].first.extend(grown.first.iter().map(|&first| first + base));
                levels[n].words.append(&mut grown.words);
                levels[n].counts.append(&mut grown.counts);
            }
            documents.append(&mut branch.documents);
        }
        for n in 2..=order {
            let end = levels[n].words.len() as u32;
            levels[n - 1].first.push(end);
        }
        if order == 1 {
            documents = levels[1].counts.clone();
        }
        Ok(Self { levels, documents })
    }

    /// An n-gram's suffix continues its context's suffix, so it is found among few.
    fn link_suffixes(&mut self, threads: usize, control: &Control) -> Result<()> {
        for n in 2..self.levels.len() {
            let (below, level) = self.levels.split_at_mut(n);
            let (shorter, contexts) = (&below[n - 2], &below[n - 1]);
            let Level { words, suffixes, .. } = &mut level[0];
            suffixes.resize(words.len(), 0);
            let words = &*words;
            parallel::for_each(threads, by_context(&contexts.first, suffixes), |piece| {
                let base = contexts.first[piece.contexts.start] as usize;
                for context in piece.contexts {
                    let found = shorter.successors(contexts.suffixes[context] as usize);
                    let mut rest = found.start;
                    for successor in contexts.successors(context) {
                        rest +=
                            contexts.words[rest..found.end].partition_point(|&word| word < words[successor]);
                        debug_assert_eq!(contexts.words[rest], words[successor]);
                        piece.data[successor - base] = rest as u32;
                    }
                }
                control.check()
            })?;
        }
        Ok(())
    }

    pub fn order(&self) -> usize {
        self.levels.len() - 1
    }

    /// The n-grams of order `n` that begin with `token`, on their level.
    pub fn beginning_with(&self, token: u16, n: usize) -> Range<usize> {
        let token = usize::from(token);
        if token >= self.levels[1].len() {
            return 0..0;
        }
        let extended = |found: Range<usize>, level: &Level| {
            level.first[found.start] as usize..level.first[found.end] as usize
        };
        self.levels[1..n].iter().fold(token..token + 1, extended)
    }

    /// The continuation of `context` (of order `order`) by `word`, on the next level.
    pub fn find(&self, order: usize, context: usize, word: u16) -> Option<usize> {
        let range = self.levels[order].successors(context);
        let found = self.levels[order + 1].words[range.clone()].binary_search(&word).ok()?;
        Some(range.start + found)
    }
}

/// A stretch of contexts with what belongs to their successors, one thread's work.
pub struct Piece<'a, T> {
    pub contexts: Range<usize>,
    pub data: &'a mut [T],
}

/// Successors in one piece, about.
const PIECE: usize = 1 << 14;

/// Cuts `data`, one element per successor, between contexts; `first` is that of their level.
pub fn by_context<'a, T>(first: &[u32], mut data: &'a mut [T]) -> Vec<Piece<'a, T>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start + 1 < first.len() {
        let base = first[start] as usize;
        let mut end = start + first[start + 1..].partition_point(|&at| (at as usize) < base + PIECE) + 1;
        // Contexts without successors are work too.
        end = end.min(start + PIECE).min(first.len() - 1);
        let (piece, rest) = data.split_at_mut(first[end] as usize - base);
        pieces.push(Piece { contexts: start..end, data: piece });
        data = rest;
        start = end;
    }
    pieces
}

/// A sortable packing of the tokens after an n-gram's first.
trait Key: Copy + Ord + Send {
    fn pack(tokens: &[u16], bits: u32) -> Self;
    /// The `index`-th of `count` packed tokens, `None` beyond the n-gram's end.
    fn token(self, index: usize, count: usize, bits: u32) -> Option<u16>;
    /// How many tokens two packings share from the first on, `count` when equal.
    fn common(self, other: Self, count: usize, bits: u32) -> usize;
}

macro_rules! impl_key {
    ($type:ty) => {
        impl Key for $type {
            fn pack(tokens: &[u16], bits: u32) -> Self {
                let mut key = 0;
                let mut ended = false;
                for &token in tokens {
                    ended |= token == SEPARATOR;
                    key = (key << bits) | if ended { 0 } else { Self::from(token) + 1 };
                    ended |= token == BOS;
                }
                key
            }

            fn token(self, index: usize, count: usize, bits: u32) -> Option<u16> {
                let code = (self >> (bits as usize * (count - 1 - index))) & ((1 << bits) - 1);
                (code != 0).then(|| (code - 1) as u16)
            }

            fn common(self, other: Self, count: usize, bits: u32) -> usize {
                let unused = Self::BITS - bits * count as u32;
                (((self ^ other).leading_zeros() - unused) / bits) as usize
            }
        }
    };
}
impl_key!(u64);
impl_key!(u128);

/// The n-grams that begin with one token; `levels[0]` is order 2. `first` there belongs to the level
/// below, counted from this branch's start.
#[derive(Default)]
struct Branch {
    levels: Vec<Level>,
    documents: Vec<u32>,
}

impl Branch {
    fn grow<K: Key>(corpus: &Corpus, positions: &[u32], order: usize, bits: u32) -> Self {
        let mut branch = Self { levels: vec![Level::default(); order - 1], documents: Vec::new() };
        let Some(second) = branch.levels.first_mut() else {
            return branch;
        };
        second.first.push(0);
        let rest = order - 1;
        let pack = |&position: &u32| {
            let start = position as usize + 1;
            // A document's first token that is also an n-gram's last has no continuation but its own.
            (K::pack(&corpus.tokens[start..start + rest], bits), position)
        };
        let mut entries: Vec<(K, u32)> = positions.iter().map(pack).collect();
        entries.sort_unstable();
        let mut previous = None;
        for group in entries.chunk_by(|a, b| a.0 == b.0) {
            let key = group[0].0;
            let shared = previous.map_or(0, |previous| key.common(previous, rest, bits));
            previous = Some(key);
            let mut full = true;
            for index in 0..rest {
                let Some(word) = key.token(index, rest, bits) else {
                    full = false;
                    break;
                };
                if index >= shared {
                    branch.levels[index].words.push(word);
                    branch.levels[index].counts.push(0);
                    if index + 1 < rest {
                        let end = branch.levels[index + 1].words.len() as u32;
                        branch.levels[index + 1].first.push(end);
                    }
                }
                if let Some(count) = branch.levels[index].counts.last_mut() {
                    *count += group.len() as u32;
                }
            }
            if full {
                let changes = group.windows(2).filter(|pair| corpus.apart(pair[0].1, pair[1].1)).count();
                branch.documents.push(1 + changes as u32);
            }
        }
        branch
    }
}
