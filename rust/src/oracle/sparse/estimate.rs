//! Estimation as a flow of counts from long n-grams to short ones.
//!
//! Every n-gram of the top order starts with a mass, its count, and so does one of any order that begins
//! a document, which no longer one ends with. From the top order down, an n-gram of
//! mass m that is kept holds m − D(m) back and passes D(m) to its suffix; one that is not kept passes
//! all of m. So each order sees just what the orders above leave to it: with nothing pruned the lower
//! orders' masses are proportional to the continuation counts of Kneser and Ney (1995), whose model
//! this is then, and with pruning they make up for what was pruned. Over a context's successors,
//!
//! p(w | h) = a(h, w) + b(h) · p(w | h'),   a = (m − D) / Σ m,   b = 1 − Σ a,
//!
//! h' being h without its oldest token, and a = 0 for what was not kept.
//!
//! Masses are held in fixed point while they are summed: the order in which threads add then leaves no
//! trace, and a build gives the same bytes whatever their number.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::trie::{by_context, Level, Trie};
use super::MAX_ORDER;
use crate::memory;
use crate::parallel::{self, Control};
use crate::Result;

/// One count.
const UNIT: f32 = (1 << 20) as f32;

/// An occurrence in a document that has the n-gram already counts for this much: text repeats itself
/// within a document more than it does elsewhere, and what is learnt should hold elsewhere.
pub const REPEAT_WEIGHT: f32 = 0.2;

/// Added to each token of the vocabulary, so that the unseen ones are possible.
const UNIGRAM_PRIOR: f64 = 0.5;

/// D(m) is linear between these masses, 0 at none, and constant beyond the last.
pub const KNOTS: [f32; 5] = [1.0, 2.0, 3.0, 5.0, 10.0];

/// D at each knot.
pub type Discount = [f32; KNOTS.len()];

/// For each order; those below 2 are not used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Discounts(pub [Discount; MAX_ORDER + 1]);

impl Default for Discounts {
    fn default() -> Self {
        Self([[0.8, 1.2, 1.6, 1.6, 1.6]; MAX_ORDER + 1])
    }
}

/// The weights of the knots in D(`mass`).
pub fn basis(mass: f32) -> Discount {
    let mut weights = [0.0; KNOTS.len()];
    if mass <= KNOTS[0] {
        weights[0] = mass / KNOTS[0];
        return weights;
    }
    for knot in 1..KNOTS.len() {
        if mass <= KNOTS[knot] {
            let above = (mass - KNOTS[knot - 1]) / (KNOTS[knot] - KNOTS[knot - 1]);
            weights[knot - 1] = 1.0 - above;
            weights[knot] = above;
            return weights;
        }
    }
    weights[KNOTS.len() - 1] = 1.0;
    weights
}

/// D(`mass`).
pub fn discount(discount: &Discount, mass: f32) -> f32 {
    let (mut below, mut at_below) = (0.0, 0.0);
    for (&knot, &at) in KNOTS.iter().zip(discount) {
        if mass <= knot {
            return at_below + (at - at_below) * (mass - below) / (knot - below);
        }
        (below, at_below) = (knot, at);
    }
    at_below
}

/// What an n-gram of the top order starts with.
pub fn weight(count: u64, documents: u64) -> f64 {
    documents as f64 + f64::from(REPEAT_WEIGHT) * count.saturating_sub(documents) as f64
}

pub(super) fn fixed(mass: f64) -> u64 {
    (mass * f64::from(UNIT)) as u64
}

fn float(mass: u64) -> f32 {
    mass as f32 / UNIT
}

/// What the n-grams of order `n` start with. Below the top, no longer n-gram ends as one does that begins a
/// document, so those have their counts, as in Chen and Goodman (1998).
fn starting(trie: &Trie, n: usize) -> Vec<AtomicU64> {
    let level = &trie.levels[n];
    let mut masses = if level.masses.is_empty() {
        zeros(level.len())
    } else {
        level.masses.iter().map(|&mass| AtomicU64::new(fixed(f64::from(mass)))).collect()
    };
    for (index, &count) in trie.beginning_with(trie.bos, n).zip(&level.beginnings) {
        *masses[index].get_mut() += fixed(f64::from(count));
    }
    masses
}

pub(super) fn zeros(count: usize) -> Vec<AtomicU64> {
    let mut masses = Vec::new();
    masses.resize_with(count, AtomicU64::default);
    masses
}

pub(super) fn settle(masses: Vec<AtomicU64>) -> Vec<f32> {
    masses.into_iter().map(|mass| float(mass.into_inner())).collect()
}

/// From the masses of the vocabulary's tokens.
fn unigrams(masses: &[f32]) -> Vec<f32> {
    let total: f64 = masses.iter().map(|&mass| f64::from(mass) + UNIGRAM_PRIOR).sum();
    masses.iter().map(|&mass| ((f64::from(mass) + UNIGRAM_PRIOR) / total) as f32).collect()
}

