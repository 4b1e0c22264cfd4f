"""A model's weights as an artifact holds them, and the float32 weights that they stand for. Free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import FormatError
from hybridlm.model.grid import range_of

LEFT_BITS, RIGHT_BITS = 2, 4
"""Of the factors of a low-rank correction."""
GROUP = 64
"""Consecutive values of a factor's row that share a scale."""


@dataclass(frozen=True)
class Factor:
    """A matrix of few rows: int8 [rank, n], and float16 [rank, ⌈n / 64⌉] scales of groups of columns.

    A value is (integer + ½) · scale: with so few levels none is wasted on being zero's only mirror image.
    """

    integers: NDArray[np.int8]
    scales: NDArray[np.float16]

    def values(self) -> NDArray[np.float64]:
        scales = np.repeat(self.scales.astype(np.float64), GROUP, axis=1)[:, : self.integers.shape[1]]
        return (self.integers + 0.5) * scales


@dataclass(frozen=True)
class LowRank:
    """What is added to a rounded matrix [rows, columns]: leftᵀ · right (LQER, arXiv 2402.02446).

    left: [rank, rows], two bits. right: [rank, columns], four bits.
    """

    left: Factor
    right: Factor

    def values(self) -> NDArray[np.float64]:
        return self.left.values().T @ self.right.values()


@dataclass(frozen=True)
class QuantisedMatrix:
    """int8 [rows, columns] in the range of ``bits`` bits, float16 [rows]: weight = integer · scale."""

    bits: int
    integers: NDArray[np.int8]
    scales: NDArray[np.float16]
    low_rank: LowRank | None = None

    def values(self) -> NDArray[np.float32]:
        """float32 [rows, columns]: the weights."""
        values = self.integers.astype(np.float32) * self.scales.astype(np.float32)[:, None]
        return values if self.low_rank is None else (values + self.low_rank.values()).astype(np.float32)


@dataclass(frozen=True)
class QuantisedState:
    """A model's state, as stored.

    Attributes:
        matrices: the quantised ones, by name.
        floats: everything else: float16, or float32 where a value leaves half precision's range.
    """

    matrices: Mapping[str, QuantisedMatrix]
    floats: Mapping[str, NDArray[Any]]


def dequantise(quantised: QuantisedState) -> dict[str, NDArray[np.float32]]:
    """The float32 state that a `QuantisedState` stands for.

    Raises FormatError, naming the tensor, for integers out of range, scales that don't belong to the rows,
    are not finite or not positive, and floats that are not finite.
    """
    state: dict[str, NDArray[np.float32]] = {}
    for name, matrix in quantised.matrices.items():
        _check(name, matrix)
        state[name] = matrix.values()
    for name, values in quantised.floats.items():
        if not np.isfinite(values).all():
            raise FormatError(f"tensor {name}: a value that is not finite")
        state[name] = values.astype(np.float32)
    return state


def _check(name: str, matrix: QuantisedMatrix) -> None:
    if matrix.integers.ndim != 2 or matrix.scales.shape != matrix.integers.shape[:1]:
        raise FormatError(
            f"tensor {name}: shape {list(matrix.integers.shape)} with scales of shape "
            f"{list(matrix.scales.shape)}"
        )
    parts = [(matrix.bits, matrix.integers, matrix.scales)]
    if (low_rank := matrix.low_rank) is not None:
        parts += [
            (bits, factor.integers, factor.scales)
            for bits, factor in ((LEFT_BITS, low_rank.left), (RIGHT_BITS, low_rank.right))
        ]
    for bits, integers, scales in parts:
        low, high = range_of(bits)
        if integers.size and not low <= int(integers.min()) <= int(integers.max()) <= high:
            raise FormatError(f"tensor {name}: an integer outside {low}..{high}")
        if not (np.isfinite(scales) & (scales > 0)).all():
            raise FormatError(f"tensor {name}: a scale that is not a positive number")
