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
const SLACK: f64 = 0.008;

/// Files encoded at most in search of the threshold.
const ATTEMPTS: usize = 4;

/// Bits that an n-gram takes in the first file, of a million n-grams; twice as many take a little less
/// each. After that, what the last file took is the best guess for the next.
const BITS_OF_A_MILLION: f64 = 6.93;
const BITS_SAVED_BY_DOUBLING: f64 = 0.15;

/// Candidates for the model per byte of the file, at most: n-grams that occur too rarely for that are cut.
/// A file keeps one or two n-grams per byte, so this leaves most of the choice (docs/sparse.md has what
/// less or more would change).
const CANDIDATES_PER_BYTE: u64 = 16;

/// What a build takes per candidate and besides, to tell beforehand.
const BYTES_PER_CANDIDATE: u64 = 48;
const BYTES_BESIDES: u64 = 400_000_000;

const FIRST_THRESHOLD: f64 = 2.0;
/// Below this everything that is worth anything is kept.
const LEAST_THRESHOLD: f64 = 1e-3;

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
    let mut bits_per_ngram =
        (BITS_OF_A_MILLION - BITS_SAVED_BY_DOUBLING * (guess / 1e6).max(1e-3).log2()).clamp(4.0, 9.0);
    let mut threshold = FIRST_THRESHOLD;
    let mut tried = Vec::new();
    let mut best: Option<Vec<u8>> = None;
    for attempt in 0..ATTEMPTS {
        let mut search = Search::new(8.0 * target / bits_per_ngram);
        let mut model = prune(threshold)?;
        while let Some(next) = search.next(threshold, model.len() as f64) {
            threshold = next;
            model = prune(threshold)?;
        }
        progress.reach(35 + 15 * attempt as u64)?;
        let file = encode(counts, &trie, &model, threshold as f32, threads, control)?;
        progress.reach(45 + 15 * attempt as u64)?;
        let size = file.len();
        bits_per_ngram = 8.0 * size as f64 / model.len().max(1) as f64;
        if size <= max_bytes && best.as_ref().is_none_or(|best| size > best.len()) {
            best = Some(file);
        }
        let is_near = size <= max_bytes && size as f64 >= max_bytes as f64 * (1.0 - SLACK);
        let is_all = size <= max_bytes && threshold <= LEAST_THRESHOLD;
        let is_least = size > max_bytes && model.is_empty();
        if is_near || is_all || is_least || tried.contains(&threshold) {
            break;
        }
        tried.push(threshold);
    }
    progress.reach(PROGRESS)?;
    let least = format::header_bytes(order) + vocab_size;
    best.ok_or_else(|| {
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

/// Looks for the threshold that leaves a wanted number of n-grams, which falls with it about as a power.
struct Search {
    wanted: f64,
    /// Logarithms of thresholds and numbers to either side of what is wanted.
    too_many: Option<(f64, f64)>,
    few_enough: Option<(f64, f64)>,
    steps: usize,
}

impl Search {
    const STEPS: usize = 12;
    const TOLERANCE: f64 = 0.002;
    /// How the number falls, until two were seen.
    const SLOPE: f64 = -0.7;

    fn new(wanted: f64) -> Self {
        Self { wanted, too_many: None, few_enough: None, steps: 0 }
    }

    /// The threshold to try after `threshold`, which left `found`; none when that will do.
    fn next(&mut self, threshold: f64, found: f64) -> Option<f64> {
        self.steps += 1;
        let few = found <= self.wanted;
        if (found / self.wanted - 1.0).abs() <= Self::TOLERANCE || (few && threshold <= LEAST_THRESHOLD) {
            return None;
        }
        let target = self.wanted.ln();
        let point = (threshold.ln(), found.max(1.0).ln());
        *(if few { &mut self.few_enough } else { &mut self.too_many }) = Some(point);
        let next = match (self.too_many, self.few_enough) {
            (Some(many), Some(few)) => {
                if self.steps >= Self::STEPS || few.0 - many.0 < 1e-4 {
                    // Many n-grams are worth the same: all of them are too many, so it is none of them.
                    return (point != few).then(|| few.0.exp());
                }
                let part = (many.1 - target) / (many.1 - few.1).max(1e-9);
                // Away from the ends, so that each step gains something.
                many.0 + part.clamp(0.1, 0.9) * (few.0 - many.0)
            }
            _ => {
                if point.0 > 40.0 {
                    return None;
                }
                point.0 + ((target - point.1) / Self::SLOPE).clamp(-4.0, 4.0) * 1.05
            }
        };
        Some(next.exp().max(LEAST_THRESHOLD))
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
