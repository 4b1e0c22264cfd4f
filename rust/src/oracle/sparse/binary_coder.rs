//! Binary arithmetic coding, with probabilities from a mixture of adaptive contexts.
//!
//! Encoder and decoder must make exactly the same predictions on every machine, so all of this is integer arithmetic.
//! Its tables are rounded from sums, products and quotients of IEEE 754 doubles, never from functions of a mathematical
//! library, whose last digits may differ.
//!
//! The range coder is our own. Decisions are binary, so each takes one multiplication and one comparison, where a
//! general coder divides to look up a quantile; and its few lines are all that another reader of the format must
//! reproduce.

use std::sync::OnceLock;

use crate::memory::prefetch;

/// Probabilities handed to the coder count 65536ths.
const PROBABILITY_BITS: u32 = 16;

/// One direction of the coder: writes the decision it is given, or ignores that and reads one.
pub trait BinaryCoder {
    /// `one` is the probability of `true` in 65536ths, neither 0 nor all.
    fn code(&mut self, decision: bool, one: u32) -> bool;
}

/// Decisions to bytes.
pub struct Encoder {
    low: u32,
    high: u32,
    bytes: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { low: 0, high: u32::MAX, bytes: Vec::new() }
    }
}

impl Encoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes of everything coded; the decoder takes zeros to follow them.
    pub fn finish(mut self) -> Vec<u8> {
        // The shortest bytes that lie within the interval when zeros follow them.
        for kept in 0..=4 {
            let ignored = u32::MAX.checked_shr(8 * kept).unwrap_or(0);
            let Some(value) = self.low.checked_add(ignored).map(|ceiling| ceiling & !ignored) else {
                continue;
            };
            if value <= self.high {
                self.bytes.extend_from_slice(&value.to_be_bytes()[..kept as usize]);
                break;
            }
        }
        while self.bytes.last() == Some(&0) {
            self.bytes.pop();
        }
        self.bytes
    }
}

/// Where an interval is split: `true` takes the part up to and including this.
fn split(low: u32, high: u32, one: u32) -> u32 {
    low + ((u64::from(high - low) * u64::from(one)) >> PROBABILITY_BITS) as u32
}

impl BinaryCoder for Encoder {
    #[inline]
    fn code(&mut self, decision: bool, one: u32) -> bool {
        let middle = split(self.low, self.high, one);
        if decision {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
        while (self.low ^ self.high) >> 24 == 0 {
            self.bytes.push((self.high >> 24) as u8);
            self.low <<= 8;
            self.high = self.high << 8 | 255;
        }
        decision
    }
}

/// Bytes to decisions.
pub struct Decoder<'a> {
    low: u32,
    high: u32,
    value: u32,
    bytes: std::slice::Iter<'a, u8>,
    /// Bytes read past the end.
    beyond: u32,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { low: 0, high: u32::MAX, value: 0, bytes: bytes.iter(), beyond: 0 };
        for _ in 0..4 {
            decoder.shift_in();
        }
        decoder
    }

    fn shift_in(&mut self) {
        let byte = self.bytes.next().copied().unwrap_or_else(|| {
            self.beyond = self.beyond.saturating_add(1);
            0
        });
        self.value = self.value << 8 | u32::from(byte);
    }

    /// Whether every byte was read.
    pub fn is_finished(&self) -> bool {
        self.bytes.as_slice().is_empty()
    }

    /// Bytes that were read past the end, as zeros. If they are more than an encoder omits, the decisions mean
    /// nothing.
    pub fn missing(&self) -> u32 {
        self.beyond
    }
}

impl BinaryCoder for Decoder<'_> {
    #[inline]
    fn code(&mut self, _: bool, one: u32) -> bool {
        let middle = split(self.low, self.high, one);
        let decision = self.value <= middle;
        if decision {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
        while (self.low ^ self.high) >> 24 == 0 {
            self.low <<= 8;
            self.high = self.high << 8 | 255;
            self.shift_in();
        }
        decision
    }
}

/// e^x from the four arithmetic operations alone, for |x| up to about twenty.
pub fn exp(x: f64) -> f64 {
    const HALVINGS: i32 = 10;
    let x = x / 1024.0;
    let mut term = 1.0;
    let mut sum = 1.0;
    for n in 1..12 {
        term = term * x / f64::from(n);
        sum += term;
    }
    (0..HALVINGS).fold(sum, |power, _| power * power)
}

/// 1 / (1 + e^-x).
pub fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + exp(-x))
}

