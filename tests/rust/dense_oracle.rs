//! Look-ups against a slow loop over the tables' definition.

use hybridlm_core::oracle::dense::contexts::fnv1a;
use hybridlm_core::oracle::dense::counts::{Counts, Stream, TableSpec};
use hybridlm_core::oracle::dense::oracle::DenseOracle;
use hybridlm_core::oracle::dense::table::{DenseTables, Table};
use hybridlm_core::oracle::{log_probs, mixture, target_log_probs, Info, Oracle};
use hybridlm_core::parallel::Control;
use hybridlm_core::vocabulary::Vocabulary;
use hybridlm_core::Error;
use proptest::prelude::*;

const V: usize = 20;

fn oracle(training: &[u16], orders: usize, rows: &[(usize, u32)]) -> DenseOracle {
    let spec = TableSpec::with_defaults(V, orders, rows).unwrap();
    let mut counts = Counts::new(spec.clone()).unwrap();
    counts.count(&[Stream { tokens: training, path: None }], 1, &Control::default()).unwrap();
    let tables = spec.tables().iter().enumerate();
    let tables = tables.map(|(i, &(order, rows))| Table { order, rows, cells: counts.quantise(i, 1) });
    DenseTables::new(V, tables.collect()).unwrap().into()
}

/// The definition: the context padded with token 0, its row, the row dequantised and renormalised.
fn slow(oracle: &DenseOracle, index: usize, tokens: &[u16], position: usize) -> Vec<f64> {
    let table = &oracle.dense().unwrap().tables()[index];
    let padded: Vec<u16> = [&[0; 8][..], tokens].concat();
    let context = &padded[8 + position + 1 - table.order..8 + position];
    let row = match table.order {
        1 => 0,
        2 => u32::from(context[0]),
        _ => fnv1a(context) % table.rows,
    } as usize;
    let row: Vec<f64> = table.cells[row * V..][..V].iter().map(|&q| f64::from(q) * 10.0 / 127.0).collect();
    let log_sum = row.iter().map(|lp| lp.exp()).sum::<f64>().ln();
    row.iter().map(|lp| lp - log_sum).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn lookups_are_those_of_a_slow_loop(
        training in prop::collection::vec(0u16..V as u16, 0..400),
        tokens in prop::collection::vec(0u16..V as u16, 0..60),
        orders in 1usize..=8,
        rows in 1u32..30,
        start in 0.0..1.0f64,
        threads in 1usize..4,
    ) {
        let rows: Vec<_> = (3..=orders).map(|order| (order, rows + order as u32)).collect();
        let oracle = oracle(&training, orders, &rows);
        let start = (start * tokens.len() as f64) as usize;
        let targets = tokens.len() - start;
        let mut values = vec![f32::NAN; orders * targets];
        target_log_probs(&oracle, &tokens, start, threads, &mut values).unwrap();
        let positions: Vec<usize> = (0..=tokens.len()).rev().collect();
        let mut full = vec![f32::NAN; orders * positions.len() * V];
        log_probs(&oracle, &tokens, &positions, threads, &mut full).unwrap();
        for k in 0..orders {
            for (m, &position) in positions.iter().enumerate() {
                let expected = slow(&oracle, k, &tokens, position);
                let found = &full[(k * positions.len() + m) * V..][..V];
                let sum: f64 = found.iter().map(|&lp| f64::from(lp).exp()).sum();
                prop_assert!((sum - 1.0).abs() < 1e-5);
                for (token, expected) in expected.iter().enumerate() {
                    prop_assert!((f64::from(found[token]) - expected).abs() < 1e-5);
                }
                if (start..tokens.len()).contains(&position) {
                    let value = values[k * targets + position - start];
                    prop_assert_eq!(value, found[usize::from(tokens[position])]);
                }
            }
        }
    }
}

#[test]
fn threads_change_nothing() {
    let training: Vec<u16> = (0..50_000u32).map(|i| (i * i / 7 % V as u32) as u16).collect();
    let oracle = oracle(&training, 8, &[]);
    let positions: Vec<usize> = (0..training.len()).step_by(7).collect();
    let run = |threads| {
        let mut targets = vec![0f32; 8 * (training.len() - 3)];
        target_log_probs(&oracle, &training, 3, threads, &mut targets).unwrap();
        let mut rows = vec![0f32; 8 * positions.len() * V];
        log_probs(&oracle, &training, &positions, threads, &mut rows).unwrap();
        (targets, rows)
    };
    let single = run(1);
    assert!([2, 3, 8].into_iter().all(|threads| run(threads) == single));
}