/// The model that keeps every n-gram.
pub struct FullModel {
    /// Per order, per n-gram: what reached it. Order 0 is empty.
    pub masses: Vec<Vec<f32>>,
    /// Per order, per n-gram: p(last token | the rest).
    pub probabilities: Vec<Vec<f32>>,
}

impl FullModel {
    pub fn estimate(trie: &Trie, discounts: &Discounts, threads: usize, control: &Control) -> Result<Self> {
        let order = trie.order();
        let mut masses = vec![Vec::new(); order + 1];
        let mut flowing = starting(trie, order);
        for n in (2..=order).rev() {
            let settled = settle(flowing);
            flowing = starting(trie, n - 1);
            let suffixes = &trie.levels[n].suffixes;
            parallel::run(threads, settled.len().div_ceil(STRIDE), |piece| {
                let start = piece * STRIDE;
                let end = settled.len().min(start + STRIDE);
                for (&mass, &suffix) in settled[start..end].iter().zip(&suffixes[start..end]) {
                    let passed = fixed(f64::from(discount(&discounts.0[n], mass)));
                    flowing[suffix as usize].fetch_add(passed, Ordering::Relaxed);
                }
                control.check()
            })?;
            masses[n] = settled;
        }
        masses[1] = settle(flowing);
        let probabilities = Self::interpolate(trie, discounts, &masses, threads, control)?;
        Ok(Self { masses, probabilities })
    }

    fn interpolate(
        trie: &Trie,
        discounts: &Discounts,
        masses: &[Vec<f32>],
        threads: usize,
        control: &Control,
    ) -> Result<Vec<Vec<f32>>> {
        let mut probabilities = vec![Vec::new(), unigrams(&masses[1])];
        for n in 2..=trie.order() {
            let (contexts, level) = (&trie.levels[n - 1], &trie.levels[n]);
            let (masses, lower) = (&masses[n], &probabilities[n - 1]);
            let mut current = vec![0.0; level.len()];
            parallel::for_each(threads, by_context(&contexts.first, &mut current), |piece| {
                let base = contexts.first[piece.contexts.start] as usize;
                for context in piece.contexts {
                    let range = contexts.successors(context);
                    let cut = contexts.cut.get(context).copied().unwrap_or(0.0);
                    let (mut total, mut passed) = (cut, cut);
                    for &mass in &masses[range.clone()] {
                        total += mass;
                        passed += discount(&discounts.0[n], mass);
                    }
                    for index in range {
                        let below = lower[level.suffixes[index] as usize];
                        // Nothing reaches a context that only ends streams.
                        piece.data[index - base] = if total > 0.0 {
                            let mass = masses[index];
                            (mass - discount(&discounts.0[n], mass) + passed * below) / total
                        } else {
                            below
                        };
                    }
                }
                control.check()
            })?;
            probabilities.push(current);
        }
        Ok(probabilities)
    }
}

/// n-grams in one piece of a job that runs over a level.
const STRIDE: usize = 1 << 16;

/// What an n-gram of each order has to gain relative to the threshold: it costs bytes itself, and it
/// forces its prefix and suffix to be kept.
const COST: [f32; MAX_ORDER + 1] = [1.0, 1.0, 0.5, 0.7, 1.0, 1.1, 1.3, 1.5, 1.7];

/// A pruned model, on the trie's own indices.
pub struct PrunedModel {
    /// p(w) of the vocabulary.
    pub unigrams: Vec<f32>,
    /// `orders[n]`, from 2 on.
    pub orders: Vec<PrunedOrder>,
}

#[derive(Default)]
pub struct PrunedOrder {
    pub kept: Vec<bool>,
    /// Per n-gram: a(h, w), 0 unless kept.
    pub gains: Vec<f32>,
    /// Per context, i.e. n-gram of the order below: b(h), 1 where nothing is kept.
    pub backoffs: Vec<f32>,
    /// Per context: the mass of its successors, how often the context was met.
    pub totals: Vec<f32>,
}

