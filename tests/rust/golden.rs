//! Golden files: good ones mean what they always meant, bad ones are refused.
//!
//! `good/` are files that readers must understand for ever; what they hold is worked out here from the
//! definition, independently of the code that wrote them. `bad/` are named after what is wrong with them.

use std::fs;
use std::path::PathBuf;

use hybridlm_core::bytes::checksum;
use hybridlm_core::kinds::looks_like;
use hybridlm_core::oracle::dense::contexts::fnv1a;
use hybridlm_core::oracle::dense::counts::TableSpec;
use hybridlm_core::oracle::dense::ngor_packed;
use hybridlm_core::oracle::dense::partial::PartialCounts;
use hybridlm_core::oracle::dense::table::Table;
use hybridlm_core::oracle::load;
use hybridlm_core::parallel::Control;
use hybridlm_core::tokens::Shard;
use hybridlm_core::vocabulary::Vocabulary;
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

/// Of the golden files that know their tokenizer.
fn vocabulary() -> Vocabulary {
    Vocabulary { size: V, bos: 3, fingerprint: Some(std::array::from_fn(|index| index as u8 + 1)) }
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
    for (name, vocabulary) in
        [("dense_v1.ngor", V.into()), ("dense_v2.ngor", V.into()), ("dense_v3.ngor", vocabulary())]
    {
        let oracle =
            load(&fs::read(folder("good").join(name)).unwrap(), name, 1, &Control::default()).unwrap();
        assert_eq!(*oracle.vocabulary(), vocabulary);
        let found = oracle.dense().unwrap().tables();
        assert_eq!(found.len(), ROWS.len());
        for (table, (order, rows)) in found.iter().zip(ROWS) {
            assert_eq!((table.order, table.rows as usize), (order, rows));
            assert_eq!(table.cells, cells(order, rows), "{name}, order {order}");
        }
    }
}

#[test]
fn files_are_known_by_how_they_begin() {
    for file in fs::read_dir(folder("good")).unwrap() {
        let path = file.unwrap().path();
        let kind = looks_like(&fs::read(&path).unwrap()).unwrap_or_default();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("ngsp" | "ngor") => assert!(kind.starts_with("an oracle"), "{}: {kind}", path.display()),
            Some("part") => assert_eq!(kind, "partial counts", "{}", path.display()),
            Some("txt") => assert_eq!(kind, "text", "{}", path.display()),
            _ => {}
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
    for (name, part) in [
        ("v3_document_token", "document token 16 is outside the vocabulary of 16 tokens"),
        (
            "v3_truncated_identity",
            "the tokenizer's fingerprint at offset 28 needs 32 bytes where 31 are left",
        ),
    ] {
        let data = fs::read(folder("bad").join(format!("{name}.ngor"))).unwrap();
        let error = load(&data, name, 1, &Control::default()).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
#[ignore = "rewrites the golden files; for a new version of the format"]
fn golden_files_are_made_like_this() {
    let control = Control::default();
    let spec = TableSpec::new(vocabulary(), &ROWS.map(|(order, rows)| (order, rows as u32))).unwrap();
    let mut counts = PartialCounts::new(spec).unwrap();
    counts.count(&[folder("good").join("tokens.bin")], 1, &control).unwrap();
    let part = counts.to_bytes(1, &control).unwrap();
    fs::write(folder("good").join("counts_v2.part"), &part).unwrap();
    let table = |(order, rows)| Table { order, rows: rows as u32, cells: cells(order, rows) };
    let oracle = ngor_packed::encode(&vocabulary(), 400, &ROWS.map(table), 1, 1, &control).unwrap();
    fs::write(folder("good").join("dense_v3.ngor"), &oracle).unwrap();

    let bad = |name: &str, data: &[u8]| fs::write(folder("bad").join(name), data).unwrap();
    let with = |offset: usize, value: u32| {
        let mut data = part[..part.len() - 32].to_vec();
        data[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        data.extend(blake3::hash(&data).as_bytes());
        data
    };
    bad("part_version.part", &with(4, 3));
    bad("part_document_token.part", &with(28, 16));
    let mut other = oracle.clone();
    other[24] = 16;
    let end = 60 + 16 * ROWS.len();
    let sum = checksum(&other[..end]);
    other[end..end + 8].copy_from_slice(&sum.to_le_bytes());
    bad("v3_document_token.ngor", &other);
    bad("v3_truncated_identity.ngor", &oracle[..59]);
}

/// What is wrong with each file of partial counts under `bad/`, in the words of its refusal. All but the
/// first five have a right checksum.
const BAD_PARTS: [(&str, &str); 22] = [
    ("magic", "is not how partial counts begin"),
    ("version", "version 3; this program reads versions up to 2"),
    ("truncated", "a file of 302 bytes, but 301 are here"),
    ("trailing", "a file of 302 bytes, but 303 are here"),
    ("flipped", "the checksum is wrong"),
    ("no_tables", "0 tables, where 1 to 8 are possible"),
    ("orders_not_ascending", "order 1 is out of order"),
    ("rows_without_end", "order 4: 4294967295 rows of 16 are more than 2^32 cells"),
    ("shard_twice", "the shard's hash is out of order"),
    ("shards_without_end", "the shards' tokens don't fit 64 bits"),
    ("name_not_utf8", "a shard's name is not UTF-8"),
    ("chunk_missing", "a chunk's length at offset 228 needs 4 bytes where 0 are left"),
    ("chunk_too_many", "bytes follow the end of the data"),
    ("chunk_no_frame", "no zstd frame where one should begin"),
    ("chunk_bomb", "the zstd frame declares 1048576 bytes"),
    ("chunk_ends_early", "the chunk's numbers end too early"),
    ("chunk_trailing", "bytes follow the chunk's last count"),
    ("cells_too_many", "the chunk has more counts than cells"),
    ("cell_outside", "a count lies beyond the chunk's cells"),
    ("count_beyond_tokens", "an n-gram is counted more often than there are tokens"),
    ("document_token", "document token 16 is outside the vocabulary of 16 tokens"),
    ("sum", "order 1 counts 399 n-grams, but its shards hold 400"),
];

#[test]
fn bad_partial_counts_are_refused_for_what_is_wrong() {
    for (name, expected) in BAD_PARTS {
        let name = format!("part_{name}.part");
        let data = fs::read(folder("bad").join(&name)).unwrap();
        let error = PartialCounts::from_bytes(&data, &name, 1, &Control::default()).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{name}: {error:?}");
        let message = error.to_string();
        assert!(message.starts_with(&name) && message.contains(expected), "{message}");
    }
    let parts = fs::read_dir(folder("bad"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("part_"));
    assert_eq!(parts.count(), BAD_PARTS.len());
}
