//! Experts that learn while they score, and the mixtures over them: what one target costs on one thread.
//!
//! Both have to keep up with 500,000 targets a second together. "ours" is what `hybridlm eval` needs for the
//! default mixture of an artifact without a neural model, looking the oracle up aside.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{criterion_group, criterion_main, BatchSize, BenchmarkId, Criterion, Throughput};
use hybridlm_core::experts::adaptive::{AdaptiveExperts, Scored, EVIDENCE, GATES, NAMES};
use hybridlm_core::experts::reference::{self, OnlineExperts};
use hybridlm_core::mixtures::{self, geometric::Geometric, Sources};

const TARGETS: usize = 1 << 18;
/// Experts of an oracle of six orders: copies of others here, whose values cost the mixture as much.
const ORDERS: usize = 6;

fn adaptive() -> AdaptiveExperts {
    AdaptiveExperts::new(common::VOCABULARY, Default::default()).unwrap()
}

/// The rows and the gates of a mixture that takes evidence; one that doesn't takes the first of each.
fn inputs(scored: &Scored, targets: usize) -> (Vec<f32>, Vec<u8>) {
    let orders = scored.log_probs[..targets].repeat(ORDERS);
    let log_probs = [&scored.log_probs[..], &orders, &scored.shares].concat();
    (log_probs, [&scored.gates[..], &scored.classes].concat())
}

fn mix(name: &str, log_probs: &[f32], gates: &[u8], targets: usize) -> Vec<f64> {
    let experts = NAMES.len() + ORDERS;
    let base: Vec<usize> = (2..experts).collect();
    let ready = &base[1..]; // the oracle's orders, not the cache
    let sources = Sources { experts, gates: &GATES, base: &base, lengths: EVIDENCE.len(), ready };
    let mut mixture = mixtures::create(name, sources).unwrap();
    let mut nll = vec![0.0; targets];
    let (rows, kinds) = (experts + mixture.lengths(), mixture.gates().len());
    mixtures::score(mixture.as_mut(), &log_probs[..rows * targets], &gates[..kinds * targets], &mut nll)
        .unwrap();
    nll
}

fn mixing(criterion: &mut Criterion) {
    let tokens = common::tokens(TARGETS);
    let mut group = criterion.benchmark_group("mixing");
    group.sample_size(10);
    group.throughput(Throughput::Elements(TARGETS as u64));
    group.bench_function("the reference's online experts", |bencher| {
        let mut out = vec![0.0; reference::NAMES.len() * TARGETS];
        let start = || OnlineExperts::new(common::VOCABULARY).unwrap();
        bencher.iter_batched(
            start,
            |mut experts| experts.score(&tokens, &mut out, None).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("adaptive experts", |bencher| {
        bencher.iter_batched(
            adaptive,
            |mut experts| experts.score(&tokens, None).unwrap(),
            BatchSize::PerIteration,
        );
    });
    let scored = adaptive().score(&tokens, None).unwrap();
    let (log_probs, gates) = inputs(&scored, TARGETS);
    for name in mixtures::NAMES {
        group.bench_function(BenchmarkId::new("mixture of 9", name), |bencher| {
            bencher.iter(|| mix(name, &log_probs, &gates, TARGETS));
        });
    }
    group.bench_function("ours: adaptive experts and stacked", |bencher| {
        bencher.iter_batched(
            adaptive,
            |mut experts| {
                let scored = experts.score(&tokens, None).unwrap();
                let (log_probs, gates) = inputs(&scored, TARGETS);
                mix("stacked", &log_probs, &gates, TARGETS)
            },
            BatchSize::PerIteration,
        );
    });
    let few = 1 << 10;
    group.throughput(Throughput::Elements(few as u64));
    group.bench_function("whole rows of 3, geometric", |bencher| {
        let mut rows = vec![0.0; NAMES.len() * few * common::VOCABULARY];
        adaptive().score(&tokens[..few], Some(&mut rows)).unwrap();
        let mut nll = vec![0.0; few];
        bencher.iter(|| {
            Geometric::new(NAMES.len(), &[], common::VOCABULARY)
                .unwrap()
                .mix(&rows, &tokens[..few], &mut nll)
                .unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, mixing);
criterion_main!(benches);
