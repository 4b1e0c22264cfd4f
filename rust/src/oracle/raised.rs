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

/// Of one context, the tokens that its last two tokens are known to go on with, and ln r for each order from
/// [`LEAST_ORDER`] on, 0 where an order hasn't the token.
#[derive(Debug, Default)]
pub struct Raised {
    /// The longest order that has the context; 0: none from [`LEAST_ORDER`] on.
    pub order: usize,
    /// Ascending.
    pub tokens: Vec<u16>,
    /// ln r, [tokens, orders]: of a token, those of all orders together.
    pub values: Vec<f32>,
}

impl Raised {
    pub fn clear(&mut self) {
        self.order = 0;
        self.tokens.clear();
        self.values.clear();
    }
}
