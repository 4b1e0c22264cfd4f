//! Chooses the levels that a pruned model's weights are stored as.
//!
//! Nearest is not best: a level further off that is more usual costs fewer bytes, and what that loses
//! in likelihood may be less than what the bytes would buy elsewhere. So each weight takes the level
//! with the least sum of lost training likelihood and code length, the latter from how often each level
//! is taken in like circumstances, over a few rounds.

use super::prune::{PrunedModel, PrunedOrder};
use super::restore::{RestoredOrder, Symbols, BACKOFF_LIMIT, BACKOFF_STEP, RATIO_LIMIT, RATIO_STEP};
use super::trie::Trie;
use crate::parallel::{self, Control};
use crate::Result;

/// An n-gram is kept for gaining as many bits of training likelihood as the pruning threshold says, and
/// takes about this many bits of the file. That is what a bit of the file is worth, here too.
const NGRAM_BITS: f32 = 9.0;

const ROUNDS: usize = 3;

/// Levels to either side of the nearest that are tried.
const REACH: i32 = 4;

const BACKOFF_SYMBOLS: usize = 2 * BACKOFF_LIMIT as usize + 1;
const RATIO_SYMBOLS: usize = 2 * RATIO_LIMIT as usize + 1;

/// A context with kept successors.
struct Row {
    /// log of b / (1 − b), in steps.
    backoff: f32,
    backoff_share: f32,
    total: f32,
    class: usize,
    entries: std::ops::Range<usize>,
}

/// A kept n-gram.
struct Entry {
    /// log2 of its gain over the first's, in steps.
    ratio: f32,
    /// Loss in bits per squared step.
    weight: f32,
    class: usize,
    /// The one that the others' ratios refer to, which itself needs none.
    first: bool,
}

/// The trie indices of the n-grams of order `n` that are kept: all of the vocabulary at order 1.
pub fn kept_indices(trie: &Trie, model: &PrunedModel, n: usize) -> Vec<u32> {
    let kept = |index: &u32| n == 1 || model.orders[n].kept[*index as usize];
    (0..trie.orders[n].len() as u32).filter(kept).collect()
}

/// The symbols of order `n`, given the levels below as they will be read. `members` are the trie
/// indices of `contexts`.
#[allow(clippy::too_many_arguments)]
pub fn quantise(
    trie: &Trie,
    model: &PrunedModel,
    n: usize,
    threshold: f32,
    shorter: &RestoredOrder,
    contexts: &RestoredOrder,
    members: &[u32],
    threads: usize,
    control: &Control,
) -> Result<Symbols> {
    let (tokens, order) = (&trie.orders[n].tokens, &model.orders[n]);
    let mut first = Vec::with_capacity(members.len() + 1);
    let mut kept_tokens = Vec::new();
    first.push(0);
    for &member in members {
        let range = trie.orders[n - 1].successors(member as usize);
        kept_tokens.extend(range.filter(|&index| order.kept[index]).map(|index| tokens[index]));
        first.push(kept_tokens.len() as u32);
    }
    let mut symbols = Symbols {
        backoffs: vec![0; members.len()],
        ratios: vec![0; kept_tokens.len()],
        first,
        tokens: kept_tokens,
    };
    let measure = Measure { trie, order, n, shorter, contexts, members, symbols: &symbols };
    let (rows, entries) = measure.rows();
    let exchange = threshold / NGRAM_BITS;
    let mut backoff_costs = vec![[0.0; BACKOFF_SYMBOLS]; BACKOFF_CLASSES];
    let mut ratio_costs = vec![[0.0; RATIO_SYMBOLS]; RATIO_CLASSES];
    let mut backoffs = std::mem::take(&mut symbols.backoffs);
    let mut ratios = std::mem::take(&mut symbols.ratios);
    let step = rows.len().div_ceil(4 * threads).max(1);
    for _ in 0..ROUNDS {
        let mut jobs = Vec::new();
        let mut left = &mut ratios[..];
        for (rows, backoffs) in rows.chunks(step).zip(backoffs.chunks_mut(step)) {
            let count = rows.iter().map(|row| row.entries.len()).sum();
            let here;
            (here, left) = std::mem::take(&mut left).split_at_mut(count);
            jobs.push((rows, backoffs, here));
        }
        parallel::for_each(threads, jobs, |(rows, backoffs, ratios)| {
            let base = rows.first().map_or(0, |row| row.entries.start);
            for (row, backoff) in rows.iter().zip(backoffs) {
                if !row.entries.is_empty() {
                    *backoff = choose_backoff(row, &backoff_costs[row.class], exchange);
                }
                for index in row.entries.clone() {
                    let entry = &entries[index];
                    if !entry.first {
                        ratios[index - base] = choose_ratio(entry, &ratio_costs[entry.class], exchange);
                    }
                }
            }
            control.check()
        })?;
        let used = rows.iter().zip(&backoffs).filter(|(row, _)| !row.entries.is_empty());
        learn(&mut backoff_costs, used.map(|(row, &level)| (row.class, (level + BACKOFF_LIMIT) as usize)));
        let used = entries.iter().zip(&ratios).filter(|(entry, _)| !entry.first);
        learn(&mut ratio_costs, used.map(|(entry, &level)| (entry.class, (level + RATIO_LIMIT) as usize)));
    }
    symbols.backoffs = backoffs;
    symbols.ratios = ratios;
    Ok(symbols)
}

