//! The sparse estimator: an interpolated n-gram model of real contexts, pruned to a byte budget.
//!
//! The steps, in their order: [`counting`] shards ([`counts`], in files [`counts_file`] and [`chunk`], added up by
//! [`merge`]); [`fit_discounts`]; leaving out what is too rare ([`cutoff`]) and making a [`trie`] of the rest;
//! [`estimate`]; [`prune`] at the [`threshold`] whose file fits; [`quantise`]; writing the file ([`ngsp`], whose
//! streams are [`order_stream`] and [`binary_coder`]). What is read is [`restore`]d and looked up ([`oracle`]).
//! [`build`] does all of it.

pub mod arpa;
pub mod binary_coder;
pub mod build;
pub mod chunk;
mod continuations;
pub mod counting;
pub mod counts;
pub mod counts_file;
pub mod cutoff;
pub mod discount;
pub mod estimate;
pub mod fit_discounts;
pub mod fragment;
mod known;
mod logarithm;
mod masses;
pub mod merge;
pub mod ngram;
pub mod ngsp;
pub mod oracle;
mod order_stream;
pub mod prune;
mod quantise;
pub mod regression;
mod restore;
pub mod sample;
pub mod threshold;
pub mod trie;
mod version_2;
mod walk;
mod weights;
