"""Counting shards and adding up files of partial counts, with a file to resume from when interrupted."""

import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from hybridlm import _core
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import InputError
from hybridlm.files import atomic_write_bytes, exclusive, read_bytes
from hybridlm.oracle.context_hash import verify_hash_twins
from hybridlm.oracle.resume import identified, not_yet_counted
from hybridlm.oracle.sources import Paths, Sources
from hybridlm.oracle.vocabularies import (
    DEFAULT_VOCABULARY,
    VocabularyLike,
    as_vocabulary,
    check_asked,
    vocabulary_of,
    warn_about,
)
from hybridlm.progress import Progress
from hybridlm.threads import thread_count

log = logging.getLogger("hybridlm.oracle")

Engine = Literal["local", "ray"]

DEFAULT_ORDERS = MAX_ORDER = 8
DEFAULT_CHECKPOINT_SECONDS = 60.0
"""Writing the counts takes some tenths of a second, which once a minute doesn't matter."""

_GROUP_TOKENS = 1 << 25
"""Tokens per thread that are counted in one go. Setting up and adding up a thread's counters takes some
hundredths of a second; shards are open, and their pages held, for as long as this takes."""


_LARGE = 16_000_000
"""Cells, and bytes before compression, that are worth a warning: as many as a whole artifact has bytes."""

_BYTES_PER_TOTAL = 2
"""Of each cell; while it is counted it takes another byte for each thread."""


@dataclass(frozen=True)
class Tables:
    """Which tables to count. A field that is None is that of the partial counts given, or the default."""

    vocabulary: VocabularyLike | None = None
    orders: int | None = None
    buckets: Mapping[int, int] = field(default_factory=dict)
    """Rows of orders >= 3 that are not to have the default."""

    @property
    def asked(self) -> Vocabulary | None:
        return None if self.vocabulary is None else as_vocabulary(self.vocabulary)

    def empty(self) -> _core.NgramCounts:
        orders = DEFAULT_ORDERS if self.orders is None else self.orders
        if not 1 <= orders <= MAX_ORDER:
            raise InputError(f"orders run from 1 to {MAX_ORDER}, not {orders}")
        for order, rows in self.buckets.items():
            if not 3 <= order <= MAX_ORDER:
                raise InputError(f"rows can be chosen for orders 3 to {MAX_ORDER}, not for order {order}")
            if not 1 <= rows < 2**32:
                raise InputError(f"order {order} can have 1 to {2**32 - 1:,} rows, not {rows:,}")
        return _core.NgramCounts(self.asked or DEFAULT_VOCABULARY, orders, self.buckets)

    def of(self, counts: _core.NgramCounts, name: str) -> "Tables":
        """The tables of ``counts``, read from ``name``. Raises InputError where others are asked for."""
        found = vocabulary_of(counts)
        check_asked(self.asked, found, name)
        if self.orders is not None and len(counts.orders) != self.orders:
            raise InputError(f"{name}: counts of orders 1 to {len(counts.orders)}, not 1 to {self.orders}")
        for order, rows in self.buckets.items():
            if counts.buckets.get(order) != rows:
                there = counts.buckets.get(order, "no")
                raise InputError(f"{name}: counts with {there} rows for order {order}, not {rows}")
        hashed = {order: rows for order, rows in counts.buckets.items() if order >= 3}
        return Tables(self.asked or found, len(counts.orders), hashed)