/// Code lengths in bits from counts.
fn learn<const N: usize>(costs: &mut [[f32; N]], observed: impl Iterator<Item = (usize, usize)>) {
    let mut counts = vec![[0.3f32; N]; costs.len()];
    for (class, symbol) in observed {
        counts[class][symbol] += 1.0;
    }
    for (costs, counts) in costs.iter_mut().zip(&counts) {
        let total: f32 = counts.iter().sum();
        *costs = counts.map(|count| (total / count).log2());
    }
}

fn choose_backoff(row: &Row, costs: &[f32; BACKOFF_SYMBOLS], exchange: f32) -> i8 {
    let b = row.backoff_share;
    least(
        row.backoff,
        i32::from(BACKOFF_LIMIT),
        costs,
        |level| {
            let stored = 1.0 / (1.0 + (-(level as f32) * BACKOFF_STEP as f32).exp());
            row.total * (b * (b / stored).log2() + (1.0 - b) * ((1.0 - b) / (1.0 - stored)).log2())
        },
        exchange,
    )
}

fn choose_ratio(entry: &Entry, costs: &[f32; RATIO_SYMBOLS], exchange: f32) -> i8 {
    least(
        entry.ratio,
        i32::from(RATIO_LIMIT),
        costs,
        |level| {
            let off = level as f32 - entry.ratio;
            entry.weight * off * off
        },
        exchange,
    )
}

fn least(target: f32, limit: i32, costs: &[f32], loss: impl Fn(i32) -> f32, exchange: f32) -> i8 {
    let nearest = (target.round() as i32).clamp(-limit, limit);
    let mut best = (f32::INFINITY, nearest);
    for level in (nearest - REACH).max(-limit)..=(nearest + REACH).min(limit) {
        let cost = loss(level) + exchange * costs[(level + limit) as usize];
        if cost < best.0 {
            best = (cost, level);
        }
    }
    best.1 as i8
}

const BACKOFF_CLASSES: usize = 8 * 24;
const RATIO_CLASSES: usize = 24 * 4;

struct Measure<'a> {
    trie: &'a Trie,
    order: &'a PrunedOrder,
    n: usize,
    shorter: &'a RestoredOrder,
    contexts: &'a RestoredOrder,
    members: &'a [u32],
    symbols: &'a Symbols,
}

impl Measure<'_> {
    fn rows(&self) -> (Vec<Row>, Vec<Entry>) {
        let mut rows = Vec::with_capacity(self.members.len());
        let mut entries = Vec::with_capacity(self.symbols.tokens.len());
        let mut discounted: Vec<(f32, f32)> = Vec::new();
        for (context, &member) in self.members.iter().enumerate() {
            let range = self.symbols.first[context] as usize..self.symbols.first[context + 1] as usize;
            let (b, total) = (self.order.backoffs[member as usize], self.order.totals[member as usize]);
            let count = (i32::from(self.contexts.log_counts[context]) >> 4).clamp(0, 23) as usize;
            rows.push(Row {
                backoff: (b / (1.0 - b).max(1e-6)).ln() / BACKOFF_STEP as f32,
                backoff_share: b.min(1.0 - 1e-6),
                total,
                class: range.len().min(7) * 24 + count,
                entries: range.clone(),
            });
            if range.is_empty() {
                continue;
            }
            discounted.clear();
            let stem = self.contexts.suffixes[context] as usize;
            let found = self.shorter.successors(stem);
            let mut suffix = found.start;
            for index in self.trie.orders[self.n - 1].successors(member as usize) {
                if self.order.kept[index] {
                    let token = self.trie.orders[self.n].tokens[index];
                    suffix += self.contexts.tokens[suffix..found.end].partition_point(|&other| other < token);
                    discounted.push((self.order.discounted[index], self.contexts.probabilities[suffix]));
                }
            }
            // As the reader finds it: the likeliest by the shorter contexts, the lower token of equals.
            let mut first = 0;
            for (index, gain) in discounted.iter().enumerate() {
                if gain.1 > discounted[first].1 {
                    first = index;
                }
            }
            let (reference, likelihood) = discounted[first];
            for (index, &(gain, below)) in discounted.iter().enumerate() {
                let held = gain * total;
                let own = gain / (gain + b * below);
                let movable = (1.0 - gain / (1.0 - b).max(1e-6)).max(0.1);
                // Second derivative of the likelihood in the ratio's logarithm.
                let curvature = held * own * movable;
                let step = RATIO_STEP as f32 * std::f32::consts::LN_2;
                let lower = (-(below / likelihood).log2() * 1.5) as usize;
                let class = lower.min(23) * 4 + (discounted.len() - 1).min(3);
                entries.push(Entry {
                    ratio: (gain / reference).log2() / RATIO_STEP as f32,
                    weight: 0.5 * curvature * step * step * std::f32::consts::LOG2_E,
                    class,
                    first: index == first,
                });
            }
        }
        (rows, entries)
    }
}
