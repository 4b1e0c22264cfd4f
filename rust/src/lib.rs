//! The native half of hybridlm.
//!
//! Everything here works on plain slices and paths; [`python`] is the only module that knows Python.

pub mod error;
pub mod hash;
pub mod oracle;
pub mod parallel;
#[cfg(feature = "python")]
mod python;
pub mod quant;

pub use error::{Error, Result};
