"""Building a sparse oracle on a Ray cluster.

What begins with different tokens has nothing to do with each other until n-grams are chosen. So the
vocabulary is cut into ranges. A task counts some shards and returns an object for each range; another adds up
those of a range, which so travel once, from where they were counted to where they are merged; a third makes
the candidates of a range, as a rule where its counts are. The driver only gets histograms and candidates,
chooses among these, and encodes. Counts add up to the same whoever counted, so the bytes are those of a build
on one machine.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import InputError
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
from hybridlm.oracle.sparse_counting import BYTES_PER_TOKEN, Task
from hybridlm.oracle.vocabularies import warn_about
from hybridlm.progress import Progress
from hybridlm.threads import thread_count

_RANGES_PER_SLOT = 4
"""Ranges of first tokens for each task that can run at once: many enough to come out even."""

_MOST_RANGES = 512
"""Each is an object of every counting task."""

_SAMPLED_SHARDS = 32
_SAMPLED_TOKENS = 1 << 16
"""Tokens of a shard that tell how frequent each token is."""

Part = tuple[bytes, int]
"""Counts of n-grams that begin with a range of tokens, and their sum: what `SparseCounts.unnamed` takes."""


@dataclass(frozen=True)
class _Merged:
    """What the driver is told of a range."""

    histogram: list[int]
    tokens: int
    has_document_token: bool


def build_on_ray(
    task: Task,
    *,
    max_bytes: int,
    memory: int,
    address: str | None = None,
    threads: int | None = None,
) -> bytes:
    """The sparse oracle of what ``task`` names, built on the cluster at ``address``.

    A task takes ``threads`` CPUs, one if None, and about ``memory`` bytes; so does the choice, on this
    machine, with all cores if None. Otherwise as ``count_on_ray``; also raises InputError where nothing fits.
    """
    with connected(address) as ray:
        return _Build(ray, task, memory, threads or 1).run(max_bytes, thread_count(threads))


class _Build:
    def __init__(self, ray: Any, task: Task, memory: int, threads: int) -> None:
        self._ray = ray
        self._task = task
        self._memory = memory
        self._threads = threads
        self._slots = task_slots(ray, threads)
        self._running: list[Any] = []

    def run(self, max_bytes: int, threads: int) -> bytes:
        try:
            head, merged = self._merged()
            histograms = self._fetch("merging", [found for found, _ in merged])
            self._check(head, histograms)
            histogram = np.sum([found.histogram for found in histograms], axis=0)
            cutoff = _core.sparse_cutoff(histogram.tolist(), max_bytes, self._memory)
            make = self._remote(_candidates, "candidates")
            candidates = self._fetch(
                "gathering candidates", [make(part, cutoff, self._threads) for _, part in merged]
            )
        finally:
            for number in self._running:
                self._ray.cancel(number, force=True)
        del merged
        with Progress("building", _core.SPARSE_PROGRESS, "%") as progress:
            return head.sparse_oracle_of(candidates, max_bytes, self._memory, threads, progress.update)

    def _remote(self, function: Any, name: str, returns: int = 1) -> Any:
        options = {"num_cpus": self._threads, "max_retries": MAX_RETRIES, "num_returns": returns}
        return self._ray.remote(function).options(name=f"hybridlm.{name}", **options).remote

    def _fetch(self, name: str, running: list[Any]) -> list[Any]:
        """The results of tasks, in their order; raises what any of them raises as soon as it does."""
        self._running = list(running)
        with Progress(name, len(running), "tasks") as progress:
            while self._running:
                finished, self._running = first_finished(self._ray, self._running, self._threads)
                fetched(self._ray, finished, self._threads)
                progress.update(len(running) - len(self._running))
        results: list[Any] = fetched(self._ray, running, self._threads)
        return results

    def _merged(self) -> tuple[_core.SparseCounts, list[tuple[Any, Any]]]:
        """The head of all counts; and for each range the results of the task that adds up its counts."""
        task = self._task
        sizes = {shard: _core.shard_tokens(shard) for shard in task.shards}
        frequencies = _frequencies(task.shards, task.vocabulary.size)
        bounds = ranges(frequencies, min(_RANGES_PER_SLOT * self._slots, _MOST_RANGES))
        most = min(self._memory // BYTES_PER_TOKEN, -(-sum(sizes.values()) // (self._slots * TASKS_PER_CPU)))
        count = self._remote(_count, "count", len(bounds))
        weights = [part.weight for part in task.given]
        counted = []
        for weight, group in task.groups(task.shards, sizes, most):
            paths = absolute(group)
            counted.append(count(paths, task.vocabulary, task.order, bounds, self._memory, self._threads))
            weights.append(weight)
        heads = self._fetch("counting", [head for head, *_ in counted])
        parts = [[self._ray.put(part) for part in _cut(given.counts, bounds)] for given in task.given]
        parts += [parts for _, *parts in counted]
        merge = self._remote(_merge, "merge", 2)
        merged = [merge(self._threads, weights, *of_range) for of_range in zip(*parts, strict=True)]
        given = [_core.SparseCounts.heads([part.counts]) for part in task.given]
        all_heads = [_core.SparseCounts.from_bytes(head) for head in given + heads]
        return _core.SparseCounts.from_bytes(_core.SparseCounts.heads(all_heads, weights)), merged

    def _check(self, head: _core.SparseCounts, merged: Sequence["_Merged"]) -> None:
        tokens = sum(found.tokens for found in merged)
        if tokens != head.tokens:
            raise InputError(
                f"the cluster counted {tokens:,} tokens of {head.tokens:,}; was a shard changed?"
            )
        warn_about(head, self._task.asked, any(found.has_document_token for found in merged))


def ranges(frequencies: NDArray[np.int64], most: int) -> list[int]:
    """Bounds of up to ``most`` ranges of tokens, from 0 to their number, about equally frequent each."""
    reached = np.cumsum(frequencies + 1)
    wanted = reached[-1] * np.arange(1, most) / most
    inner = np.unique(np.searchsorted(reached, wanted) + 1)
    return [0, *(int(bound) for bound in inner if bound < len(frequencies)), len(frequencies)]


def _frequencies(shards: Sequence[str], vocab_size: int) -> NDArray[np.int64]:
    """How often each token occurs in the beginnings of some shards."""
    found = np.zeros(vocab_size, np.int64)
    step = -(-len(shards) // _SAMPLED_SHARDS) or 1
    for shard in shards[::step]:
        count = min(_SAMPLED_TOKENS, _core.shard_tokens(shard))
        found += np.bincount(_core.read_shard(shard, 0, count, vocab_size), minlength=vocab_size)
    return found


def _cut(counts: _core.SparseCounts, bounds: Sequence[int]) -> list[Part]:
    return [counts.beginning_with(start, end) for start, end in itertools.pairwise(bounds)]


def _count(
    shards: list[str], vocabulary: Vocabulary, order: int, bounds: list[int], memory: int, threads: int
) -> tuple[bytes, *tuple[Part, ...]]:
    """On a worker: what the counts of ``shards`` say besides n-grams, and these range by range."""
    with naming_the_node():
        counts = _core.SparseCounts.count(shards, vocabulary, order, memory, threads=threads)
    return _core.SparseCounts.heads([counts]), *_cut(counts, bounds)


def _merge(threads: int, weights: list[int], *parts: Part) -> tuple[_Merged, Part]:
    """On a worker: what the driver is told of a range, and its counts."""
    counts = _core.SparseCounts.add([_core.SparseCounts.unnamed(*part) for part in parts], threads, weights)
    found = _Merged(counts.histogram(threads), counts.tokens, counts.has_document_token)
    return found, (counts.to_bytes(), counts.tokens)


def _candidates(part: Part, cutoff: int, threads: int) -> bytes:
    """On a worker: the candidates of a range."""
    return _core.SparseCounts.unnamed(*part).candidates(cutoff, threads)
