//! Sums of masses in fixed point. They don't depend on the order in which threads add, so a build gives the same bytes
//! with any number of threads.

use std::sync::atomic::AtomicU64;

/// A mass of one.
const UNIT: f32 = (1 << 20) as f32;

pub(super) fn fixed(mass: f64) -> u64 {
    (mass * f64::from(UNIT)) as u64
}

pub(super) fn float(mass: u64) -> f32 {
    mass as f32 / UNIT
}

pub(super) fn zeros(count: usize) -> Vec<AtomicU64> {
    let mut masses = Vec::new();
    masses.resize_with(count, AtomicU64::default);
    masses
}

pub(super) fn settle(masses: Vec<AtomicU64>) -> Vec<f32> {
    masses.into_iter().map(|mass| float(mass.into_inner())).collect()
}
