"""Several oracles as one predictor: their static interpolation, with weights found on one text for another.

What SRILM's ``compute-best-mix`` does: expectation maximisation on a text that none of the models was counted
from. The weights fit that text, so what the mixture costs there is no score; another text gives one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridlm.data.byte_table import ByteTable
from hybridlm.errors import InputError
from hybridlm.oracle.oracle import Oracle
from hybridlm.oracle.oracle_score import LN2, Bits
from hybridlm.oracle.static_weights import best_static_weights


@dataclass(frozen=True)
class Column:
    """A predictor that takes part: an order of the oracle with that index."""

    oracle: int
    order: int


@dataclass(frozen=True)
class Interpolation:
    """Weights [columns] that sum to one."""

    columns: tuple[Column, ...]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class InterpolationScore:
    """What a text costs, by each column alone and by the mixture; ``tokens`` is its number of targets."""

    tokens: int
    bytes: int
    columns: tuple[Bits, ...]
    mixture: Bits


def columns_of(oracles: Sequence[Oracle]) -> tuple[Column, ...]:
    """The highest order of a sparse oracle, which contains its lower ones, and all orders of a dense one."""
    return tuple(
        Column(index, order)
        for index, oracle in enumerate(oracles)
        for order in (oracle.orders if oracle.estimator == "dense" else oracle.orders[-1:])
    )


def tune(
    oracles: Sequence[Oracle], stream: NDArray[np.uint16], *, threads: int | None = None
) -> Interpolation:
    """The weights by which the oracles' columns predict ``stream`` [N] best.

    Raises InputError for oracles of different vocabularies and for a stream without targets.
    """
    columns = columns_of(oracles)
    return Interpolation(columns, best_static_weights(_log_probs(oracles, columns, stream, threads)))


def score(
    oracles: Sequence[Oracle],
    found: Interpolation,
    stream: NDArray[np.uint16],
    byte_table: ByteTable,
    *,
    threads: int | None = None,
) -> InterpolationScore:
    """What the targets of ``stream`` [N] cost under weights that were found before.

    Raises InputError as `tune` does, and for a stream without bytes.
    """
    log_probs = _log_probs(oracles, found.columns, stream, threads)
    total_bytes = int(byte_table.lengths(stream, 1).sum())
    if not total_bytes:
        raise InputError("the stream's tokens stand for no bytes of text")
    targets = log_probs.shape[1]

    def bits(row: NDArray[np.floating]) -> Bits:
        total = -float(row.sum(dtype=np.float64)) / LN2
        return Bits(total / targets, total / total_bytes)

    # Largest first: the sum of probabilities can't underflow to zero.
    peak = log_probs.max(axis=0)
    mixed = np.log(found.weights @ np.exp((log_probs - peak).astype(np.float64))) + peak
    return InterpolationScore(targets, total_bytes, tuple(map(bits, log_probs)), bits(mixed))


def _log_probs(
    oracles: Sequence[Oracle],
    columns: Sequence[Column],
    stream: NDArray[np.uint16],
    threads: int | None,
) -> NDArray[np.float32]:
    """ln p [columns, N − 1] of stream[1:]."""
    sizes = {oracle.vocab_size for oracle in oracles}
    if len(sizes) > 1:
        raise InputError(
            f"oracles of vocabularies of {', '.join(map(str, sorted(sizes)))} tokens can't be interpolated: "
            "they must be of one tokenizer"
        )
    if len(stream) < 2:
        raise InputError(f"{len(stream)} tokens hold nothing to score; at least 2 are needed")
    rows = np.empty((len(columns), len(stream) - 1), np.float32)
    for index, oracle in enumerate(oracles):
        found = oracle.target_log_probs(stream, start=1, threads=threads)
        for at, column in enumerate(columns):
            if column.oracle == index:
                rows[at] = found[oracle.orders.index(column.order)]
    return rows
