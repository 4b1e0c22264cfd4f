"""Counting shards and adding up files of partial counts, with a file to resume from when interrupted."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybridlm import _core
from hybridlm.errors import InputError
from hybridlm.files import atomic_write_bytes
from hybridlm.progress import Progress
from hybridlm.threads import thread_count

log = logging.getLogger("hybridlm.oracle")

DEFAULT_VOCAB_SIZE = 1024
DEFAULT_ORDERS = 8
DEFAULT_CHECKPOINT_SECONDS = 60.0
"""Writing the counts aside takes some tenths of a second, so every minute costs nothing to speak of."""

_GROUP_TOKENS = 1 << 25
"""Tokens per thread that are counted in one go. Setting up and adding up a thread's counters takes some
hundredths of a second; shards are open, and their pages held, for as long as this takes."""


@dataclass(frozen=True)
class Tables:
    """Which tables to count. What is None is as in the partial counts given, or the default."""

    vocab_size: int | None = None
    orders: int | None = None
    buckets: Mapping[int, int] = field(default_factory=dict)
    """Rows of orders >= 3 that are not to have the default."""

    def empty(self) -> _core.NgramCounts:
        vocab_size = DEFAULT_VOCAB_SIZE if self.vocab_size is None else self.vocab_size
        orders = DEFAULT_ORDERS if self.orders is None else self.orders
        return _core.NgramCounts(vocab_size, orders, self.buckets)

    def check(self, counts: _core.NgramCounts, name: str) -> None:
        """Raises InputError where ``counts``, read from ``name``, are not of these tables."""
        if self.vocab_size is not None and counts.vocab_size != self.vocab_size:
            raise InputError(
                f"{name}: counts of a vocabulary of {counts.vocab_size}, but {self.vocab_size} is asked for"
            )
        if self.orders is not None and counts.orders != tuple(range(1, self.orders + 1)):
            raise InputError(f"{name}: counts of orders 1 to {counts.orders[-1]}, not 1 to {self.orders}")
        for order, rows in self.buckets.items():
            if counts.buckets.get(order) != rows:
                raise InputError(
                    f"{name}: order {order} has {counts.buckets.get(order, 'no')} rows, not {rows}"
                )


@dataclass(frozen=True)
class Checkpoint:
    """A file of partial counts that grows while shards are counted, for an interrupted run to resume from."""

    path: Path
    seconds: float = DEFAULT_CHECKPOINT_SECONDS
    """Between two writings; 0 writes after every shard."""

    def resume(
        self, counts: _core.NgramCounts, shards: Sequence[str], threads: int
    ) -> tuple[_core.NgramCounts, list[str]]:
        """``counts`` with those of the file, if there is one, and the shards that are still to be counted.

        A shard counts as counted when its whole content is what was counted, which takes reading it.
        Raises InputError when the file is of other tables or has shards that are not asked for.
        """
        if not self.path.exists():
            return counts, list(shards)
        advice = f"; remove {self.path} to start afresh"
        saved = read_partial(self.path, threads)
        if saved.buckets != counts.buckets or saved.vocab_size != counts.vocab_size:
            raise InputError(
                f"{self.path}: an interrupted run left counts of another vocabulary, orders or rows{advice}"
            )
        identities = [hash for _, _, hash in _core.identify_shards(shards, threads)]
        for name, _, hash in saved.shards:
            if hash not in identities:
                raise InputError(
                    f"{self.path}: an interrupted run has counted {name}, which is not among the shards{advice}"
                )
        counted = {hash for _, _, hash in saved.shards}
        rest = [shard for shard, hash in zip(shards, identities, strict=True) if hash not in counted]
        log.info("%s: resuming with %d of %d shards counted", self.path, len(counted), len(shards))
        saved.merge(counts)
        return saved, rest

    def save(self, counts: _core.NgramCounts, threads: int) -> None:
        atomic_write_bytes(self.path, counts.to_bytes(threads))

    def remove(self) -> None:
        """To be called when the result is in its place."""
        self.path.unlink(missing_ok=True)


def is_partial(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as partial counts do. Raises OSError."""
    with Path(path).open("rb") as file:
        return file.read(len(_core.PARTIAL_COUNTS_MAGIC)) == _core.PARTIAL_COUNTS_MAGIC


def read_partial(path: str | os.PathLike[str], threads: int | None = None) -> _core.NgramCounts:
    """Raises OSError, or FormatError for a file that is not intact partial counts."""
    return _core.NgramCounts.from_bytes(Path(path).read_bytes(), os.fspath(path), thread_count(threads))


def merge_partials(
    paths: Sequence[str | os.PathLike[str]],
    tables: Tables | None = None,
    *,
    threads: int | None = None,
) -> _core.NgramCounts:
    """The sum of files of partial counts, of which one at a time is in memory.

    Raises FormatError, OSError, or InputError when tables differ or a shard has been counted twice.
    """
    if not paths:
        raise InputError("no partial counts to merge")
    threads = thread_count(threads)
    counts = read_partial(paths[0], threads)
    if tables is not None:
        tables.check(counts, os.fspath(paths[0]))
    with Progress("merging", len(paths), "files") as progress:
        for done, path in enumerate(paths[1:], 1):
            progress.update(done)
            counts.merge_bytes(Path(path).read_bytes(), os.fspath(path), threads)
    return counts


def count(
    sources: Sequence[str | os.PathLike[str]],
    tables: Tables | None = None,
    *,
    threads: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> _core.NgramCounts:
    """The counts of shards and of files of partial counts together.

    Memory is the tables, a byte per cell and thread, and a constant, however many sources there are. The
    counts depend on neither the sources' order nor ``threads``. Raises InputError, FormatError or OSError.
    """
    tables = tables or Tables()
    threads = thread_count(threads)
    partials = [os.fspath(source) for source in sources if is_partial(source)]
    shards = [os.fspath(source) for source in sources if not is_partial(source)]
    counts = merge_partials(partials, tables, threads=threads) if partials else tables.empty()
    # Looks at every header before the long work begins.
    sizes = {shard: _core.shard_tokens(shard) for shard in shards}
    if checkpoint is not None:
        counts, shards = checkpoint.resume(counts, shards, threads)
    every_shard = checkpoint is not None and checkpoint.seconds == 0
    group_tokens = 0 if every_shard else _GROUP_TOKENS * threads
    done = 0
    saved_at = time.monotonic()
    with Progress("counting", sum(sizes[shard] for shard in shards), "tokens") as progress:
        for group in _groups(shards, sizes, group_tokens):
            before = done
            counts.count_shards(group, threads, lambda tokens, before=before: progress.update(before + tokens))
            done += sum(sizes[shard] for shard in group)
            if checkpoint is not None and time.monotonic() - saved_at >= checkpoint.seconds:
                checkpoint.save(counts, threads)
                saved_at = time.monotonic()
    return counts


def _groups(shards: Sequence[str], sizes: Mapping[str, int], tokens: int) -> Iterator[list[str]]:
    """Consecutive shards that have at least ``tokens`` tokens together."""
    group: list[str] = []
    for shard in shards:
        group.append(shard)
        if sum(sizes[member] for member in group) >= tokens:
            yield group
            group = []
    if group:
        yield group
