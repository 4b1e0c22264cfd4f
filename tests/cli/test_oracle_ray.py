"""`hybridlm oracle build --engine ray` on real clusters of two nodes, whose workers and nodes are killed."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.cli.main import main
from hybridlm.errors import InputError
from hybridlm.files import atomic_write_bytes
from hybridlm.oracle import ray_building, ray_counting
from hybridlm.oracle.build import build_sparse
from hybridlm.oracle.dense_counting import Tables, count
from hybridlm.oracle.ray_building import build_on_ray
from hybridlm.oracle.ray_counting import count_on_ray
from hybridlm.oracle.sources import Sources
from hybridlm.oracle.sparse_counting import Ngrams, Task, counted

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
pytest.importorskip("ray", reason="Ray is not installed")
import ray
from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform == "win32", reason="workers are killed by signals"),
]


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


PHASES = [
    (ray_counting, "_count"),
    (ray_counting, "_merge"),
    (ray_building, "_count"),
    (ray_building, "_merge"),
    (ray_building, "_candidates"),
]
"""What workers do, of a dense and of a sparse build."""

OPTIONS = {
    ray_counting: ["--layout", "packed", "--orders", "3"],
    ray_building: ["--estimator", "sparse", "--orders", "3", "--max-bytes", "50000"],
}


def ending_once(work: Callable[..., Any], mark: Path, *, with_its_node: bool) -> Callable[..., Any]:
    """A task that kills its own worker, or waits for its node's end, the first time that it is run anywhere.

    Its node's id is in ``mark`` then. (Ray sends workers what no module of theirs holds, as it does this.)
    """

    def task(*arguments: Any) -> Any:
        try:
            descriptor = os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return work(*arguments)
        os.write(descriptor, ray.get_runtime_context().get_node_id().encode())
        os.close(descriptor)
        if not with_its_node:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
        raise AssertionError("the node is still there")

    return task


class Build:
    """A build, of which one kind of task ends its worker or its node once."""

    def __init__(self, module: ModuleType, phase: str, shards: list[str], folder: Path) -> None:
        self.module, self.phase, self.folder = module, phase, folder
        self.mark = folder / "mark"
        self.arguments = ["oracle", "build", *shards, *OPTIONS[module], "-o"]

    def end_once(self, monkeypatch: pytest.MonkeyPatch, *, with_its_node: bool) -> None:
        work = ending_once(getattr(self.module, self.phase), self.mark, with_its_node=with_its_node)
        monkeypatch.setattr(self.module, self.phase, work)

    def compare(self, cluster: str) -> None:
        """Builds on the cluster and here: the same bytes, and nothing else is left."""
        made = self.folder / "made"
        made.mkdir()
        ray, local = str(made / "ray"), str(made / "local")
        assert main([*self.arguments, ray, "--engine", "ray", "--ray-address", cluster]) == 0
        assert main([*self.arguments, local]) == 0
        assert (made / "ray").read_bytes() == (made / "local").read_bytes()
        assert sorted(path.name for path in made.iterdir()) == ["local", "ray"]
        assert self.mark.exists(), "nothing was killed"


@pytest.fixture(params=PHASES, ids=[f"{module.__name__[20:]}{phase}" for module, phase in PHASES])
def build(request: pytest.FixtureRequest, text_shards: list[str], tmp_path: Path) -> Build:
    """One for each phase."""
    return Build(*request.param, text_shards, tmp_path)


def test_a_build_survives_a_killed_worker_with_the_same_bytes(
    cluster: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.end_once(monkeypatch, with_its_node=False)
    build.compare(cluster)


@pytest.fixture(scope="module")
def crumbling() -> Iterator[Cluster]:
    """A cluster whose head runs no task."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": 80_000_000,
            "include_dashboard": False,
            # Seconds rather than half a minute until a node that says nothing counts as dead.
            "_system_config": {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000},
        },
    )
    yield cluster
    cluster.shutdown()


@contextlib.contextmanager
def node_ended(cluster: Cluster, nodes: list[Any], mark: Path) -> Iterator[list[float]]:
    """Meanwhile, the one of ``nodes`` that ``mark`` names is killed; gives when."""
    ended: list[float] = []
    stop = threading.Event()

    def end() -> None:
        while not stop.wait(0.02):
            if mark.exists() and len(name := mark.read_text()) == 56:
                (node,) = (node for node in nodes if node.node_id == name)
                cluster.remove_node(node, allow_graceful=False)
                ended.append(time.monotonic())
                return

    ender = threading.Thread(target=end)
    ender.start()
    try:
        yield ended
    finally:
        stop.set()
        ender.join()


def test_a_build_survives_a_node_that_goes(
    crumbling: Cluster, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it go its workers and what they have made: the other node makes that again."""
    nodes = [crumbling.add_node(num_cpus=1, object_store_memory=80_000_000) for _ in range(2)]
    crumbling.wait_for_nodes()
    build.end_once(monkeypatch, with_its_node=True)
    try:
        with node_ended(crumbling, nodes, build.mark) as ended:
            build.compare(crumbling.address)
    finally:
        for node in nodes:
            if node.node_id != build.mark.read_text():
                crumbling.remove_node(node)
    assert time.monotonic() - ended[0] < 120


@pytest.mark.parametrize("module", [ray_counting, ray_building], ids=["dense", "sparse"])
def test_a_build_without_a_node_left_is_one_line(
    crumbling: Cluster,
    text_shards: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: ModuleType,
) -> None:
    build = Build(module, "_count", text_shards, tmp_path)
    nodes = [crumbling.add_node(num_cpus=1, object_store_memory=80_000_000)]
    crumbling.wait_for_nodes()
    build.end_once(monkeypatch, with_its_node=True)
    monkeypatch.setattr("hybridlm.oracle.ray_cluster.SECONDS_BETWEEN_CHECKS", 2.0)
    out = tmp_path / "out"
    with node_ended(crumbling, nodes, build.mark) as ended:
        command = [*build.arguments, str(out), "--engine", "ray", "--ray-address", crumbling.address]
        assert main(command) == 1
    assert time.monotonic() - ended[0] < 60
    err = capsys.readouterr().err
    assert "hybridlm: error: no node is left in the Ray cluster that could run a task" in err
    assert not out.exists()


@pytest.fixture(scope="module")
def text_shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Each has half of its tokens in common, so that there are n-grams to keep."""
    folder = tmp_path_factory.mktemp("ray_text")
    generator = np.random.default_rng(7)
    common = generator.integers(0, 1024, 100_000, np.uint16)
    paths = [str(folder / f"text_train_{index:06d}.bin") for index in range(4)]
    for path in paths:
        own = generator.integers(0, 1024, 100_000, np.uint16)
        _core.write_shard(path, document(np.concatenate([common, own])))
    return paths


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
    assert main([*command, "--ray-address", "127.0.0.1:1"]) == 2
    assert "--ray-address is for --engine ray" in capsys.readouterr().err
