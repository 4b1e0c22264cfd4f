//! The native half of hybridlm.
//!
//! Everything here works on plain slices and paths; [`python`] is the only module that knows Python.

pub mod error;
#[cfg(feature = "python")]
mod python;

pub use error::{Error, Result};