/// An oracle that has only the two kernels that it must have.
struct Plain(DenseOracle);

impl Oracle for Plain {
    fn estimator(&self) -> &'static str {
        "plain"
    }
    fn vocabulary(&self) -> &Vocabulary {
        self.0.vocabulary()
    }
    fn orders(&self) -> &[usize] {
        self.0.orders()
    }
    fn info(&self) -> Info {
        self.0.info()
    }
    fn target_kernel(&self, tokens: &[u16], range: std::ops::Range<usize>, out: &mut [&mut [f32]]) {
        self.0.target_kernel(tokens, range, out);
    }
    fn rows_kernel(&self, tokens: &[u16], positions: &[usize], out: &mut [&mut [f32]]) {
        self.0.rows_kernel(tokens, positions, out);
    }
}

#[test]
fn mixtures_are_those_of_the_rows_with_and_without_a_kernel_of_their_own() {
    let training: Vec<u16> = (0..5_000u32).map(|i| (i * i / 7 % V as u32) as u16).collect();
    let dense = oracle(&training, 5, &[(3, 10), (4, 7), (5, 3)]);
    let positions: Vec<usize> = (0..300).chain([5_000]).collect();
    let columns = positions.len();
    let weights: Vec<f32> = (0..5 * columns).map(|i| (i * 37 % 101) as f32 / 250.0).collect();
    let mut rows = vec![0f32; 5 * columns * V];
    log_probs(&dense, &training, &positions, 1, &mut rows).unwrap();
    let plain = Plain(oracle(&training, 5, &[(3, 10), (4, 7), (5, 3)]));
    for (threads, oracle) in [(1, &dense as &dyn Oracle), (3, &dense), (2, &plain)] {
        let mut mixed = vec![f32::NAN; columns * V];
        mixture(oracle, &training, &positions, &weights, threads, &mut mixed).unwrap();
        for (m, found) in mixed.chunks(V).enumerate() {
            for (token, &found) in found.iter().enumerate() {
                let term = |k: usize| {
                    f64::from(weights[k * columns + m]) * f64::from(rows[(k * columns + m) * V + token]).exp()
                };
                let expected: f64 = (0..5).map(term).sum();
                assert!((f64::from(found) - expected).abs() < 1e-6 * (1.0 + expected));
            }
        }
    }
    let refused = |weight| {
        let mut weights = weights.clone();
        weights[7] = weight;
        let mut out = vec![0f32; columns * V];
        assert!(mixture(&dense, &training, &positions, &weights, 1, &mut out).is_err());
    };
    refused(-0.1);
    refused(f32::NAN);
    refused(f32::INFINITY);
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let oracle = oracle(&[1, 2, 3], 2, &[]);
    let refused = |result| assert!(matches!(result, Err(Error::Input(_))));
    refused(target_log_probs(&oracle, &[1, 20], 0, 1, &mut [0.0; 4]));
    refused(target_log_probs(&oracle, &[1, 2], 3, 1, &mut []));
    refused(target_log_probs(&oracle, &[1, 2], 0, 1, &mut [0.0; 3]));
    refused(log_probs(&oracle, &[1, 2], &[3], 1, &mut [0.0; 40]));
    refused(log_probs(&oracle, &[1, 2], &[2], 1, &mut [0.0; 39]));
    assert_eq!(oracle.estimator(), "dense");
}

#[test]
fn tables_that_are_no_oracle_are_refused() {
    let table = |order, rows: u32, cell| Table { order, rows, cells: vec![cell; rows as usize * V] };
    let refused = |tables| assert!(matches!(DenseTables::new(V, tables), Err(Error::Input(_))));
    refused(vec![]);
    refused(vec![table(1, 1, 0), table(1, 1, 0)]);
    refused(vec![table(1, 2, 0)]);
    refused(vec![table(3, 4, 1)]);
    refused(vec![table(3, 4, -128)]);
    refused(vec![Table { order: 3, rows: 4, cells: vec![0; 3] }]);
}
