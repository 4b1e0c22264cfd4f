//! What every estimator's oracle can do.

use std::ops::Range;

use crate::oracle::dense::table::DenseTables;
use crate::oracle::raised::Raised;
use crate::vocabulary::Vocabulary;

/// A frozen n-gram model of K experts, one per order. Every expert is a normalised distribution over
/// the vocabulary in every context.
pub trait Oracle: Send + Sync {
    /// The name that `--estimator` selects it by.
    fn estimator(&self) -> &'static str;

    /// What its token ids mean, as far as its file says.
    fn vocabulary(&self) -> &Vocabulary;

    fn vocab_size(&self) -> usize {
        self.vocabulary().size
    }

    /// Ascending.
    fn orders(&self) -> &[usize];

    /// What `oracle inspect` shows beyond the above.
    fn info(&self) -> Info;

    /// Writes ln p_k(tokens[i] | tokens[..i]) for each `i` of `range` to `out[k][i - range.start]`.
    ///
    /// The caller has checked that tokens are below the vocabulary's size, that the range lies within
    /// the tokens, and that `out` holds K slices of `range.len()`.
    fn target_kernel(&self, tokens: &[u16], range: Range<usize>, out: &mut [&mut [f32]]);

    /// Writes ln p_k(v | tokens[..positions[m]]) to `out[k][m * V + v]`.
    ///
    /// The caller has checked the tokens, that positions are at most `tokens.len()`, and the length of `out`.
    fn rows_kernel(&self, tokens: &[u16], positions: &[usize], out: &mut [&mut [f32]]);

    /// Writes Σ_k weights[k][m] · p_k(v | tokens[..positions[m]]) to `out[m * V + v]`: probabilities, not
    /// logarithms. The caller has checked the arguments. An estimator that can avoid making the K rows should.
    fn mixture_kernel(&self, tokens: &[u16], positions: &[usize], weights: &[&[f32]], out: &mut [f32]) {
        let vocab_size = self.vocab_size();
        let mut rows = vec![0f32; self.orders().len() * vocab_size];
        for (index, (position, out)) in positions.iter().zip(out.chunks_exact_mut(vocab_size)).enumerate() {
            let mut planes: Vec<&mut [f32]> = rows.chunks_exact_mut(vocab_size).collect();
            self.rows_kernel(tokens, std::slice::from_ref(position), &mut planes);
            out.fill(0.0);
            for (row, weights) in planes.iter().zip(weights) {
                let weight = weights[index];
                out.iter_mut().zip(row.iter()).for_each(|(sum, log_prob)| *sum += weight * log_prob.exp());
            }
        }
    }

    /// Writes to `out[i - range.start]`, for each `i` of `range`, how many tokens the longest n-gram has that ends with
    /// `tokens[i]` and that the model has itself, so that no shorter context had to stand in; the highest order where
    /// an estimator has something in every context. The caller has checked the arguments.
    fn matched_kernel(&self, _tokens: &[u16], _range: Range<usize>, out: &mut [u8]) {
        out.fill(self.orders().last().map_or(0, |&order| order as u8));
    }

    /// Of how many orders [`Self::raised_kernel`] tells; 0 for an estimator without n-grams.
    fn raising_orders(&self) -> usize {
        0
    }

    /// Calls `visit` for each position of `range`, which may end at `tokens.len()` + 1, with what the n-grams raise
    /// there, given tokens[..position]. The caller has checked the arguments.
    fn raised_kernel(&self, _tokens: &[u16], range: Range<usize>, visit: &mut dyn FnMut(&Raised)) {
        let none = Raised::default();
        range.for_each(|_| visit(&none));
    }

    /// As [`Self::raised_kernel`], with the tokens alone.
    fn raised_tokens_kernel(&self, _tokens: &[u16], range: Range<usize>, visit: &mut dyn FnMut(&[u16])) {
        range.for_each(|_| visit(&[]));
    }

    /// Calls `visit` with every n-gram that the model has, order by order, and the weight of it as a context, where the
    /// model has n-grams and backs off; else returns false.
    fn visit_ngrams(&self, _visit: &mut dyn FnMut(&[u16], f32)) -> bool {
        false
    }

    /// The tables of the dense estimator; none for others.
    fn dense(&self) -> Option<&DenseTables> {
        None
    }
}

/// A self-describing value, so that each estimator can report what only it has.
#[derive(Debug, Clone, PartialEq)]
pub enum Info {
    Int(u64),
    Float(f64),
    List(Vec<Info>),
    Map(Vec<(&'static str, Info)>),
}
