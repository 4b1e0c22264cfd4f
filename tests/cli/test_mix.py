"""`hybridlm mix` is `hybridlm eval` of another program's log-probabilities."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import hybridlm
from hybridlm.cli.main import main
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.scoring.evaluate import ScoredChunk

TOKENS = 3000


@pytest.fixture
def shard(tmp_path: Path, example_folder: Path, tokenizer: Tokenizer) -> Path:
    stream = hybridlm.read_stream([example_folder / "data" / "text_val_000000.bin"], max_tokens=TOKENS)
    hybridlm.write_shard(tmp_path / "mine_val_000000.bin", stream, tokenizer)
    return tmp_path / "mine_val_000000.bin"


@pytest.fixture
def rows(tokenizer: Tokenizer, shard: Path) -> NDArray[np.float32]:
    """What a network might say: any distribution, the same each time."""
    logits = np.random.default_rng(5).normal(size=(len(hybridlm.read_stream([shard])) - 1, 512)) * 2
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.float32)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    assert main(["mix", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_files_are_mixed_as_the_scorer_does(
    tmp_path: Path,
    shard: Path,
    rows: NDArray[np.float32],
    tokenizer: Tokenizer,
    example_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = hybridlm.read_stream([shard])
    targets = np.take_along_axis(rows, stream[1:, None].astype(np.int64), axis=1)[:, 0]
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "net.npy", targets)
    oracle = example_folder / "oracle.ngsp"
    common = ["--tokens", shard, "--tokenizer", example_folder / "tok.model", "--oracle", oracle]
    found = run(capsys, *common, "--log-probs", tmp_path / "net.npy", "--per-token", tmp_path / "bits.npy")
    monkeypatch.setattr("hybridlm.cli.mix._PIECE", 77)
    of_rows = run(
        capsys, *common, "--log-probs", tmp_path / "rows.npy", "--per-token", tmp_path / "again.npy"
    )

    scorer = hybridlm.Scorer(
        512, first=int(stream[0]), oracle=hybridlm.Oracle.from_file(oracle), models=("net",)
    )
    piece = scorer.score(stream[1:], targets)
    bits = piece.nll.sum() / np.log(2)
    size = tokenizer.byte_table.lengths(stream).sum()
    assert (found["tokens"], found["bytes"]) == (len(stream) - 1, size)
    assert found["bpb"] == pytest.approx(bits / size, rel=1e-12) == of_rows["bpb"]
    alone = -targets.sum(dtype=np.float64) / np.log(2) / (len(stream) - 1)
    assert found["experts"]["net"]["bits_per_token"] == pytest.approx(alone)  # type: ignore[index]
    np.testing.assert_array_equal(np.load(tmp_path / "bits.npy"), (piece.nll / np.log(2)).astype(np.float32))
    assert (tmp_path / "bits.npy").read_bytes() == (tmp_path / "again.npy").read_bytes()

    without = run(capsys, "--tokens", shard, "--log-probs", tmp_path / "net.npy", tmp_path / "rows.npy")
    assert without["bpb"] is None and list(without["experts"])[:2] == ["net", "rows"]  # type: ignore[call-overload]
    assert main(["mix", "--tokens", str(shard)]) == 0
    assert "mixture: stacked" in capsys.readouterr().out


def test_what_cannot_be_mixed_is_one_line(
    tmp_path: Path, shard: Path, rows: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = hybridlm.read_stream([shard])
    good = np.full(len(stream) - 1, -3.0, np.float32)
    path = tmp_path / "net.npy"

    def failure(values: NDArray[np.float32] | bytes) -> str:
        if isinstance(values, bytes):
            path.write_bytes(values)
        else:
            np.save(path, values)
        assert (
            main(
                [
                    "mix",
                    "--tokens",
                    str(shard),
                    "--log-probs",
                    str(path),
                    "--per-token",
                    str(tmp_path / "o.npy"),
                ]
            )
            == 1
        )
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("hybridlm: error: ") and err.count("\n") == 1
        assert not (tmp_path / "o.npy").exists()
        return err

    assert f"{path}: log-probabilities of shape ({len(stream)},)" in failure(np.full(len(stream), -3.0))
    assert "not a .npy file of floating-point numbers" in failure(np.zeros(len(stream) - 1, np.int64))
    assert "not an intact .npy file" in failure(b"hello")
    saved = path.with_name("good.npy")
    np.save(saved, good)
    assert "not an intact .npy file" in failure(saved.read_bytes()[:-5])
    np.save(saved, np.array([{"a": 1}], object), allow_pickle=True)
    assert "not an intact .npy file" in failure(saved.read_bytes())
    wrong = good.copy()
    wrong[1234] = 0.5
    assert "net.npy: position 1234 is 0.5" in failure(wrong)
    wrong[1234] = np.nan
    assert "net.npy: position 1234 is nan" in failure(wrong)
    rows[700] += 0.02
    assert "net.npy: row 700 sums to 1.02" in failure(rows)


def test_rows_in_half_precision_are_taken(
    tmp_path: Path, shard: Path, rows: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "net.npy", rows.astype(np.float16))
    found = run(capsys, "--tokens", shard, "--log-probs", tmp_path / "net.npy")
    np.save(tmp_path / "net.npy", rows)
    exact = run(capsys, "--tokens", shard, "--log-probs", tmp_path / "net.npy")
    assert found["bits_per_token"] == pytest.approx(exact["bits_per_token"], abs=1e-2)


def test_losses_chunk_by_chunk_from_python(example_folder: Path, tokenizer: Tokenizer) -> None:
    artifact = hybridlm.Artifact.from_file(example_folder / "artifact.pgar")
    stream = hybridlm.open_stream([example_folder / "data" / "text_val_000000.bin"], tokenizer.vocabulary)
    losses: list[NDArray[np.float64]] = []
    orders: list[NDArray[np.float32]] = []

    def keep(chunk: ScoredChunk) -> None:
        losses.append(chunk.nll[""])
        orders.append(chunk.log_probs)

    result = hybridlm.evaluate(artifact, stream, tokenizer, hybridlm.ScoringConfig(chunk=500), on_chunk=keep)
    nll = np.concatenate(losses)
    assert len(nll) == result.tokens
    assert nll.sum() / np.log(2) / result.bytes == pytest.approx(result.bpb)
    of_experts = -np.concatenate(orders, axis=1).sum(axis=1, dtype=np.float64) / np.log(2) / result.bytes
    assert of_experts == pytest.approx([rate.bpb for rate in result.experts.values()], abs=1e-5)
    with pytest.raises(InputError):
        hybridlm.evaluate(artifact, stream.tokens[:1], tokenizer, on_chunk=keep)
