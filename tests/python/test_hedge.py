import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hybridlm.errors import InputError
from hybridlm.scoring.mixtures import create_mixture, create_row_mixture, mixture_names
from hybridlm.scoring.mixtures.hedge import RATE, SPAN, hedge_token_on_device, initial_log_weights

# As many as a whole artifact has: few enough rows are added in one order by any means.
NAMES = ["neural", "unigram", "bigram", "trigram", "decay", *(f"oracle_{order}" for order in range(1, 9))]


def expert_log_probs(n: int, experts: int = len(NAMES), seed: int = 0) -> NDArray[np.float32]:
    """Plausible ones: each expert has its own level, targets are easy or hard for all at once."""
    rng = np.random.default_rng(seed)
    hardness = rng.gamma(2.0, 1.0, n)
    return -(hardness * rng.gamma(4.0, 0.25, (experts, n)) + rng.random((experts, 1))).astype(np.float32)


def slow_hedge(log_probs: NDArray[np.float32], names: list[str], span: int) -> list[float]:
    """One target and one expert at a time; weights as plain probabilities."""
    log_weights = [2.0 if name == "neural" else 0.0 for name in names]
    nll: list[float] = []
    pending: list[list[float]] = [[] for _ in names]
    for t in range(log_probs.shape[1]):
        scale = sum(math.exp(w) for w in log_weights)
        p = sum(
            math.exp(w) / scale * math.exp(float(row[t]))
            for w, row in zip(log_weights, log_probs, strict=True)
        )
        nll.append(-math.log(p))
        for losses, row in zip(pending, log_probs, strict=True):
            losses.append(-float(row[t]))
        if len(pending[0]) == span:
            log_weights = [
                w - RATE * sum(losses) / span for w, losses in zip(log_weights, pending, strict=True)
            ]
            pending = [[] for _ in names]
    return nll


@pytest.mark.parametrize(("mixer", "span"), [("hedge", SPAN), ("hedge-token", 1)])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
def test_equal_to_a_slow_loop(mixer: str, span: int, n: int) -> None:
    log_probs = expert_log_probs(n)
    fast = create_mixture(mixer, NAMES).mix(log_probs)
    np.testing.assert_allclose(fast, slow_hedge(log_probs, NAMES, span), rtol=1e-12)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_form_for_devices_equals_the_array_form_over_several_calls(compiled: bool) -> None:
    torch = pytest.importorskip("torch")
    on_device = torch.compile(hedge_token_on_device) if compiled else hedge_token_on_device
    log_probs = expert_log_probs(5000)
    mixture = create_mixture("hedge-token", NAMES)
    log_weights = torch.from_numpy(initial_log_weights(NAMES))
    for piece in np.array_split(log_probs, 3, axis=1):
        nll, log_weights = on_device(torch.from_numpy(piece), log_weights)
        np.testing.assert_allclose(nll.numpy(), mixture.mix(piece), rtol=1e-10)
    np.testing.assert_allclose(
        torch.log_softmax(log_weights, 0).numpy(), mixture.log_weights, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("mixer", mixture_names())
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 700), max_size=8), seed=st.integers(0, 1000))
def test_cutting_the_stream_changes_no_bit(mixer: str, cuts: list[int], seed: int) -> None:
    log_probs = expert_log_probs(700, seed=seed)
    whole = create_mixture(mixer, NAMES).mix(log_probs)
    pieces = create_mixture(mixer, NAMES)
    parts = [pieces.mix(part) for part in np.split(log_probs, sorted(cuts), axis=1)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("mixer", mixture_names())
def test_weights_are_a_distribution_and_are_those_that_the_next_target_meets(mixer: str) -> None:
    mixture = create_mixture(mixer, NAMES)
    for seed, n in enumerate([1, 30, 100, 64, 3]):
        weights = mixture.weights()
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        log_probs = expert_log_probs(n, seed=seed)
        expected = -np.log(weights @ np.exp(log_probs[:, 0].astype(np.float64)))
        assert mixture.mix(log_probs)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mixer", mixture_names())
def test_a_later_target_changes_no_earlier_score(mixer: str) -> None:
    log_probs = expert_log_probs(300)
    changed = log_probs.copy()
    changed[:, 170:] *= 0.1
    before = create_mixture(mixer, NAMES).mix(log_probs)
    after = create_mixture(mixer, NAMES).mix(changed)
    np.testing.assert_array_equal(before[:170], after[:170])
    assert (before[170:] != after[170:]).all()


@pytest.mark.parametrize("mixer", ["hedge", "hedge-token", "bayes"])
def test_an_expert_that_rules_a_target_out_costs_its_weight_only(mixer: str) -> None:
    log_probs = expert_log_probs(200)
    log_probs[2] = -120.0
    nll = create_mixture(mixer, NAMES).mix(log_probs)
    alone = create_mixture(mixer, NAMES[:2] + NAMES[3:]).mix(np.delete(log_probs, 2, 0))
    assert np.isfinite(nll).all()
    assert (nll >= alone - 1e-9).all() and (nll <= alone + 0.2).all()


def test_names_that_are_not_registered_are_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"'nosuch'.*hedge, hedge-token"):
        create_mixture("nosuch", NAMES)
    with pytest.raises(InputError, match="no expert"):
        create_mixture("hedge", [])
    with pytest.raises(InputError, match="no expert"):
        create_row_mixture("geometric", [], 5)
    with pytest.raises(InputError, match="whole rows"):
        create_mixture("geometric", NAMES)
