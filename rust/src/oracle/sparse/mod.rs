//! The sparse estimator: an interpolated n-gram model of real contexts, pruned to a byte budget.

pub mod build;
pub mod coder;
pub mod count;
pub mod counts;
pub mod cutoff;
pub mod discounts;
pub mod flow;
pub mod format;
mod logarithm;
pub mod model;
pub mod quantise;
pub mod rounding;
pub mod sample;
pub mod threshold;
pub mod trie;
pub mod walk;

/// The longest n-grams.
pub const MAX_ORDER: usize = 8;
