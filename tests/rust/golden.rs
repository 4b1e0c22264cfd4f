//! Golden files: good ones mean what they always meant, bad ones are refused.
//!
//! `good/` are files that readers must understand for ever; what they hold is worked out here from the
//! definition, independently of the code that wrote them. `bad/` are named after what is wrong with them.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use hybridlm_core::hash::fnv1a;
use hybridlm_core::oracle::load;
use hybridlm_core::parallel::Control;
use hybridlm_core::tokens::Shard;
use hybridlm_core::Error;

const V: usize = 16;
const ROWS: [(usize, usize); 4] = [(1, 1), (2, V), (3, 8), (4, 5)];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(name)
}

/// The tokens of the golden shard: 0, 1, 4, 9, ... modulo 13.
fn tokens() -> Vec<u16> {
    (0..400u32).map(|i| (i * i % 13) as u16).collect()
}

fn cells(order: usize, rows: usize) -> Vec<i8> {
    let mut counts = vec![0u32; rows * V];
    for gram in tokens().windows(order) {
        let row = match order {
            1 => 0,
            2 => usize::from(gram[0]),
            _ => fnv1a(&gram[..order - 1]) as usize % rows,
        };
        counts[row * V + usize::from(gram[order - 1])] += 1;
    }
    let quantise = |row: &[u32]| {
        let total: u32 = row.iter().sum();
        let level = |&count: &u32| {
            let lp = (f64::from(count + 1) / (f64::from(total) + V as f64)).ln();
            (lp.clamp(-10.0, 0.0) / (10.0 / 127.0)).round_ties_even() as i8
        };
        row.iter().map(level).collect::<Vec<i8>>()
    };
    counts.chunks(V).flat_map(quantise).collect()
}

#[test]
fn good_files_mean_what_they_always_meant() {
    assert_eq!(Shard::open(folder("good").join("tokens.bin")).unwrap().tokens(), tokens());
    for name in ["dense_v1.ngor", "dense_v2.ngor"] {
        let oracle =
            load(&fs::read(folder("good").join(name)).unwrap(), name, 1, &Control::default()).unwrap();
        assert_eq!(oracle.vocab_size(), V);
        let found = oracle.dense().unwrap().tables();
        assert_eq!(found.len(), ROWS.len());
        for (table, (order, rows)) in found.iter().zip(ROWS) {
            assert_eq!((table.order, table.rows as usize), (order, rows));
            assert_eq!(table.cells, cells(order, rows), "{name}, order {order}");
        }
    }
}

#[test]
fn bad_files_are_refused() {
    let mut seen = 0;
    for entry in fs::read_dir(folder("bad")).unwrap() {
        let path = entry.unwrap().path();
        let error = match path.extension().unwrap().to_str().unwrap() {
            "bin" => Shard::open(&path).err(),
            "ngor" | "ngsp" => load(&fs::read(&path).unwrap(), "bad", 1, &Control::default()).err(),
            _ => continue,
        };
        assert!(matches!(error, Some(Error::Format { .. })), "{}: {error:?}", path.display());
        seen += 1;
    }
    assert!(seen >= 10);
}
