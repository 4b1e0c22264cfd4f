//! D(m): what an n-gram of mass m passes on to its suffix.

use super::ngram::MAX_ORDER;

/// D(m) is linear between these masses, 0 at none, and constant beyond the last.
pub const KNOTS: [f32; 5] = [1.0, 2.0, 3.0, 5.0, 10.0];

/// D at each knot.
pub type Discount = [f32; KNOTS.len()];

/// D of each order; those below 2 are not used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Discounts(pub [Discount; MAX_ORDER + 1]);

impl Default for Discounts {
    fn default() -> Self {
        Self([[0.8, 1.2, 1.6, 1.6, 1.6]; MAX_ORDER + 1])
    }
}

/// The weights of the knots in D(`mass`).
pub fn basis(mass: f32) -> Discount {
    let mut weights = [0.0; KNOTS.len()];
    if mass <= KNOTS[0] {
        weights[0] = mass / KNOTS[0];
        return weights;
    }
    for knot in 1..KNOTS.len() {
        if mass <= KNOTS[knot] {
            let above = (mass - KNOTS[knot - 1]) / (KNOTS[knot] - KNOTS[knot - 1]);
            weights[knot - 1] = 1.0 - above;
            weights[knot] = above;
            return weights;
        }
    }
    weights[KNOTS.len() - 1] = 1.0;
    weights
}

/// D(`mass`).
pub fn discount(discount: &Discount, mass: f32) -> f32 {
    let (mut below, mut at_below) = (0.0, 0.0);
    for (&knot, &at) in KNOTS.iter().zip(discount) {
        if mass <= knot {
            return at_below + (at - at_below) * (mass - below) / (knot - below);
        }
        (below, at_below) = (knot, at);
    }
    at_below
}
