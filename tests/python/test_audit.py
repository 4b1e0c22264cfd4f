"""The audit passes what is honest, and catches one broken predictor for every rule."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.artifact import Artifact, pack
from hybridlm.cli.main import main
from hybridlm.data.shards import data_folder, read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.model import ModelConfig, neural_blob
from hybridlm.scoring import world_sizes
from hybridlm.scoring.artifact_experts import ExpertSet, load_neural
from hybridlm.scoring.audit import AuditReport, ScoreFirst, Scorer, Subject, audit, told
from hybridlm.scoring.audit_subject import MixtureSubject, artifact_subject
from hybridlm.scoring.config import ScoringConfig, TTTConfig, TTTOptimizer
from hybridlm.scoring.evaluate import evaluate
from hybridlm.scoring.experts import Scored
from hybridlm.scoring.experts.counts import AdaptiveCounts, OnlineCounts
from hybridlm.scoring.mixtures import mixture_names

if TYPE_CHECKING:
    from hybridlm.model import GPT

V = 12
Tokens = NDArray[np.uint16]
Floats = NDArray[np.float64]
STREAM = np.random.default_rng(3).integers(0, V, 300).astype(np.uint16)
STREAM[100:200] = STREAM[:100]
ROWS = 20


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
            self.count(stream, at)
        return np.array(nll)

    def score_one(self, stream: Tokens, at: int) -> float:
        return -float(np.log(self.distribution(int(stream[at - 1]))[stream[at]]))

    def count(self, stream: Tokens, at: int) -> None:
        self.table[stream[at - 1], stream[at]] += 1

    def row(self, stream: Tokens) -> Floats:
        return np.asarray(np.log(self.distribution(int(stream[-1]))))

    def learn(self, stream: Tokens, start: int) -> None: ...

    def fingerprint(self) -> dict[str, bytes]:
        return {"table": hashlib.sha256(self.table.tobytes()).digest()}


class CountsSubject:
    def __init__(self, kind: type[Counts] = Counts) -> None:
        self.kind = kind

    def scorer(self) -> Scorer:
        return self.kind()

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, Floats]]:
        scorer = self.kind()
        for start in range(1, len(stream), chunk):
            yield start, scorer.score(stream[: start + chunk], start)


def audited(subject: Subject) -> AuditReport:
    return audit(subject, STREAM, V, chunk=64, rows=ROWS)


def test_an_honest_predictor_passes() -> None:
    report = audited(CountsSubject())
    assert report.passed
    assert report.causal.positions == 6 and report.normalised.positions == ROWS
    assert report.single_pass.targets == len(STREAM) - 1
    assert report.normalised.max_error < 1e-9


@pytest.mark.parametrize("mixer", mixture_names())
def test_the_project_s_own_mixtures_pass(mixer: str) -> None:
    report = audited(MixtureSubject(lambda: ExpertSet([OnlineCounts(V), AdaptiveCounts(V)]), mixer))
    assert report.passed, report
    assert report.score_first.learns == dict.fromkeys(("online", "adaptive", "mixture"), "target")


class GateSeesTarget(Counts):
    """Chooses, once it knows the token, the better of its row and the uniform one."""

    def score_one(self, stream: Tokens, at: int) -> float:
        return min(super().score_one(stream, at), float(np.log(V)))


def test_what_was_kept_as_json_is_told_as_it_was() -> None:
    subjects: list[Subject] = [
        CountsSubject(),
        CountsSubject(LearnsFirst),
        ScoresTailTwice(),
        SeesLaterChunks(),
    ]
    for subject in subjects:
        report = audited(subject)
        for rule, found in json.loads(json.dumps(report.as_dict())).items():
            if rule != "passed" and found is not None:
                assert told(rule, found) == str(getattr(report, rule))


def test_nothing_is_claimed_of_a_state_that_cannot_be_seen() -> None:
    told = str(ScoreFirst(True, 8, None, None, (), {}))
    assert "no state changed" not in told and "unknown without fingerprint()" in told


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
        self.count(stream, at)
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
    found = audited(CountsSubject(LearnsFromPredicting)).score_first
    assert not found.passed
    assert found.changed == ("table",) and found.first_change is not None
    assert f"table changed before target {found.first_change}" in str(found)


class CountsPredictions(Counts):
    """A prediction leaves a trace that no score of this stream shows."""

    predictions = 0

    def row(self, stream: Tokens) -> Floats:
        self.predictions += 1
        return super().row(stream)

    def fingerprint(self) -> dict[str, bytes]:
        return {**super().fingerprint(), "predictions": bytes([self.predictions])}


def test_a_change_that_no_score_shows_is_caught_by_its_hash() -> None:
    report = audited(CountsSubject(CountsPredictions))
    assert report.causal.passed and report.normalised.passed and report.score_first.first_difference is None
    assert not report.passed and report.score_first.changed == ("predictions",)


class RemembersLate(Counts):
    """As before, but the trace is put off to the next target, and gone from where predictions are."""

    asked = 0
    noted = 0

    def row(self, stream: Tokens) -> Floats:
        RemembersLate.asked += 1
        return super().row(stream)

    def score(self, stream: Tokens, start: int) -> Floats:
        self.noted, RemembersLate.asked = self.noted + RemembersLate.asked, 0
        return super().score(stream, start)

    def fingerprint(self) -> dict[str, bytes]:
        return {**super().fingerprint(), "notes": bytes([self.noted])}


def test_a_change_that_is_put_off_is_caught_at_the_end() -> None:
    found = audited(CountsSubject(RemembersLate)).score_first
    assert not found.passed and found.first_change is None and found.changed == ("notes",)
    assert "notes changed by the end" in str(found)


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
            scorer.count(stream, at)
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
            self.count(stream, at)
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


def make_artifact(tokenizer: Tokenizer, shard_dir: Path, *, neural: bool = False) -> tuple[Artifact, Tokens]:
    train, val = data_folder(shard_dir)
    counts = _core.NgramCounts(tokenizer.vocab_size, 3, {3: 64})
    counts.count_shards(train)
    blob = neural_blob.encode(make_model(tokenizer), tokenizer=tokenizer.fingerprint) if neural else None
    artifact = Artifact.from_bytes(pack(blob, counts.dense_oracle(level=1)))
    return artifact, read_stream(val, tokenizer.vocab_size)[:3000]


def make_model(tokenizer: Tokenizer) -> "GPT":
    import torch

    from hybridlm.model import GPT

    torch.manual_seed(2)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, sequence_length=16, layers=2, width=32, heads=2, kv_heads=1,
        mlp_hidden=32, rope_dims=8, bigram_rows=32, bigram_width=32, zero_init_projections=False,
        embedding_std=0.5,
    )  # fmt: skip
    return GPT(config)


def test_an_artifact_is_audited_with_its_bytes(tokenizer: Tokenizer, shard_dir: Path) -> None:
    artifact, stream = make_artifact(tokenizer, shard_dir)
    subject = artifact_subject(artifact, tokenizer.vocab_size, ScoringConfig())
    report = audit(subject, stream, tokenizer.vocab_size, artifact=artifact, tokenizer=tokenizer, rows=20)
    assert report.passed, report
    assert report.bytes_exact is not None
    assert report.bytes_exact.text_bytes == report.bytes_exact.decoded_bytes > 3000
    assert report.bytes_exact.artifact_bytes == len(artifact.to_bytes())


SMALL = ScoringConfig(
    batch=4,
    chunk=100,
    ttt_options=TTTConfig(
        epochs=1, learning_rates=(0.0, 0.05), frozen_blocks=1, targets=8, documents=2, margin=100.0
    ),
)


@pytest.mark.parametrize("ttt", ["off", "sgd", "lora", "documents"])
def test_a_neural_model_is_audited_with_all_that_it_learns(
    ttt: TTTOptimizer, tokenizer: Tokenizer, shard_dir: Path
) -> None:
    artifact, stream = make_artifact(tokenizer, shard_dir, neural=True)
    subject = artifact_subject(artifact, tokenizer.vocab_size, replace(SMALL, ttt=ttt))
    report = audit(
        subject, stream[:350], tokenizer.vocab_size,
        chunk=100, other_chunks=ttt == "off", rows=12, changes=2,
    )  # fmt: skip
    assert report.passed, report
    assert report.normalised.max_error < 1e-6
    learns = report.score_first.learns
    assert (learns["oracle"], learns["adaptive"]) == ("never", "target")
    # Adapters of the whole stream are the optimiser's; the model below them stays as it is.
    assert (learns["neural"], learns.get("optimizer"), learns.get("rates")) == {
        "off": ("never", None, None),
        "sgd": ("chunk", "chunk", "target"),
        "lora": ("never", "chunk", "target"),
        "documents": ("target", "target", "target"),
    }[ttt]
    assert len(report.single_pass.chunks) == (4 if ttt == "off" else 1)


class TrainsBeforeCommitting(MixtureSubject):
    """Test-time training that has had its chunk before the chunk's scores are committed."""

    def __init__(self, artifact: Artifact, vocab_size: int) -> None:
        settings = replace(SMALL, ttt="sgd")

        def parts() -> ExpertSet:
            neural, learner = load_neural(artifact, settings, None)
            assert learner is not None
            score = neural.score

            def trained_score(stream: Tokens, start: int) -> NDArray[np.float32]:
                if len(stream) > start:
                    learner.learn(stream, start)
                return score(stream, start)

            neural.score = trained_score  # type: ignore[method-assign]
            return ExpertSet([neural, AdaptiveCounts(vocab_size)])

        super().__init__(parts, "eg")


