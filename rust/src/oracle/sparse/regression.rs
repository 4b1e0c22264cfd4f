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

/// One kind of contexts: how many there are, and how fast they learn.
#[derive(Clone, Copy)]
pub struct Input {
    /// Contexts, as a power of two.
    pub bits: u32,
    /// The first step size, in the regression's units, below 4096.
    pub first_step: u32,
}

/// Weights count 32768ths, probabilities 65536ths.
const WEIGHT_SHIFT: u32 = 15;
const UNIT: i32 = 1 << 16;

/// A slot holds a step size in so many bits, below a weight.
const STEP_BITS: u32 = 12;
const STEP_MASK: i32 = (1 << STEP_BITS) - 1;

/// Step sizes shrink as if each decision held so much of its information, in 65536ths: the inputs share it.
const INFORMATION: i32 = 54613;

/// The least step size, in 65536ths.
const LAST_STEP: i32 = 2359;

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

/// Decisions of one kind, with K inputs, whose step sizes count units of 2^-SHIFT.
pub struct Regression<const K: usize, const SHIFT: u32> {
    /// A context's weight, above its step size. This is XORed with the first one, so that zeroed memory is where learning
    /// begins.
    slots: Vec<i32>,
    /// Where each input's contexts begin.
    starts: [u32; K],
    first_steps: [i32; K],
    probabilities: &'static [u16; LOGITS],
}

impl<const K: usize, const SHIFT: u32> Regression<K, SHIFT> {
    pub fn new(inputs: [Input; K]) -> Self {
        let mut end = 0;
        let starts = inputs.map(|input| {
            let start = end;
            end += 1 << input.bits;
            start
        });
        Self {
            slots: vec![0; end as usize],
            starts,
            first_steps: inputs.map(|input| input.first_step as i32 & STEP_MASK),
            probabilities: probabilities(),
        }
    }

    /// Codes one decision, made in one context of each input.
    #[inline(always)]
    pub fn code<C: BinaryCoder>(&mut self, coder: &mut C, decision: bool, contexts: [u32; K]) -> bool {
        let indices: [usize; K] = std::array::from_fn(|i| (self.starts[i] + contexts[i]) as usize);
        let slots = indices.map(|index| self.slots[index]);
        let logit: i32 = slots.iter().map(|slot| slot >> STEP_BITS).sum();
        let nearest = (logit >> LOGIT_SHIFT) + LOGITS as i32 / 2;
        let one = i32::from(self.probabilities[nearest.clamp(0, LOGITS as i32 - 1) as usize]);
        let decision = coder.code(decision, one as u32);

        let error = (i32::from(decision) << 16) - one;
        // p(1 − p), in 16384ths.
        let information = (((one >> 1) * ((UNIT - one) >> 1)) >> 16) * (INFORMATION >> 4) >> 12;
        for i in 0..K {
            let step = (slots[i] ^ self.first_steps[i]) & STEP_MASK;
            let move_by = (error * step + (1 << SHIFT)) >> (SHIFT + 1);
            let shrink = ((step * step >> 8) * information + (1 << (SHIFT + 5))) >> (SHIFT + 6);
            let step = (step - shrink).max(LAST_STEP >> (16 - SHIFT));
            let weight = (slots[i] & !STEP_MASK).saturating_add(move_by << STEP_BITS) & !STEP_MASK;
            self.slots[indices[i]] = weight | (step ^ self.first_steps[i]);
        }
        decision
    }
}
