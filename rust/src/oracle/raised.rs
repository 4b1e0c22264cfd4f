//! By how much an oracle's n-grams raise tokens over what shorter contexts say of them.
//!
//! An order of a sparse oracle is p(w | h) = a(h, w) + b(h) p(w | h'), where h' is h without its first token. Of a token
//! that doesn't continue h, it says what h' says, times b(h). Of one that does, it says more, by the factor
//!
//! ```text
//! r(h, w) = 1 + a(h, w) / (b(h) p(w | h')) ≥ 1.
//! ```
//!
//! These factors are what [`crate::experts::tilted`] multiplies another model's odds by.

/// The orders whose n-grams are told: below, contexts are so short that any network knows them.
pub const LEAST_ORDER: usize = 3;

/// What is raised in one context.
#[derive(Debug, Default)]
pub struct Raised<'a> {
    /// The tokens that the last two tokens are known to go on with, ascending.
    pub tokens: &'a [u16],
    /// By ln r each, as the order [`LEAST_ORDER`] has it.
    pub raises: &'a [f32],
    /// Of each longer order that has the context, shortest first.
    pub longer: Vec<RaisedByOrder<'a>>,
}

/// What the n-grams of one order raise: the tokens at `places` among [`Raised::tokens`], by ln r each. Places ascend and
/// are inside; a forged file's may not be.
#[derive(Debug)]
pub struct RaisedByOrder<'a> {
    pub places: &'a [u16],
    pub raises: &'a [f32],
}

impl Raised<'_> {
    /// How many orders have the context.
    pub fn known(&self) -> usize {
        usize::from(!self.tokens.is_empty()) + self.longer.len()
    }
}
