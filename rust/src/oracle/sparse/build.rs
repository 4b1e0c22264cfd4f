//! From a corpus to the best file that fits a number of bytes.

use super::discounts;
use super::flow::{FullModel, PrunedModel};
use super::format;
use super::quantise;
use super::rounding;
use super::trie::{Corpus, Trie};
use super::MAX_ORDER;
use crate::parallel::{self, Control};
use crate::{Error, Result};

/// What a build is to keep to.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The longest n-grams, 2 to [`MAX_ORDER`].
    pub order: usize,
    /// The file is no larger.
    pub max_bytes: usize,
    pub threads: usize,
}

/// A file this much smaller than asked for is near enough.
const SLACK: f64 = 0.006;

/// Files encoded at most in search of the threshold.
const ATTEMPTS: usize = 6;

/// For the first attempt: bits that an n-gram takes, and a threshold to start from.
const BITS_PER_NGRAM: f64 = 6.9;
const FIRST_THRESHOLD: f64 = 2.0;

/// How the number of kept n-grams falls with the threshold, until two of them were measured.
const SLOPE: f64 = -0.65;

/// Below this threshold everything that is worth anything is kept.
const LEAST_THRESHOLD: f64 = 1e-3;

/// Units of progress that a build reports in all.
pub const PROGRESS: u64 = 100;

/// Builds an oracle's file of at most `settings.max_bytes`. The bytes depend on the streams and on the
/// settings except the threads.
pub fn build(corpus: &Corpus, settings: &Settings, control: &Control) -> Result<Vec<u8>> {
    let Settings { order, max_bytes, threads } = *settings;
    if !(2..=MAX_ORDER).contains(&order) {
        return Err(Error::input(format!("a sparse oracle has order 2 to {MAX_ORDER}, not {order}")));
    }
    if corpus.token_count() == 0 {
        return Err(Error::input("the shards hold no tokens"));
    }
    let mut progress = Progress { control, done: 0 };
    let discounts = discounts::fit(corpus, order, threads, control)?;
    progress.reach(10)?;
    let trie = Trie::build(corpus, order, threads, control)?;
    progress.reach(20)?;
    let full = FullModel::estimate(&trie, &discounts, threads, control)?;
    progress.reach(25)?;
    let prune =
        |threshold: f64| PrunedModel::prune(&trie, &full, &discounts, threshold as f32, threads, control);

    // Counting n-grams is cheap, so that is how the first file's threshold is found.
    let wanted = (8.0 * max_bytes as f64 / BITS_PER_NGRAM).max(1.0);
    let mut search = Search::new(wanted, 0.03);
    let mut threshold = FIRST_THRESHOLD;
    for _ in 0..5 {
        let kept = prune(threshold)?.len();
        if search.is_near(kept as f64) {
            break;
        }
        threshold = search.next(threshold, kept as f64);
    }
    progress.reach(35)?;

    let mut best: Option<(f64, Vec<u8>)> = None;
    let mut search = Search::new(max_bytes as f64 * (1.0 - SLACK / 2.0), SLACK / 2.0);
    for attempt in 1..=ATTEMPTS {
        let file = encode(corpus, &trie, &prune(threshold)?, threshold as f32, threads, control)?;
        let size = file.len();
        progress.reach(35 + 10 * attempt as u64)?;
        // What was in vain is over the budget; of what is not, the largest is the best.
        if size <= max_bytes && best.as_ref().is_none_or(|(_, best)| size > best.len()) {
            best = Some((threshold, file));
        }
        if search.is_near(size as f64) || (size <= max_bytes && threshold <= LEAST_THRESHOLD) {
            break;
        }
        threshold = search.next(threshold, size as f64);
    }
    progress.reach(PROGRESS)?;
    let least = format::header_bytes(order) + 2 * corpus.vocab_size();
    best.map(|(_, file)| file).ok_or_else(|| {
        Error::input(format!(
            "no sparse oracle of {} tokens fits {max_bytes} bytes; allow some {least} or more",
            corpus.vocab_size()
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

/// Looks for the threshold at which something that falls with it, about as a power, has a wanted size.
struct Search {
    wanted: f64,
    tolerance: f64,
    /// Logarithms of the thresholds, and of the sizes found there, on either side.
    too_large: Option<(f64, f64)>,
    small_enough: Option<(f64, f64)>,
}

impl Search {
    fn new(wanted: f64, tolerance: f64) -> Self {
        Self { wanted, tolerance, too_large: None, small_enough: None }
    }

    fn is_near(&self, size: f64) -> bool {
        (size / self.wanted - 1.0).abs() <= self.tolerance
    }

    fn next(&mut self, threshold: f64, size: f64) -> f64 {
        let target = self.wanted.ln();
        let point = (threshold.ln(), size.max(1.0).ln());
        *(if point.1 > target { &mut self.too_large } else { &mut self.small_enough }) = Some(point);
        let next = match (self.too_large, self.small_enough) {
            (Some(large), Some(small)) => {
                let part = (large.1 - target) / (large.1 - small.1).max(1e-9);
                // Away from the ends, so that each step gains something.
                large.0 + part.clamp(0.02, 0.98) * (small.0 - large.0)
            }
            _ => point.0 + ((target - point.1) / SLOPE).clamp(-4.0, 4.0),
        };
        next.exp().max(LEAST_THRESHOLD)
    }
}

/// One file.
pub fn encode(
    corpus: &Corpus,
    trie: &Trie,
    model: &PrunedModel,
    threshold: f32,
    threads: usize,
    control: &Control,
) -> Result<Vec<u8>> {
    let order = trie.order();
    let steps: Vec<u8> = model.unigrams.iter().map(|&p| quantise::unigram_step(p)).collect();
    let root = quantise::root(corpus.vocab_size(), corpus.token_count());
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
    let mut streams = vec![(corpus.vocab_size(), format::encode_unigrams(&steps))];
    streams.extend(all_symbols.iter().map(|symbols| (symbols.words.len(), Vec::new())));
    let mut jobs: Vec<_> = streams.iter_mut().skip(1).zip(&all_symbols).zip(levels.windows(2)).collect();
    // The largest first, so that threads finish together.
    jobs.sort_by_key(|((stream, _), _)| std::cmp::Reverse(stream.0));
    parallel::for_each(threads, jobs, |((stream, symbols), pair)| {
        stream.1 = format::encode_order(&pair[0], &pair[1], symbols, control)?;
        Ok(())
    })?;
    format::assemble(corpus.vocab_size(), corpus.token_count(), &streams)
}
