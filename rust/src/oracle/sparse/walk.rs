//! Visiting the n-grams of every order, not only of the highest, which counts hold.
//!
//! n-grams that begin with different tokens have nothing to do with each other. So threads, and machines too, walk
//! through the n-grams of different first tokens at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

use super::counts::SparseCounts;
use super::ngram::{Entry, Ngram, MAX_ORDER};
use crate::parallel::{self, Control};
use crate::Result;

/// What is done with n-grams, in lexicographic order.
pub(super) trait Visitor {
    /// Before the longer n-grams that an n-gram begins.
    fn open(&mut self, order: usize, ngram: Ngram);

    /// After them, with the sum of their counts and the last of them.
    fn close(&mut self, order: usize, count: u64, entry: Entry) -> Result<()>;
}

/// Visits all n-grams that begin with some tokens, given those of the highest order one after the other.
struct Walk<V> {
    visitor: V,
    sums: [u64; MAX_ORDER + 1],
    last: Option<Entry>,
}

impl<V: Visitor> Walk<V> {
    fn new(visitor: V) -> Self {
        Self { visitor, sums: [0; MAX_ORDER + 1], last: None }
    }

    fn step(&mut self, entry: Entry) -> Result<()> {
        let shared = self.last.map_or(0, |last| last.ngram.common(entry.ngram));
        self.close_beyond(shared)?;
        let length = entry.ngram.length();
        for (order, sum) in self.sums.iter_mut().enumerate().take(length + 1).skip(1) {
            if order > shared {
                *sum = 0;
                self.visitor.open(order, entry.ngram);
            }
            // No more than all tokens together.
            *sum = sum.saturating_add(entry.count);
        }
        self.last = Some(entry);
        Ok(())
    }

    /// Closes what is longer than what the last n-gram shares with the next.
    fn close_beyond(&mut self, shared: usize) -> Result<()> {
        let Some(last) = self.last else { return Ok(()) };
        for order in (shared + 1..=last.ngram.length()).rev() {
            self.visitor.close(order, self.sums[order], last)?;
        }
        Ok(())
    }
}

/// Walks through all n-grams of `counts`, a piece of them on each thread. Each piece has a visitor of its own, which `begin`
/// makes and `end` gets, with the piece's number; pieces are numbered in the order of their n-grams.
pub(super) fn walk<V: Visitor>(
    counts: &SparseCounts,
    threads: usize,
    control: &Control,
    begin: impl Fn() -> V + Sync,
    end: impl Fn(usize, V) + Sync,
) -> Result<()> {
    let pieces = counts.pieces();
    let total = AtomicU64::new(0);
    parallel::run(threads, pieces.len(), |index| {
        let mut walk = Walk::new(begin());
        let found = counts.for_each(pieces[index].clone(), control, |entry| walk.step(*entry))?;
        walk.close_beyond(0)?;
        end(index, walk.visitor);
        let _ =
            total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| Some(sum.saturating_add(found)));
        Ok(())
    })?;
    counts.check_total(total.into_inner())
}
