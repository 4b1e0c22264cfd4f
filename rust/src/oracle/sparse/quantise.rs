//! Chooses the steps that a pruned model's weights are stored as.
//!
//! The nearest step is not the best: one further off that is used more often costs fewer bits, and what that loses in
//! likelihood may be less than what these bits would gain elsewhere. So each weight takes the step with the least sum
//! of lost training likelihood and code length. The code length follows from how often each step is used in the same
//! class of contexts, which is learned over a few rounds.

use std::ops::Range;

use super::prune::PrunedModel;
use super::restore::{RestoredOrder, Symbols, BACKOFF_LIMIT, BACKOFF_STEP, RATIO_LIMIT, RATIO_STEP};
use super::trie::Trie;
use crate::parallel::{self, Control};
use crate::Result;

/// About how many bits of the file an n-gram takes. It is kept for as many bits of training likelihood as the threshold
/// says, so a bit of the file is worth the threshold over this, here too.
const NGRAM_BITS: f32 = 9.0;

const ROUNDS: usize = 3;

/// Steps to either side of the nearest that are tried.
const REACH: i32 = 4;

const BACKOFF_SYMBOLS: usize = 2 * BACKOFF_LIMIT as usize + 1;
const RATIO_SYMBOLS: usize = 2 * RATIO_LIMIT as usize + 1;

/// What choosing the step of a context's back-off weight b takes, and where its continuations are.
struct Context {
    /// Logit of b, in steps.
    logit: f32,
    backoff: f32,
    /// How often the context was met.
    total: f32,
    class: usize,
    continuations: Range<usize>,
}

/// What choosing the step of a kept n-gram's ratio takes.
struct Continuation {
    /// log2 of its discounted probability over that of the first, in steps.
    ratio: f32,
    /// Bits of training likelihood lost per squared step.
    loss: f32,
    class: usize,
    /// Whether it is the one that the others' ratios refer to, which itself needs none.
    is_first: bool,
}

/// The trie indices of the n-grams of order `n` that are kept: all of the vocabulary at order 1.
pub fn kept_indices(trie: &Trie, model: &PrunedModel, n: usize) -> Vec<u32> {
    let kept = |index: &u32| n == 1 || model.orders[n].kept[*index as usize];
    (0..trie.orders[n].len() as u32).filter(kept).collect()
}

/// One order of a pruned model, and the orders below as a reader will have them.
pub struct Quantiser<'a> {
    pub trie: &'a Trie,
    pub model: &'a PrunedModel,
    /// Of the n-grams that continue the contexts.
    pub order: usize,
    pub shorter: &'a RestoredOrder,
    pub contexts: &'a RestoredOrder,
    /// Where each of the contexts is in the trie.
    pub members: &'a [u32],
}

