//! The fuzz targets' entry points on what fuzzing has found, on altered golden files and on random bytes, for some
//! seconds each.

use std::fs;
use std::time::{Duration, Instant};

use hybridlm_core::fuzz::ENTRIES;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

/// Flips, cuts, repeats, inserts and overwrites, as fuzzers do.
fn alter(data: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(data.len());
        match random.below(5) {
            0 if !data.is_empty() => data[at] ^= 1 << random.below(8),
            1 => data.truncate(at),
            2 => data.extend_from_within(at..),
            3 => data.insert(at, random.below(256) as u8),
            _ => {
                let extreme = [0u32, 1, 0x7fff_ffff, u32::MAX, 1 << 16][random.below(5)].to_le_bytes();
                data.iter_mut().skip(at).zip(extreme).for_each(|(byte, value)| *byte = value);
            }
        }
    }
}

#[test]
fn entries_return_whatever_the_bytes() {
    let seconds = std::env::var("HYBRIDLM_FUZZ_SECONDS").map_or(1, |value| value.parse().unwrap());
    let mut seeds = vec![Vec::new()];
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
    let list = |folder: &str| {
        let entries = fs::read_dir(root.to_owned() + folder).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let folders = ["tests/golden/good", "tests/golden/bad"].map(str::to_owned).into_iter();
    let corpora = list("tests/golden/fuzz")
        .into_iter()
        .map(|path| format!("tests/golden/fuzz/{}", path.file_name().unwrap().to_str().unwrap()));
    for folder in folders.chain(corpora) {
        seeds.extend(list(&folder).iter().map(|path| fs::read(path).unwrap()));
    }
    let mut random = Random(1);
    for entry in ENTRIES {
        seeds.iter().for_each(|seed| entry(seed));
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let mut data = seeds[random.below(seeds.len())].clone();
            alter(&mut data, &mut random);
            entry(&data);
        }
    }
}
