//! Tables of 64-bit counters, nearly all of which stay small.
//!
//! The low sixteen bits of every counter lie side by side. What exceeds them lies in groups of 64-bit
//! numbers, each made when one of its counters first needs it. So the counters of a corpus of some
//! hundred million tokens fit the processor's outer cache, where 64 bits for each would not.

use std::ops::Range;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::OnceLock;

use crate::memory::Zeroed;

/// Counters whose upper bits are kept together: half a page of low bits.
const GROUP: usize = 512;

/// Bits above the low sixteen, of a group of counters; none yet where all are zero.
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

    /// Writes the counters of `range` to `out`, which is as long.
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

    /// The counters in parts of `length`, a multiple of [`Counters::PART`], for threads to share.
    pub fn parts(&mut self, length: usize) -> impl Iterator<Item = Part<'_>> {
        debug_assert!(length % GROUP == 0);
        let parts = self.low.chunks_mut(length).zip(self.high.chunks_mut(length / GROUP));
        parts.map(|(low, high)| Part { low, high })
    }

    /// What the length of a part must be a multiple of.
    pub const PART: usize = GROUP;

    pub fn whole(&mut self) -> Part<'_> {
        Part { low: &mut self.low, high: &mut self.high }
    }

    /// The counters, for several threads to add to at once.
    pub fn shared(&mut self) -> Shared<'_> {
        let low: *mut [u16] = &mut *self.low;
        // SAFETY: AtomicU16 has the size, alignment and bit validity of u16, and the exclusive borrow of
        // `self` is held for as long as the shared one lives.
        Shared { low: unsafe { &*(low as *const [AtomicU16]) }, high: &self.high }
    }
}

fn add_high(high: &[High], index: usize, count: u64) {
    let group = high[index / GROUP].get_or_init(|| Box::new([const { AtomicU64::new(0) }; GROUP]));
    group[index % GROUP].fetch_add(count, Ordering::Relaxed);
}

/// Counters that one thread adds to.
pub struct Part<'a> {
    low: &'a mut [u16],
    high: &'a mut [High],
}

impl Part<'_> {
    pub fn len(&self) -> usize {
        self.low.len()
    }

    pub fn is_empty(&self) -> bool {
        self.low.is_empty()
    }

    pub fn add(&mut self, index: usize, count: u64) {
        let sum = u64::from(self.low[index]) + (count & 0xffff);
        self.low[index] = sum as u16;
        let above = (count >> 16) + (sum >> 16);
        if above != 0 {
            add_high(self.high, index, above);
        }
    }

    /// Adds a count to each counter.
    pub fn add_all(&mut self, counts: &[u8]) {
        for (group, (low, counts)) in self.low.chunks_mut(GROUP).zip(counts.chunks(GROUP)).enumerate() {
            let mut carried = false;
            for (low, &count) in low.iter_mut().zip(counts) {
                let (sum, carry) = low.overflowing_add(u16::from(count));
                *low = sum;
                carried |= carry;
            }
            if carried {
                for (index, (&low, &count)) in low.iter().zip(counts).enumerate() {
                    if low < u16::from(count) {
                        add_high(self.high, group * GROUP + index, 1);
                    }
                }
            }
        }
    }
}

/// Counters that several threads add to.
pub struct Shared<'a> {
    low: &'a [AtomicU16],
    high: &'a [High],
}

impl Shared<'_> {
    pub fn add(&self, index: usize, count: u16) {
        let before = self.low[index].fetch_add(count, Ordering::Relaxed);
        if before.checked_add(count).is_none() {
            add_high(self.high, index, 1);
        }
    }
}
