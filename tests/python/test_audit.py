"""The audit passes what is honest, and catches one broken predictor for every rule."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.artifact import Artifact, pack
from hybridlm.data.shards import data_folder, read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.scoring.audit import AuditReport, MixtureSubject, Scorer, artifact_subject, audit
from hybridlm.scoring.experts import AdaptiveCounts, OnlineCounts
from hybridlm.scoring.mixtures import mixture_names

V = 12
Tokens = NDArray[np.uint16]
Floats = NDArray[np.float64]
STREAM = np.random.default_rng(3).integers(0, V, 300).astype(np.uint16)
STREAM[100:200] = STREAM[:100]


class Counts:
    """An honest scorer, plain enough to break: Laplace-smoothed counts by previous token."""

    def __init__(self) -> None:
        self.table = np.ones((V, V))

    def distribution(self, previous: int) -> Floats:
        return np.asarray(self.table[previous] / self.table[previous].sum())

    def score(self, stream: Tokens, start: int) -> Floats:
        nll = []
        for at in range(start, len(stream)):
            nll.append(self.score_one(stream, at))
            self.learn(stream, at)
        return np.array(nll)

    def score_one(self, stream: Tokens, at: int) -> float:
        return -float(np.log(self.distribution(int(stream[at - 1]))[stream[at]]))

    def learn(self, stream: Tokens, at: int) -> None:
        self.table[stream[at - 1], stream[at]] += 1

    def row(self, stream: Tokens) -> Floats:
        return np.asarray(np.log(self.distribution(int(stream[-1]))))


class CountsSubject:
    def __init__(self, kind: type[Counts] = Counts) -> None:
        self.kind = kind

    def scorer(self) -> Scorer:
        return self.kind()

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, Floats]]:
        scorer = self.kind()
        for start in range(1, len(stream), chunk):
            yield start, scorer.score(stream[: start + chunk], start)


def audited(subject: CountsSubject | MixtureSubject) -> AuditReport:
    return audit(subject, STREAM, V, chunk=64, rows=60)


def test_an_honest_predictor_passes() -> None:
    report = audited(CountsSubject())
    assert report.passed
    assert report.causal.positions == 6 and report.normalised.positions == 60
    assert report.single_pass.targets == len(STREAM) - 1
    assert report.normalised.max_error < 1e-9


@pytest.mark.parametrize("mixer", mixture_names())
def test_the_project_s_own_mixtures_pass(mixer: str) -> None:
    report = audited(MixtureSubject(lambda: [OnlineCounts(V), AdaptiveCounts(V)], mixer))
    assert report.passed, report


class GateSeesTarget(Counts):
    """Chooses, once it knows the token, the better of its row and the uniform one."""

    def score_one(self, stream: Tokens, at: int) -> float:
        return min(super().score_one(stream, at), float(np.log(V)))


def test_a_gate_that_sees_the_target_is_caught() -> None:
    report = audited(CountsSubject(GateSeesTarget))
    assert not report.passed and not report.normalised.passed
    assert report.normalised.max_disagreement > 0.01


class SumsToMore(Counts):
    def distribution(self, previous: int) -> Floats:
        return 1.02 * super().distribution(previous)


def test_rows_that_sum_to_more_than_one_are_caught() -> None:
    report = audited(CountsSubject(SumsToMore))
    assert not report.passed and not report.normalised.passed
    assert report.normalised.max_error == pytest.approx(0.02)


class EntropyExpert(Counts):
    """Gives every token the certainty of its row: no distribution at all."""

    def distribution(self, previous: int) -> Floats:
        row = super().distribution(previous)
        return np.full(V, np.exp((row * np.log(row)).sum()))


def test_an_entropy_expert_is_caught() -> None:
    assert not audited(CountsSubject(EntropyExpert)).normalised.passed


class LearnsFirst(Counts):
    def score_one(self, stream: Tokens, at: int) -> float:
        self.learn(stream, at)
        return super().score_one(stream, at)


def test_a_table_that_is_updated_before_scoring_is_caught() -> None:
    report = audited(CountsSubject(LearnsFirst))
    assert not report.passed and not report.score_first.passed
    assert report.score_first.first_difference is not None


class LearnsFromPredicting(Counts):
    def row(self, stream: Tokens) -> Floats:
        row = super().row(stream)
        self.table[stream[-1], row.argmax()] += 1
        return row


def test_a_prediction_that_changes_the_state_is_caught() -> None:
    assert not audited(CountsSubject(LearnsFromPredicting)).score_first.passed


class ScoresTailTwice(CountsSubject):
    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, Floats]]:
        for start, nll in super().run(stream, chunk):
            yield start, nll
            if start + len(nll) == len(stream):
                yield start + len(nll) - 1, nll[-1:]


class SkipsOne(CountsSubject):
    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, Floats]]:
        for start, nll in super().run(stream, chunk):
            yield start, nll[:-1]


def test_targets_scored_twice_or_never_are_caught() -> None:
    report = audited(ScoresTailTwice())
    assert not report.passed and report.single_pass.problem is not None
    assert "begins at target 299" in report.single_pass.problem
    assert not audited(SkipsOne()).single_pass.passed


class SeesLaterChunks(CountsSubject):
    """Counts the whole stream before it scores any of it."""

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, Floats]]:
        scorer = Counts()
        for at in range(1, len(stream)):
            scorer.learn(stream, at)
        for start in range(1, len(stream), chunk):
            yield start, scorer.score(stream[: start + chunk], start)


def test_context_from_later_chunks_is_caught() -> None:
    report = audited(SeesLaterChunks())
    assert not report.passed and not report.causal.passed
    assert report.causal.first_difference == 1


class LearnsByChunk(Counts):
    """Honest within a call, but other chunks give another score."""

    def score(self, stream: Tokens, start: int) -> Floats:
        nll = [self.score_one(stream, at) for at in range(start, len(stream))]
        for at in range(start, len(stream)):
            self.learn(stream, at)
        return np.array(nll)


def test_a_score_that_depends_on_the_chunks_is_caught() -> None:
    report = audited(CountsSubject(LearnsByChunk))
    assert not report.single_pass.passed
    assert "in chunks of" in str(report.single_pass.problem)


class NotANumber(Counts):
    def row(self, stream: Tokens) -> Floats:
        return np.full(V, np.nan)


def test_not_a_number_is_no_pass() -> None:
    assert not audited(CountsSubject(NotANumber)).normalised.passed


def make_artifact(tokenizer: Tokenizer, shard_dir: Path) -> tuple[Artifact, Tokens]:
    train, val = data_folder(shard_dir)
    counts = _core.NgramCounts(tokenizer.vocab_size, 3, {3: 64})
    counts.count_shards(train)
    artifact = Artifact.from_bytes(pack(None, counts.dense_oracle(level=1)))
    return artifact, read_stream(val, tokenizer.vocab_size)[:3000]


def test_an_artifact_is_audited_with_its_bytes(tokenizer: Tokenizer, shard_dir: Path) -> None:
    artifact, stream = make_artifact(tokenizer, shard_dir)
    subject = artifact_subject(artifact, tokenizer.vocab_size, "eg")
    report = audit(subject, stream, tokenizer.vocab_size, artifact=artifact, tokenizer=tokenizer, rows=20)
    assert report.passed, report
    assert report.bytes_exact is not None
    assert report.bytes_exact.text_bytes == report.bytes_exact.decoded_bytes > 3000
    assert report.bytes_exact.artifact_bytes == len(artifact.to_bytes())


def test_wrong_byte_counts_are_caught(
    tokenizer: Tokenizer, shard_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, stream = make_artifact(tokenizer, shard_dir)
    lengths = tokenizer.byte_table.text_bytes.copy()
    lengths[lengths > 2] += 1  # the space counted twice
    monkeypatch.setattr(tokenizer.byte_table, "text_bytes", lengths)
    subject = artifact_subject(artifact, tokenizer.vocab_size, "eg")
    report = audit(subject, stream, tokenizer.vocab_size, artifact=artifact, tokenizer=tokenizer, rows=5)
    assert not report.passed and report.bytes_exact is not None and not report.bytes_exact.passed


def test_too_short_a_stream_is_refused() -> None:
    with pytest.raises(InputError, match="too short"):
        audit(CountsSubject(), STREAM[:2], V)
