//! Fits the discounts: held-out documents are to be as likely as possible.
//!
//! Every eighth document of a sample is held out, and the others are counted. To the model's probability of a token an
//! order contributes (m − D(m) + Σ D · p(w | h')) / Σ m, times the back-off weights of the orders above. If all else is
//! fixed, this is affine in the values of D at its knots, so the log-likelihood is concave in them and Newton's method
//! finds its maximum. All else, above all the lower orders' masses, depends on the discounts in turn, so this is repeated
//! a few times.
//!
//! A document of weight W counts as W documents of the same text, among the counted ones and among those held out.

use std::collections::BTreeMap;

use super::counting::count_streams;
use super::counts::SparseCounts;
use super::discount::{basis, discount, Discount, Discounts, KNOTS};
use super::estimate::FullModel;
use super::merge::{add, Part};
use super::ngram::NgramSpec;
use super::sample::{Document, Sample};
use super::trie::Trie;
use crate::parallel::{self, Control};
use crate::Result;

/// One document in this many is held out.
const HELD_OUT: usize = 8;

const ROUNDS: usize = 3;

/// Fits discounts to the documents of a sample.
pub fn fit(sample: &Sample, spec: NgramSpec, threads: usize, control: &Control) -> Result<Discounts> {
    let (mut counted, mut held_out) = (Vec::new(), Vec::new());
    for (index, document) in sample.documents().enumerate() {
        if index % HELD_OUT == HELD_OUT - 1 { &mut held_out } else { &mut counted }.push(document);
    }
    fit_divided(&counted, &held_out, spec, threads, control)
}

/// Fits discounts with which `counted` makes `held_out` likeliest.
fn fit_divided(
    counted: &[&Document],
    held_out: &[&Document],
    spec: NgramSpec,
    threads: usize,
    control: &Control,
) -> Result<Discounts> {
    let mut discounts = Discounts::default();
    if held_out.is_empty() {
        return Ok(discounts);
    }
    let counted = count_weighted(counted, spec, threads, control)?;
    let trie = Trie::build(&counted, 0, threads, control)?;
    for _ in 0..ROUNDS {
        let full = FullModel::estimate(&trie, &discounts, threads, control)?;
        let sums = sums(&trie, &full, &discounts, threads, control)?;
        let met = Met { trie: &trie, full: &full, discounts: &discounts, sums: &sums };
        let events = met.events(held_out, threads, control)?;
        let jobs = discounts.0.iter_mut().zip(&events).enumerate().skip(2).collect();
        parallel::for_each(threads, jobs, |(n, (discount, events)): (usize, (&mut Discount, _))| {
            *discount = maximise(*discount, &terms(&trie, &full.masses[n], n, events));
            control.check()
        })?;
    }
    Ok(discounts)
}

/// Counts documents, each as often as its weight says.
fn count_weighted(
    documents: &[&Document],
    spec: NgramSpec,
    threads: usize,
    control: &Control,
) -> Result<SparseCounts> {
    let mut by_weight: BTreeMap<u32, Vec<&[u16]>> = BTreeMap::new();
    for Document { tokens, weight } in documents {
        by_weight.entry(*weight).or_default().push(tokens);
    }
    if let Some(streams) = by_weight.get(&1).filter(|_| by_weight.len() == 1) {
        return count_streams(streams, spec, threads, control);
    }
    let counted = by_weight
        .iter()
        .map(|(&weight, streams)| Ok((count_streams(streams, spec, threads, control)?, weight)))
        .collect::<Result<Vec<_>>>()?;
    let parts: Vec<Part> = counted.iter().map(|(counts, weight)| Part { counts, weight: *weight }).collect();
    // A build's progress isn't counted in bytes.
    add(&parts, threads, &Control::default())
}

/// Of a context: the mass of its continuations, and what they pass on of it.
#[derive(Clone, Copy, Default)]
struct Sums {
    total: f32,
    passed: f32,
}

/// Those of all contexts, by the order of their continuations. Held-out tokens meet the same contexts again and again.
fn sums(
    trie: &Trie,
    full: &FullModel,
    discounts: &Discounts,
    threads: usize,
    control: &Control,
) -> Result<Vec<Vec<Sums>>> {
    let mut sums = vec![Vec::new(); 2];
    for n in 2..=trie.order() {
        let (contexts, masses, discounts) = (&trie.orders[n - 1], &full.masses[n], &discounts.0[n]);
        let mut of_order = vec![Sums::default(); contexts.len()];
        let pieces = of_order.chunks_mut(CONTEXTS).enumerate().collect();
        parallel::for_each(threads, pieces, |(piece, sums): (usize, &mut [Sums])| {
            for (context, sums) in (piece * CONTEXTS..).zip(sums) {
                for &mass in &masses[contexts.successors(context)] {
                    sums.total += mass;
                    sums.passed += discount(discounts, mass);
                }
            }
            control.check()
        })?;
        sums.push(of_order);
    }
    Ok(sums)
}

/// Contexts that a thread sums at a time.
const CONTEXTS: usize = 1 << 14;

