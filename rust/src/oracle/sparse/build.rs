//! From a corpus to the best file that fits a number of bytes.

use std::sync::{Arc, Mutex};

use super::counts::SparseCounts;
use super::cutoff::Histogram;
use super::discount::Discounts;
use super::estimate::FullModel;
use super::fit_discounts;
use super::fragment::Fragment;
use super::ngram::NgramSpec;
use super::ngsp;
use super::order_stream;
use super::prune::PrunedModel;
use super::quantise::{kept_indices, Quantiser};
use super::restore::{self, RestoredOrder, Suffix, Symbols};
use super::sample::Sample;
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
pub const CANDIDATES_PER_BYTE: u64 = 16;

/// The memory that a build takes per candidate and besides these.
const BYTES_PER_CANDIDATE: u64 = 48;
const BYTES_BESIDES: u64 = 400_000_000;

/// Units of progress that a build reports in all.
pub const PROGRESS: u64 = 100;

/// What is known of a corpus besides its n-grams.
#[derive(Debug, Clone, Copy)]
pub struct Corpus<'a> {
    pub spec: NgramSpec,
    pub tokens: u64,
    pub sample: &'a Sample,
}

impl<'a> Corpus<'a> {
    pub fn of(counts: &'a SparseCounts) -> Self {
        Self { spec: counts.spec(), tokens: counts.tokens(), sample: counts.sample() }
    }
}

/// Builds an oracle's file of at most `config.max_bytes`. Its bytes depend on that number and on what was counted
/// alone.
pub fn build(counts: &SparseCounts, config: &Config, control: &Control) -> Result<Vec<u8>> {
    let (corpus, threads) = (Corpus::of(counts), config.threads);
    let mut progress = Progress { control, done: 0 };
    let discounts = fit(&corpus, threads, &mut progress)?;
    let histogram = Histogram::of(counts, threads, control)?;
    let cutoff = cutoff(&histogram, config, counts.bytes_in_memory())?;
    progress.reach(14)?;
    let trie = Trie::build(counts, cutoff, threads, control)?;
    progress.reach(20)?;
    finish(&corpus, trie, discounts, config, progress)
}

/// The same from all candidates that [`cutoff`] leaves, as other machines may have found them.
pub fn build_of_candidates(
    corpus: &Corpus,
    candidates: Vec<Fragment>,
    config: &Config,
    control: &Control,
) -> Result<Vec<u8>> {
    let mut progress = Progress { control, done: 0 };
    let trie = Trie::assemble(corpus.spec, candidates, config.threads, control)?;
    progress.reach(10)?;
    let discounts = fit(corpus, config.threads, &mut progress)?;
    finish(corpus, trie, discounts, config, progress)
}

fn fit(corpus: &Corpus, threads: usize, progress: &mut Progress) -> Result<Discounts> {
    if corpus.tokens == 0 {
        return Err(Error::input("the shards hold no tokens"));
    }
    let discounts = fit_discounts::fit(corpus.sample, corpus.spec, threads, progress.control)?;
    progress.reach(10)?;
    Ok(discounts)
}

/// n-grams that occur no more often are no candidates for a file of `config.max_bytes`. Refuses where those that are left
/// take more memory than is allowed, besides `held` bytes.
pub fn cutoff(histogram: &Histogram, config: &Config, held: u64) -> Result<u64> {
    let Config { max_bytes, memory, .. } = *config;
    let cutoff = histogram.cutoff(CANDIDATES_PER_BYTE.saturating_mul(max_bytes as u64));
    let candidates = histogram.above(cutoff);
    let needed = held + memory_of(candidates);
    if needed > memory as u64 {
        return Err(Error::input(format!(
            "{candidates} n-grams are candidates for {max_bytes} bytes, and take {} MB of memory where {} MB are \
             allowed; allow more memory or fewer bytes",
            needed / 1_000_000,
            memory / 1_000_000
        )));
    }
    Ok(cutoff)
}

/// The memory in bytes that choosing among `candidates` n-grams takes.
pub fn memory_of(candidates: u64) -> u64 {
    BYTES_BESIDES.saturating_add(BYTES_PER_CANDIDATE.saturating_mul(candidates))
}

