//! The codec: exact segmentation, exact frequencies, exact round trips.

use std::collections::HashMap;
use std::sync::Arc;

use constriction::stream::model::{DecoderModel, EncoderModel};
use hybridlm_core::codec::frequencies::{Frequencies, PRECISION};
use hybridlm_core::codec::predict::{Neural, Predictor};
use hybridlm_core::codec::segment::{Piece, Segmenter};
use hybridlm_core::codec::{compress, decompress, BLOCK};
use hybridlm_core::oracle::dense::oracle::DenseOracle;
use hybridlm_core::oracle::dense::table::{DenseTables, Table};
use hybridlm_core::oracle::Oracle;
use hybridlm_core::parallel::Control;
use hybridlm_core::{Error, Result};
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
    Predictor::new(vocab, None, oracle, "stacked", 1).unwrap()
}

/// A model that expects a token near the last one, with some more of its own arithmetic's making.
struct Near {
    bias: f32,
    calls: usize,
    /// It fails at this call.
    fails: usize,
}

impl Neural for Near {
    fn next(&mut self, token: u16, row: &mut [f32]) -> Result<()> {
        self.calls += 1;
        if self.calls == self.fails {
            return Err(Error::input("no more"));
        }
        let distance = |index: usize| index.abs_diff(usize::from(token)) as f32;
        row.iter_mut().enumerate().for_each(|(index, p)| *p = self.bias / (1.0 + distance(index)));
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|p| *p /= sum);
        Ok(())
    }
}

fn neural_predictor(bias: f32, fails: usize) -> Predictor {
    let vocab = pieces().len();
    let neural = Box::new(Near { bias, calls: 0, fails });
    Predictor::new(vocab, Some(neural), Some(some_oracle(vocab)), "stacked", 1).unwrap()
}

/// Three orders of an oracle that knows nothing but is sure of it.
fn some_oracle(vocab: usize) -> Arc<dyn Oracle> {
    let table = |order: usize, rows: usize| Table {
        order,
        rows: rows as u32,
        cells: (0..rows * vocab).map(|cell| -((cell * 7919 % 1009 % 128) as i8)).collect(),
    };
    Arc::new(DenseOracle::from(
        DenseTables::new(vocab, vec![table(1, 1), table(2, vocab), table(3, 64)]).unwrap(),
    ))
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
            &coded.payload, text.len(), &coded.checks, &segmenter(), &mut predictor(with_oracle), &control,
            "test",
        ).unwrap();
        prop_assert_eq!(back, text);
    }

    #[test]
    fn damage_never_panics(text in texts(), at in any::<prop::sample::Index>(), flip in 1u8..=255) {
        let control = Control::default();
        let coded = compress(&text, &segmenter(), &mut predictor(false), &control).unwrap();
        let (mut payload, checks) = (coded.payload, coded.checks);
        prop_assume!(!payload.is_empty());
        let at = at.index(payload.len());
        payload[at] ^= flip;
        for payload in [&payload[..], &payload[..at]] {
            let back =
                decompress(payload, text.len(), &checks, &segmenter(), &mut predictor(false), &control, "x");
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
    for mut model in [predictor(true), neural_predictor(1.0, 0)] {
        check_mixture(&mut model);
    }
}

fn check_mixture(model: &mut Predictor) {
    let text = segmenter().encode(b"the thane then the thane then").unwrap();
    for &token in &text {
        let row = model.predict().unwrap().to_vec();
        let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        let weights = model.weights().unwrap().to_vec();
        assert_eq!(weights.len(), model.names().len());
        let mixed: f64 = weights
            .iter()
            .zip(model.expert_probabilities(token).unwrap())
            .map(|(weight, p)| weight * p)
            .sum();
        assert!((mixed - f64::from(row[usize::from(token)])).abs() < 1e-6 * (1.0 + mixed));
        model.update(token).unwrap();
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
    assert!(Predictor::new(300, None, Some(some_oracle(pieces().len())), "stacked", 1).is_err());
    assert!(Predictor::new(300, None, None, "stacked", 300).is_err());
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

#[test]
fn a_neural_model_takes_part() {
    let text = b"the thane then the anthem ".repeat(50);
    let control = Control::default();
    let coded = compress(&text, &segmenter(), &mut neural_predictor(1.0, 0), &control).unwrap();
    let mut model = neural_predictor(1.0, 0);
    assert_eq!(model.names()[..2], ["neural", "backoff"]);
    let back =
        decompress(&coded.payload, text.len(), &coded.checks, &segmenter(), &mut model, &control, "test");
    assert_eq!(back.unwrap(), text);
    // What it raises reaches the caller, in both directions.
    for calls in [1, 7] {
        let error = compress(&text, &segmenter(), &mut neural_predictor(1.0, calls), &control).err().unwrap();
        assert_eq!(error.to_string(), "no more");
        let mut model = neural_predictor(1.0, calls);
        let back =
            decompress(&coded.payload, text.len(), &coded.checks, &segmenter(), &mut model, &control, "test");
        assert_eq!(back.unwrap_err().to_string(), "no more");
    }
    let error = neural_predictor(f32::NAN, 0).predict().unwrap_err().to_string();
    assert!(error.contains("diverged"), "{error}");
}

/// A predictor whose arithmetic differs in the last bits.
#[test]
fn other_arithmetic_is_noticed_at_once() {
    let text = b"the thane then the anthem ".repeat(50);
    let control = Control::default();
    let coded = compress(&text, &segmenter(), &mut neural_predictor(1.0, 0), &control).unwrap();
    let mut other = neural_predictor(1.1, 0);
    let error =
        decompress(&coded.payload, text.len(), &coded.checks, &segmenter(), &mut other, &control, "test");
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("test: from byte") && error.contains("arithmetic"), "{error}");
    assert!(other.learned() <= 64, "noticed after {} tokens", other.learned());
}

#[test]
fn a_block_that_comes_out_otherwise_is_noticed_at_its_end() {
    let text = b"the thane then the anthem ".repeat(4 * BLOCK / 26);
    let control = Control::default();
    let coded = compress(&text, &segmenter(), &mut predictor(false), &control).unwrap();
    assert_eq!(coded.checks.blocks.len(), text.len() / BLOCK);
    let mut checks = coded.checks;
    checks.blocks[1] ^= 1;
    let mut model = predictor(false);
    let error = decompress(&coded.payload, text.len(), &checks, &segmenter(), &mut model, &control, "test");
    assert!(error.unwrap_err().to_string().contains(&format!("from byte {BLOCK} on")));
    assert!(control.done() as usize >= text.len() && (control.done() as usize) < text.len() + 2 * BLOCK + 8);
}

#[test]
fn coding_begins_with_a_new_predictor() {
    let mut model = predictor(false);
    model.update(5).unwrap();
    assert!(compress(b"the", &segmenter(), &mut model, &Control::default()).is_err());
    assert!(predictor(false).update(pieces().len() as u16).is_err());
}