def test_training_on_a_target_before_it_is_committed_is_caught(tokenizer: Tokenizer, shard_dir: Path) -> None:
    artifact, stream = make_artifact(tokenizer, shard_dir, neural=True)
    subject = TrainsBeforeCommitting(artifact, tokenizer.vocab_size)
    report = audit(subject, stream[:120], tokenizer.vocab_size, chunk=60, rows=8, changes=2)
    assert not report.score_first.passed and not report.normalised.passed and not report.causal.passed
    assert report.score_first.learns["neural"] == "target"


def test_training_for_a_prediction_is_caught_by_the_hashes(tokenizer: Tokenizer, shard_dir: Path) -> None:
    artifact, stream = make_artifact(tokenizer, shard_dir, neural=True)

    def parts() -> ExpertSet:
        neural, learner = load_neural(artifact, replace(SMALL, ttt="sgd"), None)
        assert learner is not None
        show = neural.predict

        def trained_row(stream: Tokens) -> Scored:
            row = show(stream)
            learner.learn(stream, max(1, len(stream) - 16))
            return row

        neural.predict = trained_row  # type: ignore[method-assign]
        return ExpertSet([neural], [learner])

    report = audit(
        MixtureSubject(parts, "eg"), stream[:80], tokenizer.vocab_size, chunk=40, rows=4, changes=2
    )
    assert not report.passed and {"neural", "optimizer"} <= set(report.score_first.changed)


