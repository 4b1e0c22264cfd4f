"""The network tilted by an oracle's n-grams, beside the same thing over whole rows."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.errors import InputError
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_dense, build_sparse
from hybridlm.scoring.artifact_experts import ExpertSet
from hybridlm.scoring.asked import Asked, Network
from hybridlm.scoring.audit import AuditReport, audit
from hybridlm.scoring.audit_subject import MixtureSubject
from hybridlm.scoring.experts import Expert, Scored
from hybridlm.scoring.tilted import Tilted, has_ngrams, tilted

V = 24
ORDER = 5
Tokens = NDArray[np.uint16]
Floats = NDArray[np.float64]


def text(length: int, seed: int) -> Tokens:
    """Where a token depends on the two before it, mostly."""
    random = np.random.default_rng(seed)
    found = [1, 5]
    for _ in range(length - 2):
        regular = (3 * found[-1] + 5 * found[-2]) % (V - 4) + 4
        found.append(regular if random.random() < 0.7 else int(random.integers(4, V)))
    return np.array(found, np.uint16)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    shard = tmp_path_factory.mktemp("tilted") / "x_train_0.bin"
    _core.write_shard(str(shard), text(20_000, 0))
    return Oracle.from_bytes(build_sparse([shard], V, max_bytes=6000, order=ORDER))


class Given(Network):
    """Rows that don't depend on the oracle, from a generator."""

    family = "neural"
    names = ("neural",)
    vocab_size = V

    def __init__(self) -> None:
        logits = np.random.default_rng(3).normal(size=(400, V)) * 1.5
        self.rows = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
        """ln p of every token at each target from 1 on."""

    def score_asked(self, stream: Tokens, start: int, asked: Asked) -> tuple[Scored, NDArray[np.float32]]:
        rows = self.rows[start - 1 : len(stream) - 1]
        places, of = asked.of(np.arange(len(rows)))
        scored = Scored(rows[np.arange(len(rows)), stream[start:]][None])
        return scored, rows[of, asked.tokens[places]]

    def score_rows(self, stream: Tokens, start: int, rows: NDArray[np.float32]) -> Scored:
        rows[0] = self.rows[start - 1 : len(stream) - 1]
        return Scored(rows[0, np.arange(len(stream) - start), stream[start:]][None])

    def predict(self, stream: Tokens) -> Scored:
        return Scored(self.rows[len(stream) - 1][None])

    def fingerprint(self) -> bytes:
        return b""


STREAM = text(300, 1)


def scored(oracle: Oracle, cuts: list[int], stream: Tokens = STREAM) -> tuple[NDArray[np.float32], Tilted]:
    network, expert = tilted(Given(), oracle)
    found = []
    for start, end in zip([1, *cuts], [*cuts, len(stream)], strict=True):
        network.score(stream[:end], start)
        found.append(expert.score(stream[:end], start).log_probs[0])
    return np.concatenate(found), expert


def over_whole_rows(oracle: Oracle, stream: Tokens) -> tuple[Floats, Floats]:
    """ln p of each target and the last exponents [orders, orders], by the formula over all tokens.

    An order raises a token by p_n / p_(n−1), up to a factor that all tokens share: what the most of them
    have, which are those that the order doesn't know.
    """
    rows = oracle.log_probs(stream, np.arange(1, len(stream))).astype(np.float64)
    raised = np.diff(rows, axis=0)[1:]
    raised -= np.round(np.median(raised, axis=2), 9)[..., None]
    raised[np.abs(raised) < 1e-5] = 0
    network = Given().rows.astype(np.float64)
    orders = len(raised)
    exponents = np.tile([0.1, 0.2, 0.3][:orders], (orders, 1))
    squares = np.full_like(exponents, 0.01)
    found = []
    for at, target in enumerate(stream[1:]):
        values = raised[:, at]
        known = np.flatnonzero(values.any(axis=1))
        logits = network[at].copy()
        if len(known):
            logits += exponents[known[-1]] @ values
        log_probs = logits - np.log(np.exp(logits).sum())
        found.append(log_probs[target])
        if len(known):
            gradient = values[:, target] - values @ np.exp(log_probs)
            squares[known[-1]] += gradient**2
            moved = exponents[known[-1]] + 0.02 * gradient / np.sqrt(squares[known[-1]])
            exponents[known[-1]] = np.clip(moved, 0, 4)
    return np.array(found), exponents


def test_it_is_the_geometric_mixture_over_whole_rows(oracle: Oracle) -> None:
    found, expert = scored(oracle, [])
    wanted, exponents = over_whole_rows(oracle, STREAM)
    assert len(exponents) == ORDER - 2
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    learned = expert.state()["tilt"][: exponents.size].reshape(exponents.shape)
    np.testing.assert_allclose(learned, exponents, atol=2e-3)
    assert np.abs(exponents - np.tile([0.1, 0.2, 0.3], (ORDER - 2, 1))).max() > 0.1, "it has learned"


def test_it_gains_where_the_oracle_knows_the_text(oracle: Oracle) -> None:
    found, _ = scored(oracle, [])
    alone = Given().score(STREAM, 1).log_probs[0]
    assert found.mean() > alone.mean() + 0.3


def test_a_cut_changes_no_bit_and_a_state_goes_on(oracle: Oracle) -> None:
    whole, expert = scored(oracle, [])
    pieces, again = scored(oracle, [2, 3, 40, 41, 200])
    assert (whole == pieces).all() and expert.fingerprint() == again.fingerprint()
    _, first = scored(oracle, [], STREAM[:150])
    network, second = tilted(Given(), oracle)
    second.restore(first.state())
    network.score(STREAM, 150)
    assert (second.score(STREAM, 150).log_probs[0] == whole[149:]).all()
    with pytest.raises(InputError, match="not the state"):
        second.restore({"tilt": np.zeros(3)})
    with pytest.raises(InputError, match="not the state"):
        second.restore({"tilt": np.full(2 * (ORDER - 2) ** 2, np.nan)})


