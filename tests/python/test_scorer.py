"""`hybridlm.Scorer` is `hybridlm eval` for somebody else's model, piece by piece."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import hybridlm
from hybridlm.errors import InputError
from hybridlm.scoring.experts import Expert, Scored, online_experts
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.mixing import Mixers, MixtureSpec

V = 16
STREAM = np.random.default_rng(1).integers(0, V, 400).astype(np.uint16)
STREAM[200:300] = STREAM[:100]
LOGITS = np.random.default_rng(2).normal(size=(2, len(STREAM) - 1, V)).astype(np.float32)
ROWS = np.asarray(torch.from_numpy(LOGITS).log_softmax(dim=-1))
GIVEN = np.take_along_axis(ROWS, STREAM[None, 1:, None].astype(np.int64), axis=2)[..., 0]


@pytest.fixture(scope="module")
def oracle() -> hybridlm.Oracle:
    builder = hybridlm.OracleBuilder(hybridlm.Vocabulary(V), order=3)
    builder.add(STREAM[::-1].copy())
    return builder.build(max_bytes=2000)


class Known(Expert):
    family = "neural"
    names = ("mine", "other")
    vocab_size = V

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        return Scored(GIVEN[:, start - 1 : len(stream) - 1])

    def fingerprint(self) -> bytes:
        return b""


def scorer(oracle: hybridlm.Oracle | None = None, **options: object) -> hybridlm.Scorer:
    settings = {"first": int(STREAM[0]), "models": ("mine", "other"), "oracle": oracle, **options}
    return hybridlm.Scorer(V, **settings)  # type: ignore[arg-type]


@given(
    cuts=st.lists(st.integers(0, len(STREAM) - 1), max_size=5),
    mixer=st.sampled_from(["stacked", "eg", "hedge"]),
)
def test_any_cut_gives_the_bits_of_the_whole_score(
    oracle: hybridlm.Oracle, cuts: list[int], mixer: str
) -> None:
    experts = [Known(), *online_experts(V), OracleExperts(oracle)]
    log_probs, nll = Mixers({"": MixtureSpec(mixer)}, experts).score(STREAM, 1)
    mine = scorer(oracle, mixer=mixer)
    edges = [0, *sorted(cuts), len(STREAM) - 1]
    pieces = [
        mine.score(STREAM[1:][start:end], GIVEN[:, start:end]) for start, end in itertools.pairwise(edges)
    ]
    np.testing.assert_array_equal(np.concatenate([piece.nll for piece in pieces]), nll[""])
    np.testing.assert_array_equal(np.concatenate([piece.experts for piece in pieces], axis=1), log_probs)
    assert mine.targets == len(STREAM) - 1 and mine.names[:2] == ("mine", "other")


@pytest.mark.parametrize("form", ["targets", "rows", "tensor", "tensor rows", "tensor tokens"])
def test_arrays_and_tensors_of_targets_and_of_rows_are_the_same(form: str) -> None:
    expected = scorer().score(STREAM[1:], GIVEN).nll
    tokens = torch.from_numpy(STREAM[1:].astype(np.int64)) if form == "tensor tokens" else STREAM[1:]
    given = ROWS if "rows" in form else GIVEN
    log_probs = torch.from_numpy(given) if "tensor" in form else given
    np.testing.assert_array_equal(scorer().score(tokens, log_probs).nll, expected)
    one = scorer(models=("mine",)).score(tokens, log_probs[0]).nll
    np.testing.assert_array_equal(one, scorer(models=("mine",)).score(STREAM[1:], GIVEN[:1]).nll)


def test_without_a_model_the_experts_alone_are_mixed(oracle: hybridlm.Oracle) -> None:
    experts = [*online_experts(V), OracleExperts(oracle)]
    expected = Mixers({"": MixtureSpec("stacked")}, experts).score(STREAM, 1)[1][""]
    np.testing.assert_array_equal(scorer(oracle, models=()).score(STREAM[1:]).nll, expected)


def test_the_fingerprint_changes_with_what_is_learned() -> None:
    one, other = scorer(), scorer()
    assert one.fingerprint() == other.fingerprint()
    one.score(STREAM[1:2], GIVEN[:, :1])
    assert one.fingerprint() != other.fingerprint()
    other.score(STREAM[1:2], GIVEN[:, :1])
    assert one.fingerprint() == other.fingerprint()


def test_what_cannot_be_scored_is_refused_and_nothing_is_learned(oracle: hybridlm.Oracle) -> None:
    mine = scorer()
    before = mine.fingerprint()
    for tokens, log_probs, message in [
        (np.array([V]), GIVEN[:, :1], f"vocabulary has {V}"),
        (np.array([-1]), GIVEN[:, :1], "reach from -1"),
        (np.array([1.0]), GIVEN[:, :1], "whole numbers"),
        (np.array([[1]]), GIVEN[:, :1], "one row"),
        (STREAM[1:2], None, "mine, other are missing"),
        (STREAM[1:2], GIVEN[:, :2], r"must be \(2, 1\)"),
        (STREAM[1:2], GIVEN[:1, :1], r"must be \(2, 1\)"),
        (STREAM[1:2], np.full((2, 1), 0.1), "above 0"),
        (STREAM[1:2], np.full((2, 1), np.nan), "not finite"),
    ]:
        with pytest.raises(InputError, match=message):
            mine.score(tokens, log_probs)
    assert mine.fingerprint() == before
    with pytest.raises(InputError, match="vocabulary of 16 tokens, not 17"):
        hybridlm.Scorer(V + 1, oracle=oracle)
    with pytest.raises(InputError, match="whole rows"):
        hybridlm.Scorer(V, mixer="geometric")
