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
pub struct Raised {
    /// The tokens that the last two tokens are known to go on with, ascending.
    pub tokens: Vec<u16>,
    /// Of each order from [`LEAST_ORDER`] on that has the context, shortest first.
    pub orders: Vec<RaisedByOrder>,
    /// How many of `orders` have it; what stands after them is of contexts before.
    pub known: usize,
}

/// What the n-grams of one order raise: the tokens at `places` among [`Raised::tokens`], by ln r each.
#[derive(Debug, Default)]
pub struct RaisedByOrder {
    pub places: Vec<u32>,
    pub raises: Vec<f32>,
}

impl Raised {
    pub fn new(orders: usize) -> Self {
        Self { orders: (0..orders).map(|_| RaisedByOrder::default()).collect(), ..Self::default() }
    }

    pub fn known(&self) -> &[RaisedByOrder] {
        &self.orders[..self.known]
    }
}