/// A held-out token met in a context of the trie.
struct Event {
    context: u32,
    /// The context's continuation by the token, where the trie has it.
    found: Option<u32>,
    /// As often as its document is counted.
    weight: u32,
    /// p(token | shorter context).
    lower: f32,
    /// What the orders above add to the token's probability, over their joint back-off weight.
    above: f32,
}

/// What held-out documents are met with.
struct Met<'a> {
    trie: &'a Trie,
    full: &'a FullModel,
    discounts: &'a Discounts,
    sums: &'a [Vec<Sums>],
}

impl Met<'_> {
    /// The held-out tokens of each order, from 2 on, in the contexts that the trie has.
    fn events(&self, documents: &[&Document], threads: usize, control: &Control) -> Result<Vec<Vec<Event>>> {
        let mut of_pieces: Vec<_> = documents.chunks(DOCUMENTS).map(|piece| (piece, Vec::new())).collect();
        parallel::for_each(threads, of_pieces.iter_mut().collect(), |(documents, events)| {
            events.resize_with(self.trie.order() + 1, Vec::new);
            for document in *documents {
                self.add(document, events);
            }
            control.check()
        })?;
        let mut events: Vec<Vec<Event>> = Vec::new();
        events.resize_with(self.trie.order() + 1, Vec::new);
        for (_, of_piece) in of_pieces {
            events.iter_mut().zip(of_piece).for_each(|(events, more)| events.extend(more));
        }
        Ok(events)
    }

    fn add(&self, document: &Document, events: &mut [Vec<Event>]) {
        let Self { trie, full, discounts, sums } = *self;
        // The n-gram of each order that ends at the previous token, from the empty one on.
        let mut contexts = vec![0];
        for &token in &document.tokens {
            let mut current = vec![0];
            // For each order from 2 on that knows the context: its own part of the probability, and its back-off
            // weight.
            let mut parts = Vec::new();
            let mut lower = full.probabilities[1][usize::from(token)];
            for (n, &context) in contexts.iter().enumerate().map(|(length, context)| (length + 1, context)) {
                let found = trie.find(n - 1, context, token);
                // The trie has an n-gram only if it has its suffix, so once one isn't found no longer one is.
                current.extend(found);
                if n == 1 {
                    continue;
                }
                let Sums { total, passed } = sums[n][context];
                if total <= 0.0 {
                    break;
                }
                let mass = found.map_or(0.0, |index| full.masses[n][index]);
                let (own, backoff) = ((mass - discount(&discounts.0[n], mass)) / total, passed / total);
                events[n].push(Event {
                    context: context as u32,
                    found: found.map(|index| index as u32),
                    weight: document.weight,
                    lower,
                    above: 0.0,
                });
                parts.push((own, backoff));
                lower = own + backoff * lower;
            }
            let mut above = 0.0;
            for (index, (own, backoff)) in parts.into_iter().enumerate().rev() {
                if let Some(event) = events[index + 2].last_mut() {
                    event.above = above;
                }
                above = (above + own) / backoff.max(f32::MIN_POSITIVE);
            }
            current.truncate(trie.order());
            contexts = current;
        }
    }
}

/// Documents that a thread meets at a time.
const DOCUMENTS: usize = 16;

/// Up to a factor that no discount changes, an event has probability `constant + slope · D`; it occurs `weight` times.
struct Term {
    weight: f64,
    constant: f64,
    slope: [f64; KNOTS.len()],
}

fn terms(trie: &Trie, masses: &[f32], n: usize, events: &[Event]) -> Vec<Term> {
    let mut by_context: Vec<&Event> = events.iter().collect();
    by_context.sort_by_key(|event| event.context);
    let mut terms = Vec::with_capacity(events.len());
    for group in by_context.chunk_by(|a, b| a.context == b.context) {
        let successors = &masses[trie.orders[n - 1].successors(group[0].context as usize)];
        let total: f64 = successors.iter().copied().map(f64::from).sum();
        let mut passed = [0.0; KNOTS.len()];
        for &mass in successors {
            for (sum, weight) in passed.iter_mut().zip(basis(mass)) {
                *sum += f64::from(weight);
            }
        }
        for event in group {
            let mass = event.found.map_or(0.0, |index| masses[index as usize]);
            let mut slope = passed.map(|sum| sum * f64::from(event.lower));
            for (slope, weight) in slope.iter_mut().zip(basis(mass)) {
                *slope -= f64::from(weight);
            }
            let constant = f64::from(mass) + total * f64::from(event.above);
            terms.push(Term { weight: f64::from(event.weight), constant, slope });
        }
    }
    terms
}

