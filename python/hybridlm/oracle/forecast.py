"""What a sparse build will need, from the shards' headers and a sample of their tokens.

The sample is counted in two halves, merged and built from, here and now. How many n-grams the halves have
together, beside one of them alone, tells how their number grows with the text: with a power of it (Heaps
1978, "Information Retrieval"). What each step took tells what it will take for more.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import InputError
from hybridlm.files import scratch_folder
from hybridlm.oracle.sparse_counting import DEFAULT_MEMORY, Task, check_memory, group_tokens
from hybridlm.threads import thread_count

SAMPLED = 1_000_000
"""Tokens of the sample."""

_PLACES = 64
"""Where in the shards these are from, at most."""

_DISCOUNT_TOKENS = 2_000_000
"""Discounts are fitted to no more tokens than these."""

# Resident bytes: before anything is counted; per token that is being counted, with the pages of the shard;
# while discounts are fitted to all those tokens; per candidate while n-grams are chosen.
_OF_A_PROCESS = 60_000_000
_PER_TOKEN = 11
_OF_DISCOUNTS = 300_000_000
_PER_CANDIDATE = 43

_LEAST_BYTES = 20_000
"""Of the oracle that is built of the sample."""

_MOST_BYTES_PER_NGRAM = 0.5
"""Of a file that holds nearly everything that was counted."""


@dataclass(frozen=True)
class Forecast:
    """What a build will need. All but ``tokens`` and ``groups`` are estimates."""

    tokens: int
    groups: int
    """Parts in which the shards are counted, so that memory suffices."""
    ngrams: int
    """Distinct ones of order 2 and above."""
    candidates: int
    """n-grams that those of the oracle are chosen among, at most."""
    memory_bytes: int
    """The most that will be resident at a time."""
    allowed_bytes: int
    """What the build must be allowed to take (`--memory`), or it will be refused."""
    disk_bytes: int
    """Files of counts, until the oracle is written; 0 if counts stay in memory."""
    processor_seconds: float
    """Of all threads together."""
    seconds: float
    """With the threads given, if they find the machine as busy as the sample did."""


def forecast(
    task: Task, *, max_bytes: int, memory: int = DEFAULT_MEMORY, threads: int | None = None
) -> Forecast:
    """Counts a sample of what ``task`` names and builds from it, with ``threads`` as the build would.

    Takes some seconds. Raises InputError, also where there are no shards to sample; FormatError or OSError.
    """
    check_memory(memory)
    if not task.shards:
        raise InputError("a forecast needs shards: files of partial counts alone hold no text to sample")
    sizes = {shard: _core.shard_tokens(shard) for shard in task.shards}
    tokens = sum(sizes.values())
    if tokens == 0:
        raise InputError("the shards hold no tokens")
    sample = _Sample(task, sizes, max_bytes, thread_count(threads))
    cut = list(task.groups(task.shards, sizes, group_tokens(memory)))
    of_groups = [sum(sizes[shard] for shard in group) for _, group in cut]
    in_memory = len(of_groups) == 1 and not task.given and not any(weight > 1 for weight, _ in cut)
    given = sum(part.counts.nbytes for part in task.given) / sample.bytes_per_ngram
    ngrams = sample.ngrams_of(tokens) + given
    of_files = sum(sample.ngrams_of(group) for group in of_groups) + given
    candidates = min(ngrams, _core.SPARSE_CANDIDATES_PER_BYTE * max_bytes)
    held = ngrams * sample.bytes_per_ngram if in_memory else 0.0
    discounts = _OF_DISCOUNTS * min(1.0, tokens / _DISCOUNT_TOKENS)
    choosing = held + max(discounts, _PER_CANDIDATE * candidates)
    longer = math.log(max(of_groups)) / math.log(sample.tokens) if sample.tokens > 1 else 1.0
    took = sample.count * (tokens / sample.tokens * longer) + sample.passes * (ngrams / sample.ngrams)
    if not in_memory:
        took += sample.merge * (of_files / sample.ngrams)
    took += sample.discounts * (min(tokens, _DISCOUNT_TOKENS) / min(sample.tokens, _DISCOUNT_TOKENS))
    took += sample.choice * (min(max_bytes, _MOST_BYTES_PER_NGRAM * ngrams) / sample.bytes_built)
    return Forecast(
        tokens=tokens + sum(part.counts.tokens for part in task.given),
        groups=len(of_groups),
        ngrams=round(ngrams),
        candidates=round(candidates),
        memory_bytes=round(_OF_A_PROCESS + max(_PER_TOKEN * max(of_groups), choosing)),
        allowed_bytes=round(held) + _core.sparse_memory(round(candidates)),
        disk_bytes=0 if in_memory else round((of_files - given + ngrams) * sample.bytes_per_ngram),
        processor_seconds=round(float(took[0]), 1),
        seconds=round(float(took[1]), 1),
    )


class _Sample:
    """What a sample is like, and the [processor, wall] seconds that each step took for it."""

    def __init__(self, task: Task, sizes: Mapping[str, int], max_bytes: int, threads: int) -> None:
        vocabulary = task.vocabulary
        with scratch_folder() as folder:
            halves = _write(folder, sizes, vocabulary)
            watch = _Stopwatch()
            counts = [
                _core.SparseCounts.count([half], vocabulary, task.order, DEFAULT_MEMORY, threads=threads)
                for half in halves
            ]
            self.count = watch.read()
        half = counts[0]
        # Not named, so that halves may be the same. Without a sample of documents no discounts are fitted.
        unnamed = [_core.SparseCounts.unnamed(*part.beginning_with(0, vocabulary.size)) for part in counts]
        watch.read()
        whole = _core.SparseCounts.add(unnamed, threads)
        self.merge = watch.read()
        self.tokens, self.ngrams = whole.tokens, max(1, sum(whole.histogram(threads)))
        whole.candidates(0, threads)
        self.passes = watch.read()
        self.bytes_per_ngram = whole.nbytes / self.ngrams
        of_half = max(1, sum(half.histogram(threads)))
        self._exponent = 1.0
        if half.tokens < self.tokens:
            self._exponent = min(1.0, math.log(self.ngrams / of_half) / math.log(self.tokens / half.tokens))
        share = half.tokens / sum(sizes.values())
        self.bytes_built = max(_LEAST_BYTES, round(share * max_bytes))
        limit = self.bytes_built + vocabulary.size
        watch.read()
        unnamed[0].sparse_oracle(limit, DEFAULT_MEMORY, threads)
        built = watch.read()
        half.sparse_oracle(limit, DEFAULT_MEMORY, threads)
        self.discounts = np.maximum(0.0, watch.read() - built) * (self.tokens / half.tokens)
        self.choice = np.maximum(0.0, built - self.passes * (of_half / self.ngrams))

    def ngrams_of(self, tokens: int) -> float:
        """The estimated number of distinct n-grams in ``tokens`` tokens."""
        return float(self.ngrams * (tokens / self.tokens) ** self._exponent)


class _Stopwatch:
    def __init__(self) -> None:
        self._last = self._now()

    @staticmethod
    def _now() -> NDArray[np.float64]:
        return np.array([time.process_time(), time.perf_counter()])

    def read(self) -> NDArray[np.float64]:
        """[processor, wall] seconds since the last reading."""
        last, self._last = self._last, self._now()
        return self._last - last


def _write(folder: Path, sizes: Mapping[str, int], vocabulary: Vocabulary) -> list[Path]:
    """Two shards of tokens from places all over the given ones, which go to one and the other by turns."""
    total = sum(sizes.values())
    places = min(_PLACES, total)
    length = max(1, min(SAMPLED, total) // places)
    pieces: list[list[NDArray[np.uint16]]] = [[], []]
    before, place = 0, 0
    for shard, size in sizes.items():
        while place < places and place * total // places < before + size:
            start = place * total // places - before
            count = min(length, size - start)
            pieces[place % 2].append(_core.read_shard(shard, start, count, vocabulary.size))
            place += 1
        before += size
    paths = [folder / f"{half}.bin" for half in range(2)]
    for path, of_half in zip(paths, pieces, strict=True):
        _core.write_shard(path, np.concatenate([np.empty(0, np.uint16), *of_half]))
    return paths
