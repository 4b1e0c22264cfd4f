//! Frozen oracles: n-gram models that were estimated once and are only looked up from then on.
//!
//! An estimator implements [`Oracle`], two kernels that run on one thread over a piece of the work; callers use the
//! functions of [`lookup`].
//!
//! Positions: predicting position `i` of a stream means ln p(· | tokens[..i]), over the whole stream
//! before it. Each order of an oracle is one expert, so K = `orders().len()`.

pub mod dense;
mod interface;
mod load;
pub mod lookup;
pub mod raised;
pub mod sparse;

pub use interface::{Info, Oracle};
pub use load::load;
pub use lookup::{log_probs, mixture, target_log_probs};
