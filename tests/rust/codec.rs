//! The codec: exact segmentation, exact frequencies, exact round trips.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use constriction::stream::model::{DecoderModel, EncoderModel};
use hybridlm_core::codec::predict::Predictor;
use hybridlm_core::codec::quantise::{Frequencies, PRECISION};
use hybridlm_core::codec::segment::{Piece, Segmenter};
use hybridlm_core::codec::{compress, decompress};
use hybridlm_core::oracle::dense::{DenseOracle, Table};
use hybridlm_core::oracle::Oracle;
use hybridlm_core::parallel::Control;
use proptest::prelude::*;

const WORDS: [&str; 14] = [" ", "t", "h", "e", "a", "n", "é", "th", " th", "the", " the", "an", "  ", "ana"];

fn pieces() -> Vec<Piece> {
    let specials = (0..4).map(|_| Piece::None);
    let bytes = (0..=255).map(Piece::Byte);
    let words = WORDS
        .iter()
        .enumerate()
        .map(|(rank, word)| Piece::Text { bytes: word.as_bytes().to_vec(), score: -(rank as f32) });
    specials.chain(bytes).chain(words).collect()
}

fn segmenter() -> Segmenter {
    Segmenter::new(pieces()).unwrap()
}

/// Merges by trying all pairs again and again; for a text without anything but pieces.
fn slow_merges(word: &str) -> Vec<String> {
    let rank: HashMap<&str, usize> = WORDS.iter().enumerate().map(|(rank, word)| (*word, rank)).collect();
    let mut symbols: Vec<String> = word.chars().map(String::from).collect();
    loop {
        let pairs = symbols.windows(2).enumerate();
        let best = pairs.filter_map(|(at, pair)| Some((*rank.get(pair.concat().as_str())?, at))).min();
        let Some((_, at)) = best else { return symbols };
        let right = symbols.remove(at + 1);
        symbols[at] += &right;
    }
}

fn predictor(with_oracle: bool) -> Predictor {
    let vocab = pieces().len();
    let oracle = with_oracle.then(|| some_oracle(vocab));
    Predictor::new(vocab, oracle, 1).unwrap()
}

/// Three orders of an oracle that knows nothing but is sure of it.
fn some_oracle(vocab: usize) -> Box<dyn Oracle> {
    let table = |order: usize, rows: usize| Table {
        order,
        rows: rows as u32,
        cells: (0..rows * vocab).map(|cell| -((cell * 7919 % 1009 % 128) as i8)).collect(),
    };
    Box::new(DenseOracle::new(vocab, vec![table(1, 1), table(2, vocab), table(3, 64)]).unwrap())
}

fn texts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(WORDS.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..4),
        Just(b"the thane ".repeat(20)),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_bytes_come_back(text in texts(), with_oracle in any::<bool>()) {
        let control = Control::default();
        let coded = compress(&text, &segmenter(), &mut predictor(with_oracle), &control).unwrap();
        let claimed = coded.bits / 8.0;
        prop_assert!((coded.payload.len() as f64) < 1.005 * claimed + 16.0);
        prop_assert!((coded.payload.len() as f64) > 0.995 * claimed - 16.0);
        let back = decompress(
            &coded.payload, text.len(), &segmenter(), &mut predictor(with_oracle), &control, "test",
        ).unwrap();
        prop_assert_eq!(back, text);
    }

    #[test]
    fn damage_never_panics(text in texts(), at in any::<prop::sample::Index>(), flip in 1u8..=255) {
        let control = Control::default();
        let mut payload = compress(&text, &segmenter(), &mut predictor(false), &control).unwrap().payload;
        prop_assume!(!payload.is_empty());
        let at = at.index(payload.len());
        payload[at] ^= flip;
        for payload in [&payload[..], &payload[..at]] {
            let back = decompress(payload, text.len(), &segmenter(), &mut predictor(false), &control, "x");
            if let Ok(back) = back {
                prop_assert_eq!(back.len(), text.len());
            }
        }
    }

    #[test]
    fn segments_are_exact(text in prop::collection::vec(any::<u8>(), 0..2000)) {
        let tokens = segmenter().encode(&text).unwrap();
        prop_assert_eq!(segmenter().decode(&tokens).unwrap(), text);
    }

    #[test]
    fn merges_go_by_score_then_from_the_left(word in "[thean]{0,30}") {
        let tokens = segmenter().encode(word.as_bytes()).unwrap();
        let found: Vec<String> = tokens
            .iter()
            .map(|&token| String::from_utf8(segmenter().bytes(token).to_vec()).unwrap())
            .collect();
        prop_assert_eq!(found, slow_merges(&word));
    }

    #[test]
    fn frequencies_fill_the_range(weights in prop::collection::vec(0.0f32..1.0, 2..400), spike in 0.0f32..1e6) {
        let mut weights = weights;
        weights[0] += spike + 1e-6;
        let sum: f32 = weights.iter().sum();
        let row: Vec<f32> = weights.iter().map(|weight| weight / sum).collect();
        let mut frequencies = Frequencies::new(row.len()).unwrap();
        frequencies.round(&row);
        let mut left = 0;
        for (token, probability) in row.iter().enumerate() {
            let (cumulative, frequency) = frequencies.left_cumulative_and_probability(token as u16).unwrap();
            prop_assert_eq!(cumulative, left);
            let share = f64::from(frequency.get()) / f64::from(1u32 << PRECISION);
            prop_assert!(share > 0.9998 * f64::from(*probability));
            for quantile in [left, left + frequency.get() - 1] {
                prop_assert_eq!(frequencies.quantile_function(quantile), (token as u16, cumulative, frequency));
            }
            left += frequency.get();
        }
        prop_assert_eq!(left, 1 << PRECISION);
        prop_assert!(frequencies.left_cumulative_and_probability(row.len() as u16).is_none());
    }
}

#[test]
fn predictions_are_the_mixture_of_the_experts() {
    let mut model = predictor(true);
    let text = segmenter().encode(b"the thane then the thane then").unwrap();
    for &token in &text {
        let row = model.predict().to_vec();
        let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        let weights = model.weights().to_vec();
        assert_eq!(weights.len(), model.names().len());
        let mixed: f64 =
            weights.iter().zip(model.expert_probabilities(token)).map(|(weight, p)| weight * p).sum();
        assert!((mixed - f64::from(row[usize::from(token)])).abs() < 1e-6 * (1.0 + mixed));
        model.update(token);
    }
}

#[test]
fn a_vocabulary_without_byte_pieces_says_what_it_lacks() {
    let pieces: Vec<Piece> = pieces().into_iter().filter(|piece| !matches!(piece, Piece::Byte(_))).collect();
    let error = Segmenter::new(pieces).unwrap().encode(b"the x").unwrap_err().to_string();
    assert!(error.contains("0x78") && error.contains("offset 4"), "{error}");
}

#[test]
fn a_foreign_oracle_is_refused() {
    assert!(Predictor::new(300, Some(some_oracle(pieces().len())), 1).is_err());
    assert!(Predictor::new(300, None, 300).is_err());
}

#[test]
fn long_stretches_without_a_space() {
    for text in [vec![b'e'; 100_000], "é".repeat(5_000).into_bytes(), vec![0x80; 1_000]] {
        let tokens = segmenter().encode(&text).unwrap();
        assert_eq!(segmenter().decode(&tokens).unwrap(), text);
    }
    // No character is cut in two: each is its own piece.
    assert_eq!(segmenter().encode("é".repeat(5_000).as_bytes()).unwrap().len(), 5_000);
}