/// Logits are held in 256ths where contexts give them, in 1024ths where they were mixed.
const LOGIT_LIMIT: i32 = 2047;
const MIXED_LIMIT: i32 = 11 * 1024;

struct Tables {
    /// Logit in 256ths of each probability in 4096ths, that of the middle between it and the next.
    logits: Vec<i16>,
    /// Probability in 65536ths of each mixed logit, from the lowest.
    probabilities: Vec<u16>,
    /// 65536ths of the way that a context's probability moves to the decision, by how often it was met.
    steps: Vec<u32>,
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let round = |x: f64| (x + 0.5) as u32;
        let probabilities =
            (-MIXED_LIMIT..=MIXED_LIMIT).map(|logit| round(65536.0 * logistic(f64::from(logit) / 1024.0)));
        // The logits are the inverse of the logistic function, found by going along it.
        let mut logit = -LOGIT_LIMIT;
        let logits = (0..4096).map(|bin| {
            let probability = (f64::from(bin) + 0.5) / 4096.0;
            while logit < LOGIT_LIMIT && logistic((f64::from(logit) + 0.5) / 256.0) < probability {
                logit += 1;
            }
            logit as i16
        });
        Tables {
            logits: logits.collect(),
            probabilities: probabilities.map(|p| p.clamp(1, 65535) as u16).collect(),
            steps: (0..=MET_LIMIT).map(|met| round(65536.0 / (f64::from(met) + 1.6))).collect(),
        }
    })
}

/// A context that was met this often adapts no slower.
const MET_LIMIT: u32 = 600;
const MET_BITS: u32 = 10;
/// A context's probability is held in 22 bits and stays this far from certainty.
const SLOT_ONE: i64 = 1 << 22;
const SLOT_MARGIN: i64 = 839;
/// XORed with a slot, so that zeroed memory means a probability of one half that was never met.
const SLOT_START: u32 = 1 << 31;

/// How much a context's logit counts after it was met 0, 1, 2, 3 times, in 256ths.
const TRUST: [i32; 4] = [0, 141, 179, 218];

/// The most contexts that a decision may have.
pub const MAX_INPUTS: usize = 12;

#[derive(Clone)]
struct Mixer {
    /// In 65536ths.
    weights: [i32; MAX_INPUTS],
    /// Learning rate, in 2^-22.
    rate: u32,
}

const FIRST_WEIGHT: i32 = 18 << 10;
const WEIGHT_LIMIT: i32 = 8 << 16;
const FIRST_RATE: u32 = 83886;
const LAST_RATE: u32 = 6291;

/// Predicts decisions from hashed contexts by logistic mixing, as the PAQ compressors do (Mahoney, 2005). Each context
/// has an adaptive probability; two sets of weights, each selected by the caller, mix their logits, and the coder gets
/// the mean of both mixtures.
pub struct ContextMixer {
    slots: Vec<u32>,
    shift: u32,
    mixers: Vec<Mixer>,
    tables: &'static Tables,
}

impl ContextMixer {
    /// With room for 2^`bits` contexts, and with `sets` sets of weights.
    pub fn new(bits: u32, sets: usize) -> Self {
        let mixer = Mixer { weights: [FIRST_WEIGHT; MAX_INPUTS], rate: FIRST_RATE };
        Self { slots: vec![0; 1 << bits], shift: 32 - bits, mixers: vec![mixer; sets], tables: tables() }
    }

    /// Prefetches contexts that are needed after the next decisions.
    #[inline]
    pub fn prefetch<const K: usize>(&self, contexts: [u32; K]) {
        for context in contexts {
            prefetch(&self.slots[(context >> self.shift) as usize]);
        }
    }

