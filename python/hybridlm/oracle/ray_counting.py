"""Counting shards for the dense estimator on a Ray cluster.

A task counts some shards and returns their partial counts. These have one size however many shards they are
of: further tasks add up a few at a time, as they come in, so that no process ever holds more than a few and
the driver meets only the last. Counts add up to the same bytes in any order and grouping, so which worker is
fast, and what had to be done again because a worker was lost, leaves no trace in the result.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hybridlm import _core
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.oracle.ray_cluster import (
    MAX_RETRIES,
    TASKS_PER_CPU,
    absolute,
    connected,
    fetched,
    first_finished,
    naming_the_node,
    task_slots,
)
from hybridlm.oracle.vocabularies import vocabulary_of
from hybridlm.progress import Progress

_FAN_IN = 4
"""Partial counts that one task adds up."""


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
    with connected(address) as ray:
        _reduce(ray, absolute(shards), counts, threads, save, seconds)


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
    options = {"num_cpus": threads, "num_returns": 2, "max_retries": MAX_RETRIES}
    count = ray.remote(_count).options(name="hybridlm.count", **options)
    merge = ray.remote(_merge).options(name="hybridlm.merge", **options)
    slots = task_slots(ray, threads)
    size = -(-len(paths) // (slots * TASKS_PER_CPU))
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
                finished, _ = first_finished(ray, list(running), threads)
                done += sum(fetched(ray, finished, threads))
                ready += [running.pop(number) for number in finished]
                progress.update(done)
                if save is not None and time.monotonic() - saved_at >= seconds:
                    for data in ready:
                        counts.merge_bytes(fetched(ray, data, threads), "the cluster's counts", threads)
                    ready.clear()
                    save()
                    saved_at = time.monotonic()
        for data in ready:
            counts.merge_bytes(fetched(ray, data, threads), "the cluster's counts", threads)
    finally:
        for number in running:
            ray.cancel(number, force=True)


def _count(
    shards: list[str], layout: tuple[Vocabulary, int, dict[int, int]], threads: int
) -> tuple[int, bytes]:
    """On a worker: the number of shards and their counts."""
    counts = _core.NgramCounts(*layout)
    with naming_the_node():
        counts.count_shards(shards, threads)
    return len(shards), counts.to_bytes(threads)


def _merge(threads: int, *parts: bytes) -> tuple[int, bytes]:
    """On a worker: no further shards, and the sum of ``parts``."""
    counts = _core.NgramCounts.from_bytes(parts[0], "a worker's counts", threads)
    for part in parts[1:]:
        counts.merge_bytes(part, "a worker's counts", threads)
    return 0, counts.to_bytes(threads)