fn finish(
    corpus: &Corpus,
    trie: Trie,
    discounts: Discounts,
    config: &Config,
    mut progress: Progress,
) -> Result<Vec<u8>> {
    let Config { max_bytes, threads, .. } = *config;
    let control = progress.control;
    let mut full = FullModel::estimate(&trie, &discounts, threads, control)?;
    // Pruning needs the probabilities only.
    full.masses.clear();
    full.masses.shrink_to_fit();
    progress.reach(25)?;
    let mut candidates = Models { corpus, trie, full, discounts, threads, control, progress, pruned: None };
    let file = threshold::search(&mut candidates, max_bytes.min(ngsp::MAX_BYTES))?;
    candidates.progress.reach(PROGRESS)?;
    let NgramSpec { vocabulary, order } = corpus.spec;
    let least = ngsp::header_bytes(order) + vocabulary.size;
    file.ok_or_else(|| {
        Error::input(format!(
            "no sparse oracle of {} tokens fits {max_bytes} bytes; allow some {least} or more",
            vocabulary.size
        ))
    })
}

/// The models that pruning a corpus at different thresholds gives.
struct Models<'a> {
    corpus: &'a Corpus<'a>,
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

    fn empty(&mut self) -> Result<Option<Vec<u8>>> {
        let model = PrunedModel::empty(&self.trie);
        encode(self.corpus, &self.trie, &model, 0.0, self.threads, self.control)
    }

    fn ngrams(&mut self, threshold: f64) -> Result<usize> {
        Ok(self.prune(threshold)?.len())
    }

    fn file(&mut self, threshold: f64) -> Result<Option<Vec<u8>>> {
        self.prune(threshold)?;
        let Some((_, model)) = &self.pruned else { return Ok(None) };
        let file = encode(self.corpus, &self.trie, model, threshold as f32, self.threads, self.control)?;
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
    corpus: &Corpus,
    trie: &Trie,
    model: &PrunedModel,
    threshold: f32,
    threads: usize,
    control: &Control,
) -> Result<Option<Vec<u8>>> {
    let NgramSpec { vocabulary, order } = corpus.spec;
    let steps: Vec<u8> = model.unigrams.iter().map(|&p| restore::unigram_step(p)).collect();
    let mut streams = vec![(vocabulary.size, ngsp::encode_unigrams(&steps))];
    let mut shorter = Arc::new(restore::root(vocabulary.size, corpus.tokens));
    let mut contexts = restore::unigrams(&shorter, &steps);
    // By order from 2 on.
    let parts = Mutex::new(vec![[Vec::new(), Vec::new()]; order - 1]);
    // Choosing the steps of an order needs those of the orders below, but not their streams.
    let choose = |hand_out: parallel::HandOut<Job>| {
        for n in 2..=order {
            let members = kept_indices(trie, model, n - 1);
            let quantiser = Quantiser {
                trie,
                model,
                order: n,
                shorter: &shorter,
                contexts: &contexts,
                members: &members,
            };
            let symbols = quantiser.symbols(threshold, threads, control)?;
            let suffixes = restore::suffixes(&shorter, &contexts, &symbols);
            let restored = restore::restore(&mut contexts, &symbols, &suffixes);
            streams.push((symbols.tokens.len(), Vec::new()));
            let below = Arc::new(std::mem::replace(&mut contexts, restored));
            let (symbols, suffixes) = (Arc::new(symbols), suffixes);
            let pair = [Arc::clone(&shorter), Arc::clone(&below)];
            hand_out(Job { order: n, pair: pair.clone(), symbols: Arc::clone(&symbols), suffixes: None })?;
            hand_out(Job { order: n, pair, symbols, suffixes: Some(suffixes) })?;
            shorter = below;
        }
        Ok(())
    };
    parallel::pipeline(threads, choose, |job: Job| {
        let part = job.encode(control)?;
        let mut parts = parallel::lock(&parts);
        parts[job.order - 2][usize::from(job.suffixes.is_some())] = part;
        Ok(())
    })?;
    let parts = parallel::into_inner(parts);
    for ((_, stream), parts) in streams.iter_mut().skip(1).zip(parts) {
        *stream = order_stream::join(parts);
    }
    Ok(ngsp::assemble(&vocabulary, corpus.tokens, &streams))
}

/// A part of a stream that is to be made.
struct Job {
    order: usize,
    pair: [Arc<RestoredOrder>; 2],
    symbols: Arc<Symbols>,
    /// What the second part needs; none: it is the first.
    suffixes: Option<Vec<Suffix>>,
}

impl Job {
    fn encode(&self, control: &Control) -> Result<Vec<u8>> {
        let pair = [&*self.pair[0], &*self.pair[1]];
        match &self.suffixes {
            None => order_stream::encode_continuations(pair, &self.symbols, true, control),
            Some(suffixes) => order_stream::encode_weights(pair, &self.symbols, suffixes, control),
        }
    }
}
