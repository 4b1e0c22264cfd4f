//! The sparse oracle: building it, loading it, and look-ups.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use hybridlm_core::oracle::sparse::build::{build, Config};
use hybridlm_core::oracle::sparse::counting::count_streams;
use hybridlm_core::oracle::sparse::ngram::NgramSpec;
use hybridlm_core::oracle::sparse::ngsp;
use hybridlm_core::oracle::{log_probs, target_log_probs};
use hybridlm_core::parallel::Control;

const ORDER: usize = 6;
const TOKENS: usize = 1_000_000;

fn config(threads: usize) -> Config {
    Config { max_bytes: 400_000, memory: 4 << 30, threads }
}

fn sparse(criterion: &mut Criterion) {
    const TARGETS: usize = 1 << 16;
    const POSITIONS: usize = 2048;
    let control = Control::default();
    let tokens = common::tokens(TOKENS);
    let spec = NgramSpec::new(common::VOCABULARY, ORDER).unwrap();
    let make = |threads: usize| {
        let counts = count_streams(&[&tokens[..]], spec, threads, &control).unwrap();
        build(&counts, &config(threads), &control).unwrap()
    };
    let file = make(2);
    let oracle = ngsp::decode(&file, "bench", 1, &control).unwrap();
    let stream = &tokens[..TARGETS];
    let positions: Vec<usize> = (TARGETS - POSITIONS..TARGETS).collect();
    let mut group = criterion.benchmark_group("sparse");
    group.sample_size(10);
    for threads in common::threads() {
        group.throughput(Throughput::Elements(tokens.len() as u64));
        group.bench_function(BenchmarkId::new("build (tokens), threads", threads), |bencher| {
            bencher.iter(|| make(threads));
        });
        group.throughput(Throughput::Elements(TARGETS as u64));
        group.bench_function(BenchmarkId::new("targets (positions), threads", threads), |bencher| {
            let mut out = vec![0f32; ORDER * TARGETS];
            bencher.iter(|| target_log_probs(&oracle, stream, 0, threads, &mut out).unwrap());
        });
        group.throughput(Throughput::Elements(POSITIONS as u64));
        group.bench_function(BenchmarkId::new("six full rows (positions), threads", threads), |bencher| {
            let mut out = vec![0f32; ORDER * POSITIONS * common::VOCABULARY];
            bencher.iter(|| log_probs(&oracle, stream, &positions, threads, &mut out).unwrap());
        });
    }
    group.throughput(Throughput::Bytes(file.len() as u64));
    group.bench_function("load (bytes)", |bencher| {
        bencher.iter(|| ngsp::decode(&file, "bench", 1, &control).unwrap());
    });
    group.finish();
}

criterion_group!(benches, sparse);
criterion_main!(benches);
