"""`hybridlm.Scorer` is `hybridlm eval` for somebody else's model, piece by piece."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import hybridlm
from hybridlm._core import AdaptiveExperts, OnlineExperts
from hybridlm.errors import FormatError, InputError
from hybridlm.scoring.experts import Expert, Scored, online_experts
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.mixing import Mixers, MixtureSpec, expert_names
from hybridlm.scoring.mixtures import create_mixture
from hybridlm.tensor_file import load_arrays, save_arrays

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
    unused = {*AdaptiveExperts.names} if mixer == "hedge" else {*OnlineExperts.names}
    experts = [Known(), *online_experts(V), OracleExperts(oracle)]
    log_probs, nll = Mixers({"": MixtureSpec(mixer)}, experts).score(STREAM, 1)
    mine = scorer(oracle, mixer=mixer)
    edges = [0, *sorted(cuts), len(STREAM) - 1]
    pieces = [
        mine.score(STREAM[1:][start:end], GIVEN[:, start:end]) for start, end in itertools.pairwise(edges)
    ]
    np.testing.assert_array_equal(np.concatenate([piece.nll for piece in pieces]), nll[""])
    # Its experts are those that the mixer takes.
    names = expert_names(experts)
    taken = [names.index(name) for name in mine.names]
    assert {name for name in names if name not in mine.names} == unused
    found = np.concatenate([piece.experts for piece in pieces], axis=1)
    np.testing.assert_array_equal(found, log_probs[taken])
    assert mine.targets == len(STREAM) - 1 and mine.names[:2] == ("mine", "other")


@pytest.mark.parametrize("mixer", ["stacked", "eg"])
def test_beside_a_strong_network_little_is_lost(mixer: str) -> None:
    """Over text that nobody could predict but a network that is told half of it."""
    random = np.random.default_rng(4)
    stream = random.integers(0, 4096, 5001).astype(np.uint16)
    given = np.log(random.uniform(0.4, 0.6, len(stream) - 1))
    nll = hybridlm.Scorer(4096, first=int(stream[0]), mixer=mixer).score(stream[1:], given).nll
    lost = nll.sum() + given.sum()
    assert lost < 0.004 * len(nll), lost
    # Experts that count for as much at first as the network cost more.
    blind = create_mixture("eg", ["a", "b", "c", "d"])
    told = np.stack([given, *np.full((3, len(given)), np.log(1 / 4096))]).astype(np.float32)
    assert lost < blind.mix(told).sum() + given.sum()


@pytest.mark.parametrize("form", ["targets", "rows", "list", "tensor", "tensor rows", "tensor tokens"])
def test_arrays_and_tensors_of_targets_and_of_rows_are_the_same(form: str) -> None:
    expected = scorer().score(STREAM[1:], GIVEN).nll
    tokens = torch.from_numpy(STREAM[1:].astype(np.int64)) if form == "tensor tokens" else STREAM[1:]
    given = ROWS if "rows" in form else GIVEN
    log_probs = torch.from_numpy(given) if "tensor" in form else given.tolist() if form == "list" else given
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


@pytest.mark.parametrize("models", [("mine", "other"), ()])
def test_a_saved_state_goes_on_to_the_same_bits(
    oracle: hybridlm.Oracle, tmp_path: Path, models: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridlm.scorer._FIRST_CAPACITY", 64)
    monkeypatch.setattr("hybridlm.scorer._REPLAYED", 7)

    def told(start: int, end: int) -> NDArray[np.float32] | None:
        return GIVEN[:, start:end] if models else None

    whole = scorer(oracle, models=models)
    expected = whole.score(STREAM[1:], told(0, len(STREAM)))
    for cut in (0, 1, 150, len(STREAM) - 1):
        first = scorer(oracle, models=models)
        first.score(STREAM[1 : cut + 1], told(0, cut))
        first.save(tmp_path / "state")
        again = scorer(oracle, models=models, first=0)
        again.restore(tmp_path / "state")
        assert again.targets == cut and (cut == 0 or again.fingerprint() == first.fingerprint())
        rest = again.score(STREAM[cut + 1 :], told(cut, len(STREAM)))
        np.testing.assert_array_equal(rest.nll, expected.nll[cut:])
        np.testing.assert_array_equal(rest.experts, expected.experts[:, cut:])
        assert again.fingerprint() == whole.fingerprint()
        again.save(tmp_path / "again")
        whole.save(tmp_path / "whole")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_state_of_another_scorer_is_refused(oracle: hybridlm.Oracle, tmp_path: Path) -> None:
    path = tmp_path / "state"
    saved = scorer(oracle)
    saved.score(STREAM[1:], GIVEN)
    saved.save(path)
    with pytest.raises(InputError, match=r"state: the state of a scorer with mixer 'stacked', not"):
        scorer(oracle, mixer="eg").restore(path)
    with pytest.raises(InputError, match="with oracle "):
        scorer().restore(path)
    with pytest.raises(InputError, match="has scored already"):
        saved.restore(path)
    content = path.read_bytes()
    for damaged in (b"", content[:-1], b"x" * 100, content.replace(b'"format', b'"farmat')):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match="state: not a scorer's state"):
            scorer(oracle).restore(path)
    arrays, metadata = load_arrays(content, "state")
    told = {**arrays, "log_probs": np.full_like(arrays["log_probs"], np.nan)}
    for arrays_, metadata_, message in [
        (told, metadata, r"log_probs\[0, 0\] is nan"),
        ({**arrays, "stream": arrays["stream"] + np.uint16(V)}, metadata, "the vocabulary has 16"),
        (arrays, [metadata], "list indices"),
    ]:
        path.write_bytes(save_arrays(arrays_, metadata_))
        with pytest.raises(FormatError, match=f"state: not a scorer's state: .*{message}"):
            scorer(oracle).restore(path)
    # Another text of as many tokens: what was said of it would have been of this one.
    at = content.rindex(STREAM.tobytes())
    path.write_bytes(content[: at + 2] + STREAM[::-1][:-1].tobytes() + content[at + len(STREAM) * 2 :])
    with pytest.raises(InputError, match="have other scores here"):
        scorer(oracle).restore(path)


def test_a_gap_of_rounding_above_zero_is_no_mistake() -> None:
    given = np.array([[1e-7], [-1.0]], np.float32)
    np.testing.assert_array_equal(
        scorer().score(STREAM[1:2], given).nll, scorer().score(STREAM[1:2], np.minimum(given, 0)).nll
    )


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, "tensor", "list", "strided"])
def test_tokens_of_any_integer_type_are_taken(oracle: hybridlm.Oracle, dtype: object) -> None:
    given = {
        "tensor": lambda: torch.from_numpy(STREAM.astype(np.int64)),
        "list": STREAM.tolist,
        "strided": lambda: np.repeat(STREAM, 2)[::2],
    }.get(dtype, lambda: STREAM.astype(dtype))()  # type: ignore[call-overload]
    positions = torch.tensor([3, 5]) if dtype == "tensor" else [3, 5]
    expected = oracle.target_log_probs(STREAM)
    np.testing.assert_array_equal(oracle.target_log_probs(given), expected)
    np.testing.assert_array_equal(
        oracle.log_probs(given, positions), oracle.log_probs(STREAM, np.array([3, 5]))
    )
    builder = hybridlm.OracleBuilder(hybridlm.Vocabulary(V), order=3)
    builder.add(given[::-1] if dtype != "tensor" else given.flip(0))
    assert builder.build(max_bytes=2000).to_bytes() == oracle.to_bytes()


def test_what_is_no_array_of_tokens_or_positions_is_refused(oracle: hybridlm.Oracle) -> None:
    for wrong in (np.array([1.0]), torch.tensor([1.5]), np.array([[1]]), ["a"], np.array([True])):
        with pytest.raises(InputError, match="tokens must be one row of whole numbers, not"):
            oracle.target_log_probs(wrong)
        with pytest.raises(InputError, match="positions must be one row of whole numbers, not"):
            oracle.log_probs(STREAM, wrong)
    for outside in (np.array([-1]), np.array([V]), np.array([1 << 16])):
        with pytest.raises(InputError, match="but the vocabulary has 16"):
            oracle.target_log_probs(outside)
    with pytest.raises(TypeError, match=r"Oracle\.from_file\(path\)"):
        hybridlm.Oracle("oracle.ngsp")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"open_stream takes a list of shards: give \['x\.bin'\]"):
        hybridlm.open_stream("x.bin", hybridlm.Vocabulary(V))