impl Quantiser<'_> {
    /// The symbols that stand for this order, if `threshold` is what its n-grams were pruned by.
    pub fn symbols(&self, threshold: f32, threads: usize, control: &Control) -> Result<Symbols> {
        let mut symbols = self.kept();
        let (contexts, continuations) = self.measure(&symbols);
        let exchange = threshold / NGRAM_BITS;
        let mut backoff_costs = vec![[0.0; BACKOFF_SYMBOLS]; BACKOFF_CLASSES];
        let mut ratio_costs = vec![[0.0; RATIO_SYMBOLS]; RATIO_CLASSES];
        let at_once = contexts.len().div_ceil(4 * threads).max(1);
        for _ in 0..ROUNDS {
            let mut jobs = Vec::new();
            let mut left = &mut symbols.ratios[..];
            for (contexts, backoffs) in contexts.chunks(at_once).zip(symbols.backoffs.chunks_mut(at_once)) {
                let count = contexts.iter().map(|context| context.continuations.len()).sum();
                let ratios;
                (ratios, left) = std::mem::take(&mut left).split_at_mut(count);
                jobs.push((contexts, backoffs, ratios));
            }
            parallel::for_each(threads, jobs, |(contexts, backoffs, ratios)| {
                let base = contexts.first().map_or(0, |context| context.continuations.start);
                for (context, backoff) in contexts.iter().zip(backoffs) {
                    if !context.continuations.is_empty() {
                        *backoff = choose_backoff(context, &backoff_costs[context.class], exchange);
                    }
                    for index in context.continuations.clone() {
                        let continuation = &continuations[index];
                        if !continuation.is_first {
                            let costs = &ratio_costs[continuation.class];
                            ratios[index - base] = choose_ratio(continuation, costs, exchange);
                        }
                    }
                }
                control.check()
            })?;
            let used = contexts.iter().zip(&symbols.backoffs);
            let used = used.filter(|(context, _)| !context.continuations.is_empty());
            let of_class =
                |(context, &step): (&Context, &i8)| (context.class, (step + BACKOFF_LIMIT) as usize);
            learn(&mut backoff_costs, used.map(of_class));
            let used = continuations.iter().zip(&symbols.ratios);
            let used = used.filter(|(continuation, _)| !continuation.is_first);
            let of_class = |(continuation, &step): (&Continuation, &i8)| {
                (continuation.class, (step + RATIO_LIMIT) as usize)
            };
            learn(&mut ratio_costs, used.map(of_class));
        }
        Ok(symbols)
    }

    /// Which n-grams are kept; all steps are zero.
    fn kept(&self) -> Symbols {
        let (tokens, kept) = (&self.trie.orders[self.order].tokens, &self.model.orders[self.order].kept);
        let mut symbols = Symbols { first: vec![0], ..Symbols::default() };
        symbols.first.reserve_exact(self.members.len());
        for &member in self.members {
            let range = self.trie.orders[self.order - 1].successors(member as usize);
            symbols.tokens.extend(range.filter(|&index| kept[index]).map(|index| tokens[index]));
            symbols.first.push(symbols.tokens.len() as u32);
        }
        symbols.backoffs = vec![0; self.members.len()];
        symbols.ratios = vec![0; symbols.tokens.len()];
        symbols
    }

    fn measure(&self, symbols: &Symbols) -> (Vec<Context>, Vec<Continuation>) {
        let pruned = &self.model.orders[self.order];
        let mut contexts = Vec::with_capacity(self.members.len());
        let mut continuations = Vec::with_capacity(symbols.tokens.len());
        // Of each continuation of a context, its discounted probability and its probability in the shorter context.
        let mut kept: Vec<(f32, f32)> = Vec::new();
        for (context, &member) in self.members.iter().enumerate() {
            let range = symbols.successors(context);
            let (backoff, total) = (pruned.backoffs[member as usize], pruned.totals[member as usize]);
            let count = (i32::from(self.contexts.log_counts[context]) >> 4).clamp(0, 23) as usize;
            contexts.push(Context {
                logit: (backoff / (1.0 - backoff).max(1e-6)).ln() / BACKOFF_STEP as f32,
                backoff: backoff.min(1.0 - 1e-6),
                total,
                class: range.len().min(7) * 24 + count,
                continuations: range.clone(),
            });
            if range.is_empty() {
                continue;
            }
            kept.clear();
            let stem = self.contexts.suffixes[context] as usize;
            let found = self.shorter.successors(stem);
            let mut suffix = found.start;
            for index in self.trie.orders[self.order - 1].successors(member as usize) {
                if pruned.kept[index] {
                    let token = self.trie.orders[self.order].tokens[index];
                    suffix += self.contexts.tokens[suffix..found.end].partition_point(|&other| other < token);
                    kept.push((pruned.discounted[index], self.contexts.probabilities[suffix]));
                }
            }
            // As a reader finds it: the likeliest in the shorter context, of equals the lower token.
            let mut first = 0;
            for (index, (_, below)) in kept.iter().enumerate() {
                if *below > kept[first].1 {
                    first = index;
                }
            }
            let (reference, likelihood) = kept[first];
            for (index, &(discounted, below)) in kept.iter().enumerate() {
                let held = discounted * total;
                let own = discounted / (discounted + backoff * below);
                let movable = (1.0 - discounted / (1.0 - backoff).max(1e-6)).max(0.1);
                // Second derivative of the likelihood in the ratio's logarithm.
                let curvature = held * own * movable;
                let step = RATIO_STEP as f32 * std::f32::consts::LN_2;
                let lower = (-(below / likelihood).log2() * 1.5) as usize;
                continuations.push(Continuation {
                    ratio: (discounted / reference).log2() / RATIO_STEP as f32,
                    loss: 0.5 * curvature * step * step * std::f32::consts::LOG2_E,
                    class: lower.min(23) * 4 + (kept.len() - 1).min(3),
                    is_first: index == first,
                });
            }
        }
        (contexts, continuations)
    }
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

fn choose_backoff(context: &Context, costs: &[f32; BACKOFF_SYMBOLS], exchange: f32) -> i8 {
    let b = context.backoff;
    // Relative entropy of what is stored from b, for as often as the context was met.
    let loss = |step: i32| {
        let stored = 1.0 / (1.0 + (-(step as f32) * BACKOFF_STEP as f32).exp());
        context.total * (b * (b / stored).log2() + (1.0 - b) * ((1.0 - b) / (1.0 - stored)).log2())
    };
    least(context.logit, i32::from(BACKOFF_LIMIT), costs, loss, exchange)
}

fn choose_ratio(continuation: &Continuation, costs: &[f32; RATIO_SYMBOLS], exchange: f32) -> i8 {
    let loss = |step: i32| {
        let off = step as f32 - continuation.ratio;
        continuation.loss * off * off
    };
    least(continuation.ratio, i32::from(RATIO_LIMIT), costs, loss, exchange)
}

/// The step near `target` with the least loss and code length.
fn least(target: f32, limit: i32, costs: &[f32], loss: impl Fn(i32) -> f32, exchange: f32) -> i8 {
    let nearest = (target.round() as i32).clamp(-limit, limit);
    let mut best = (f32::INFINITY, nearest);
    for step in (nearest - REACH).max(-limit)..=(nearest + REACH).min(limit) {
        let cost = loss(step) + exchange * costs[(step + limit) as usize];
        if cost < best.0 {
            best = (cost, step);
        }
    }
    best.1 as i8
}

const BACKOFF_CLASSES: usize = 8 * 24;
const RATIO_CLASSES: usize = 24 * 4;
