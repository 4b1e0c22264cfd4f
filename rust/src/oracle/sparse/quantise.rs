//! Chooses the steps that a pruned model's weights are stored as.
//!
//! The nearest step is not the best: one further off that is used more often costs fewer bits, and what that loses in
//! likelihood may be less than what these bits would gain elsewhere. So each weight takes the step with the least sum
//! of lost training likelihood and code length. The code length follows from how often each step is used in the same
//! class of contexts, which is learned over a few rounds.

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

/// What choosing the step of a continued context's back-off weight b takes.
struct Context {
    /// Logit of b, in steps.
    logit: f32,
    backoff: f32,
    /// How often the context was met.
    total: f32,
    class: usize,
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
        let at_once = self.members.len().div_ceil(4 * threads).max(1);
        let mut pieces: Vec<Piece> = (0..self.members.len())
            .step_by(at_once)
            .map(|start| Piece { start, ..Piece::default() })
            .collect();
        parallel::for_each(threads, pieces.iter_mut().collect(), |piece| {
            let end = self.members.len().min(piece.start + at_once);
            self.measure(piece, end);
            control.check()
        })?;
        let exchange = threshold / NGRAM_BITS;
        let stored = stored_backoffs();
        let mut backoff_costs = vec![[0.0; BACKOFF_SYMBOLS]; BACKOFF_CLASSES];
        let mut ratio_costs = vec![[0.0; RATIO_SYMBOLS]; RATIO_CLASSES];
        for _ in 0..ROUNDS {
            parallel::for_each(threads, pieces.iter_mut().collect(), |piece: &mut Piece| {
                for (context, step) in piece.contexts.iter().zip(&mut piece.steps) {
                    *step = choose_backoff(context, &stored, &backoff_costs[context.class], exchange);
                }
                for (continuation, step) in piece.continuations.iter().zip(&mut piece.ratios) {
                    if !continuation.is_first {
                        *step = choose_ratio(continuation, &ratio_costs[continuation.class], exchange);
                    }
                }
                control.check()
            })?;
            let used = pieces.iter().flat_map(|piece| piece.contexts.iter().zip(&piece.steps));
            let of_class =
                |(context, &step): (&Context, &i8)| (context.class, (step + BACKOFF_LIMIT) as usize);
            learn(&mut backoff_costs, used.map(of_class));
            let used = pieces.iter().flat_map(|piece| piece.continuations.iter().zip(&piece.ratios));
            let used = used.filter(|(continuation, _)| !continuation.is_first);
            let of_class = |(continuation, &step): (&Continuation, &i8)| {
                (continuation.class, (step + RATIO_LIMIT) as usize)
            };
            learn(&mut ratio_costs, used.map(of_class));
        }
        let mut symbols = Symbols { first: vec![0], ..Symbols::default() };
        symbols.first.reserve_exact(self.members.len());
        symbols.backoffs.reserve_exact(self.members.len());
        for piece in pieces {
            let mut steps = piece.steps.into_iter();
            for count in piece.counts {
                symbols.first.push(symbols.first[symbols.first.len() - 1] + count);
                symbols.backoffs.push(if count > 0 { steps.next().unwrap_or(0) } else { 0 });
            }
            symbols.tokens.extend(piece.tokens);
            symbols.ratios.extend(piece.ratios);
        }
        Ok(symbols)
    }

    /// Fills a piece in, up to the context `end`.
    fn measure(&self, piece: &mut Piece, end: usize) {
        let pruned = &self.model.orders[self.order];
        let tokens = &self.trie.orders[self.order].tokens;
        // Of each continuation of a context, its discounted probability and its probability in the shorter context.
        let mut kept: Vec<(f32, f32)> = Vec::new();
        for (context, &member) in self.members.iter().enumerate().take(end).skip(piece.start) {
            kept.clear();
            let stem = self.contexts.suffixes[context] as usize;
            let found = self.shorter.successors(stem);
            let mut suffix = found.start;
            for index in self.trie.orders[self.order - 1].successors(member as usize) {
                if pruned.kept[index] {
                    let token = tokens[index];
                    suffix += self.contexts.tokens[suffix..found.end].partition_point(|&other| other < token);
                    kept.push((pruned.discounted[index], self.contexts.probabilities[suffix]));
                    piece.tokens.push(token);
                }
            }
            piece.counts.push(kept.len() as u32);
            if kept.is_empty() {
                continue;
            }
            let (backoff, total) = (pruned.backoffs[member as usize], pruned.totals[member as usize]);
            let count = (i32::from(self.contexts.log_counts[context]) >> 4).clamp(0, 23) as usize;
            piece.contexts.push(Context {
                logit: (backoff / (1.0 - backoff).max(1e-6)).ln() / BACKOFF_STEP as f32,
                backoff: backoff.min(1.0 - 1e-6),
                total,
                class: kept.len().min(7) * 24 + count,
            });
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
                piece.continuations.push(Continuation {
                    ratio: (discounted / reference).log2() / RATIO_STEP as f32,
                    loss: 0.5 * curvature * step * step * std::f32::consts::LOG2_E,
                    class: lower.min(23) * 4 + (kept.len() - 1).min(3),
                    is_first: index == first,
                });
            }
        }
        piece.steps.resize(piece.contexts.len(), 0);
        piece.ratios.resize(piece.continuations.len(), 0);
    }
}