def test_its_rows_sum_to_one_and_hold_what_it_scores(oracle: Oracle) -> None:
    whole, _ = scored(oracle, [])
    network, expert = tilted(Given(), oracle)
    rows = np.empty((1, len(STREAM) - 1, V), np.float32)
    network.score_rows(STREAM, 1, rows)
    shown = np.empty_like(rows)
    np.testing.assert_allclose(expert.score_rows(STREAM, 1, shown).log_probs[0], whole, atol=2e-6)
    np.testing.assert_allclose(np.exp(shown.astype(np.float64)).sum(axis=2), 1, atol=2e-6)
    network, expert = tilted(Given(), oracle)
    for end in range(1, 60):
        row = expert.predict(STREAM[:end]).log_probs[0]
        np.testing.assert_allclose(row, shown[0, end - 1], atol=2e-6)
        before = expert.fingerprint()
        assert expert.predict(STREAM[:end]).log_probs[0].tobytes() == row.tobytes()
        assert expert.fingerprint() == before
        network.score(STREAM[: end + 1], end)
        assert expert.score(STREAM[: end + 1], end).log_probs[0, 0] == whole[end - 1]


def test_what_comes_later_changes_nothing(oracle: Oracle) -> None:
    other = STREAM.copy()
    other[200:] = other[200:][::-1]
    assert (scored(oracle, [])[0][:199] == scored(oracle, [], other)[0][:199]).all()


class LearnsFirst(Tilted):
    """Scores a piece by the exponents that it has taught."""

    def score(self, stream: Tokens, start: int) -> Scored:
        super().score(stream, start)
        return super().score(stream, start)


class SeesTarget(Tilted):
    """Tilts only where that helps."""

    def score(self, stream: Tokens, start: int) -> Scored:
        tilted, network = super().score(stream, start), self._told(stream, start)
        return Scored(np.maximum(tilted.log_probs, network.log_probs))


class LooksAhead(Tilted):
    """Begins with what the end of what it is given has taught."""

    def score(self, stream: Tokens, start: int) -> Scored:
        found = super().score(stream, start)
        return Scored(found.log_probs + np.float32(1e-3) * np.float32(stream[-1]))


class NotNormalised(Tilted):
    """Leaves out ln Z."""

    def predict(self, stream: Tokens) -> Scored:
        network, row = self._network.predict(stream).log_probs[0], super().predict(stream).log_probs[0]
        return Scored((row - (row - network).min())[None])


class LearnsByALook(Tilted):
    """Learns from a prediction."""

    def predict(self, stream: Tokens) -> Scored:
        row = self._network.predict(stream).log_probs[0]
        others = row[Asked(*self._tilt.raised_tokens(stream, len(stream) - 1)).tokens]
        self._tilt.mix(stream, len(stream) - 1, row[stream[-1:]], others)
        return super().predict(stream)


def audited(oracle: Oracle, kind: type[Tilted]) -> AuditReport:
    def experts() -> ExpertSet:
        network, expert = tilted(Given(), oracle)
        return ExpertSet([network, kind(network, expert._tilt)])

    return audit(MixtureSubject(experts, "eg"), STREAM, V, chunk=64, rows=30)


def test_the_audit_passes_it(oracle: Oracle) -> None:
    report = audited(oracle, Tilted)
    assert report.passed, report
    assert report.score_first.learns["tilted"] == "target"


@pytest.mark.parametrize("kind", [LearnsFirst, SeesTarget, LooksAhead, NotNormalised, LearnsByALook])
def test_the_audit_catches_a_dishonest_one(oracle: Oracle, kind: type[Tilted]) -> None:
    assert not audited(oracle, kind).passed


def test_an_oracle_without_ngrams_tilts_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    shard = tmp_path_factory.mktemp("dense") / "x_train_0.bin"
    _core.write_shard(str(shard), text(2000, 0))
    dense = Oracle.from_bytes(build_dense([shard], V, orders=3, buckets={3: 64}))
    short = Oracle.from_bytes(build_sparse([shard], V, max_bytes=3000, order=2))
    for oracle in (dense, short):
        assert not has_ngrams(oracle)
        with pytest.raises(InputError, match="has no n-grams to tilt by"):
            tilted(Given(), oracle)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda tilt: tilt.raised_tokens(STREAM + np.uint16(V), 1),
        lambda tilt: tilt.raised_tokens(STREAM, len(STREAM) + 1),
        lambda tilt: tilt.mix(STREAM, 1, np.zeros(3, np.float32), np.zeros(3, np.float32)),
        lambda tilt: tilt.mix(STREAM, 290, np.zeros(10, np.float32), np.zeros(0, np.float32)),
        lambda tilt: tilt.row(STREAM, np.zeros(3, np.float32)),
        lambda tilt: tilt.mix_rows(STREAM, 299, np.zeros(3, np.float32), np.zeros(3, np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    oracle: Oracle, wrong: Callable[[_core.TiltedExpert], object]
) -> None:
    with pytest.raises(InputError):
        wrong(_core.TiltedExpert(oracle.native))


def test_the_network_must_be_asked_first(oracle: Oracle) -> None:
    expert: Expert = tilted(Given(), oracle)[1]
    with pytest.raises(ValueError, match="hasn't scored"):
        expert.score(STREAM, 1)
