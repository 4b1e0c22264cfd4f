//! Look-ups in a dense oracle of eight orders: targets, full rows, and mixtures without the rows.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use hybridlm_core::oracle::dense::counts::{Counts, Stream, TableSpec};
use hybridlm_core::oracle::dense::oracle::DenseOracle;
use hybridlm_core::oracle::dense::table::{DenseTables, Table};
use hybridlm_core::oracle::{log_probs, mixture, target_log_probs};
use hybridlm_core::parallel::Control;

fn oracle(tokens: &[u16]) -> DenseOracle {
    let spec = TableSpec::with_defaults(common::VOCABULARY, 8, &[]).unwrap();
    let mut counts = Counts::new(spec.clone()).unwrap();
    counts.count(&[Stream { tokens, path: None }], 2, &Control::default()).unwrap();
    let tables = spec.tables().iter().enumerate();
    let tables = tables.map(|(i, &(order, rows))| Table { order, rows, cells: counts.quantise(i, 2) });
    DenseTables::new(common::VOCABULARY, tables.collect()).unwrap().into()
}

fn lookups(criterion: &mut Criterion) {
    const TARGETS: usize = 1 << 16;
    const POSITIONS: usize = 2048;
    let tokens = common::tokens(4_000_000);
    let oracle = oracle(&tokens);
    let stream = &tokens[..TARGETS];
    let positions: Vec<usize> = (TARGETS - POSITIONS..TARGETS).collect();
    let mut group = criterion.benchmark_group("lookup");
    for threads in common::threads() {
        group.throughput(Throughput::Elements(8 * TARGETS as u64));
        group.bench_function(BenchmarkId::new("targets (values), threads", threads), |bencher| {
            let mut out = vec![0f32; 8 * TARGETS];
            bencher.iter(|| target_log_probs(&oracle, stream, 0, threads, &mut out).unwrap());
        });
        group.throughput(Throughput::Elements(POSITIONS as u64));
        group.bench_function(BenchmarkId::new("eight full rows (positions), threads", threads), |bencher| {
            let mut out = vec![0f32; 8 * POSITIONS * common::VOCABULARY];
            bencher.iter(|| log_probs(&oracle, stream, &positions, threads, &mut out).unwrap());
        });
        group.bench_function(BenchmarkId::new("mixture (positions), threads", threads), |bencher| {
            let weights = vec![0.125f32; 8 * POSITIONS];
            let mut out = vec![0f32; POSITIONS * common::VOCABULARY];
            bencher.iter(|| mixture(&oracle, stream, &positions, &weights, threads, &mut out).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, lookups);
criterion_main!(benches);
