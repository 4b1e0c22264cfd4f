//! A network's distribution, tilted by what an oracle's n-grams raise:
//!
//! ```text
//! p(w) = p_net(w) Π_n r_n(w)^θ_n / Z,    Z = 1 + Σ_w p_net(w) (Π_n r_n(w)^θ_n − 1),
//! ```
//!
//! where r_n(w) ≥ 1 is by how much the n-gram of order n that ends with w raises it over the shorter one
//! ([`crate::oracle::raised`]). Where a linear mixture says what the network or the n-grams say, this says more than
//! either of what both find probable: it is the geometric mixture of them, but one that costs no more than the few tokens
//! that an n-gram raises, since all others only share in Z. So the network need tell no more than its ln p of those.
//!
//! The exponents θ ≥ 0 follow the gradient of ln p(target), ln r_n(target) − E_p[ln r_n], by AdaGrad (Duchi, Hazan and
//! Singer, 2011); the longest order that has the context decides which set of them is at work. Adding α ln p of one
//! n-gram model to logits is parameter-golf's pull request 1642; there all tokens are touched, and α is fixed.

use std::ops::Range;
use std::sync::Arc;

use crate::experts::exponential::exp_in_place;
use crate::fingerprint::{Fingerprint, Stateful};
use crate::oracle::raised::Raised;
use crate::oracle::Oracle;
use crate::simd::wide_registers;
use crate::tokens::check_tokens;
use crate::{Error, Result};

/// Of the exponents, and what the sums of their squared gradients begin with.
const RATE: f64 = 0.02;
const FIRST_SQUARE: f64 = 0.01;
/// The exponents' start, from the least order on; the last one goes for all longer ones.
const START: [f64; 3] = [0.1, 0.2, 0.3];
const LARGEST_EXPONENT: f64 = 4.0;
const LARGEST_GAIN: f32 = 80.0;
/// Tokens, more than any oracle looks back.
const CONTEXT: usize = 16;

pub struct Tilted {
    oracle: Arc<dyn Oracle>,
    orders: usize,
    /// [sets, orders]: a set for each order that may be the longest to have the context.
    exponents: Vec<f64>,
    squares: Vec<f64>,
}

impl Tilted {
    /// None for an oracle that has no n-grams.
    pub fn new(oracle: Arc<dyn Oracle>) -> Option<Self> {
        let orders = oracle.raising_orders();
        let start = (0..orders * orders).map(|index| START[(index % orders).min(START.len() - 1)]);
        let (exponents, squares) = (start.collect(), vec![FIRST_SQUARE; orders * orders]);
        (orders > 0).then_some(Self { oracle, orders, exponents, squares })
    }

    pub fn vocab_size(&self) -> usize {
        self.oracle.vocab_size()
    }

    /// The tokens of which the network's ln p are asked at each target tokens[start..], those of all targets one after
    /// the other, and how many they are up to each target, [n + 1].
    pub fn raised_tokens(&self, tokens: &[u16], start: usize) -> Result<(Vec<u16>, Vec<u32>)> {
        let range = self.checked(tokens, start)?;
        let (mut found, mut ends) = (Vec::new(), vec![0]);
        self.oracle.raised_tokens_kernel(tokens, range, &mut |raised| {
            found.extend_from_slice(raised);
            ends.push(found.len() as u32);
        });
        if u32::try_from(found.len()).is_err() {
            return Err(Error::input(format!("{} targets at once are too many", tokens.len() - start)));
        }
        Ok((found, ends))
    }

    /// ln p [n] of the targets tokens[start..], into `log_probs`, which holds the network's; `of_raised` is the network's
    /// ln p of what [`Self::raised_tokens`] gives. Learns from each target after it is scored, and from none where these
    /// don't fit.
    pub fn mix(
        &mut self,
        tokens: &[u16],
        start: usize,
        of_raised: &[f32],
        log_probs: &mut [f32],
    ) -> Result<()> {
        let range = self.checked(tokens, start)?;
        if log_probs.len() != range.len() {
            return Err(Error::input(format!("{} targets, and ln p of {}", range.len(), log_probs.len())));
        }
        let (oracle, before) = (Arc::clone(&self.oracle), self.state());
        let (mut at, mut scored, mut work) = (0, 0, Work::default());
        let mut missing = false;
        oracle.raised_kernel(tokens, range, &mut |raised| {
            let end = at + raised.tokens.len();
            match of_raised.get(at..end) {
                Some(of_raised) => {
                    let target = tokens[start + scored];
                    log_probs[scored] += self.step(raised, of_raised, target, &mut work) as f32;
                }
                None => missing = true,
            }
            (at, scored) = (end, scored + 1);
        });
        if missing || at != of_raised.len() {
            self.restore(&before)?;
            return Err(Error::input(format!(
                "{} tokens are raised, and ln p is of {}",
                at,
                of_raised.len()
            )));
        }
        Ok(())
    }