    /// Codes one decision. `contexts` are hashes; `node` (below 64) distinguishes the decisions that share them, which
    /// then lie close together in memory. `sets` are the sets of weights.
    #[inline]
    pub fn code<const K: usize, C: BinaryCoder>(
        &mut self,
        coder: &mut C,
        decision: bool,
        contexts: &[u32; K],
        node: u32,
        sets: [usize; 2],
    ) -> bool {
        let mut logits = [0i32; K];
        let mut indices = [0usize; K];
        for i in 0..K {
            indices[i] = ((contexts[i] >> self.shift) ^ node) as usize;
            let slot = self.slots[indices[i]] ^ SLOT_START;
            let logit = i32::from(self.tables.logits[(slot >> 20) as usize]);
            let met = slot & ((1 << MET_BITS) - 1);
            logits[i] = match TRUST.get(met as usize) {
                Some(trust) => (logit * trust) >> 8,
                None => logit,
            };
        }
        let mixed = sets.map(|set| {
            let weights = &self.mixers[set].weights;
            let mut sum = 0;
            for i in 0..K {
                sum += (weights[i] * logits[i]) >> 8;
            }
            (sum >> 6).clamp(-MIXED_LIMIT, MIXED_LIMIT)
        });
        let probability = |logit: i32| u32::from(self.tables.probabilities[(logit + MIXED_LIMIT) as usize]);
        let separate = mixed.map(probability);
        let decision = coder.code(decision, probability((mixed[0] + mixed[1]) >> 1));

        for (set, p) in sets.into_iter().zip(separate) {
            let Mixer { weights, rate } = &mut self.mixers[set];
            let error = (i32::from(decision) << 16) - p as i32;
            let pull = ((i64::from(error) * i64::from(*rate)) >> 16) as i32;
            for i in 0..K {
                let weight = weights[i] + ((pull * logits[i] + (1 << 13)) >> 14);
                weights[i] = weight.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT);
            }
            *rate -= if *rate > LAST_RATE { (*rate >> 12).max(1) } else { 0 };
        }
        let target = if decision { SLOT_ONE } else { 0 };
        for index in indices {
            let slot = self.slots[index] ^ SLOT_START;
            let (p, met) = (i64::from(slot >> MET_BITS), slot & ((1 << MET_BITS) - 1));
            let moved = p + (((target - p) * i64::from(self.tables.steps[met as usize])) >> 16);
            let moved = moved.clamp(SLOT_MARGIN, SLOT_ONE - SLOT_MARGIN) as u32;
            self.slots[index] = (moved << MET_BITS | (met + 1).min(MET_LIMIT)) ^ SLOT_START;
        }
        decision
    }

    /// Codes `symbol` of `bits` bits, highest first, each decision in the context of those before it. The sets of
    /// weights are `other` and one of 2^3 + bits from `set` on.
    #[inline]
    pub fn code_symbol<const K: usize, C: BinaryCoder>(
        &mut self,
        coder: &mut C,
        symbol: u32,
        bits: u32,
        contexts: &[u32; K],
        set: usize,
        other: usize,
    ) -> u32 {
        let mut node = 1;
        for bit in (0..bits).rev() {
            let chosen = set + if node < 8 { node as usize } else { (8 + bits - 1 - bit) as usize };
            let decision = self.code(coder, symbol >> bit & 1 == 1, contexts, node, [chosen, other]);
            node = node << 1 | u32::from(decision);
        }
        node & ((1 << bits) - 1)
    }

    /// Codes `value`, which lies in `range`, by its distance from `expected`: whether there is one, on which side, and
    /// then, step by step, whether it is greater. Most values are near, so they take few decisions. The sets of weights
    /// are `other` and one of [`DISTANCE_SETS`] from `set` on.
    #[inline]
    pub fn code_near<const K: usize, C: BinaryCoder>(
        &mut self,
        coder: &mut C,
        (value, expected): (i32, i32),
        range: std::ops::RangeInclusive<i32>,
        contexts: &[u32; K],
        set: usize,
        other: usize,
    ) -> i32 {
        let (lowest, highest) = (*range.start(), *range.end());
        let mut ask = |decision: bool, node: u32| {
            self.code(coder, decision, contexts, node, [set + node as usize, other])
        };
        if ask(value == expected, 0) {
            return expected;
        }
        let below = expected != lowest && (expected == highest || ask(value < expected, 1));
        let (step, furthest, side) = if below { (-1, lowest, 2) } else { (1, highest, 2 + DISTANCE_NODES) };
        let mut reached = expected + step;
        let mut distance = 0;
        while reached != furthest && ask(value != reached, side + distance) {
            reached += step;
            distance = (distance + 1).min(DISTANCE_NODES - 1);
        }
        reached
    }
}

/// Distances to one side that [`ContextMixer::code_near`] distinguishes in its contexts.
const DISTANCE_NODES: u32 = 14;
/// Sets of weights that it needs.
pub const DISTANCE_SETS: usize = 2 + 2 * DISTANCE_NODES as usize;

/// The hash of a context's kind and value.
#[inline]
pub fn hash(kind: u32, value: u32) -> u32 {
    let mut x = kind.wrapping_mul(0x9E37_79B1) ^ value.wrapping_add(0x7F4A_7C15).wrapping_mul(0x85EB_CA77);
    x ^= x >> 15;
    x = x.wrapping_mul(0xC2B2_AE3D);
    x ^ x >> 13
}
