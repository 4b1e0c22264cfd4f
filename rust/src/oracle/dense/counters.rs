//! Tables of 64-bit counters, nearly all of which stay small.
//!
//! The low sixteen bits of all counters lie side by side. Higher bits are in groups of 64-bit numbers, and a group is
//! allocated when one of its counters first needs it. So the counters of a corpus of some hundred million tokens fit the
//! processor's outer cache, as 64 bits for each would not.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use crate::memory::Zeroed;

/// Counters per group of higher bits.
const GROUP: usize = 512;

/// The higher bits of a group of counters; not allocated while all are zero.
type High = OnceLock<Box<[AtomicU64; GROUP]>>;

/// A fixed number of counters, zero at first.
#[derive(Debug)]
pub struct Counters {
    low: Zeroed<u16>,
    high: Vec<High>,
}

impl Counters {
    /// None if there is no memory for it.
    pub fn new(length: usize) -> Option<Self> {
        let mut high = Vec::new();
        high.try_reserve_exact(length.div_ceil(GROUP)).ok()?;
        high.resize_with(length.div_ceil(GROUP), OnceLock::new);
        Some(Self { low: Zeroed::new(length)?, high })
    }

    pub fn len(&self) -> usize {
        self.low.len()
    }

    pub fn is_empty(&self) -> bool {
        self.low.is_empty()
    }

    /// Writes the counters of `range` to `out`, which has the same length.
    pub fn read(&self, range: Range<usize>, out: &mut [u64]) {
        for (count, &low) in out.iter_mut().zip(&self.low[range.clone()]) {
            *count = u64::from(low);
        }
        for group in range.start / GROUP..range.end.div_ceil(GROUP) {
            let Some(high) = self.high[group].get() else { continue };
            let first = group * GROUP;
            for index in range.start.max(first)..range.end.min(first + GROUP) {
                out[index - range.start] += high[index - first].load(Ordering::Relaxed) << 16;
            }
        }
    }

    pub fn to_vec(&self) -> Vec<u64> {
        let mut out = vec![0; self.len()];
        self.read(0..self.len(), &mut out);
        out
    }

    /// Adds 65,536 to one counter, from any thread.
    pub fn add_high(&self, index: usize) {
        add_high(&self.high, index, 1);
    }

    /// The counters in parts of `length`, for threads to share.
    pub fn parts(&mut self, length: usize) -> impl Iterator<Item = Part<'_>> {
        let high = &self.high[..];
        let parts = self.low.chunks_mut(length).enumerate();
        parts.map(move |(index, low)| Part { first: index * length, low, high })
    }

    pub fn whole(&mut self) -> Part<'_> {
        Part { first: 0, low: &mut self.low, high: &self.high }
    }
}

fn add_high(high: &[High], index: usize, count: u64) {
    let group = high[index / GROUP].get_or_init(|| Box::new([const { AtomicU64::new(0) }; GROUP]));
    group[index % GROUP].fetch_add(count, Ordering::Relaxed);
}

/// Counters that one thread adds to.
pub struct Part<'a> {
    /// Where the part begins in its table.
    first: usize,
    low: &'a mut [u16],
    /// The higher bits of the whole table, as a group may reach into the next part.
    high: &'a [High],
}

impl Part<'_> {
    pub fn len(&self) -> usize {
        self.low.len()
    }

    pub fn is_empty(&self) -> bool {
        self.low.is_empty()
    }

    #[inline]
    pub fn add(&mut self, index: usize, count: u64) {
        let sum = u64::from(self.low[index]) + (count & 0xffff);
        self.low[index] = sum as u16;
        let above = (count >> 16) + (sum >> 16);
        if above != 0 {
            add_high(self.high, self.first + index, above);
        }
    }

    /// Adds numbers to the counters from `first` on, each given by its lower and its upper byte.
    #[inline(always)]
    pub fn add_bytes(&mut self, first: usize, lower: &[u8], upper: &[u8]) {
        let number = |(&lower, &upper)| u16::from_le_bytes([lower, upper]);
        for start in (0..lower.len()).step_by(GROUP) {
            let part = start..lower.len().min(start + GROUP);
            let low = &mut self.low[first + part.start..first + part.end];
            let numbers = || lower[part.clone()].iter().zip(&upper[part.clone()]).map(number);
            let mut carried = false;
            for (low, number) in low.iter_mut().zip(numbers()) {
                let (sum, carry) = low.overflowing_add(number);
                *low = sum;
                carried |= carry;
            }
            if carried {
                for (index, (&low, number)) in low.iter().zip(numbers()).enumerate() {
                    // A sum that wrapped is less than either term.
                    if low < number {
                        add_high(self.high, self.first + first + start + index, 1);
                    }
                }
            }
        }
    }
}
