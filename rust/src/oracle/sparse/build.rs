//! From a corpus to the best file that fits a number of bytes.

use super::counts::{Kind, SparseCounts};
use super::cutoff::{self, Histogram};
use super::discounts;
use super::flow::{FullModel, PrunedModel};
use super::format;
use super::quantise;
use super::rounding;
use super::trie::Trie;
use crate::parallel::{self, Control};
use crate::{Error, Result};

/// What a build is to keep to.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The file is no larger.
    pub max_bytes: usize,
    /// Bytes to be used at most, about: a build that needs more is refused.
    pub memory: usize,
    pub threads: usize,
}

/// A file this much smaller than asked for is near enough.
const SLACK: f64 = 0.005;

/// Files encoded at most in search of the threshold.
const ATTEMPTS: usize = 5;

/// Bits that an n-gram takes in the first file, of a million n-grams; twice as many take a little less
/// each.
const BITS_OF_A_MILLION: f64 = 6.93;
const BITS_SAVED_BY_DOUBLING: f64 = 0.15;

/// Candidates for the model per byte of the file, at most: n-grams that occur too rarely for that are cut.
/// A file keeps one or two n-grams per byte, so this leaves most of the choice (docs/sparse.md has what
/// less or more would change).
const CANDIDATES_PER_BYTE: u64 = 16;

/// What a build takes per candidate and besides, to tell beforehand.
const BYTES_PER_CANDIDATE: u64 = 48;
const BYTES_BESIDES: u64 = 400_000_000;

/// How bytes grow with n-grams, until two files were seen, and n-grams with the threshold, until two
/// were tried: both about as powers. The more of a corpus is kept, the more the next n-grams can be
/// expected and the fewer bytes they take, down to none.
const BYTES_PER_NGRAM: f64 = 0.9;
const NGRAMS_PER_THRESHOLD: f64 = -0.7;

/// Thresholds tried at most for one file, and how near the number of n-grams is to come.
const STEPS: usize = 12;
const TOLERANCE: f64 = 0.001;

const FIRST_THRESHOLD: f64 = 2.0;
/// Below this everything that is worth anything is kept.
const LEAST_THRESHOLD: f64 = 1e-3;
/// Above this nothing is.
const MOST_THRESHOLD: f64 = 1e18;

/// Units of progress that a build reports in all.
pub const PROGRESS: u64 = 100;

