"""What an oracle alone is worth on a validation stream."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridlm.data.byte_table import ByteTable
from hybridlm.errors import InputError
from hybridlm.oracle.oracle import Oracle
from hybridlm.oracle.static_weights import best_static_weights

LN2 = float(np.log(2.0))

# Full rows looked at in search of one that doesn't sum to one.
SAMPLED_ROWS = 4096


@dataclass(frozen=True)
class Bits:
    bits_per_token: float
    bpb: float


@dataclass(frozen=True)
class OracleEvaluation:
    """``bits_per_token`` and ``bpb`` are those of the oracle as one predictor: for the dense estimator the
    best static mixture of its orders (weights chosen in hindsight), for others, whose highest order already
    contains the lower ones, the highest order."""

    tokens: int
    bytes: int
    bits_per_token: float
    bpb: float
    orders: dict[int, Bits]
    best_static_mix: Bits
    best_static_weights: dict[int, float]
    max_row_sum_error: float


def evaluate(
    oracle: Oracle, stream: NDArray[np.uint16], byte_table: ByteTable, *, threads: int | None = None
) -> OracleEvaluation:
    """Score ``stream`` [N], of which ``stream[1:]`` are the targets.

    Raises InputError for fewer than two tokens, for no bytes, or for a tokenizer of another vocabulary.
    """
    if byte_table.vocab_size != oracle.vocab_size:
        raise InputError(
            f"the tokenizer has {byte_table.vocab_size} pieces, but the oracle was built for "
            f"{oracle.vocab_size}"
        )
    if len(stream) < 2:
        raise InputError(f"{len(stream)} tokens hold nothing to score; at least 2 are needed")
    total_bytes = int(byte_table.lengths(stream, 1).sum())
    if total_bytes == 0:
        raise InputError("the stream's tokens stand for no bytes of text")
    targets = len(stream) - 1
    found = oracle.target_log_probs(stream, start=1, threads=threads)

    def bits(nats_per_token: float) -> Bits:
        return Bits(nats_per_token / LN2, nats_per_token * targets / LN2 / total_bytes)

    orders = {
        order: bits(-float(row.mean(dtype=np.float64)))
        for order, row in zip(oracle.orders, found, strict=True)
    }
    weights = best_static_weights(found)
    # Largest first: the sum of probabilities can't underflow to zero.
    peak = found.max(axis=0)
    mixed = np.log(weights.astype(np.float32) @ np.exp(found - peak)) + peak
    mix = bits(-float(mixed.mean(dtype=np.float64)))
    headline = mix if oracle.estimator == "dense" else orders[max(orders)]
    return OracleEvaluation(
        tokens=targets,
        bytes=total_bytes,
        bits_per_token=headline.bits_per_token,
        bpb=headline.bpb,
        orders=orders,
        best_static_mix=mix,
        best_static_weights={order: float(w) for order, w in zip(oracle.orders, weights, strict=True)},
        max_row_sum_error=max_row_sum_error(oracle, stream, threads=threads),
    )


def max_row_sum_error(oracle: Oracle, stream: NDArray[np.uint16], *, threads: int | None = None) -> float:
    """The largest |Σ_v p_k(v) − 1| over all orders at positions spread evenly over the stream."""
    positions = np.unique(np.linspace(0, len(stream), min(SAMPLED_ROWS, len(stream) + 1), dtype=np.int64))
    largest = 0.0
    for part in np.array_split(positions, max(1, len(positions) // 128)):
        rows = oracle.log_probs(stream, part, threads=threads)
        sums = np.exp(rows.astype(np.float64)).sum(axis=-1)
        largest = max(largest, float(np.abs(sums - 1.0).max(initial=0.0)))
    return largest
