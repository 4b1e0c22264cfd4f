//! Experts that learn while they score.

pub mod adaptive;
pub mod backoff;
pub mod cache;
mod hash;
pub mod longest_match;
pub mod reference;
mod rows;