/// Builds an oracle's file of at most `settings.max_bytes`. The bytes depend on that and on what was
/// counted.
pub fn build(counts: &SparseCounts, settings: &Settings, control: &Control) -> Result<Vec<u8>> {
    let Settings { max_bytes, memory, threads } = *settings;
    let Kind { vocab_size, order } = counts.kind();
    if counts.tokens() == 0 {
        return Err(Error::input("the shards hold no tokens"));
    }
    let mut progress = Progress { control, done: 0 };
    let discounts = discounts::fit(counts, threads, control)?;
    progress.reach(10)?;
    let histogram = Histogram::of(counts, threads, control)?;
    let cutoff = histogram.cutoff(CANDIDATES_PER_BYTE * max_bytes as u64);
    let needed = counts.bytes_in_memory() + BYTES_BESIDES + BYTES_PER_CANDIDATE * histogram.above(cutoff);
    if needed > memory as u64 {
        return Err(Error::input(format!(
            "{} n-grams are candidates for {max_bytes} bytes, and take {} MB of memory where {} MB are \
             allowed; allow more memory or fewer bytes",
            histogram.above(cutoff),
            needed / 1_000_000,
            memory / 1_000_000
        )));
    }
    progress.reach(14)?;
    let mut trie = Trie::build(counts, cutoff, threads, control)?;
    progress.reach(17)?;
    cutoff::pass_on(counts, &mut trie, cutoff, threads, control)?;
    progress.reach(20)?;
    let mut full = FullModel::estimate(&trie, &discounts, threads, control)?;
    // Pruning looks at probabilities only.
    full.masses.clear();
    full.masses.shrink_to_fit();
    let (trie, full) = (trie, full);
    progress.reach(25)?;
    let prune =
        |threshold: f64| PrunedModel::prune(&trie, &full, &discounts, threshold as f32, threads, control);

    // Pruning is cheap next to encoding, so thresholds are found by the number of n-grams they leave.
    let target = max_bytes as f64 * (1.0 - SLACK / 2.0);
    let guess = 8.0 * target / BITS_OF_A_MILLION;
    let first_bits = BITS_OF_A_MILLION - BITS_SAVED_BY_DOUBLING * (guess / 1e6).max(1e-3).log2();
    let mut by_bytes = Search::new(target, BYTES_PER_NGRAM);
    let mut wanted = 8.0 * target / first_bits.clamp(4.0, 9.0);
    let mut threshold = FIRST_THRESHOLD;
    let mut tried = Vec::new();
    // Of the files that fit, the one of the lowest threshold.
    let mut best: Option<(f64, Vec<u8>)> = None;
    for attempt in 0..ATTEMPTS {
        let mut by_number = Search::new(wanted, NGRAMS_PER_THRESHOLD);
        let mut model = prune(threshold)?;
        for _ in 0..STEPS {
            let found = model.len() as f64;
            let is_all = found < wanted && threshold <= LEAST_THRESHOLD;
            let is_near = (found / wanted - 1.0).abs() <= TOLERANCE;
            if is_near || is_all || threshold >= MOST_THRESHOLD {
                break;
            }
            threshold = by_number.next(threshold, found).clamp(LEAST_THRESHOLD, MOST_THRESHOLD);
            model = prune(threshold)?;
        }
        if tried.contains(&threshold) {
            break;
        }
        tried.push(threshold);
        progress.reach(30 + 14 * attempt as u64)?;
        let file = encode(counts, &trie, &model, threshold as f32, threads, control)?;
        progress.reach(40 + 14 * attempt as u64)?;
        let size = file.len();
        let fits = size <= max_bytes;
        wanted = by_bytes.next(model.len() as f64, size as f64);
        if fits && best.as_ref().is_none_or(|best| threshold < best.0) {
            best = Some((threshold, file));
        }
        let is_near = size as f64 >= max_bytes as f64 * (1.0 - SLACK);
        let is_all = threshold <= LEAST_THRESHOLD;
        if fits && (is_near || is_all) || !fits && model.is_empty() {
            break;
        }
    }
    progress.reach(PROGRESS)?;
    let least = format::header_bytes(order) + vocab_size;
    best.map(|(_, file)| file).ok_or_else(|| {
        Error::input(format!(
            "no sparse oracle of {vocab_size} tokens fits {max_bytes} bytes; allow some {least} or more"
        ))
    })
}

struct Progress<'a> {
    control: &'a Control,
    done: u64,
}

impl Progress<'_> {
    fn reach(&mut self, done: u64) -> Result<()> {
        let step = done.saturating_sub(self.done);
        self.done = self.done.max(done);
        self.control.advance(step)
    }
}

/// Looks for the argument at which a function, about a power of it, has a wanted value: by secants
/// through the logarithms, kept between the arguments that are known to be too large and too small.
struct Search {
    wanted: f64,
    slope: f64,
    last: Option<(f64, f64)>,
    lowest: f64,
    highest: f64,
}

impl Search {
    /// The longest step, in natural logarithms.
    const STRIDE: f64 = 3.0;
    /// Secants may be this much steeper or flatter than `slope`.
    const TRUST: f64 = 5.0;

    fn new(wanted: f64, slope: f64) -> Self {
        Self { wanted: wanted.ln(), slope, last: None, lowest: f64::NEG_INFINITY, highest: f64::INFINITY }
    }

