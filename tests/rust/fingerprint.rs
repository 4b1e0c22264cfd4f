//! Fingerprints: nothing that only looks changes one, and whatever is learned does.

use hybridlm_core::experts::adaptive::{AdaptiveExperts, Config, GATES, NAMES};
use hybridlm_core::experts::longest_match;
use hybridlm_core::experts::reference::OnlineExperts;
use hybridlm_core::fingerprint::Stateful;
use hybridlm_core::mixtures::{self, geometric::Geometric, Sources};

const V: usize = 20;
const TOKENS: [u16; 12] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 1, 4];

#[test]
fn adaptive_experts() {
    let longest_match = longest_match::Config { least: 2, memory: 256 };
    let config = Config { longest_match, ..Default::default() };
    let mut experts = AdaptiveExperts::new(V, config).unwrap();
    let mut again = AdaptiveExperts::new(V, config).unwrap();
    let mut seen = vec![experts.fingerprint()];
    for token in TOKENS {
        experts.rows(&mut [0.0; V * NAMES.len()]);
        experts.probabilities(token);
        experts.gates();
        assert_eq!(Some(&experts.fingerprint()), seen.last());
        experts.update(token);
        again.update(token);
        assert_eq!(experts.fingerprint(), again.fingerprint());
        assert!(!seen.contains(&experts.fingerprint()));
        seen.push(experts.fingerprint());
    }
}

#[test]
fn online_experts() {
    let mut experts = OnlineExperts::new(V).unwrap();
    let mut seen = vec![experts.fingerprint()];
    for token in TOKENS {
        experts.next_log_probs(&mut [0.0; V * 4]);
        assert_eq!(Some(&experts.fingerprint()), seen.last());
        experts.observe(&[token]).unwrap();
        assert!(!seen.contains(&experts.fingerprint()));
        seen.push(experts.fingerprint());
    }
}

#[test]
fn mixtures() {
    for name in mixtures::NAMES {
        let sources = Sources { experts: 3, gates: &GATES, base: &[0, 1], lengths: 0, ready: &[0] };
        let mut mixture = mixtures::create(name, sources).unwrap();
        let mut seen = vec![mixture.fingerprint()];
        for token in TOKENS {
            let gates = [token as u8 % 3; GATES.len()];
            mixture.weights(&gates, &mut [0.0; 3]);
            assert_eq!(Some(&mixture.fingerprint()), seen.last(), "{name}");
            mixture.update(&gates, &[0.1, 0.2 + f64::from(token) / 100.0, 0.3]);
            assert!(!seen.contains(&mixture.fingerprint()), "{name}");
            seen.push(mixture.fingerprint());
        }
    }
    let mut mixture = Geometric::new(2, &[], 3).unwrap();
    let rows = [-1.0, -2.0, -0.5, -3.0, -0.2, -2.0];
    let before = mixture.fingerprint();
    mixture.row(&[&rows[..3], &rows[3..]], &mut [0.0; 3]);
    assert_eq!(mixture.fingerprint(), before);
    mixture.mix(&rows, &[1], &mut [0.0]).unwrap();
    assert_ne!(mixture.fingerprint(), before);
}
