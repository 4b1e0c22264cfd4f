//! The native half of hybridlm.
//!
//! Everything here works on plain slices and paths; [`python`] is the only module that knows Python.

pub mod baseline;
pub mod bytes;
pub mod codec;
pub mod count;
pub mod counters;
pub mod error;
pub mod experts;
pub mod files;
pub mod fingerprint;
pub mod fuzz;
pub mod hash;
pub mod memory;
pub mod mix;
pub mod online;
pub mod oracle;
pub mod parallel;
pub mod partial;
#[cfg(feature = "python")]
mod python;
pub mod quant;
pub mod tokens;
pub mod vocabulary;

pub use error::{Error, Result};
