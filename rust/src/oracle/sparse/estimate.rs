//! Estimation as a flow of counts from long n-grams to short ones.
//!
//! Every n-gram of the top order starts with a mass, its weighted count. So does every shorter one that begins a
//! document, as no longer n-gram ends with it. From the top order down, an n-gram of mass m that is kept holds m − D(m)
//! and passes D(m) to its suffix; one that is not kept passes all of m. So each order sees what the orders above leave
//! to it. With nothing pruned this is the model of Kneser and Ney (1995), as the masses of lower orders are then
//! proportional to their continuation counts; with pruning the lower orders make up for what was pruned. Over a context's
//! successors,
//!
//! p(w | h) = a(h, w) + b(h) · p(w | h'),   a = (m − D) / Σ m,   b = 1 − Σ a,
//!
//! where h' is h without its oldest token, and a = 0 for what was not kept.
//!
//! This file estimates the model that keeps everything; [`super::prune`] has the one that doesn't.

use std::sync::atomic::{AtomicU64, Ordering};

use super::discount::{discount, Discounts};
use super::masses::{fixed, settle, zeros};
use super::trie::{by_context, Trie};
use crate::parallel::{self, Control};
use crate::Result;

/// Added to each token of the vocabulary, so that the unseen ones are possible.
const UNIGRAM_PRIOR: f64 = 0.5;

/// The masses that n-grams of order `n` start with. Below the top order only those that begin a document start with any,
/// their counts, since no longer n-gram ends with one; as in Chen and Goodman (1998).
pub(super) fn starting(trie: &Trie, n: usize) -> Vec<AtomicU64> {
    let ngrams = &trie.orders[n];
    let mut masses = if ngrams.masses.is_empty() {
        zeros(ngrams.len())
    } else {
        ngrams.masses.iter().map(|&mass| AtomicU64::new(fixed(f64::from(mass)))).collect()
    };
    for (index, &count) in trie.beginning_with(trie.bos, n).zip(&ngrams.beginnings) {
        *masses[index].get_mut() += fixed(f64::from(count));
    }
    masses
}

/// p(w) from the masses of the vocabulary's tokens.
pub(super) fn unigrams(masses: &[f32]) -> Vec<f32> {
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
            let suffixes = &trie.orders[n].suffixes;
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
            let (contexts, ngrams) = (&trie.orders[n - 1], &trie.orders[n]);
            let (masses, lower) = (&masses[n], &probabilities[n - 1]);
            let mut current = vec![0.0; ngrams.len()];
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
                        let below = lower[ngrams.suffixes[index] as usize];
                        // No mass reaches a context that only occurs at the ends of streams.
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

/// n-grams that a thread takes at a time.
const STRIDE: usize = 1 << 16;
