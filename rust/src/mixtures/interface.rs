//! What every linear mixture can do.

use crate::fingerprint::Stateful;

/// A linear mixture over K experts, and L lengths of context whose evidence it takes besides; most take none.
/// Gates are small numbers known before the target; a mixture may keep different weights for their different
/// values. The classes of these contexts are the last L gates.
pub trait Mixture: Stateful + Send {
    fn experts(&self) -> usize;

    fn lengths(&self) -> usize {
        0
    }

    /// How many values each gate has.
    fn gates(&self) -> &[usize];

    /// The weights [K + L] that the next target meets when the gates have these values.
    fn weights(&self, gates: &[u8], out: &mut [f64]);

    /// Learns from the probabilities [K + L] of the target that came: the experts', then its share in each
    /// context. They may all be scaled by the same factor. Returns Σ w_k p_k, in that scale.
    fn update(&mut self, gates: &[u8], probabilities: &[f64]) -> f64;
}
