"""The sparse estimator on real text."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.cli.main import main
from hybridlm.data import shards
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import FormatError, InputError
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_dense, build_sparse
from hybridlm.oracle.oracle_score import evaluate

VOCAB_SIZE = 512


@pytest.fixture(scope="module")
def train(shard_dir: Path) -> list[Path]:
    return shards.expand(str(shard_dir / "*_train_*.bin"))


@pytest.fixture(scope="module")
def stream(shard_dir: Path) -> np.ndarray:
    return shards.read_stream(shards.expand(str(shard_dir / "*_val_*.bin")), VOCAB_SIZE)


@pytest.fixture(scope="module")
def files(train: list[Path]) -> dict[int, bytes]:
    return {
        max_bytes: build_sparse(train, VOCAB_SIZE, max_bytes=max_bytes, threads=2)
        for max_bytes in (10_000, 40_000)
    }


def bits_per_token(oracle: Oracle, stream: np.ndarray) -> float:
    return -float(oracle.target_log_probs(stream, start=1)[-1].mean(dtype=np.float64)) / math.log(2)


def test_files_come_just_within_their_budget(files: dict[int, bytes]) -> None:
    for max_bytes, file in files.items():
        assert 0.97 * max_bytes < len(file) <= max_bytes


def test_more_bytes_predict_better(files: dict[int, bytes], stream: np.ndarray) -> None:
    small, large = (bits_per_token(Oracle.from_bytes(files[size]), stream) for size in sorted(files))
    assert large < small


def test_it_beats_the_dense_tables_with_fewer_bytes(
    files: dict[int, bytes], train: list[Path], stream: np.ndarray, tokenizer: Tokenizer
) -> None:
    dense = build_dense(train, VOCAB_SIZE, level=3)
    sparse = files[40_000]
    assert len(sparse) < len(dense)
    table = tokenizer.byte_table
    results = [evaluate(Oracle.from_bytes(file), stream, table) for file in (sparse, dense)]
    assert results[0].bpb < 0.9 * results[1].bpb
    assert results[0].max_row_sum_error < 1e-6


def test_a_changed_future_leaves_scores_as_they_are(files: dict[int, bytes], stream: np.ndarray) -> None:
    oracle = Oracle.from_bytes(files[40_000])
    changed = stream.copy()
    changed[500:] = changed[500:][::-1]
    before, after = (oracle.target_log_probs(tokens)[:, :500] for tokens in (stream, changed))
    np.testing.assert_array_equal(before, after)


def test_threads_and_shard_order_leave_no_trace(files: dict[int, bytes], train: list[Path]) -> None:
    assert len(train) > 1
    again = build_sparse(train[::-1], VOCAB_SIZE, max_bytes=10_000, threads=1)
    assert again == files[10_000]


def test_an_exception_in_progress_stops_the_build(train: list[Path]) -> None:
    def progress(_done: int) -> None:
        raise RuntimeError("enough")

    counts = _core.SparseCounts.count(train, VOCAB_SIZE, 6, 1 << 30)
    with pytest.raises(RuntimeError, match="enough"):
        counts.sparse_oracle(10_000, 1 << 30, 1, progress)


def test_what_cannot_be_is_refused(train: list[Path], files: dict[int, bytes]) -> None:
    with pytest.raises(InputError, match="50 bytes"):
        build_sparse(train, VOCAB_SIZE, max_bytes=50)
    with pytest.raises(InputError, match="order 2 to 8"):
        build_sparse(train, VOCAB_SIZE, max_bytes=10_000, order=9)
    with pytest.raises(InputError, match="vocabulary's size is 512"):
        build_sparse(train, 100, max_bytes=10_000)
    with pytest.raises(InputError, match="no shards"):
        build_sparse([], VOCAB_SIZE, max_bytes=10_000)
    with pytest.raises(FormatError, match=r"mine: at offset 8: the checksum"):
        Oracle.from_bytes(files[10_000][:-1] + b"\xff", "mine")


def test_it_has_no_tables_for_a_device(files: dict[int, bytes]) -> None:
    pytest.importorskip("torch")
    with pytest.raises(InputError, match="sparse estimator has no dense tables"):
        Oracle.from_bytes(files[10_000]).tables()


def test_the_command_line_builds_inspects_and_evaluates(
    shard_dir: Path, tokenizer_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "oracle.ngsp"
    train = str(shard_dir / "*_train_*.bin")
    build = ["oracle", "build", train, "-o", str(out), "--estimator", "sparse", "--orders", "4"]
    assert main([*build, "--max-bytes", "20000", "--tokenizer", str(tokenizer_path)]) == 0
    assert 19_000 < out.stat().st_size <= 20_000
    capsys.readouterr()
    assert main(["oracle", "inspect", str(out), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["estimator"], info["orders"], info["bytes"]) == ("sparse", [1, 2, 3, 4], out.stat().st_size)
    assert [table["order"] for table in info["tables"]] == [1, 2, 3, 4]
    val = str(shard_dir / "*_val_*.bin")
    assert main(["oracle", "eval", str(out), "--val", val, "--tokenizer", str(tokenizer_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bpb"] == result["orders"]["4"]["bpb"]
    assert result["max_row_sum_error"] < 1e-6


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--estimator", "sparse", "--buckets", "3=512"], "--buckets"),
        (["--estimator", "dense", "--max-bytes", "1000"], "--max-bytes"),
        (["--estimator", "sparse", "--vocab-size", "512", "--max-bytes", "100"], "100 bytes"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    shard_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    out = tmp_path / "oracle"
    assert main(["oracle", "build", str(shard_dir / "*_train_*.bin"), "-o", str(out), *options]) == 1
    assert named in capsys.readouterr().err
    assert not out.exists()