    /// As [`Self::mix`], from the network's rows [n, V] of ln p, and fills `tilted` [n, V].
    pub fn mix_rows(
        &mut self,
        tokens: &[u16],
        start: usize,
        rows: &[f32],
        tilted: &mut [f32],
        log_probs: &mut [f32],
    ) -> Result<()> {
        let (range, vocab_size) = (self.checked(tokens, start)?, self.vocab_size());
        let wanted = range.len().checked_mul(vocab_size);
        if wanted != Some(rows.len()) || rows.len() != tilted.len() || log_probs.len() != range.len() {
            return Err(Error::input(format!("{} targets, and rows of {} values", range.len(), rows.len())));
        }
        tilted.copy_from_slice(rows);
        for (position, (tilted, log_prob)) in range.zip(tilted.chunks_exact_mut(vocab_size).zip(log_probs)) {
            // No oracle looks further back.
            let context = &tokens[position.saturating_sub(CONTEXT)..position];
            let target = tokens[position];
            let of_raised = self.tilt(context, tilted);
            *log_prob = tilted[usize::from(target)];
            let oracle = Arc::clone(&self.oracle);
            oracle.raised_kernel(context, context.len()..context.len() + 1, &mut |raised| {
                self.step(raised, &of_raised, target, &mut Work::default());
            });
        }
        Ok(())
    }

    /// Turns the network's row [V] of ln p after `tokens` into the tilted one.
    pub fn tilt_row(&self, tokens: &[u16], row: &mut [f32]) -> Result<()> {
        self.check_row(tokens, row)?;
        self.tilt(tokens, row);
        Ok(())
    }

    /// Into `tilted`, the tilted row [V] of probabilities after `tokens`, from the network's.
    pub fn tilt_probabilities(&self, tokens: &[u16], row: &[f32], tilted: &mut [f32]) -> Result<()> {
        self.check_row(tokens, row)?;
        self.after(tokens, |raised| {
            let mut work = Work::default();
            let scale = 1.0 / self.tilt_raised(raised, &logarithms(raised, row), &mut work);
            tilted.iter_mut().zip(row).for_each(|(tilted, &p)| *tilted = (f64::from(p) * scale) as f32);
            for (&token, &p) in raised.tokens.iter().zip(&work.probabilities) {
                tilted[usize::from(token)] = (f64::from(p) * scale) as f32;
            }
        });
        Ok(())
    }

    /// Learns from the token that came after `tokens`, where the network's probabilities were `row` [V].
    pub fn update(&mut self, tokens: &[u16], row: &[f32], token: u16) -> Result<()> {
        self.check_row(tokens, row)?;
        let oracle = Arc::clone(&self.oracle);
        oracle.raised_kernel(tokens, tokens.len()..tokens.len() + 1, &mut |raised| {
            self.step(raised, &logarithms(raised, row), token, &mut Work::default());
        });
        Ok(())
    }

    /// The exponents and the sums of their squared gradients: all that later scores depend on.
    pub fn state(&self) -> Vec<f64> {
        [&self.exponents[..], &self.squares[..]].concat()
    }

    /// Takes over what [`Self::state`] gave.
    pub fn restore(&mut self, state: &[f64]) -> Result<()> {
        let (exponents, squares) = state.split_at(self.exponents.len().min(state.len()));
        let possible = exponents.iter().all(|exponent| (0.0..=LARGEST_EXPONENT).contains(exponent))
            && squares.iter().all(|square| (FIRST_SQUARE..f64::INFINITY).contains(square));
        if !possible || exponents.len() != squares.len() || squares.len() != self.squares.len() {
            return Err(Error::input("not the state of an expert that is tilted by such an oracle"));
        }
        self.exponents.copy_from_slice(exponents);
        self.squares.copy_from_slice(squares);
        Ok(())
    }

    /// Tilts the row; returns what it had said of the tokens that are raised.
    fn tilt(&self, tokens: &[u16], row: &mut [f32]) -> Vec<f32> {
        let mut of_raised = Vec::new();
        self.after(tokens, |raised| {
            of_raised.extend(raised.tokens.iter().map(|&token| row[usize::from(token)]));
            let mut work = Work::default();
            let log_sum = self.tilt_raised(raised, &of_raised, &mut work).ln();
            row.iter_mut().for_each(|log_prob| *log_prob -= log_sum as f32);
            for ((&token, &log_prob), &gain) in raised.tokens.iter().zip(&of_raised).zip(&work.gains) {
                row[usize::from(token)] = log_prob + (f64::from(gain) - log_sum) as f32;
            }
        });
        of_raised
    }

    fn after(&self, tokens: &[u16], mut visit: impl FnMut(&Raised)) {
        self.oracle.raised_kernel(tokens, tokens.len()..tokens.len() + 1, &mut visit);
    }

    fn check_row(&self, tokens: &[u16], row: &[f32]) -> Result<()> {
        check_tokens(tokens, self.vocab_size())?;
        if row.len() != self.vocab_size() {
            return Err(Error::input(format!("a row of {} values, not {}", row.len(), self.vocab_size())));
        }
        Ok(())
    }