/// Newton's method with steps halved until they gain, within 0 < D(m) < m.
fn maximise(start: Discount, terms: &[Term]) -> Discount {
    const SIZE: usize = KNOTS.len();
    // A knot that no held-out token touches stays near where it was.
    const STIFFNESS: f64 = 10.0;
    let prior = start.map(f64::from);
    let bounded = |at: [f64; SIZE]| {
        let mut bounded = at;
        for (value, &knot) in bounded.iter_mut().zip(&KNOTS) {
            *value = value.clamp(0.02 * f64::from(knot), 0.98 * f64::from(knot));
        }
        bounded
    };
    let likelihood = |at: &[f64; SIZE]| {
        let pull: f64 = at.iter().zip(&prior).map(|(a, p)| (a - p) * (a - p)).sum();
        let sum: f64 = terms.iter().map(|term| term.weight * value(term, at).ln()).sum();
        sum - 0.5 * STIFFNESS * pull
    };
    let mut at = bounded(prior);
    let mut best = likelihood(&at);
    for _ in 0..12 {
        let mut gradient = [0.0; SIZE];
        let mut curvature = [[0.0; SIZE]; SIZE];
        for term in terms {
            let value = value(term, &at);
            for ((gradient, row), slope) in gradient.iter_mut().zip(&mut curvature).zip(term.slope) {
                let scaled = term.weight * (slope / value);
                *gradient += scaled;
                for (curvature, other) in row.iter_mut().zip(term.slope) {
                    *curvature += scaled * other / value;
                }
            }
        }
        for i in 0..SIZE {
            gradient[i] -= STIFFNESS * (at[i] - prior[i]);
            curvature[i][i] += STIFFNESS;
        }
        let step = solve(curvature, gradient);
        // Half of this is what the step gains where the likelihood is the parabola that it is taken for. Near the maximum,
        // halving steps to find that none gains would take most of the time.
        let decrement: f64 = gradient.iter().zip(&step).map(|(gradient, step)| gradient * step).sum();
        if decrement < LEAST_GAIN {
            break;
        }
        let mut scale = 1.0;
        let improved = loop {
            let mut next = at;
            for (next, step) in next.iter_mut().zip(step) {
                *next += scale * step;
            }
            let next = bounded(next);
            let reached = likelihood(&next);
            if reached > best + LEAST_GAIN {
                (at, best) = (next, reached);
                break true;
            }
            scale *= 0.5;
            if scale < 1e-3 {
                break false;
            }
        };
        if !improved {
            break;
        }
    }
    at.map(|value| value as f32)
}

/// Newton's method ends where a step gains less, in nats of all held-out text.
const LEAST_GAIN: f64 = 1e-3;

fn value(term: &Term, at: &[f64; KNOTS.len()]) -> f64 {
    let change: f64 = term.slope.iter().zip(at).map(|(slope, at)| slope * at).sum();
    (term.constant + change).max(1e-12)
}

/// Gaussian elimination; the matrix is positive definite, so no pivot is zero.
fn solve<const N: usize>(mut matrix: [[f64; N]; N], mut right: [f64; N]) -> [f64; N] {
    for pivot in 0..N {
        let pivot_row = matrix[pivot];
        for row in pivot + 1..N {
            let factor = matrix[row][pivot] / pivot_row[pivot];
            for (cell, above) in matrix[row].iter_mut().zip(pivot_row) {
                *cell -= factor * above;
            }
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..N).rev() {
        let known: f64 = (row + 1..N).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Documents of which a text of the language that `seed` names is made of.
    fn documents(seed: u32, count: u32) -> Vec<Vec<u16>> {
        let document = |index: u32| {
            let mut state = seed * 1000 + index;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 16
            };
            let mut token = 0;
            let mut step = || {
                // Mostly what the language has after the last token.
                token = if next() % 4 > 0 { (token * (3 + seed) + next() % 2) % 12 } else { next() % 12 };
                2 + token as u16
            };
            [vec![1], (0..150).map(|_| step()).collect()].concat()
        };
        (0..count).map(document).collect()
    }

    fn weighted(documents: &[Vec<u16>], weight: u32) -> Vec<Document> {
        documents.iter().map(|tokens| Document { tokens: tokens.clone(), weight }).collect()
    }

    /// Discounts fitted to documents of weights are those fitted to that many copies of them.
    #[test]
    fn a_weight_is_so_many_copies() {
        let (one, other) = (documents(1, 30), documents(2, 20));
        let spec = NgramSpec::new(14, 3).unwrap();
        let fitted = |documents: Vec<Document>| {
            let (counted, held_out): (Vec<_>, Vec<_>) =
                documents.iter().partition(|document| document.tokens[1] % 3 > 0);
            assert!(held_out.len() > 10);
            fit_divided(&counted, &held_out, spec, 1, &Control::default()).unwrap()
        };
        let found = fitted([weighted(&one, 1), weighted(&other, 4)].concat());
        let copies = vec![weighted(&other, 1); 4].concat();
        let expected = fitted([weighted(&one, 1), copies].concat());
        let unweighted = fitted([weighted(&one, 1), weighted(&other, 1)].concat());
        let furthest = |other: Discounts| {
            let differences = found.0[2..=3].iter().flatten().zip(other.0[2..=3].iter().flatten());
            differences.map(|(found, other)| (found - other).abs()).fold(0.0, f32::max)
        };
        assert!(furthest(expected) < 1e-3, "{found:?}, not {expected:?}");
        assert!(furthest(unweighted) > 0.05, "{found:?}");
    }
}
