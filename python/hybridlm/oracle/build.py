"""Shards to an oracle's bytes."""

from collections.abc import Mapping
from typing import Literal

from hybridlm import _core
from hybridlm.errors import InputError
from hybridlm.oracle.dense_counting import Tables, count
from hybridlm.oracle.sources import Paths, Sources
from hybridlm.oracle.sparse_counting import DEFAULT_MEMORY, Ngrams, counted
from hybridlm.oracle.vocabularies import VocabularyLike
from hybridlm.progress import Progress
from hybridlm.threads import thread_count

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
    if level is not None and not 1 <= level <= 22:
        raise InputError(f"zstd levels run from 1 to 22, not {level}")
    table_bytes = sum(rows * counts.vocab_size for rows in counts.buckets.values())
    with Progress("compressing", table_bytes, "bytes") as progress:
        return counts.dense_oracle(
            DEFAULT_LEVEL[layout] if level is None else level,
            thread_count(threads),
            progress.update,
            packed=layout == "packed",
        )


def build_dense(
    sources: Paths | Sources,
    vocabulary: VocabularyLike,
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
    counts = count(sources, Tables(vocabulary, orders, buckets or {}), threads=threads)
    return estimate_dense(counts, layout=layout, level=level, threads=threads)


def estimate_sparse(
    counts: _core.SparseCounts,
    *,
    max_bytes: int,
    threads: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> bytes:
    """The best sparse oracle of at most ``max_bytes`` bytes that ``counts`` give: an NGSP file.

    Raises InputError when nothing has been counted or nothing fits, or when choosing among the n-grams would
    take more than about ``memory`` bytes.
    """
    if not 0 <= max_bytes < 2**63:
        raise InputError(f"an oracle can't have {max_bytes:,} bytes")
    with Progress("building", _core.SPARSE_PROGRESS, "%") as progress:
        return counts.sparse_oracle(max_bytes, memory, thread_count(threads), progress.update)


def build_sparse(
    sources: Paths | Sources,
    vocabulary: VocabularyLike | None = None,
    *,
    max_bytes: int,
    order: int | None = None,
    threads: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> bytes:
    """Count ``sources``, shards or files of sparse counts, and estimate the sparse oracle of them all.

    n-grams have up to ``order`` tokens; vocabulary and order are by default those of the partial counts, or
    1024 and 6. The bytes depend neither on the sources' order and grouping nor on ``threads`` and ``memory``.
    Raises InputError (nothing fits, or no tokens), FormatError or OSError.
    """
    ngrams = Ngrams(vocabulary, order)
    with counted(sources, ngrams, threads=threads, memory=memory) as counts:
        return estimate_sparse(counts, max_bytes=max_bytes, threads=threads, memory=memory)
