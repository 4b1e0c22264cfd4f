"""Shards to an oracle's bytes."""

import os
from collections.abc import Mapping, Sequence
from typing import Literal

from hybridlm import _core
from hybridlm.errors import InputError
from hybridlm.oracle.hashing import verify_hash_twins
from hybridlm.progress import Progress
from hybridlm.threads import thread_count

Layout = Literal["reference", "packed"]

DEFAULT_LEVEL: dict[Layout, int] = {"reference": 22, "packed": 1}
"""zstd levels. The reference's files have the strongest one. Packed tables gain 0.2% from level 19 over level
1, at a hundred times the time: what there is to find, the packing has found."""


def build_dense(
    shards: Sequence[str | os.PathLike[str]],
    vocab_size: int,
    *,
    orders: int = 8,
    buckets: Mapping[int, int] | None = None,
    layout: Layout = "reference",
    level: int | None = None,
    threads: int | None = None,
) -> bytes:
    """Count ``shards`` and estimate the dense oracle: an NGOR file, version 1, or 2 with the packed layout.

    Orders 1 to ``orders``; ``buckets`` gives the table rows of orders >= 3 that are not to have the default.
    The bytes depend neither on the shards' order nor on ``threads``. Raises InputError, FormatError or
    OSError.
    """
    if not shards:
        raise InputError("no shards to count")
    threads = thread_count(threads)
    verify_hash_twins()
    total = sum(_core.shard_tokens(shard) for shard in shards)
    if total == 0:
        raise InputError("the shards hold no tokens")
    counts = _core.NgramCounts(vocab_size, orders, buckets)
    with Progress("counting", total, "tokens") as progress:
        counts.count_shards(shards, threads, progress.update)
    table_bytes = sum(rows * vocab_size for rows in counts.buckets.values())
    with Progress("compressing", table_bytes, "bytes") as progress:
        return counts.dense_oracle(
            DEFAULT_LEVEL[layout] if level is None else level,
            threads,
            progress.update,
            packed=layout == "packed",
        )
