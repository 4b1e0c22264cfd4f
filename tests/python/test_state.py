"""A score that is stopped goes on to the same bits, and refuses what isn't its own."""

import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.artifact import Artifact, pack
from hybridlm.data.byte_table import ByteTable
from hybridlm.errors import FormatError, InputError
from hybridlm.model import GPT, ModelConfig, neural_blob
from hybridlm.oracle.build import build_sparse
from hybridlm.scoring import evaluate as module
from hybridlm.scoring.asked import Asked
from hybridlm.scoring.config import ScoringConfig, TTTConfig
from hybridlm.scoring.evaluate import EvaluationResult, ScoreFiles, evaluate
from hybridlm.scoring.experts import Scored
from hybridlm.scoring.neural import NeuralExpert

V = 20
STREAM = np.random.default_rng(0).integers(1, V, 400).astype(np.uint16)
STREAM[::37] = 1
TABLE = ByteTable(np.full(V, 2, np.int32), np.zeros(V, np.bool_), np.arange(V) == 1)
OPTIONS = TTTConfig(
    epochs=1, learning_rates=(0.0, 0.01), frozen_blocks=0, batch=4, targets=8, documents=4, phases=2
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.manual_seed(0)
    config = ModelConfig(
        layers=2, width=32, heads=2, kv_heads=1, mlp_hidden=32, vocab_size=V, sequence_length=16,
        rope_dims=8, bigram_rows=16, bigram_width=32, zero_init_projections=False,
    )  # fmt: skip
    shard = tmp_path_factory.mktemp("shard") / "x_train_0.bin"
    _core.write_shard(str(shard), np.concatenate((STREAM[:100], STREAM[::-1])))
    blob = neural_blob.encode(GPT(config), tokenizer="ab" * 32)
    return Artifact.from_bytes(pack(blob, build_sparse([shard], V, max_bytes=4000)))


def settings(ttt: str) -> ScoringConfig:
    return ScoringConfig(chunk=50, batch=4, ttt=ttt, ttt_options=OPTIONS)  # type: ignore[arg-type]


def without_times(result: EvaluationResult) -> dict[str, object]:
    return {key: value for key, value in result.as_dict().items() if key not in ("seconds", "stages")}


class Stopped(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    """The score is ended as by a power cut, once `chunks` chunks are in the file."""
    committed = module.ScoreState.committed
    done = 0

    def stop(self: Any, *arguments: Any) -> None:
        nonlocal done
        committed(self, *arguments)
        done += 1
        if done == chunks:
            raise Stopped

    monkeypatch.setattr(module.ScoreState, "committed", stop)


@pytest.mark.parametrize("ttt", ["off", "sgd", "adamw", "lora", "documents"])
def test_a_stopped_score_goes_on_to_the_same_bits(
    artifact: Artifact, ttt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = STREAM[::-1].copy() if ttt in ("sgd", "documents") else None
    files = ScoreFiles(tmp_path / "a.state", tmp_path / "a.csv", tmp_path / "a.npy")
    whole = evaluate(
        artifact, STREAM, TABLE, settings(ttt), control=control, files=replace(files, state=None)
    )
    tables = [path.read_bytes() for path in (tmp_path / "a.csv", tmp_path / "a.npy")]
    monkeypatch.setattr("hybridlm.scoring.state.SECONDS", 0.0)
    for chunks in (3, 4):  # the second time from the third chunk on, to the fourth
        with monkeypatch.context() as patch:
            stop_after(patch, chunks)
            with pytest.raises(Stopped):
                evaluate(artifact, STREAM, TABLE, settings(ttt), control=control, files=files)
        assert (tmp_path / "a.state").exists()
    resumed = evaluate(artifact, STREAM, TABLE, settings(ttt), control=control, files=files)
    assert without_times(resumed) == without_times(whole)
    assert [path.read_bytes() for path in (tmp_path / "a.csv", tmp_path / "a.npy")] == tables
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.npy"], "nothing is left of it"


def test_what_was_scored_is_not_scored_again(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridlm.scoring.state.SECONDS", 0.0)
    files = ScoreFiles(tmp_path / "a.state")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Stopped):
            evaluate(artifact, STREAM, TABLE, settings("sgd"), files=files)
    calls: list[int] = []
    score = module.experts_of

    def watched(*arguments: Any, **named: Any) -> Any:
        parts = score(*arguments, **named)
        neural = parts.experts[0].score

        def note(stream: NDArray[np.uint16], start: int) -> Any:
            calls.append(start)
            return neural(stream, start)

        parts.experts[0].score = note  # type: ignore[method-assign]
        return parts

    monkeypatch.setattr(module, "experts_of", watched)
    evaluate(artifact, STREAM, TABLE, settings("sgd"), files=files)
    assert calls == [251, 301, 351]


def test_the_state_of_another_score_or_a_damaged_one_is_refused(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridlm.scoring.state.SECONDS", 0.0)
    path = tmp_path / "a.state"
    scores = tmp_path / "a.state.scores"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            evaluate(artifact, STREAM, TABLE, settings("sgd"), files=ScoreFiles(path))
    kept, kept_scores = path.read_bytes(), scores.read_bytes()

    def attempt(**changed: Any) -> None:
        given = {"stream": STREAM, "settings": settings("sgd"), **changed}
        evaluate(artifact, given["stream"], TABLE, given["settings"], files=ScoreFiles(path))

    other = STREAM.copy()
    other[100] = 2 if other[100] != 2 else 3
    with pytest.raises(InputError, match="another text"):
        attempt(stream=other)
    with pytest.raises(InputError, match="150 targets were scored, and 120 are given"):
        attempt(stream=STREAM[:121])
    with pytest.raises(InputError, match="other settings"):
        attempt(settings=settings("adamw"))
    with pytest.raises(InputError, match="whole rows"):
        attempt(settings=replace(settings("sgd"), mixer="geometric"))
    for damaged in (b"", b"x" * 50, kept[:100], kept[:-1], kept.replace(b"targets", b"tragets")):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"a\.state"):
            attempt()
    path.write_bytes(kept.replace(b'\\"targets\\": 150', b'\\"targets\\": 149'))
    with pytest.raises(InputError, match=r"a\.state"):
        attempt()
    for at in range(len(kept) - 300, len(kept), 29):  # in the last of the tensors
        flipped = bytearray(kept)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(FormatError, match=r"a\.state: damaged"):
            attempt()
    path.write_bytes(kept)
    for damaged in (b"", kept_scores[:-1], b"\0\0\x80\x3f" + kept_scores[4:]):
        scores.write_bytes(damaged)
        with pytest.raises(FormatError, match="damaged"):
            attempt()
    scores.write_bytes(kept_scores + b"left by a chunk that was not finished")
    attempt()


def test_the_state_of_an_earlier_format_is_refused(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridlm.scoring.state.SECONDS", 0.0)
    files = ScoreFiles(tmp_path / "a.state")
    with monkeypatch.context() as patch:
        patch.setattr("hybridlm.scoring.state.FORMAT", 2)
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            evaluate(artifact, STREAM, TABLE, settings("off"), files=files)
    with pytest.raises(
        FormatError, match=r"state of format 2, and this program reads format 3 alone.*remove it"
    ):
        evaluate(artifact, STREAM, TABLE, settings("off"), files=files)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_chunk_and_writes_the_state(
    artifact: Artifact,
    tmp_path: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = ScoreFiles(tmp_path / "a.state")
    before = signal.getsignal(number)
    score = NeuralExpert.score_asked

    def interrupted(
        self: NeuralExpert, stream: NDArray[np.uint16], start: int, asked: Asked
    ) -> tuple[Scored, NDArray[np.float32]]:
        signal.raise_signal(number)
        return score(self, stream, start, asked)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(NeuralExpert, "score_asked", interrupted)
        with pytest.raises(KeyboardInterrupt, match="stopped after 50 of 399 targets; the same"):
            evaluate(artifact, STREAM, TABLE, settings("off"), files=files)
    assert "end of the chunk" in caplog.text
    assert signal.getsignal(number) is before
    result = evaluate(artifact, STREAM, TABLE, settings("off"), files=files)
    assert without_times(result) == without_times(evaluate(artifact, STREAM, TABLE, settings("off")))


def test_a_second_signal_stops_at_once(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: NeuralExpert, stream: NDArray[np.uint16], start: int, asked: Asked) -> Scored:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the second signal was not heard")

    monkeypatch.setattr(NeuralExpert, "score_asked", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(artifact, STREAM, TABLE, settings("off"), files=ScoreFiles(tmp_path / "a.state"))
    assert not (tmp_path / "a.state").exists()
