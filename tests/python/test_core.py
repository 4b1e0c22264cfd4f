"""The binding: what it takes, what it refuses, and how it is interrupted."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridlm import _core

TOKENS = np.arange(100, dtype=np.uint16)


def test_shards_are_read_in_part_or_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    _core.write_shard(path, TOKENS)
    assert _core.shard_tokens(path) == 100
    np.testing.assert_array_equal(_core.read_shard(path), TOKENS)
    np.testing.assert_array_equal(_core.read_shard(str(path), 90), TOKENS[90:])
    np.testing.assert_array_equal(_core.read_shard(path, 3, 4, 7), TOKENS[3:7])
    with pytest.raises(_core.FormatError, match=r"token 50 at offset 1124 .* vocabulary of 50"):
        _core.read_shard(path, 10, vocab_size=50)
    for start, count in ((101, None), (99, 2), (0, 2**63)):
        with pytest.raises(_core.InputError, match="holds 100"):
            _core.read_shard(path, start, count)


def test_errors_have_the_types_that_python_expects(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        _core.shard_tokens(tmp_path / "none.bin")
    assert missing.value.filename == str(tmp_path / "none.bin")
    with pytest.raises(IsADirectoryError):
        _core.shard_tokens(tmp_path)
    with pytest.raises(FileNotFoundError):
        _core.write_shard(tmp_path / "no" / "a.bin", TOKENS)
    assert issubclass(_core.FormatError, _core.InputError) and issubclass(_core.InputError, ValueError)


def test_arrays_of_the_wrong_kind_are_refused_by_name() -> None:
    counts = _core.NgramCounts(1024)
    for wrong in (TOKENS.astype(np.int64), TOKENS[::2], TOKENS[None], list(TOKENS), TOKENS.astype(">u2")):
        with pytest.raises(TypeError, match="tokens must be a contiguous 1-D uint16 array"):
            counts.count_tokens(wrong)  # type: ignore[arg-type]
    oracle = _core.FrozenOracle.from_bytes(counts.dense_oracle(1))
    with pytest.raises(TypeError, match="positions must be"):
        oracle.log_probs(TOKENS, np.array([1.0]))  # type: ignore[arg-type]
    with pytest.raises(_core.InputError, match="position -1 is negative"):
        oracle.log_probs(TOKENS, np.array([-1]))


def test_results_go_into_the_callers_array_when_it_fits() -> None:
    counts = _core.NgramCounts(128, 3)
    counts.count_tokens(TOKENS)
    oracle = _core.FrozenOracle.from_bytes(counts.dense_oracle(1))
    expected = oracle.target_log_probs(TOKENS, 1)
    out = np.full((3, 99), np.nan, np.float32)
    assert oracle.target_log_probs(TOKENS, 1, out=out) is out
    np.testing.assert_array_equal(out, expected)
    with pytest.raises(_core.InputError, match="shape"):
        oracle.target_log_probs(TOKENS, 0, out=out)
    for wrong in (out.astype(np.float64), out.T):
        with pytest.raises((TypeError, _core.InputError)):
            oracle.target_log_probs(TOKENS, 1, out=wrong)  # type: ignore[arg-type]


@given(data=st.binary(max_size=2000), level=st.integers(1, 22))
def test_compressed_bytes_come_back(data: bytes, level: int) -> None:
    frame = _core.compress(data, level)
    assert _core.decompress(frame, len(data), "x") == data
    if data:
        with pytest.raises(_core.FormatError, match=r"^x: "):
            _core.decompress(frame, len(data) - 1, "x")


@given(data=st.binary(max_size=500))
@settings(max_examples=200)
def test_no_bytes_make_an_oracle_by_accident(data: bytes) -> None:
    for candidate in (data, _core.compress(data, 1), b"\x28\xb5\x2f\xfd" + data):
        with pytest.raises(_core.FormatError):
            _core.FrozenOracle.from_bytes(candidate)


def test_an_exception_from_the_progress_function_stops_the_work() -> None:
    class Enough(Exception):
        pass

    seen = []

    def progress(done: int) -> None:
        seen.append(done)
        raise Enough

    # So many that the first call of `progress` comes in the middle of the work, not at its end.
    tokens = np.random.default_rng(0).integers(0, 1024, 20_000_000, dtype=np.uint16)
    counts = _core.NgramCounts(1024)
    with pytest.raises(Enough):
        for _ in range(1000):  # until one call is long enough to be asked
            counts.count_tokens(tokens, progress=progress)
    assert len(seen) == 1
    with pytest.raises(_core.InputError, match="incomplete"):
        counts.table(1)


def test_ctrl_c_stops_native_work_at_once(tmp_path: Path) -> None:
    program = """
import numpy, sys
from hybridlm import _core
data = numpy.random.default_rng(0).integers(0, 9, 30_000_000, numpy.uint8).tobytes()
print("ready", flush=True)
try:
    _core.compress(data, 22)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    # Compressing all of it would take far longer.
    assert process.communicate(timeout=30)[0] == "stopped\n"


def test_other_python_threads_run_meanwhile() -> None:
    data = os.urandom(1 << 20) * 4
    done = threading.Event()
    worker = threading.Thread(target=lambda: (_core.compress(data, 19), done.set()))
    turns = 0
    worker.start()
    while not done.is_set():
        turns += 1
    worker.join()
    assert turns > 1
