//! What the benchmarks are run on.

#![allow(clippy::unwrap_used)]

use hybridlm_core::tokens::Shard;

pub const VOCABULARY: usize = 1024;

/// The shard that HYBRIDLM_BENCH_SHARD names, or else a stream with about the statistics of text: a Markov
/// chain whose next token is one of a few favourites of the last one more often than not.
pub fn tokens(count: usize) -> Vec<u16> {
    if let Some(path) = std::env::var_os("HYBRIDLM_BENCH_SHARD") {
        let shard = Shard::open(path).unwrap();
        return shard.tokens()[..count.min(shard.tokens().len())].to_vec();
    }
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let mut last = 0u64;
    let chain = (0..count).map(|_| {
        let draw = next();
        // Products of uniform numbers: small ones are far more frequent, as in text.
        let rank = ((draw & 1023) * (draw >> 10 & 1023) * (draw >> 20 & 1023)) >> 20;
        last = if draw >> 30 == 0 { rank } else { (last * 389 + rank * rank) & 1023 };
        last as u16
    });
    chain.collect()
}

/// One thread, and all cores. Not every benchmark asks.
#[allow(dead_code)]
pub fn threads() -> Vec<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores == 1 {
        vec![1]
    } else {
        vec![1, cores]
    }
}
