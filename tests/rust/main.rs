//! All tests of the crate's public interface, one module for each part of it.

#![allow(clippy::unwrap_used)]

mod codec;
mod ctw;
mod dense_contexts;
mod dense_counts;
mod dense_levels;
mod dense_ngor_packed;
mod dense_ngor_v1;
mod dense_oracle;
mod dense_partial;
mod experts;
mod files;
mod fingerprint;
mod fuzz;
mod golden;
mod mixtures;
mod parallel;
mod reference_experts;
mod sparse;
mod sparse_counts;
mod tilted;
mod tokens;
