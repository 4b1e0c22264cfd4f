//! Experts that learn while they score: the strong ones ([`adaptive`], of [`backoff`], [`longest_match`] and [`cache`]),
//! and the reference's ([`reference`]).

pub mod adaptive;
pub mod backoff;
pub mod cache;
mod exponential;
pub(crate) mod hash;
pub mod longest_match;
pub mod reference;
mod rows;
pub mod tilted;
