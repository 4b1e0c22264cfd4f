//! What the sparse estimator knows before anything is pruned or rounded.
//!
//!     cargo run --release --example unpruned -- ORDER VOCABULARY TRAIN... -- VAL
//!
//! prints the bits that each token of the shard VAL takes after the first, one number a line.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufWriter, Write};

use hybridlm_core::oracle::sparse::counting::count_streams;
use hybridlm_core::oracle::sparse::discount::{discount, Discounts};
use hybridlm_core::oracle::sparse::estimate::FullModel;
use hybridlm_core::oracle::sparse::fit_discounts;
use hybridlm_core::oracle::sparse::ngram::NgramSpec;
use hybridlm_core::oracle::sparse::trie::Trie;
use hybridlm_core::parallel::Control;
use hybridlm_core::tokens::Shard;

/// −log2 p of each token but the first, straight from the definition in `estimate.rs`.
fn bits(trie: &Trie, full: &FullModel, discounts: &Discounts, tokens: &[u16]) -> Vec<f64> {
    let mut bits = Vec::with_capacity(tokens.len());
    // The n-gram of each order that ends at the previous token, from the empty one on.
    let mut contexts = vec![0];
    for &word in tokens {
        let mut extended = vec![0];
        let mut p = f64::from(full.probabilities[1][usize::from(word)]);
        for (n, &context) in contexts.iter().enumerate().map(|(length, context)| (length + 1, context)) {
            let found = trie.find(n - 1, context, word);
            extended.extend(found);
            if n == 1 {
                continue;
            }
            let masses = &full.masses[n][trie.orders[n - 1].successors(context)];
            let total: f64 = masses.iter().copied().map(f64::from).sum();
            if total <= 0.0 {
                break;
            }
            let d = |mass: f32| f64::from(discount(&discounts.0[n], mass));
            let mass = found.map_or(0.0, |index| full.masses[n][index]);
            p = (f64::from(mass) - d(mass) + masses.iter().map(|&mass| d(mass)).sum::<f64>() * p) / total;
        }
        bits.push(-p.log2());
        extended.truncate(trie.order());
        contexts = extended;
    }
    bits.split_off(1)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [order, vocab_size, shards @ ..] = &arguments[..] else {
        panic!("see the first lines of the source")
    };
    let (order, vocab_size): (usize, usize) = (order.parse().unwrap(), vocab_size.parse().unwrap());
    let (val, train) = shards.split_last().unwrap();
    let train: Vec<Shard> =
        train.iter().filter(|path| *path != "--").map(|path| Shard::open(path).unwrap()).collect();
    let val = Shard::open(val).unwrap();
    let (threads, control) = (std::thread::available_parallelism().unwrap().get(), Control::default());
    let train: Vec<&[u16]> = train.iter().map(Shard::tokens).collect();
    let counts =
        count_streams(&train, NgramSpec::new(vocab_size, order).unwrap(), threads, &control).unwrap();
    let discounts = fit_discounts::fit(counts.sample(), counts.spec(), threads, &control).unwrap();
    let trie = Trie::build(&counts, 0, threads, &control).unwrap();
    let full = FullModel::estimate(&trie, &discounts, threads, &control).unwrap();
    let mut out = BufWriter::new(std::io::stdout());
    for bits in bits(&trie, &full, &discounts, val.tokens()) {
        writeln!(out, "{bits}").unwrap();
    }
}
