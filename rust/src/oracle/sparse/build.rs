//! From a corpus to the best file that fits a number of bytes.

use super::counts::SparseCounts;
use super::cutoff::Histogram;
use super::discount::Discounts;
use super::estimate::FullModel;
use super::fit_discounts;
use super::ngram::NgramSpec;
use super::ngsp;
use super::order_stream;
use super::prune::PrunedModel;
use super::quantise::{kept_indices, Quantiser};
use super::restore;
use super::threshold::{self, Candidates};
use super::trie::{Trie, TrieOrder};
use crate::parallel::{self, Control};
use crate::{Error, Result};

/// The limits of a build.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The most bytes of the file.
    pub max_bytes: usize,
    /// About how much memory may be used, in bytes: a build that needs more is refused.
    pub memory: usize,
    pub threads: usize,
}

/// The most candidates for the model per byte of the file: the rarest n-grams are cut until no more are left. A file
/// keeps one or two n-grams per byte, so this leaves most of the choice (docs/sparse.md says what fewer or more would
/// change).
const CANDIDATES_PER_BYTE: u64 = 16;

/// The memory that a build takes per candidate and besides these.
const BYTES_PER_CANDIDATE: u64 = 48;
const BYTES_BESIDES: u64 = 400_000_000;

/// Units of progress that a build reports in all.
pub const PROGRESS: u64 = 100;

/// Builds an oracle's file of at most `config.max_bytes`. Its bytes depend on that number and on what was counted
/// alone.
pub fn build(counts: &SparseCounts, config: &Config, control: &Control) -> Result<Vec<u8>> {
    let Config { max_bytes, memory, threads } = *config;
    let NgramSpec { vocabulary, order } = counts.spec();
    let vocab_size = vocabulary.size;
    if counts.tokens() == 0 {
        return Err(Error::input("the shards hold no tokens"));
    }
    let mut progress = Progress { control, done: 0 };
    let discounts = fit_discounts::fit(counts, threads, control)?;
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
    let trie = Trie::build(counts, cutoff, threads, control)?;
    progress.reach(20)?;
    let mut full = FullModel::estimate(&trie, &discounts, threads, control)?;
    // Pruning needs the probabilities only.
    full.masses.clear();
    full.masses.shrink_to_fit();
    progress.reach(25)?;
    let mut candidates = Models { counts, trie, full, discounts, threads, control, progress, pruned: None };
    let file = threshold::search(&mut candidates, max_bytes.min(ngsp::MAX_BYTES))?;
    candidates.progress.reach(PROGRESS)?;
    let least = ngsp::header_bytes(order) + vocab_size;
    file.ok_or_else(|| {
        Error::input(format!(
            "no sparse oracle of {vocab_size} tokens fits {max_bytes} bytes; allow some {least} or more"
        ))
    })
}

/// The models that pruning a corpus at different thresholds gives.
struct Models<'a> {
    counts: &'a SparseCounts,
    trie: Trie,
    full: FullModel,
    discounts: Discounts,
    threads: usize,
    control: &'a Control,
    progress: Progress<'a>,
    /// The last one, and its threshold.
    pruned: Option<(f64, PrunedModel)>,
}

impl Models<'_> {
    fn prune(&mut self, threshold: f64) -> Result<&PrunedModel> {
        // The last one is freed before the next is made.
        let model = match self.pruned.take_if(|(of, _)| *of == threshold) {
            Some((_, model)) => model,
            None => {
                self.pruned = None;
                let Self { trie, full, discounts, threads, control, .. } = self;
                PrunedModel::prune(trie, full, discounts, threshold as f32, *threads, control)?
            }
        };
        Ok(&self.pruned.insert((threshold, model)).1)
    }
}

impl Candidates for Models<'_> {
    fn most_ngrams(&self) -> usize {
        self.trie.orders.iter().skip(2).map(TrieOrder::len).sum()
    }

    fn ngrams(&mut self, threshold: f64) -> Result<usize> {
        Ok(self.prune(threshold)?.len())
    }

    fn file(&mut self, threshold: f64) -> Result<Option<Vec<u8>>> {
        self.prune(threshold)?;
        let Some((_, model)) = &self.pruned else { return Ok(None) };
        let file = encode(self.counts, &self.trie, model, threshold as f32, self.threads, self.control)?;
        // How many files there will be isn't known.
        self.progress.approach(PROGRESS)?;
        Ok(file)
    }
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

    /// Advances by a quarter of what is left until `end`.
    fn approach(&mut self, end: u64) -> Result<()> {
        self.reach(self.done + (end - self.done) / 4)
    }
}

/// Makes a file of a pruned model; none if the format can't hold its n-grams.
pub fn encode(
    counts: &SparseCounts,
    trie: &Trie,
    model: &PrunedModel,
    threshold: f32,
    threads: usize,
    control: &Control,
) -> Result<Option<Vec<u8>>> {
    let NgramSpec { vocabulary, order } = counts.spec();
    let steps: Vec<u8> = model.unigrams.iter().map(|&p| restore::unigram_step(p)).collect();
    let root = restore::root(vocabulary.size, counts.tokens());
    let unigrams = restore::unigrams(&root, &steps);
    let mut orders = vec![root, unigrams];
    let mut all_symbols = Vec::new();
    for n in 2..=order {
        let members = kept_indices(trie, model, n - 1);
        let (below, contexts) = orders.split_at_mut(n - 1);
        let (shorter, contexts) = (&below[n - 2], &mut contexts[0]);
        let quantiser = Quantiser { trie, model, order: n, shorter, contexts, members: &members };
        let symbols = quantiser.symbols(threshold, threads, control)?;
        let suffixes = restore::suffixes(shorter, contexts, &symbols);
        let restored = restore::restore(contexts, &symbols, &suffixes);
        orders.push(restored);
        all_symbols.push(symbols);
    }
    let mut streams = vec![(vocabulary.size, ngsp::encode_unigrams(&steps))];
    streams.extend(all_symbols.iter().map(|symbols| (symbols.tokens.len(), Vec::new())));
    let mut jobs: Vec<_> = streams.iter_mut().skip(1).zip(&all_symbols).zip(orders.windows(2)).collect();
    // The largest first, so that threads finish together.
    jobs.sort_by_key(|((stream, _), _)| std::cmp::Reverse(stream.0));
    parallel::for_each(threads, jobs, |((stream, symbols), pair)| {
        stream.1 = order_stream::encode(&pair[0], &pair[1], symbols, control)?;
        Ok(())
    })?;
    Ok(ngsp::assemble(&vocabulary, counts.tokens(), &streams))
}