@pytest.mark.slow
@pytest.mark.parametrize("ttt", ["sgd", "documents"])
def test_the_number_of_processes_changes_nothing(
    ttt: TTTOptimizer, tokenizer: Tokenizer, shard_dir: Path
) -> None:
    artifact, stream = make_artifact(tokenizer, shard_dir, neural=True)
    stream[::13] = tokenizer.bos_id
    found = world_sizes.compare(artifact, *world_sizes.prefix(artifact, stream, replace(SMALL, ttt=ttt)))
    assert found.passed and found.world_sizes == (1, 2) and found.ttt == ttt
    assert found.targets == 2 * 4 * 8 + 16 and found.chunk == 40


RANK_DEPENDENT = """
import sys
from pathlib import Path
from hybridlm.scoring import world_sizes
from hybridlm.scoring.experts import Scored
from hybridlm.scoring.experts.counts import AdaptiveCounts
import hybridlm.scoring.artifact_experts as subject
import os

class PerRank(AdaptiveCounts):
    # As if each rank counted only what it has scored itself.
    def score(self, stream, start):
        scored = super().score(stream, start)
        scored.log_probs[:] -= 1e-6 * int(os.environ["RANK"]) * (start > 40)
        return scored

subject.online_experts = lambda vocab_size: [PerRank(vocab_size)]
world_sizes.run_worker(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_ranks_that_score_otherwise_are_caught(
    tokenizer: Tokenizer, shard_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, stream = make_artifact(tokenizer, shard_dir, neural=True)
    (tmp_path / "per_rank.py").write_text(RANK_DEPENDENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    prefix = world_sizes.prefix(artifact, stream, replace(SMALL, ttt="off"))
    found = world_sizes.compare(artifact, *prefix, worker="per_rank")
    assert not found.passed and found.first_difference == 41
    assert "target 41 differs" in str(found)
    report = audit(CountsSubject(), STREAM, V, world_size=found)
    assert not report.passed and report.causal.passed
    with pytest.raises(InputError, match=r"failed under torchrun with 1 processes: .*exitcode"):
        world_sizes.compare(artifact, *prefix, worker="no_such_module")


ABORTING = """
import os, sys
from pathlib import Path
from hybridlm.scoring import world_sizes

