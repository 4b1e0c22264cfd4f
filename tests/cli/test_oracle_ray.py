"""`hybridlm oracle build --engine ray` on a real cluster of two nodes, one of whose workers is killed."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.cli.main import main
from hybridlm.errors import InputError
from hybridlm.files import atomic_write_bytes
from hybridlm.oracle.build import build_sparse
from hybridlm.oracle.dense_counting import Tables, count
from hybridlm.oracle.ray_building import build_on_ray
from hybridlm.oracle.ray_counting import count_on_ray
from hybridlm.oracle.sources import Sources
from hybridlm.oracle.sparse_counting import Ngrams, Task, counted

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
pytest.importorskip("ray", reason="Ray is not installed")
from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found in /proc"),
]

# Enough of them that a worker is at it for some tenths of a second, and so can be caught.
TOKENS = 12_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes with a CPU and little memory for objects each."""
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def document(tokens: np.ndarray) -> np.ndarray:
    """The tokens with a document token where they begin."""
    tokens[0] = 1
    return tokens


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("ray_shards")
    generator = np.random.default_rng(5)
    paths = [str(folder / f"random_train_{index:06d}.bin") for index in range(5)]
    for path in paths:
        _core.write_shard(path, document(generator.integers(0, 1024, TOKENS, np.uint16)))
    return paths


def counting_workers() -> list[int]:
    """The workers of this process's own clusters that are counting; Ray puts the task into their title."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::hybridlm.count"):
                pid = int(process.name)
                ancestor = pid
                while ancestor not in (0, os.getpid()):
                    # The parent's number is the second field behind the name, which ends with the last ")".
                    stat = Path(f"/proc/{ancestor}/stat").read_text()
                    ancestor = int(stat.rpartition(")")[2].split()[1])
                if ancestor:
                    found.append(pid)
        except OSError:  # it has ended
            continue
    return found


def kill_one_when_counting(killed: list[int], stop: threading.Event) -> None:
    while not stop.is_set():
        if workers := counting_workers():
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])
            return
        time.sleep(0.005)


def survives_a_killed_worker(cluster: str, folder: Path, arguments: list[str]) -> None:
    local, distributed = folder / "local", folder / "ray"
    assert main(["oracle", "build", *arguments, "-o", str(local)]) == 0
    killed: list[int] = []
    stop = threading.Event()
    killer = threading.Thread(target=kill_one_when_counting, args=(killed, stop))
    killer.start()
    try:
        ray_options = ["--engine", "ray", "--ray-address", cluster]
        assert main(["oracle", "build", *arguments, "-o", str(distributed), *ray_options]) == 0
    finally:
        stop.set()
        killer.join()
    assert killed and not Path(f"/proc/{killed[0]}").exists()
    assert distributed.read_bytes() == local.read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["local", "ray"]


def test_a_build_survives_a_killed_worker_with_the_same_bytes(
    cluster: str, shards: list[str], tmp_path: Path
) -> None:
    survives_a_killed_worker(cluster, tmp_path, [*shards, "--layout", "packed"])


@pytest.fixture(scope="module")
def text_shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Each has half of its tokens in common, so that there are n-grams to keep."""
    folder = tmp_path_factory.mktemp("ray_text")
    generator = np.random.default_rng(7)
    common = generator.integers(0, 1024, 400_000, np.uint16)
    paths = [str(folder / f"text_train_{index:06d}.bin") for index in range(4)]
    for path in paths:
        own = generator.integers(0, 1024, 400_000, np.uint16)
        _core.write_shard(path, document(np.concatenate([common, own])))
    return paths


def test_a_sparse_build_survives_one_too(cluster: str, text_shards: list[str], tmp_path: Path) -> None:
    arguments = [*text_shards, "--estimator", "sparse", "--orders", "3", "--max-bytes", "50000"]
    survives_a_killed_worker(cluster, tmp_path, arguments)


