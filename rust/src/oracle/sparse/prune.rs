//! Pruning: which n-grams are kept, and what each then holds.
//!
//! An n-gram is kept when holding its mass gains more bits on the training text than a threshold, and when a kept one
//! needs it as prefix or suffix. What isn't kept passes all of its mass to its suffix.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::discount::{discount, Discount, Discounts};
use super::estimate::{starting, unigrams, FullModel};
use super::masses::{fixed, float, settle};
use super::ngram::MAX_ORDER;
use super::trie::{by_context, Trie, TrieOrder};
use crate::memory;
use crate::parallel::{self, Control};
use crate::Result;

/// By order, how much an n-gram has to gain, relative to the threshold: it costs bytes itself, and its prefix and suffix
/// must be kept with it.
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
    pub discounted: Vec<f32>,
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
        let mut forced = flags(trie.orders[order].len());
        for n in (2..=order).rev() {
            let (contexts, ngrams) = (&trie.orders[n - 1], &trie.orders[n]);
            let received = starting(trie, n - 1);
            let needed = flags(contexts.len());
            let job = PruneJob {
                contexts,
                ngrams,
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
            let mut discounted = vec![0.0; ngrams.len()];
            let mut backoffs = vec![1.0; contexts.len()];
            let mut totals = vec![0.0; contexts.len()];
            let mut pieces = Vec::new();
            let (mut backoffs_left, mut totals_left) = (&mut backoffs[..], &mut totals[..]);
            for (kept, discounted) in by_context(&contexts.first, &mut kept)
                .into_iter()
                .zip(by_context(&contexts.first, &mut discounted))
            {
                let count = kept.contexts.len();
                let (backoffs, totals);
                (backoffs, backoffs_left) = std::mem::take(&mut backoffs_left).split_at_mut(count);
                (totals, totals_left) = std::mem::take(&mut totals_left).split_at_mut(count);
                pieces.push((kept, discounted.data, backoffs, totals));
            }
            parallel::for_each(threads, pieces, |(kept, discounted, backoffs, totals)| {
                let base = contexts.first[kept.contexts.start] as usize;
                for (slot, context) in kept.contexts.enumerate() {
                    let range = contexts.successors(context);
                    let within = range.start - base..range.end - base;
                    let (kept, discounted) = (&mut kept.data[within.clone()], &mut discounted[within]);
                    (backoffs[slot], totals[slot]) = job.context(context, kept, discounted);
                }
                control.check()
            })?;
            orders[n] = PrunedOrder { kept, discounted, backoffs, totals };
            flowing = received;
            forced = needed;
        }
        Ok(Self { unigrams: unigrams(&settle(flowing)), orders })
    }

    /// Keeps nothing: the mass of each n-gram is passed on until it is its last token's.
    pub fn empty(trie: &Trie) -> Self {
        let mut masses = starting(trie, 1);
        let mut orders: Vec<PrunedOrder> = Vec::new();
        orders.resize_with(trie.order() + 1, PrunedOrder::default);
        for (n, order) in orders.iter_mut().enumerate().skip(2) {
            for (mass, &token) in starting(trie, n).into_iter().zip(&trie.orders[n].tokens) {
                *masses[usize::from(token)].get_mut() += mass.into_inner();
            }
            order.kept = vec![false; trie.orders[n].len()];
        }
        Self { unigrams: unigrams(&settle(masses)), orders }
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

/// How many n-grams ahead what belongs to their suffixes is prefetched.
const AHEAD: usize = 48;

/// b(h) stays above this, so that every token remains possible.
const LEAST_BACKOFF: f32 = 1e-4;

struct PruneJob<'a> {
    contexts: &'a TrieOrder,
    ngrams: &'a TrieOrder,
    lower: &'a [f32],
    discount: &'a Discount,
    threshold: f32,
    flowing: &'a [AtomicU64],
    received: &'a [AtomicU64],
    needed: &'a [AtomicBool],
    closes: bool,
}

impl PruneJob<'_> {
    /// Decides which successors of one context are kept, besides those that `kept` says must be, and passes on their
    /// masses. Returns the context's back-off weight and total.
    fn context(&self, context: usize, kept: &mut [bool], discounted: &mut [f32]) -> (f32, f32) {
        let range = self.contexts.successors(context);
        let mass = |index: usize| float(self.flowing[index].load(Ordering::Relaxed));
        let cut = self.contexts.cut.get(context).copied().unwrap_or(0.0);
        let (mut total, mut passed) = (cut, cut);
        for index in range.clone() {
            // Atomic additions wait for their memory one after the other, so it is brought into the cache first.
            if let Some(&suffix) = self.ngrams.suffixes.get(index + AHEAD) {
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
        for (index, (kept, gain)) in range.zip(kept.iter_mut().zip(discounted)) {
            let mass = mass(index);
            let mut hold = mass - discount(self.discount, mass);
            let suffix = self.ngrams.suffixes[index] as usize;
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