/// Consecutive contexts from `start` on: one thread's work.
#[derive(Default)]
struct Piece {
    start: usize,
    /// How many continuations each context keeps.
    counts: Vec<u32>,
    /// Those that keep any, and the steps chosen for them.
    contexts: Vec<Context>,
    steps: Vec<i8>,
    /// Their continuations.
    tokens: Vec<u16>,
    continuations: Vec<Continuation>,
    ratios: Vec<i8>,
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

/// log2 of b and of 1 − b of each step, from the lowest.
fn stored_backoffs() -> [(f64, f64); BACKOFF_SYMBOLS] {
    std::array::from_fn(|index| {
        let logit = (index as f64 - f64::from(BACKOFF_LIMIT)) * BACKOFF_STEP;
        (-(-logit).exp().ln_1p() / std::f64::consts::LN_2, -logit.exp().ln_1p() / std::f64::consts::LN_2)
    })
}

fn choose_backoff(
    context: &Context,
    stored: &[(f64, f64); BACKOFF_SYMBOLS],
    costs: &[f32; BACKOFF_SYMBOLS],
    exchange: f32,
) -> i8 {
    let (b, total) = (f64::from(context.backoff), f64::from(context.total));
    // What is stored of b loses its relative entropy from b, for as often as the context was met: up to what no step
    // changes, the cross entropy.
    let loss = |step: i32| {
        let (log_b, log_rest) = stored[(step + i32::from(BACKOFF_LIMIT)) as usize];
        -total * (b * log_b + (1.0 - b) * log_rest)
    };
    least(context.logit, i32::from(BACKOFF_LIMIT), costs, loss, exchange)
}

fn choose_ratio(continuation: &Continuation, costs: &[f32; RATIO_SYMBOLS], exchange: f32) -> i8 {
    let loss = |step: i32| {
        let off = step as f32 - continuation.ratio;
        f64::from(continuation.loss * off * off)
    };
    least(continuation.ratio, i32::from(RATIO_LIMIT), costs, loss, exchange)
}

/// The step near `target` with the least loss and code length.
fn least(target: f32, limit: i32, costs: &[f32], loss: impl Fn(i32) -> f64, exchange: f32) -> i8 {
    let nearest = (target.round() as i32).clamp(-limit, limit);
    let mut best = (f64::INFINITY, nearest);
    for step in (nearest - REACH).max(-limit)..=(nearest + REACH).min(limit) {
        let cost = loss(step) + f64::from(exchange * costs[(step + limit) as usize]);
        if cost < best.0 {
            best = (cost, step);
        }
    }
    best.1 as i8
}

const BACKOFF_CLASSES: usize = 8 * 24;
const RATIO_CLASSES: usize = 24 * 4;