def test_counting_on_ray_is_resumed(
    cluster: str, text_shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is stopped when it writes down what it has the second time."""
    out, local = tmp_path / "ray", tmp_path / "local"
    unfinished = tmp_path / "ray.unfinished"
    options = ["--engine", "ray", "--ray-address", cluster, "--checkpoint-seconds", "0"]
    estimator = ["--layout", "packed", "--orders", "3"]
    written: list[Path] = []

    def write(path: Path, data: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        atomic_write_bytes(path, data)
        written.append(path)

    with monkeypatch.context() as patched:
        patched.setattr("hybridlm.oracle.dense_counting.atomic_write_bytes", write)
        assert main(["oracle", "build", *text_shards, "-o", str(out), *options, *estimator]) == 130
    assert written and written[0].exists() and not out.exists()
    assert main(["oracle", "build", *text_shards, "-o", str(out), *options, *estimator]) == 0
    assert main(["oracle", "build", *text_shards, "-o", str(local), *estimator]) == 0
    assert out.read_bytes() == local.read_bytes()
    assert not unfinished.exists()


def test_a_sparse_build_takes_counts_as_well(cluster: str, text_shards: list[str], tmp_path: Path) -> None:
    """With a cutoff and without one, and where no document has a beginning."""
    part, headless = tmp_path / "part", tmp_path / "headless.bin"
    with counted(text_shards[:1], Ngrams(1024, 3)) as counts:
        counts.save(part)
    _core.write_shard(headless, np.full(5000, 7, np.uint16))
    for sources, max_bytes in [([part, *text_shards[1:]], 9000), ([part], 9000), ([headless], 4000)]:
        ngrams = Ngrams(1024, 3)
        found = build_on_ray(
            Task.of(sources, ngrams), max_bytes=max_bytes, memory=4 << 30, address=cluster, threads=1
        )
        assert found == build_sparse(sources, 1024, max_bytes=max_bytes, order=3)
    weighted = Sources.of([part, *text_shards[1:]]).weighted([(part, 4), (text_shards[1], 2)])
    found = build_on_ray(
        Task.of(weighted, ngrams), max_bytes=9000, memory=4 << 30, address=cluster, threads=1
    )
    assert found == build_sparse(weighted, 1024, max_bytes=9000, order=3)
    with pytest.raises(InputError, match="has been counted already"):
        task = Task.of([part, text_shards[0]], Ngrams(1024, 3))
        build_on_ray(task, max_bytes=9000, memory=4 << 30, address=cluster)
    with pytest.raises(InputError, match="are candidates for 9000 bytes"):
        build_on_ray(Task.of([part]), max_bytes=9000, memory=1 << 28, address=cluster)


def test_counts_are_reduced_to_those_of_one_machine(cluster: str, tmp_path: Path) -> None:
    """Many small shards: several rounds of adding up, into counts that are there already."""
    tables = Tables(300, 4, {3: 50})
    generator = np.random.default_rng(6)
    paths = [tmp_path / f"{index}.bin" for index in range(37)]
    for path in paths:
        _core.write_shard(path, generator.integers(0, 300, 2000).astype(np.uint16))
    part = tmp_path / "part"
    part.write_bytes(count(paths[:4], tables).to_bytes())
    whole = count(paths, tables)
    distributed = count([part, *paths[4:]], tables, engine="ray", ray_address=cluster)
    assert distributed.to_bytes() == whole.to_bytes()
    assert [distributed.tokens, len(distributed.shards)] == [74_000, 37]


def test_what_a_worker_cannot_use_is_named(cluster: str, tmp_path: Path) -> None:
    missing = tmp_path / "elsewhere.bin"
    good, foreign = tmp_path / "good.bin", tmp_path / "foreign.bin"
    _core.write_shard(good, np.arange(100, dtype=np.uint16))
    foreign.write_bytes(good.read_bytes()[:-1])
    cases = [
        ([missing], r"elsewhere\.bin: a worker on .* can't read this shard \(No such file.*every node"),
        ([foreign], r"foreign\.bin: "),
        ([good, good], "has been counted already"),
    ]
    for paths, message in cases:
        with pytest.raises(InputError, match=message):
            count_on_ray(paths, Tables(1024, 2).empty(), address=cluster)


def test_no_cluster_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _core.write_shard(tmp_path / "a.bin", np.arange(100, dtype=np.uint16))
    command = ["oracle", "build", str(tmp_path / "a.bin"), "-o", str(tmp_path / "o")]
    assert main([*command, "--ray-address", "127.0.0.1:1"]) == 1
    assert "--ray-address is for --engine ray" in capsys.readouterr().err