    fn checked(&self, tokens: &[u16], start: usize) -> Result<Range<usize>> {
        check_tokens(tokens, self.vocab_size())?;
        if start > tokens.len() {
            return Err(Error::input(format!("start {start} lies beyond the {} tokens", tokens.len())));
        }
        Ok(start..tokens.len())
    }

    /// The exponents for the context, shortest order first, and where they begin; None where no n-gram has it.
    fn set(&self, raised: &Raised) -> Option<Range<usize>> {
        let first = raised.known().checked_sub(1)? * self.orders;
        Some(first..first + self.orders)
    }

    /// Fills `work` for the tokens that are raised. Returns Z.
    fn tilt_raised(&self, raised: &Raised, of_raised: &[f32], work: &mut Work) -> f64 {
        let Work { gains, before, probabilities } = work;
        gains.clear();
        before.clear();
        probabilities.clear();
        let Some(set) = self.set(raised) else { return 1.0 };
        let exponents = &self.exponents[set];
        let shortest = exponents[0] as f32;
        gains.extend(raised.raises.iter().map(|raise| shortest * raise));
        for (order, exponent) in raised.longer.iter().zip(&exponents[1..]) {
            let exponent = *exponent as f32;
            for (&place, &raise) in order.places.iter().zip(order.raises) {
                if let Some(gain) = gains.get_mut(usize::from(place)) {
                    *gain += exponent * raise;
                }
            }
        }
        before.extend_from_slice(of_raised);
        let mut excess = 0.0;
        wide_registers(|| {
            // So that float32 holds its exponential; the target's gain is that same number.
            gains.iter_mut().for_each(|gain| *gain = gain.min(LARGEST_GAIN));
            // One exponential of the sum: what the network finds all but impossible may have the largest gain, and the
            // two exponentials apart leave what float32 holds.
            probabilities.extend(of_raised.iter().zip(&*gains).map(|(log_prob, gain)| log_prob + gain));
            exp_in_place(before);
            exp_in_place(probabilities);
            excess = sum_of(probabilities, before, |tilted, before| tilted - before);
        });
        1.0 + excess
    }

    /// By how much ln p of the target changes, and learns from it.
    fn step(&mut self, raised: &Raised, of_raised: &[f32], target: u16, work: &mut Work) -> f64 {
        let Some(set) = self.set(raised) else { return 0.0 };
        let sum = self.tilt_raised(raised, of_raised, work);
        let hit = raised.tokens.binary_search(&target).ok();
        let mut expected = 0.0;
        wide_registers(|| expected = sum_of(&work.probabilities, raised.raises, |p, raise| p * raise));
        self.follow(set.start, hit.map_or(0.0, |hit| f64::from(raised.raises[hit])) - expected / sum);
        for (at, order) in (set.start + 1..).zip(&raised.longer) {
            let probability =
                |&place: &u16| work.probabilities.get(usize::from(place)).copied().unwrap_or(0.0);
            let expected: f64 = (order.places.iter().zip(order.raises))
                .map(|(place, raise)| f64::from(probability(place) * raise))
                .sum();
            let found = hit.and_then(|hit| order.places.binary_search(&(hit as u16)).ok());
            self.follow(at, found.map_or(0.0, |found| f64::from(order.raises[found])) - expected / sum);
        }
        hit.map_or(0.0, |hit| f64::from(work.gains[hit])) - sum.ln()
    }

    /// One step of AdaGrad. A network that says no number teaches nothing: one such target would spoil all later ones.
    fn follow(&mut self, at: usize, gradient: f64) {
        if !gradient.is_finite() {
            return;
        }
        self.squares[at] += gradient * gradient;
        let moved = self.exponents[at] + RATE * gradient / self.squares[at].sqrt();
        self.exponents[at] = moved.clamp(0.0, LARGEST_EXPONENT);
    }
}

/// Σ term(a, b) in double precision, eight sums side by side: the same order of addition in registers of any width.
#[inline(always)]
fn sum_of(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = whole_a.remainder().iter().zip(whole_b.remainder());
    for (a, b) in whole_a.zip(whole_b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(term(a, b));
        }
    }
    for (sum, (&a, &b)) in sums.iter_mut().zip(rest) {
        *sum += f64::from(term(a, b));
    }
    sums.iter().sum()
}

/// Of the tokens that are raised: Σ θ ln r, p_net, and p_net Π r^θ.
#[derive(Default)]
struct Work {
    gains: Vec<f32>,
    before: Vec<f32>,
    probabilities: Vec<f32>,
}

fn logarithms(raised: &Raised, row: &[f32]) -> Vec<f32> {
    raised.tokens.iter().map(|&token| row[usize::from(token)].ln()).collect()
}

impl Stateful for Tilted {
    fn add_state(&self, to: &mut Fingerprint) {
        to.add(&self.exponents);
        to.add(&self.squares);
    }
}
