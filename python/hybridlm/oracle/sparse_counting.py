"""Counting shards for the sparse estimator: in bounded memory, and resumable.

Shards are counted in groups that fit the memory. One group stays in memory; of several each becomes a file
in a folder, and a streaming merge makes one file of them and of those given. The folder is also what an
interrupted run resumes from. The merged counts are the same bytes however the shards were grouped.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybridlm import _core
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import InputError, UsageError
from hybridlm.files import exclusive, scratch_folder
from hybridlm.oracle.dense_counting import MAX_ORDER, groups
from hybridlm.oracle.resume import identified, not_yet_counted
from hybridlm.oracle.sources import Paths, Sources
from hybridlm.oracle.vocabularies import (
    VocabularyLike,
    as_vocabulary,
    check_asked,
    vocabulary_of,
    warn_about,
)
from hybridlm.progress import Progress
from hybridlm.threads import thread_count

log = logging.getLogger("hybridlm.oracle")

DEFAULT_ORDER = 6
DEFAULT_MEMORY = 4 << 30

_LEAST_MEMORY = 1 << 29

BYTES_PER_TOKEN = 24
"""Counting a group takes about so much memory per token."""

_GROUP_TOKENS = 1 << 27
"""Larger groups gain nothing, and an interrupted run would have to count more of them again."""

_FAN_IN = 64
"""Files merged in one go. Each costs a merge some megabytes per thread."""

_PART = "counted"
"""What a file of counted shards is called in a folder to resume from, before its number."""


@dataclass(frozen=True)
class Ngrams:
    """What to count. A field that is None is that of the partial counts given, or the default."""

    vocabulary: VocabularyLike | None = None
    order: int | None = None

    @property
    def asked(self) -> Vocabulary | None:
        return None if self.vocabulary is None else as_vocabulary(self.vocabulary)

    def of(self, counts: _core.SparseCounts, name: str) -> "Ngrams":
        """What ``counts``, read from ``name``, are of. Raises InputError where other ones are asked for."""
        found = vocabulary_of(counts)
        check_asked(self.asked, found, name)
        if self.order is not None and counts.order != self.order:
            raise InputError(f"{name}: counts up to order {counts.order}, not {self.order}")
        return Ngrams(self.asked or found, counts.order)


@dataclass(frozen=True)
class Weighted:
    """Counts, and how many copies of themselves they stand for."""

    counts: _core.SparseCounts
    weight: int = 1


class _Folder:
    """Where files of counts go. With a path it is a folder to resume from, else a temporary one."""

    def __init__(self, path: Path | None) -> None:
        self._resumable = path is not None
        self._path = path
        self._number = 0
        self._leave = contextlib.ExitStack()

    def __enter__(self) -> "_Folder":
        if self._path is not None:
            self._leave.enter_context(exclusive(self._path))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._leave:
            self._clean(failed=kind is not None)

    def _clean(self, *, failed: bool) -> None:
        if self._path is None or not self._resumable:
            return
        if not failed:
            shutil.rmtree(self._path, ignore_errors=True)
            return
        for file in self._path.glob("*"):
            if not file.name.startswith(_PART):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are none, or there is something in it
            self._path.rmdir()

    def file(self, name: str = _PART) -> Path:
        """The path of a new file."""
        if self._path is None:
            self._path = self._leave.enter_context(scratch_folder())
        self._path.mkdir(exist_ok=True)
        while True:
            path = self._path / f"{name}{self._number}.part"
            self._number += 1
            if not path.exists():
                return path

    def resume(self, task: "Task", threads: int) -> tuple[list[Weighted], list[str]]:
        """The counts that an interrupted run left, and the shards still to be counted.

        Raises InputError when they are of something else, or of a shard that is not given, or of shards that
        have different weights now.
        """
        if not self._resumable or self._path is None or not self._path.exists():
            return [], list(task.shards)
        advice = f"remove {self._path} to start afresh"
        if not self._path.is_dir():
            raise InputError(f"{self._path}: not what a sparse build leaves when interrupted; {advice}")
        found = [_core.SparseCounts.open(path) for path in sorted(self._path.glob(f"{_PART}*.part"))]
        counted = {}
        for counts in found:
            if (vocabulary_of(counts), counts.order) != (task.vocabulary, task.order):
                raise InputError(
                    f"{self._path}: an interrupted run left counts of another vocabulary, document token, "
                    f"tokenizer or order; {advice}"
                )
            counted.update({content: name for name, _, content in counts.shards})
        given = identified(task.shards, threads)
        rest = not_yet_counted(given, counted, self._path)
        weights = {content: task.weight(shard) for shard, content in given}
        parts = []
        for counts in found:
            weights_of_part = {weights[content] for _, _, content in counts.shards}
            if len(weights_of_part) > 1:
                names = ", ".join(name for name, _, _ in counts.shards)
                raise InputError(
                    f"{self._path}: an interrupted run has counted {names} together, which have different "
                    f"weights now; {advice}"
                )
            parts.append(Weighted(counts, *weights_of_part))
        return parts, rest

    def merge(self, parts: Sequence[Weighted], threads: int, out: Path | None = None) -> _core.SparseCounts:
        """The sum of ``parts``, in the file ``out`` if given."""
        parts = list(parts)
        while len(parts) > _FAN_IN:
            merged = self._merge(parts[:_FAN_IN], self.file("merged"), threads)
            parts = [*parts[_FAN_IN:], Weighted(merged)]
        return self._merge(parts, out or self.file("merged"), threads)

    @staticmethod
    def _merge(parts: list[Weighted], out: Path, threads: int) -> _core.SparseCounts:
        counts, weights = [part.counts for part in parts], [part.weight for part in parts]
        with Progress("merging", sum(part.nbytes for part in counts), "bytes") as progress:
            return _core.SparseCounts.merge(counts, out, threads, progress.update, weights)


@dataclass(frozen=True)
class Task:
    """What is to be counted, once it is certain that it can be."""

    shards: tuple[str, ...]
    given: tuple[Weighted, ...]
    """Of files of partial counts."""
    vocabulary: Vocabulary
    order: int
    asked: Vocabulary | None
    weights: Mapping[str, int] = field(default_factory=dict)
    """Of shards that count as more than one copy of themselves."""

    def weight(self, shard: str) -> int:
        return self.weights.get(shard, 1)

    def groups(
        self, shards: Sequence[str], sizes: Mapping[str, int], limit: int
    ) -> Iterator[tuple[int, list[str]]]:
        """Weights, and groups of shards that have them. A group ends once it has ``limit`` tokens."""
        for weight in sorted({self.weight(shard) for shard in shards}):
            of_weight = [shard for shard in shards if self.weight(shard) == weight]
            for group in groups(of_weight, sizes, limit):
                yield weight, group

    @classmethod
    def of(cls, sources: Paths | Sources, ngrams: Ngrams | None = None) -> "Task":
        """Raises InputError, FormatError or OSError."""
        classified = Sources.of(sources)
        if classified.dense_counts:
            raise InputError(
                f"{classified.dense_counts[0]}: counts of the dense estimator; count the shards as sparse"
            )
        weights = classified.weights
        given = tuple(
            Weighted(_core.SparseCounts.open(path), weights.get(path, 1)) for path in classified.sparse_counts
        )
        ngrams = ngrams or Ngrams()
        asked = ngrams.asked
        of_counts = None
        if given:
            first = given[0].counts
            ngrams, of_counts = ngrams.of(first, classified.sparse_counts[0]), vocabulary_of(first)
        vocabulary = classified.vocabulary(ngrams.vocabulary, of_counts)
        order = DEFAULT_ORDER if ngrams.order is None else ngrams.order
        if not 2 <= order <= MAX_ORDER:
            raise UsageError(f"a sparse oracle has order 2 to {MAX_ORDER}, not {order}")
        return cls(classified.shards, given, vocabulary, order, asked, weights)


def check_memory(memory: int) -> None:
    """Raises InputError where ``memory`` bytes are too few for any build."""
    if memory < _LEAST_MEMORY:
        raise UsageError(
            f"a sparse build needs at least {_LEAST_MEMORY >> 20}M of memory, not {memory:,} bytes"
        )


def group_tokens(memory: int) -> int:
    """Tokens that are counted together with ``memory`` bytes."""
    return min(memory // BYTES_PER_TOKEN, _GROUP_TOKENS)


@contextlib.contextmanager
def counted(
    sources: Paths | Sources,
    ngrams: Ngrams | None = None,
    *,
    threads: int | None = None,
    memory: int = DEFAULT_MEMORY,
    unfinished: Path | None = None,
    every_shard: bool = False,
) -> Iterator[_core.SparseCounts]:
    """The counts of shards and of files of sparse partial counts together, to use within the context.

    Counting takes about ``memory`` bytes, and if that isn't enough for all shards at once, disk space for
    their counts, some 4 bytes per token. Files go to the folder ``unfinished``. It is gone after the context,
    but when anything is raised it stays with the shards counted so far, and the next run goes on from there.
    Without it they go to a temporary folder, which is always removed. ``every_shard`` makes a file of each.
    Raises InputError, FormatError or OSError.
    """
    check_memory(memory)
    task = Task.of(sources, ngrams)
    native = thread_count(threads)
    together = group_tokens(memory)
    with _Folder(unfinished) as folder:
        found, rest = folder.resume(task, native)
        if rest:
            # Every header is looked at before the long work begins.
            sizes = {shard: _core.shard_tokens(shard) for shard in rest}
            todo = list(task.groups(rest, sizes, 0 if every_shard else together))
            total = sum(sizes.values())
            fits = total <= together and not every_shard
            done = 0
            with Progress("counting", total, "tokens") as progress:
                for weight, group in todo:

                    def report(tokens: int, before: int = done) -> None:
                        progress.update(before + tokens)

                    out = None if fits else folder.file()
                    group_counts = _core.SparseCounts.count(
                        group, task.vocabulary, task.order, memory, out, native, report
                    )
                    found.append(Weighted(group_counts, weight))
                    done += sum(sizes[shard] for shard in group)
        parts = [*task.given, *found]
        only = parts[0] if len(parts) == 1 and parts[0].weight == 1 else None
        counts = folder.merge(parts, native) if only is None else only.counts
        warn_about(counts, task.asked)
        yield counts


def merge(
    paths: Sequence[str | os.PathLike[str]],
    out: Path,
    *,
    weights: Mapping[str, int] | None = None,
    threads: int | None = None,
) -> _core.SparseCounts:
    """Writes the sum of files of sparse partial counts to ``out``, in constant memory.

    A file counts as many times as ``weights`` says of its path, once where it says nothing. Raises
    FormatError, OSError, or InputError when options differ or a shard has been counted twice.
    """
    with _Folder(None) as folder:
        weights = weights or {}
        parts = [Weighted(_core.SparseCounts.open(path), weights.get(os.fspath(path), 1)) for path in paths]
        return folder.merge(parts, thread_count(threads), out)
