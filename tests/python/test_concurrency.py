"""One oracle in many threads, and in processes that are forked or spawned after it was loaded and used."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.artifact import Artifact
from hybridlm.data.shards import data_folder
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.oracle import Oracle

STREAM = np.random.default_rng(3).integers(1, 512, 4000).astype(np.uint16)


@pytest.fixture(scope="module", params=["dense", "sparse"])
def oracle(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    oracle_artifact: Path,
    shard_dir: Path,
) -> Path:
    path = tmp_path_factory.mktemp("oracle") / request.param
    if request.param == "dense":
        blob = Artifact.from_file(oracle_artifact).oracle_blob
        assert blob is not None
        path.write_bytes(blob)
    else:
        shard = str(data_folder(shard_dir)[0][0])
        counts = _core.SparseCounts.count([shard], Vocabulary(512, 1, None), 3, 1 << 29)
        path.write_bytes(counts.sparse_oracle(50_000, 1 << 29, 1, lambda done: None))
    return path


def answers(oracle: Oracle, at: int, threads: int) -> NDArray[np.float32]:
    """Of some part of the stream, both kinds of look-up."""
    first = at * 37 % 3000
    part = STREAM[first : first + 500]
    told = oracle.target_log_probs(part, threads=threads)
    rows = oracle.log_probs(part, np.arange(0, 500, 50), threads=threads)
    return np.concatenate([told.ravel(), rows.ravel()])


def test_64_threads_share_an_oracle(oracle: Path) -> None:
    shared = Oracle.from_file(oracle)
    alone = [answers(shared, at, 1) for at in range(128)]
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda at: answers(shared, at, 1 + at % 3), range(128)))
    for one, other in zip(alone, found, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_an_oracle(oracle: Path, method: str) -> None:
    if method == "fork" and sys.platform == "win32":
        pytest.skip("has no fork")
    script = Path(__file__).with_name("sharing_processes.py")
    done = subprocess.run(
        [sys.executable, script, oracle, method], capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "the same\n", done.stderr