world_sizes.run_worker(Path(sys.argv[1]))
os.abort()
"""


@pytest.mark.slow
def test_a_process_that_aborts_when_it_has_scored_is_warned_of(
    tokenizer: Tokenizer,
    shard_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    artifact, stream = make_artifact(tokenizer, shard_dir, neural=True)
    (tmp_path / "aborting.py").write_text(ABORTING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(world_sizes, "SIZES", (1,))
    prefix = world_sizes.prefix(artifact, stream, replace(SMALL, ttt="off"))
    assert world_sizes.compare(artifact, *prefix, worker="aborting").passed
    assert "all of them had scored everything" in caplog.text


LEAVING = """
import sys
from pathlib import Path
from hybridlm.scoring import world_sizes

world_sizes.run_worker(Path(sys.argv[1]))
threads = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
assert not any("gloo" in name for name in threads), threads
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds threads in /proc")
def test_a_process_that_has_left_its_group_has_none_of_its_threads(
    tokenizer: Tokenizer,
    shard_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that is still there when Python ends may want the interpreter then, and abort the process."""
    artifact, stream = make_artifact(tokenizer, shard_dir, neural=True)
    (tmp_path / "leaving.py").write_text(LEAVING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(world_sizes, "SIZES", (2,))
    prefix = world_sizes.prefix(artifact, stream, SMALL)
    with caplog.at_level("WARNING", logger="hybridlm"):
        assert world_sizes.compare(artifact, *prefix, worker="leaving").passed
    assert not caplog.text


def test_wrong_byte_counts_are_caught(
    tokenizer: Tokenizer, shard_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, stream = make_artifact(tokenizer, shard_dir)
    lengths = tokenizer.byte_table.text_bytes.copy()
    lengths[lengths > 2] += 1  # the space counted twice
    monkeypatch.setattr(tokenizer.byte_table, "text_bytes", lengths)
    subject = artifact_subject(artifact, tokenizer.vocab_size, ScoringConfig())
    report = audit(subject, stream, tokenizer.vocab_size, artifact=artifact, tokenizer=tokenizer, rows=5)
    assert not report.passed and report.bytes_exact is not None and not report.bytes_exact.passed


@pytest.mark.parametrize("chosen", [{}, {"byte_fallback": False}, {"remove_extra_whitespaces": False}])
def test_the_audit_counts_the_bytes_of_any_tokens_as_a_score_does(
    sentencepiece_model: Callable[..., bytes], chosen: dict[str, bool]
) -> None:
    """Lost text counts nothing and a byte piece counts one, whatever the bytes around it are."""
    tokenizer = Tokenizer(sentencepiece_model(**chosen))
    model, size = tokenizer.model, tokenizer.vocab_size
    stream = np.random.default_rng(5).integers(0, size, 600).astype(np.uint16)
    stream[::9] = tokenizer.bos_id
    # A text that begins with what is dropped, and a stream that ends within a character.
    stream[-6:] = [tokenizer.bos_id, model.unk_id(), *[model.piece_to_id("▁")] * 3, stream[5]]
    counts = _core.NgramCounts(size, 2)
    counts.count_tokens(stream)
    artifact = Artifact.from_bytes(pack(None, counts.dense_oracle(level=1)))
    settings = ScoringConfig()
    subject = artifact_subject(artifact, size, settings)
    for part in (stream, stream[4:], stream[9:]):
        found = audit(subject, part, size, artifact=artifact, tokenizer=tokenizer, rows=2).bytes_exact
        assert found is not None and found.passed, found
        assert found.text_bytes == evaluate(artifact, part, tokenizer.byte_table, settings).bytes
    nothing = np.full(20, tokenizer.bos_id, np.uint16)
    found = audit(subject, nothing, size, artifact=artifact, tokenizer=tokenizer, rows=2).bytes_exact
    assert found is not None and not found.passed
    with pytest.raises(InputError, match="decode to no text"):
        evaluate(artifact, nothing, tokenizer.byte_table, settings)


def test_too_short_a_stream_is_refused() -> None:
    with pytest.raises(InputError, match="too short"):
        audit(CountsSubject(), STREAM[:2], V)


def test_too_short_a_stream_is_refused_before_processes_are_started(
    neural_artifact: Path,
    tokenizer_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("hybridlm.scoring.world_sizes.compare", lambda *_: pytest.fail("they were"))
    _core.write_shard(tmp_path / "short.bin", np.array([1, 7], np.uint16))
    command = ["audit", str(neural_artifact), "--val", str(tmp_path / "short.bin")]
    assert main([*command, "--tokenizer", str(tokenizer_path)]) == 1
    assert "a stream of 2 tokens is too short to audit" in capsys.readouterr().err
