"""The geometric mixture: p(v) ∝ Π p_k(v)^θ_k, normalised over the whole vocabulary at every target.

Where linear mixtures ask how probable each expert finds the target, this one asks what they all say of
every token: experts that agree sharpen each other. It takes whole rows, so it costs about as many times more
as there are tokens in the vocabulary. Formulas stand with the implementation, rust/src/mixtures/geometric.rs.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hybridlm._core import GeometricMixture
from hybridlm.scoring.mixtures.interface import ready, register_row_mixture


@register_row_mixture("geometric")
class Geometric:
    families: ClassVar[tuple[str, ...]] = ("neural", "oracle", "adaptive")

    def __init__(self, experts: Sequence[str], vocab_size: int) -> None:
        self._core = GeometricMixture(len(experts), vocab_size, ready(experts))

    def mix(self, rows: NDArray[np.float32], targets: NDArray[np.uint16]) -> NDArray[np.float64]:
        return self._core.mix(np.ascontiguousarray(rows), targets)

    def row(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._core.row(np.ascontiguousarray(rows))

    def fingerprint(self) -> bytes:
        return self._core.fingerprint()