@dataclass(frozen=True)
class Checkpoint:
    """A file of partial counts that grows while shards are counted, for an interrupted run to resume from."""

    path: Path
    seconds: float = DEFAULT_CHECKPOINT_SECONDS
    """Between two writings; 0 writes after every shard."""

    def resume(
        self, empty: _core.NgramCounts, shards: Sequence[str], threads: int
    ) -> tuple[_core.NgramCounts, list[str]]:
        """The counts to go on from, ``empty`` if there is no file, and the shards still to be counted.

        Raises InputError when the file is of other tables than ``empty``, or of a shard that is not given.
        """
        if not self.path.exists():
            return empty, list(shards)
        saved = read_partial(self.path, threads)
        if (saved.vocabulary, saved.buckets) != (empty.vocabulary, empty.buckets):
            raise InputError(
                f"{self.path}: an interrupted run left counts of another vocabulary, document token, "
                f"tokenizer, orders or rows; remove {self.path} to start afresh"
            )
        counted = {content: name for name, _, content in saved.shards}
        return saved, not_yet_counted(identified(shards, threads), counted, self.path)

    def save(self, counts: _core.NgramCounts, threads: int) -> None:
        atomic_write_bytes(self.path, counts.to_bytes(threads))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block no other process counts for the same file; when it ends well, the file is removed.

        Leave it only when the result is in its place. Raises InputError where another process does; OSError.
        """
        with exclusive(self.path):
            yield
            self.path.unlink(missing_ok=True)


def read_partial(path: str | os.PathLike[str], threads: int | None = None) -> _core.NgramCounts:
    """Raises OSError, or FormatError for a file that is not intact partial counts."""
    return _core.NgramCounts.from_bytes(read_bytes(path), os.fspath(path), thread_count(threads))


def merge(paths: Sequence[str | os.PathLike[str]], *, threads: int | None = None) -> _core.NgramCounts:
    """The sum of files of partial counts, of which one at a time is in memory.

    Raises FormatError, OSError, or InputError when tables differ or a shard has been counted twice.
    """
    if not paths:
        raise InputError("no partial counts to merge")
    counts = read_partial(paths[0], threads)
    _add(paths[1:], counts, threads)
    return counts


def _add(paths: Sequence[str | os.PathLike[str]], counts: _core.NgramCounts, threads: int | None) -> None:
    with Progress("merging", len(paths), "files") as progress:
        for done, path in enumerate(paths, 1):
            counts.merge_bytes(read_bytes(path), os.fspath(path), thread_count(threads))
            progress.update(done)


def count(
    sources: Paths | Sources,
    tables: Tables | None = None,
    *,
    threads: int | None = None,
    checkpoint: Checkpoint | None = None,
    engine: Engine = "local",
    ray_address: str | None = None,
) -> _core.NgramCounts:
    """The counts of shards and of files of partial counts together.

    Memory is the tables, a byte per cell and thread, and a constant, however many sources there are. The
    counts depend on neither the sources' order nor ``threads`` nor ``engine``. On Ray, ``threads`` are those
    of a task, one if None. Raises InputError, FormatError or OSError.
    """
    found = Sources.of(sources)
    if found.sparse_counts:
        raise InputError(
            f"{found.sparse_counts[0]}: counts of the sparse estimator; build with that, or count again"
        )
    verify_hash_twins()
    tables = tables or Tables()
    asked = tables.asked
    of_counts = None
    if found.dense_counts:
        first = read_partial(found.dense_counts[0], threads)
        tables, of_counts = tables.of(first, found.dense_counts[0]), vocabulary_of(first)
    vocabulary = found.vocabulary(tables.vocabulary, of_counts)
    tables = replace(tables, vocabulary=vocabulary)
    counts = tables.empty()
    _warn_of_size(counts, thread_count(threads))
    counts = _counted(found.shards, counts, threads, checkpoint, engine, ray_address)
    # Last, so that a checkpoint is of shards alone.
    _add(found.dense_counts, counts, threads)
    warn_about(counts, asked)
    return counts


def _counted(
    shards: Sequence[str],
    counts: _core.NgramCounts,
    threads: int | None,
    checkpoint: Checkpoint | None,
    engine: Engine,
    ray_address: str | None,
) -> _core.NgramCounts:
    if not shards:
        return counts
    if engine == "ray":
        from hybridlm.oracle.ray_counting import count_on_ray

        save = None
        if checkpoint is not None:
            counts, shards = checkpoint.resume(counts, shards, thread_count(threads))
            save = functools.partial(checkpoint.save, counts, thread_count(threads))
        if shards:
            count_on_ray(
                shards,
                counts,
                address=ray_address,
                threads=threads or 1,
                save=save,
                seconds=checkpoint.seconds if checkpoint else 0,
            )
        return counts
    return _count_here(shards, counts, thread_count(threads), checkpoint)


def _warn_of_size(counts: _core.NgramCounts, threads: int) -> None:
    cells = sum(rows * counts.vocab_size for rows in counts.buckets.values())
    if cells > _LARGE:
        log.warning(
            "the dense tables of %s tokens have %s cells, order 2 alone %s: a byte each in the oracle before "
            "it is compressed, and some %s MB in all while they are counted. --estimator sparse stores only "
            "the n-grams that are worth their bytes; fewer --orders or --buckets make the tables smaller",
            f"{counts.vocab_size:,}",
            f"{cells:,}",
            f"{counts.buckets.get(2, 0) * counts.vocab_size:,}",
            f"{cells * (_BYTES_PER_TOTAL + threads) // 1_000_000:,}",
        )


def _count_here(
    shards: Sequence[str], counts: _core.NgramCounts, threads: int, checkpoint: Checkpoint | None
) -> _core.NgramCounts:
    # Every header is looked at before the long work begins.
    sizes = {shard: _core.shard_tokens(shard) for shard in shards}
    if checkpoint is not None:
        counts, shards = checkpoint.resume(counts, shards, threads)
    every_shard = checkpoint is not None and checkpoint.seconds == 0
    done = 0
    saved_at = time.monotonic()
    with Progress("counting", sum(sizes[shard] for shard in shards), "tokens") as progress:
        for group in groups(shards, sizes, 0 if every_shard else _GROUP_TOKENS * threads):

            def report(tokens: int, before: int = done) -> None:
                progress.update(before + tokens)

            counts.count_shards(group, threads, report)
            done += sum(sizes[shard] for shard in group)
            if checkpoint is not None and time.monotonic() - saved_at >= checkpoint.seconds:
                checkpoint.save(counts, threads)
                saved_at = time.monotonic()
    return counts


def groups(shards: Sequence[str], sizes: Mapping[str, int], tokens: int) -> Iterator[list[str]]:
    """Consecutive shards that have at least ``tokens`` tokens together."""
    group: list[str] = []
    held = 0
    for shard in shards:
        group.append(shard)
        held += sizes[shard]
        if held >= tokens:
            yield group
            group, held = [], 0
    if group:
        yield group
