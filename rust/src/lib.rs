//! The native half of hybridlm.
//!
//! Everything here works on plain slices and paths; [`python`] is the only module that knows Python.

pub mod baseline;
pub mod bytes;
pub mod codec;
pub mod counted_shards;
pub mod error;
pub mod experts;
pub mod files;
pub mod fingerprint;
#[cfg(feature = "forge")]
pub mod fuzz;
pub mod kinds;
mod leb128;
mod memory;
pub mod mixtures;
pub mod oracle;
pub mod overlap;
pub mod parallel;
#[cfg(feature = "python")]
mod python;
mod simd;
pub mod tokens;
pub mod vocabulary;
pub mod zstd_frame;

pub use error::{Error, Result};
