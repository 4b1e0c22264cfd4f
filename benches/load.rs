//! Loading sparse oracles: version 3 of the file format beside the present one, and one thread beside two.
//!
//!     cargo bench --bench load -- FILE...
//!
//! Each file is rewritten in both versions, with the same model. The three ways to load take turns; medians are printed as
//! one JSON object a line. Processor time is that of the calling thread, so it is told only where one thread works.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::Instant;

use hybridlm_core::oracle::sparse::build::{build, Config};
use hybridlm_core::oracle::sparse::counting::count_streams;
use hybridlm_core::oracle::sparse::ngram::NgramSpec;
use hybridlm_core::oracle::sparse::ngsp;
use hybridlm_core::parallel::Control;

const ROUNDS: usize = 3;

/// Seconds of processor time that this thread has taken; none where the system doesn't tell.
fn processor_seconds() -> Option<f64> {
    let times = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(times.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median seconds of wall time and of the calling thread's processor time for each job; the jobs take turns.
fn measure<const N: usize>(jobs: [&dyn Fn(); N]) -> [(f64, Option<f64>); N] {
    let mut wall: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    let mut processor: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (index, job) in jobs.iter().enumerate() {
            let (begin, before) = (Instant::now(), processor_seconds());
            job();
            wall[index].push(begin.elapsed().as_secs_f64());
            processor[index].extend(processor_seconds().zip(before).map(|(after, before)| after - before));
        }
    }
    std::array::from_fn(|index| {
        let processor = std::mem::take(&mut processor[index]);
        let processor = if processor.is_empty() { None } else { Some(median(processor)) };
        (median(std::mem::take(&mut wall[index])), processor)
    })
}

fn report(name: &str, file: &[u8]) {
    let control = Control::default();
    let [older, file] = [3, 4].map(|version| ngsp::rewrite(file, name, version).unwrap());
    let file = &file[..];
    let load = |file: &[u8], threads| {
        std::hint::black_box(ngsp::decode(file, name, threads, &control).unwrap());
    };
    let jobs: [&dyn Fn(); 3] = [&|| load(&older, 1), &|| load(file, 1), &|| load(file, 2)];
    let [(wall_3, cpu_3), (wall, cpu), (wall_two, _)] = measure(jobs);
    let mut ngrams = 0;
    ngsp::decode(file, name, 1, &control).unwrap().for_each_ngram(|_, _, _| ngrams += 1);
    let json = |seconds: Option<f64>| seconds.map_or("null".to_owned(), |seconds| format!("{seconds:.3}"));
    println!(
        "{{\"file\": \"{name}\", \"ngrams\": {ngrams}, \"bytes\": {}, \"version_3_bytes\": {}, \
         \"version_3_cpu_s\": {}, \"version_3_wall_s\": {wall_3:.3}, \"cpu_s\": {}, \"wall_s\": {wall:.3}, \
         \"two_threads_wall_s\": {wall_two:.3}}}",
        file.len(),
        older.len(),
        json(cpu_3),
        json(cpu),
    );
}

fn main() {
    let paths: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for path in &paths {
        report(path, &fs::read(path).unwrap());
    }
    if paths.is_empty() {
        let control = Control::default();
        let spec = NgramSpec::new(common::VOCABULARY, 6).unwrap();
        let counts = count_streams(&[&common::tokens(1_000_000)[..]], spec, 2, &control).unwrap();
        let config = Config { max_bytes: 400_000, memory: 4 << 30, threads: 2 };
        report("synthetic", &build(&counts, &config, &control).unwrap());
    }
}