    /// The argument to try after `tried`, which gave `found`.
    fn next(&mut self, tried: f64, found: f64) -> f64 {
        let (x, y) = (tried.max(1e-9).ln(), found.max(1.0).ln());
        let slope = match self.last.replace((x, y)) {
            Some((before, value)) if before != x => {
                self.slope * ((y - value) / (x - before) / self.slope).clamp(1.0 / Self::TRUST, Self::TRUST)
            }
            _ => self.slope,
        };
        let step = (self.wanted - y) / slope;
        if step > 0.0 {
            self.lowest = self.lowest.max(x);
        } else {
            self.highest = self.highest.min(x);
        }
        let mut next = x + step.clamp(-Self::STRIDE, Self::STRIDE);
        if self.lowest < self.highest && (self.highest - self.lowest).is_finite() {
            // Away from the ends, so that each step gains something, also where the function has steps.
            let margin = 0.1 * (self.highest - self.lowest);
            next = next.clamp(self.lowest + margin, self.highest - margin);
        }
        next.exp()
    }
}

/// One file.
pub fn encode(
    counts: &SparseCounts,
    trie: &Trie,
    model: &PrunedModel,
    threshold: f32,
    threads: usize,
    control: &Control,
) -> Result<Vec<u8>> {
    let Kind { vocab_size, order } = counts.kind();
    let steps: Vec<u8> = model.unigrams.iter().map(|&p| quantise::unigram_step(p)).collect();
    let root = quantise::root(vocab_size, counts.tokens());
    let unigrams = quantise::unigrams(&root, &steps);
    let mut levels = vec![root, unigrams];
    let mut all_symbols = Vec::new();
    for n in 2..=order {
        let members = rounding::kept_indices(trie, model, n - 1);
        let (below, contexts) = levels.split_at_mut(n - 1);
        let (shorter, contexts) = (&below[n - 2], &mut contexts[0]);
        let symbols =
            rounding::quantise(trie, model, n, threshold, shorter, contexts, &members, threads, control)?;
        let level = quantise::restore(shorter, contexts, symbols.clone());
        levels.push(level);
        all_symbols.push(symbols);
    }
    let mut streams = vec![(vocab_size, format::encode_unigrams(&steps))];
    streams.extend(all_symbols.iter().map(|symbols| (symbols.words.len(), Vec::new())));
    let mut jobs: Vec<_> = streams.iter_mut().skip(1).zip(&all_symbols).zip(levels.windows(2)).collect();
    // The largest first, so that threads finish together.
    jobs.sort_by_key(|((stream, _), _)| std::cmp::Reverse(stream.0));
    parallel::for_each(threads, jobs, |((stream, symbols), pair)| {
        stream.1 = format::encode_order(&pair[0], &pair[1], symbols, control)?;
        Ok(())
    })?;
    format::assemble(vocab_size, counts.tokens(), &streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As files do: the more n-grams, the fewer bytes for the next.
    #[test]
    fn the_search_comes_near_in_as_many_files_as_there_may_be() {
        let bytes = |ngrams: f64| 1e6 * ngrams / (ngrams + 1e6);
        for wanted in [1e3, 1e5, 5e5, 7e5] {
            let mut search = Search::new(wanted, BYTES_PER_NGRAM);
            let mut ngrams = wanted;
            for _ in 1..ATTEMPTS {
                ngrams = search.next(ngrams, bytes(ngrams));
            }
            let off = bytes(ngrams) / wanted - 1.0;
            assert!(off.abs() < SLACK / 2.0, "{wanted}: {off:+.4}");
        }
    }

    #[test]
    fn the_search_stays_between_what_is_too_little_and_too_much() {
        // A step that no secant meets.
        let mut search = Search::new(100.0, -0.7);
        let mut threshold = 2.0;
        for _ in 0..60 {
            threshold = search.next(threshold, if threshold < 7.0 { 1000.0 } else { 10.0 });
        }
        assert!((threshold - 7.0).abs() < 0.5, "{threshold}");
    }
}
