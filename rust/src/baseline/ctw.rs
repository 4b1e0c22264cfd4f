//! Context-tree weighting over bytes (Willems, Shtarkov and Tjalkens, 1995).
//!
//! A byte is eight binary decisions, most significant bit first, and each of the 255 places in that
//! decision tree has a context tree of its own over the preceding bytes, up to `depth` of them. A
//! node holds how often the bit was 0 and 1 in its context. Its own estimate P_e is the
//! Krichevsky–Trofimov estimate (c₁ + α) / (c₀ + c₁ + 2α); what it predicts weights that against the
//! node one byte deeper:
//!
//! ```text
//! P_w(s) = ½ P_e(s) + ½ Π P_w(children of s)          at depth < D
//! P_w(s) = P_e(s)                                     at depth D
//! ```
//!
//! Those are probabilities of everything seen so far and underflow after a few hundred bytes, so only
//! their ratio β = P_e / Π P_w(children) is kept, as a logarithm. The next bit then has probability
//! w·p_e + (1 − w)·p_child with w = β / (1 + β), and β is multiplied by p_e / p_child of the bit that
//! came. The conditional probabilities of 0 and 1 sum to one at each node, hence so do those of bytes.

use crate::experts::hash::finalise;
use crate::{Error, Result};

/// Counts are halved where one would pass this: old statistics fade, and a count fits 16 bits.
const COUNT_LIMIT: u16 = 255;
/// |log₂ β| stays below this, so that a node which has long been sure can still change its mind.
const RATIO_LIMIT: f32 = 24.0;
const NODES: usize = 15;

#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of context, 1 to 8.
    pub depth: usize,
    /// The estimator's prior count of each bit: ½ is Krichevsky and Trofimov's. Text
    /// does as well with a tenth of that.
    pub alpha: f32,
    /// Bytes of memory for nodes. Once they are used up, contexts that have no node get none: the
    /// tree stays as deep there as it is, and keeps learning where it has nodes.
    pub memory: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { depth: 6, alpha: 0.5, memory: 1 << 30 }
    }
}

#[derive(Clone, Copy, Default)]
struct Node {
    zeros: u16,
    ones: u16,
    /// log₂ of P_e over the children's P_w.
    ratio: f32,
}

/// The fifteen nodes of one context that four successive bits walk through, on two cache lines.
#[derive(Clone, Copy)]
#[repr(align(128))]
struct Slot {
    /// 0: free.
    key: u64,
    nodes: [Node; NODES],
}

const FREE: Slot = Slot { key: 0, nodes: [Node { zeros: 0, ones: 0, ratio: 0.0 }; NODES] };

/// The model. Feed it bytes with [`ContextTree::code`].
#[derive(Clone)]
pub struct ContextTree {
    config: Config,
    slots: Vec<Slot>,
    used: usize,
    /// The last eight bytes, newest in the low byte.
    history: u64,
}

impl ContextTree {
    pub fn new(config: Config) -> Result<Self> {
        if !(1..=8).contains(&config.depth) {
            return Err(Error::input(format!("CTW depth is 1 to 8 bytes, not {}", config.depth)));
        }
        if !(config.alpha > 0.0 && config.alpha <= 1.0) {
            return Err(Error::input(format!("CTW alpha is above 0 and at most 1, not {}", config.alpha)));
        }
        if config.memory < 1 << 16 {
            return Err(Error::input(format!(
                "CTW needs at least 64 KiB of memory, not {} bytes",
                config.memory
            )));
        }
        Ok(Self { config, slots: vec![FREE; 1 << 8], used: 0, history: 0 })
    }

    pub fn config(&self) -> Config {
        self.config
    }

    /// Bytes of memory that the nodes take.
    pub fn memory(&self) -> usize {
        self.slots.len() * size_of::<Slot>()
    }

    /// The code length of `byte` in bits, −log₂ P(byte | all bytes so far); then learns it.
    pub fn code(&mut self, byte: u8) -> f64 {
        let contexts = self.context_hashes();
        let high = self.code_nibble(&contexts, 0, byte >> 4);
        let low = self.code_nibble(&contexts, 1 + (byte >> 4), byte & 15);
        self.history = self.history << 8 | u64::from(byte);
        high + low
    }

