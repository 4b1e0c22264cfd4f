//! The dense estimator: Laplace-smoothed int8 log-probabilities in tables of hashed contexts.
//!
//! Counting ([`counts`], in files [`partial`]) makes tables ([`table`]) of levels ([`levels`]); files of two layouts
//! hold them ([`ngor_v1`], [`ngor_packed`]), and an oracle looks them up ([`oracle`]).

pub mod contexts;
pub mod counters;
pub mod counts;
pub mod levels;
pub mod ngor_packed;
pub mod ngor_v1;
pub mod oracle;
pub mod partial;
mod row_mixture;
mod summary;
pub mod table;
