//! Predicts binary decisions by logistic regression, learned while they are coded.
//!
//! Each decision is made in a few contexts of different kinds, its inputs. Every context that an input can have holds a
//! weight, and the logit of the decision's probability is the sum of their weights. After the decision each weight moves
//! by the error times a step size of its own, which falls as the information p(1 − p) that the weight has seen adds up: a
//! Newton method with a diagonal Hessian, whose steps never fall below a limit, because what is coded drifts.
//!
//! All of this is integer arithmetic, so that every machine predicts the same.

use std::sync::OnceLock;

use super::binary_coder::{logistic, BinaryCoder};

/// A slot counts in this many bits how often its context was met, below its weight in 2^-27.
const MET_BITS: u32 = 8;
const MET_LIMIT: i32 = (1 << MET_BITS) - 1;
const WEIGHT_SHIFT: u32 = 27;

/// Probabilities count 65536ths.
const UNIT: i32 = 1 << 16;

/// Probabilities are looked up by logits in steps of 1/128, from −16 on.
const LOGIT_SHIFT: u32 = WEIGHT_SHIFT - 7;
const LOGITS: usize = 1 << 12;

/// The probability of each logit.
fn probabilities() -> &'static [u16; LOGITS] {
    static TABLE: OnceLock<[u16; LOGITS]> = OnceLock::new();
    TABLE.get_or_init(|| {
        std::array::from_fn(|index| {
            let logit = (index as f64 + 0.5 - LOGITS as f64 / 2.0) / 128.0;
            // Whatever has been certain so far may turn out otherwise.
            (f64::from(UNIT) * logistic(logit) + 0.5).clamp(16.0, 65520.0) as u16
        })
    })
}

/// How a regression's step sizes fall.
pub struct Steps {
    pub first: f64,
    pub last: f64,
    pub information: f64,
}

/// Decisions of one kind, with K inputs.
pub struct Regression<const K: usize> {
    slots: Vec<i32>,
    /// Where each input's contexts begin.
    starts: [u32; K],
    /// Step sizes in 2048ths, by how often a context was met.
    steps: [i32; 1 << MET_BITS],
    probabilities: &'static [u16; LOGITS],
}

impl<const K: usize> Regression<K> {
    /// `bits` of each input: how many contexts it can have, as a power of two.
    pub fn new(bits: [u32; K], steps: Steps) -> Self {
        let mut end = 0;
        let starts = bits.map(|bits| {
            let start = end;
            end += 1 << bits;
            start
        });
        let Steps { first, last, information } = steps;
        let step =
            |met| (2048.0 * f64::max(last, 1.0 / (1.0 / first + information * met as f64)) + 0.5) as i32;
        Self {
            slots: vec![0; end as usize],
            starts,
            steps: std::array::from_fn(step),
            probabilities: probabilities(),
        }
    }

    /// Codes one decision, made in one context of each input.
    #[inline(always)]
    pub fn code<C: BinaryCoder>(&mut self, coder: &mut C, decision: bool, contexts: [u32; K]) -> bool {
        let indices: [usize; K] = std::array::from_fn(|i| (self.starts[i] + contexts[i]) as usize);
        let slots = indices.map(|index| self.slots[index]);
        let logit: i64 = slots.iter().map(|&slot| i64::from(slot)).sum();
        let nearest = (logit >> LOGIT_SHIFT) + LOGITS as i64 / 2;
        let one = self.probabilities[nearest.clamp(0, LOGITS as i64 - 1) as usize];
        let decision = coder.code(decision, u32::from(one));
        let error = (i32::from(decision) << 16) - i32::from(one);
        for i in 0..K {
            let met = slots[i] & MET_LIMIT;
            let moved = slots[i].wrapping_add((error * self.steps[met as usize]) & !MET_LIMIT);
            self.slots[indices[i]] = moved + i32::from(met < MET_LIMIT);
        }
        decision
    }
}