    /// One hash for each depth 0..=D, of that many preceding bytes. Bytes before the first are 0.
    fn context_hashes(&self) -> [u64; 9] {
        let mut hashes = [0x9e37_79b9_7f4a_7c15; 9];
        for depth in 1..=self.config.depth {
            let byte = self.history >> (8 * (depth - 1)) & 0xff;
            hashes[depth] = finalise(hashes[depth - 1] ^ (byte + 1));
        }
        hashes
    }

    fn code_nibble(&mut self, contexts: &[u64; 9], place: u8, nibble: u8) -> f64 {
        self.reserve();
        let mut path = [0; 9];
        let mut nodes = 0; // how many depths have a node here
        for hash in &contexts[..=self.config.depth] {
            let Some(slot) = self.slot(finalise(hash.wrapping_add(u64::from(place) << 56 | 1))) else {
                break;
            };
            path[nodes] = slot;
            nodes += 1;
        }
        let mut probability = 1.0;
        let mut node = 1;
        for shift in (0..4).rev() {
            let bit = nibble >> shift & 1;
            probability *= f64::from(self.code_bit(&path[..nodes], node - 1, bit == 1));
            node = 2 * node + usize::from(bit);
        }
        -probability.log2()
    }

    /// The probability that the nodes `place` of the slots along `path`, shallow to deep, give to
    /// `bit`; then updates them.
    fn code_bit(&mut self, path: &[usize], place: usize, bit: bool) -> f32 {
        let alpha = self.config.alpha;
        let Some(deepest) = path.len().checked_sub(1) else { return 0.5 };
        let mut child = 0.0; // p_w one level deeper
        for (depth, &slot) in path.iter().enumerate().rev() {
            let node = &mut self.slots[slot].nodes[place];
            let (zeros, ones) = (f32::from(node.zeros), f32::from(node.ones));
            let seen = if bit { ones } else { zeros };
            let own = (seen + alpha) / (zeros + ones + 2.0 * alpha);
            if depth == deepest {
                child = own;
            } else {
                let weight = 1.0 / (1.0 + (-node.ratio).exp2());
                let mixed = child + weight * (own - child);
                node.ratio = (node.ratio + (own / child).log2()).clamp(-RATIO_LIMIT, RATIO_LIMIT);
                child = mixed;
            }
            let count = if bit { &mut node.ones } else { &mut node.zeros };
            *count += 1;
            if *count > COUNT_LIMIT {
                node.zeros /= 2;
                node.ones /= 2;
            }
        }
        child
    }

    /// The slot of a context and place, made if there is none and there is room.
    fn slot(&mut self, hash: u64) -> Option<usize> {
        let key = hash | 1;
        let mask = self.slots.len() - 1;
        let mut at = (hash >> 20) as usize & mask;
        while self.slots[at].key != key {
            if self.slots[at].key == 0 {
                if self.used >= room(self.slots.len()) {
                    return None;
                }
                self.slots[at].key = key;
                self.used += 1;
                break;
            }
            at = (at + 1) & mask;
        }
        Some(at)
    }

    /// Makes room for the slots of one nibble, while memory lasts.
    fn reserve(&mut self) {
        let larger = 2 * self.slots.len();
        if self.used + self.config.depth < room(self.slots.len())
            || larger * size_of::<Slot>() > self.config.memory
        {
            return;
        }
        let old = std::mem::replace(&mut self.slots, vec![FREE; larger]);
        for slot in old.into_iter().filter(|slot| slot.key != 0) {
            let mut at = (slot.key >> 20) as usize & (larger - 1);
            while self.slots[at].key != 0 {
                at = (at + 1) & (larger - 1);
            }
            self.slots[at] = slot;
        }
    }
}

/// Slots that may be taken of a table: linear probing stays short up to three quarters.
fn room(slots: usize) -> usize {
    slots / 4 * 3
}
