"""Shards to an oracle's bytes."""

import os
from collections.abc import Mapping, Sequence
from typing import Literal

from hybridlm import _core
from hybridlm.errors import InputError
from hybridlm.oracle.counting import Tables, count
from hybridlm.progress import Progress
from hybridlm.threads import thread_count

Estimator = Literal["dense", "sparse"]
Layout = Literal["reference", "packed"]

DEFAULT_LEVEL: dict[Layout, int] = {"reference": 22, "packed": 1}
"""zstd levels. The reference's files have the strongest one. Packed tables gain 0.2% from level 19 over level
1, at a hundred times the time: what there is to find, the packing has found."""


def estimate_dense(
    counts: _core.NgramCounts,
    *,
    layout: Layout = "reference",
    level: int | None = None,
    threads: int | None = None,
) -> bytes:
    """The dense oracle of ``counts``: an NGOR file, version 1, or 2 with the packed layout.

    Raises InputError when nothing has been counted, or for a level that zstd doesn't have.
    """
    if counts.tokens == 0:
        raise InputError("the shards hold no tokens")
    table_bytes = sum(rows * counts.vocab_size for rows in counts.buckets.values())
    with Progress("compressing", table_bytes, "bytes") as progress:
        return counts.dense_oracle(
            DEFAULT_LEVEL[layout] if level is None else level,
            thread_count(threads),
            progress.update,
            packed=layout == "packed",
        )


def build_dense(
    sources: Sequence[str | os.PathLike[str]],
    vocab_size: int,
    *,
    orders: int = 8,
    buckets: Mapping[int, int] | None = None,
    layout: Layout = "reference",
    level: int | None = None,
    threads: int | None = None,
) -> bytes:
    """Count ``sources``, shards or files of partial counts, and estimate the dense oracle of them all.

    Orders 1 to ``orders``; ``buckets`` gives the table rows of orders >= 3 that are not to have the default.
    The bytes depend neither on the sources' order and grouping nor on ``threads``. Raises InputError,
    FormatError or OSError.
    """
    counts = count(sources, Tables(vocab_size, orders, buckets or {}), threads=threads)
    return estimate_dense(counts, layout=layout, level=level, threads=threads)


def build_sparse(
    shards: Sequence[str | os.PathLike[str]],
    vocab_size: int,
    *,
    max_bytes: int,
    order: int = 6,
    threads: int | None = None,
) -> bytes:
    """The best sparse oracle of at most ``max_bytes`` bytes from ``shards``: an NGSP file, version 1.

    n-grams have up to ``order`` tokens. The bytes depend neither on the shards' order nor on ``threads``.
    Raises InputError (nothing fits, or no tokens), FormatError or OSError.
    """
    if not shards:
        raise InputError("no shards to count")
    with Progress("building", _core.SPARSE_PROGRESS, "%") as progress:
        return _core.build_sparse(
            shards, vocab_size, order, max_bytes, thread_count(threads), progress.update
        )
