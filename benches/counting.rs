//! Counting orders 1 to 8, against the rate at which this machine can increment counters at all.
//!
//! The limit is seven increments of uniformly random one-byte counters per token, in tables of the sizes
//! of orders 2 to 8, nothing else being done. Set HYBRIDLM_BENCH_SHARD to count a real shard.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use hybridlm_core::oracle::dense::counts::{Counts, Stream, TableSpec};
use hybridlm_core::parallel::{self, Control};

/// Increments `tokens` random counters of each of orders 2 to 8.
fn increments(spec: &TableSpec, tables: &mut [Vec<u8>], tokens: usize) {
    const BATCH: usize = 4096;
    let mut states: [u32; 16] = std::array::from_fn(|lane| 0x9E37_79B9u32.wrapping_mul(lane as u32 + 1) | 1);
    let mut cells = [0u32; BATCH];
    for (&(order, rows), table) in spec.tables().iter().zip(tables) {
        if order == 1 {
            continue;
        }
        let mask = rows * spec.vocab_size() as u32 - 1;
        for _ in 0..tokens / BATCH {
            for cells in cells.chunks_exact_mut(16) {
                for (cell, state) in cells.iter_mut().zip(&mut states) {
                    // Marsaglia's xorshift, sixteen at a time.
                    *state ^= *state << 13;
                    *state ^= *state >> 17;
                    *state ^= *state << 5;
                    *cell = *state & mask;
                }
            }
            for &cell in &cells {
                let counter = &mut table[cell as usize];
                *counter = counter.wrapping_add(1);
            }
        }
    }
}

fn counting(criterion: &mut Criterion) {
    let tokens = common::tokens(10_000_000);
    let spec = TableSpec::with_defaults(common::VOCABULARY, 8, &[]).unwrap();
    let mut group = criterion.benchmark_group("counting");
    group.sample_size(10).throughput(Throughput::Elements(tokens.len() as u64));
    for threads in common::threads() {
        group.bench_function(BenchmarkId::new("orders 1 to 8, threads", threads), |bencher| {
            let mut counts = Counts::new(spec.clone()).unwrap();
            bencher.iter(|| {
                let stream = Stream { tokens: &tokens, path: None };
                counts.count(&[stream], threads, &Control::default()).unwrap();
            });
        });
        group.bench_function(BenchmarkId::new("limit: uniform increments, threads", threads), |bencher| {
            let new = |_| spec.tables().iter().map(|&(_, rows)| vec![0u8; rows as usize * 1024]).collect();
            let mut tables: Vec<Vec<Vec<u8>>> = (0..threads).map(new).collect();
            bencher.iter(|| {
                parallel::for_each(threads, tables.iter_mut().collect(), |tables| {
                    increments(&spec, tables, tokens.len() / threads);
                    Ok(())
                })
                .unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, counting);
criterion_main!(benches);
