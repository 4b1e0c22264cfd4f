"""What a dry run says of a build, beside what the build then takes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.cli.main import main
from hybridlm.errors import InputError
from hybridlm.oracle.forecast import SAMPLED, forecast
from hybridlm.oracle.sparse_counting import Ngrams, Task, counted

V = 500
MAX_BYTES = 200_000
FACTOR = 2.0
"""Between what is said and what is measured, as docs/scaling.md says."""


def text(seed: int, length: int) -> np.ndarray:
    """Tokens that depend on the two before, most of the time, so that n-grams repeat."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, V, length)
    loud = generator.random(length) < 0.3
    choice = generator.integers(0, 3, length)
    tokens = [1, 2]
    for at in range(2, length):
        likely = (31 * tokens[-1] + 17 * tokens[-2] + int(choice[at])) % V
        tokens.append(int(noise[at]) if loud[at] else likely)
    return np.array(tokens, np.uint16)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("forecast")
    paths = [folder / f"{index}.bin" for index in range(3)]
    for index, path in enumerate(paths):
        _core.write_shard(path, text(index, SAMPLED // 2 + 17 * index))
    return paths


MEASURED = """
import json, pathlib, resource, sys
from hybridlm.oracle.build import build_sparse
build_sparse(sys.argv[3:], int(sys.argv[1]), max_bytes=int(sys.argv[2]), threads=2)
usage = resource.getrusage(resource.RUSAGE_SELF)
# ru_maxrss would count what the process that started this one had.
status = pathlib.Path("/proc/self/status").read_text()
print(json.dumps([usage.ru_utime + usage.ru_stime, 1024 * int(status.split("VmHWM:")[1].split()[0])]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read there")
def test_a_build_takes_what_was_said(shards: list[Path]) -> None:
    said = forecast(Task.of(shards, Ngrams(V)), max_bytes=MAX_BYTES, threads=2)
    command = [sys.executable, "-c", MEASURED, str(V), str(MAX_BYTES), *map(str, shards)]
    seconds, memory = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    with counted(shards, Ngrams(V)) as counts:
        ngrams = sum(counts.histogram())
    assert said.tokens == sum(map(_core.shard_tokens, shards)) and said.groups == 1
    for guess, measured in [
        (said.ngrams, ngrams),
        (said.memory_bytes, memory),
        (said.processor_seconds, seconds),
    ]:
        assert measured / FACTOR < guess < measured * FACTOR
    assert said.allowed_bytes >= said.memory_bytes - 60_000_000 and said.disk_bytes == 0


def test_what_is_sampled_whole_is_known(shards: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "few.bin"
    _core.write_shard(path, text(5, 20_000))
    said = forecast(Task.of([path], Ngrams(V)), max_bytes=10_000)
    with counted([path], Ngrams(V)) as counts:
        ngrams = sum(counts.histogram())
    # n-grams across the places that the sample is from are missing.
    assert 0.97 * ngrams < said.ngrams < 1.03 * ngrams
    assert said.candidates == min(said.ngrams, 16 * 10_000)


def test_files_of_counts_take_disk(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as the files of a build in as many groups have."""
    monkeypatch.setattr("hybridlm.oracle.sparse_counting._GROUP_TOKENS", SAMPLED // 3)
    said = forecast(Task.of(shards, Ngrams(V)), max_bytes=MAX_BYTES)
    size = 0
    for group in [[shards[0]], [shards[1]], [shards[2]], shards]:
        with counted(group, Ngrams(V)) as counts:
            size += counts.nbytes
    assert said.groups == 3
    assert size / FACTOR < said.disk_bytes < size * FACTOR


def test_hostile_inputs(shards: list[Path], tmp_path: Path) -> None:
    empty, one, part = tmp_path / "empty.bin", tmp_path / "one.bin", tmp_path / "part"
    _core.write_shard(empty, np.empty(0, np.uint16))
    _core.write_shard(one, np.array([1], np.uint16))
    with counted([one], Ngrams(V, 3)) as counts:
        counts.save(part)
    with pytest.raises(InputError, match="no tokens"):
        forecast(Task.of([empty], Ngrams(V)), max_bytes=1000)
    with pytest.raises(InputError, match="needs shards"):
        forecast(Task.of([part]), max_bytes=1000)
    assert forecast(Task.of([one], Ngrams(V)), max_bytes=1000).tokens == 1
    # The same tokens in both halves of the sample.
    same = tmp_path / "same.bin"
    _core.write_shard(same, np.ones(1000, np.uint16))
    assert forecast(Task.of([same], Ngrams(V)), max_bytes=1000).tokens == 1000


def test_the_command_writes_nothing(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.bin"
    _core.write_shard(few, text(6, 5000))
    command = ["oracle", "build", str(few), "-o", str(tmp_path / "o"), "--vocab-size", str(V), "--dry-run"]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tokens"] == 5000 and said["seconds"] >= 0
    assert main(command) == 0
    assert "5,000, counted in one part" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["few.bin"]
    assert main([*command[:-1], "--json"]) == 2
    assert main([*command, "--estimator", "dense"]) == 1
    assert "--dry-run is for the sparse estimator" in capsys.readouterr().err
