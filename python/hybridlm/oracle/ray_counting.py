"""Counting shards on a Ray cluster.

A task counts some shards and returns their partial counts. Dense counts have one size however many shards
they are of: further tasks add up a few at a time, as they come in, so that no process ever holds more than a
few and the driver meets only the last. Sparse counts grow when they are added up, so the driver puts each
into a file as it comes, and merges files. Counts add up to the same bytes in any order and grouping, so which
worker is fast, and what had to be done again because a worker was lost, leaves no trace in the result.
"""

import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from hybridlm import _core
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import InputError
from hybridlm.extras import require_ray
from hybridlm.oracle.vocabularies import vocabulary_of
from hybridlm.progress import Progress

_FAN_IN = 4
"""Partial counts that one task adds up."""

_TASKS_PER_CPU = 16
"""Tasks that each CPU gets: many enough to come out even, few enough that starting them doesn't show."""

_MAX_RETRIES = 10
"""How often Ray starts a task again whose worker was lost. A task that raises is not started again."""


def count_on_ray(
    shards: Sequence[str | os.PathLike[str]],
    counts: _core.NgramCounts,
    *,
    address: str | None = None,
    threads: int = 1,
    save: Callable[[], object] | None = None,
    seconds: float = 60.0,
) -> None:
    """Count ``shards`` into ``counts``, on the cluster at ``address``.

    Without an address: the cluster that this process is connected to, that RAY_ADDRESS names, that runs on
    this machine, or else one started for the purpose. A task takes ``threads`` CPUs. Shards must be readable
    under the same absolute path on every node, and hybridlm installed there. About every ``seconds`` what has
    been added up is put into ``counts``, and ``save`` called.

    Raises InputError when ray is not installed, there is no cluster at ``address``, or a worker can't use a
    shard; OSError when Ray gives a task up.
    """
    with _cluster(address) as ray:
        _reduce(ray, _absolute(shards), counts, threads, save, seconds)


def count_sparse_on_ray(
    shards: Sequence[str | os.PathLike[str]],
    vocabulary: Vocabulary,
    order: int,
    *,
    memory: int,
    address: str | None = None,
    threads: int = 1,
) -> Generator[bytes, None, None]:
    """The sparse partial counts of each of ``shards``, in the order in which they are done.

    Each is counted in a task of its own, which takes ``threads`` CPUs and about ``memory`` bytes. Otherwise
    as ``count_on_ray``.
    """
    with _cluster(address) as ray:
        count = ray.remote(_count_sparse).options(
            name="hybridlm.count", num_cpus=threads, max_retries=_MAX_RETRIES
        )
        waiting = deque(_absolute(shards))
        slots = _slots(ray, threads)
        running: list[Any] = []
        done = 0
        try:
            with Progress("counting", len(shards), "shards") as progress:
                while waiting or running:
                    while waiting and len(running) < 2 * slots:
                        running.append(count.remote(waiting.popleft(), vocabulary, order, memory, threads))
                    finished, running = ray.wait(running)
                    yield ray.get(finished[0])
                    done += 1
                    progress.update(done)
        finally:
            for task in running:
                ray.cancel(task, force=True)


_SECONDS_TO_CONNECT = 10


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """The module ray, connected; what it raises as errors of ours."""
    require_ray("--engine ray")
    import ray

    ours = not ray.is_initialized()
    if ours:
        if where := address or os.environ.get("RAY_ADDRESS"):
            _check_reachable(where)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise InputError(f"no Ray cluster can be reached at {address}: {error}") from None
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise OSError(f"Ray has given up: {error}") from None
    finally:
        if ours:
            ray.shutdown()


def _absolute(shards: Sequence[str | os.PathLike[str]]) -> list[str]:
    return [os.path.abspath(shard) for shard in shards]  # noqa: PTH100 - resolving links may leave what nodes share


def _check_reachable(address: str) -> None:
    """Raises InputError where nobody listens at ``address``: Ray itself goes on trying for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):  # such as auto and local
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster can be reached at {address}: {error}") from None


def _slots(ray: Any, threads: int) -> int:
    """Tasks that can run at once. Raises InputError where none ever could."""
    most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if threads > most:
        raise InputError(
            f"--threads {threads}: a task runs on one node, and the largest of this cluster has {most} CPUs"
        )
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)


def _reduce(
    ray: Any,
    paths: Sequence[str],
    counts: _core.NgramCounts,
    threads: int,
    save: Callable[[], object] | None,
    seconds: float,
) -> None:
    # Two results: a number that the driver fetches, and which raises where the task did, and the counts,
    # which stay where they are until another task adds them up.
    options = {"num_cpus": threads, "num_returns": 2, "max_retries": _MAX_RETRIES}
    count = ray.remote(_count).options(name="hybridlm.count", **options)
    merge = ray.remote(_merge).options(name="hybridlm.merge", **options)
    slots = _slots(ray, threads)
    size = -(-len(paths) // (slots * _TASKS_PER_CPU))
    waiting = deque(paths[first : first + size] for first in range(0, len(paths), size))
    hashed_rows = {order: rows for order, rows in counts.buckets.items() if order >= 3}
    layout = (vocabulary_of(counts), len(counts.orders), hashed_rows)
    running: dict[Any, Any] = {}
    ready: list[Any] = []
    done = 0
    saved_at = time.monotonic()
    try:
        with Progress("counting", len(paths), "shards") as progress:
            while waiting or running or len(ready) > 1:
                # Some more tasks than CPUs keep these busy; all at once would fill the cluster's memory
                # with counts that wait to be added up.
                while waiting and len(running) < 2 * slots:
                    number, data = count.remote(waiting.popleft(), layout, threads)
                    running[number] = data
                while len(ready) >= _FAN_IN or (len(ready) > 1 and not waiting and not running):
                    number, data = merge.remote(threads, *ready[:_FAN_IN])
                    running[number] = data
                    del ready[:_FAN_IN]
                finished, _ = ray.wait(list(running))
                done += sum(ray.get(finished))
                ready += [running.pop(number) for number in finished]
                progress.update(done)
                if save is not None and time.monotonic() - saved_at >= seconds:
                    for data in ready:
                        counts.merge_bytes(ray.get(data), "the cluster's counts", threads)
                    ready.clear()
                    save()
                    saved_at = time.monotonic()
        for data in ready:
            counts.merge_bytes(ray.get(data), "the cluster's counts", threads)
    finally:
        for number in running:
            ray.cancel(number, force=True)


def _count(
    shards: list[str], layout: tuple[Vocabulary, int, dict[int, int]], threads: int
) -> tuple[int, bytes]:
    """On a worker: the number of shards and their counts."""
    counts = _core.NgramCounts(*layout)
    with _naming_the_node():
        counts.count_shards(shards, threads)
    return len(shards), counts.to_bytes(threads)


def _count_sparse(shard: str, vocabulary: Vocabulary, order: int, memory: int, threads: int) -> bytes:
    """On a worker: a shard's counts."""
    with _naming_the_node():
        return _core.SparseCounts.count([shard], vocabulary, order, memory, threads=threads).to_bytes()


@contextlib.contextmanager
def _naming_the_node() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename}: a worker on {socket.gethostname()} can't read this shard ({error.strerror}); "
            "every node must see the shards under the same path"
        ) from None


def _merge(threads: int, *parts: bytes) -> tuple[int, bytes]:
    """On a worker: no further shards, and the sum of ``parts``."""
    counts = _core.NgramCounts.from_bytes(parts[0], "a worker's counts", threads)
    for part in parts[1:]:
        counts.merge_bytes(part, "a worker's counts", threads)
    return 0, counts.to_bytes(threads)