impl PrunedModel {
    /// Keeps the n-grams that gain more than `threshold` bits, and of each kept one the prefix and the
    /// suffix. `full` tells what the shorter n-grams know without them.
    pub fn prune(
        trie: &Trie,
        full: &FullModel,
        discounts: &Discounts,
        threshold: f32,
        threads: usize,
        control: &Control,
    ) -> Result<Self> {
        let order = trie.order();
        let mut orders: Vec<PrunedOrder> = Vec::new();
        orders.resize_with(order + 1, PrunedOrder::default);
        let mut flowing = starting(trie, order);
        let mut forced = flags(trie.levels[order].len());
        for n in (2..=order).rev() {
            let (contexts, level) = (&trie.levels[n - 1], &trie.levels[n]);
            let received = starting(trie, n - 1);
            let needed = flags(contexts.len());
            let job = PruneJob {
                contexts,
                level,
                lower: &full.probabilities[n - 1],
                discount: &discounts.0[n],
                threshold: threshold * COST[n],
                flowing: &flowing,
                received: &received,
                needed: &needed,
                // Every token of the vocabulary is there anyway.
                closes: n > 2,
            };
            let mut kept: Vec<bool> = forced.into_iter().map(AtomicBool::into_inner).collect();
            let mut gains = vec![0.0; level.len()];
            let mut backoffs = vec![1.0; contexts.len()];
            let mut totals = vec![0.0; contexts.len()];
            let mut pieces = Vec::new();
            let (mut backoffs_left, mut totals_left) = (&mut backoffs[..], &mut totals[..]);
            for (kept, gains) in by_context(&contexts.first, &mut kept)
                .into_iter()
                .zip(by_context(&contexts.first, &mut gains))
            {
                let count = kept.contexts.len();
                let (backoffs, totals);
                (backoffs, backoffs_left) = std::mem::take(&mut backoffs_left).split_at_mut(count);
                (totals, totals_left) = std::mem::take(&mut totals_left).split_at_mut(count);
                pieces.push((kept, gains.data, backoffs, totals));
            }
            parallel::for_each(threads, pieces, |(kept, gains, backoffs, totals)| {
                let base = contexts.first[kept.contexts.start] as usize;
                for (slot, context) in kept.contexts.enumerate() {
                    let range = contexts.successors(context);
                    let within = range.start - base..range.end - base;
                    let (kept, gains) = (&mut kept.data[within.clone()], &mut gains[within]);
                    (backoffs[slot], totals[slot]) = job.context(context, kept, gains);
                }
                control.check()
            })?;
            orders[n] = PrunedOrder { kept, gains, backoffs, totals };
            flowing = received;
            forced = needed;
        }
        Ok(Self { unigrams: unigrams(&settle(flowing)), orders })
    }

    /// How many n-grams of order 2 and above are kept.
    pub fn len(&self) -> usize {
        self.orders.iter().map(|order| order.kept.iter().filter(|&&kept| kept).count()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn flags(count: usize) -> Vec<AtomicBool> {
    let mut flags = Vec::new();
    flags.resize_with(count, AtomicBool::default);
    flags
}

/// n-grams ahead of which what belongs to their suffixes is asked for.
const AHEAD: usize = 48;

/// b(h) stays above this, so that every token remains possible.
const LEAST_BACKOFF: f32 = 1e-4;

struct PruneJob<'a> {
    contexts: &'a Level,
    level: &'a Level,
    lower: &'a [f32],
    discount: &'a Discount,
    threshold: f32,
    flowing: &'a [AtomicU64],
    received: &'a [AtomicU64],
    needed: &'a [AtomicBool],
    closes: bool,
}

impl PruneJob<'_> {
    /// Decides over the successors of one context, whose `kept` says on entry which must stay, and
    /// passes on their masses. Returns the context's back-off weight and total.
    fn context(&self, context: usize, kept: &mut [bool], gains: &mut [f32]) -> (f32, f32) {
        let range = self.contexts.successors(context);
        let mass = |index: usize| float(self.flowing[index].load(Ordering::Relaxed));
        let cut = self.contexts.cut.get(context).copied().unwrap_or(0.0);
        let (mut total, mut passed) = (cut, cut);
        for index in range.clone() {
            // An atomic addition waits for its memory, and no other runs meanwhile.
            if let Some(&suffix) = self.level.suffixes.get(index + AHEAD) {
                memory::prefetch(&self.received[suffix as usize]);
                memory::prefetch(&self.lower[suffix as usize]);
            }
            let mass = mass(index);
            total += mass;
            passed += discount(self.discount, mass);
        }
        let total = f32::max(total, 1e-9);
        let backoff = passed / total;
        let mut held = 0.0;
        let mut any = false;
        for (index, (kept, gain)) in range.zip(kept.iter_mut().zip(gains)) {
            let mass = mass(index);
            let mut hold = mass - discount(self.discount, mass);
            let suffix = self.level.suffixes[index] as usize;
            if !*kept && hold > 0.0 {
                let (share, below) = (hold / total, self.lower[suffix]);
                let ratio = (share + backoff * below) / (below * (share + backoff));
                *kept = hold * ratio.log2() > self.threshold;
            }
            if *kept {
                any = true;
                // One that is kept only for others' sake may have no mass of its own left.
                hold = hold.max(f32::min(0.05, 0.3 * mass));
                held += hold;
                *gain = hold / total;
                if self.closes {
                    self.needed[suffix].store(true, Ordering::Relaxed);
                }
            } else {
                hold = 0.0;
            }
            self.received[suffix].fetch_add(fixed(f64::from(mass - hold)), Ordering::Relaxed);
        }
        if any && self.closes {
            self.needed[context].store(true, Ordering::Relaxed);
        }
        (if any { (1.0 - held / total).max(LEAST_BACKOFF) } else { 1.0 }, total)
    }
}
