"""The mixtures of the native core: weights that learn target by target.

- ``stacked``: the next one, in turn with the counts of the adaptive n-gram model; the default.
- ``eg``: online gradient over the simplex, at several rates and in several contexts at once; it follows the
  best *mixture* of the experts.
- ``fixed-share``: Bayes over experts the best of which may change at any target.
- ``bayes``: Bayes over the experts; it ends at the best single one.

Formulas and sources stand with the implementations, in rust/src/mixtures.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hybridlm._core import AdaptiveExperts, LinearMixture
from hybridlm.scoring.mixtures.interface import ready, register

FAMILIES = ("neural", "tilted", "oracle", "adaptive")
"""Not the reference's online counts, which the adaptive experts replace."""


class _Linear:
    families: ClassVar[tuple[str, ...]] = FAMILIES
    evidence: ClassVar[bool] = False
    name: ClassVar[str]

    def __init__(self, experts: Sequence[str], gate_sizes: Sequence[int] = ()) -> None:
        self._core = LinearMixture(self.name, len(experts), gate_sizes, ready=ready(experts))

    def weights(self, gates: NDArray[np.uint8] | None = None) -> NDArray[np.float64]:
        return self._core.weights(None if gates is None else gates.tolist())

    def mix(
        self, log_probs: NDArray[np.float32], gates: NDArray[np.uint8] | None = None
    ) -> NDArray[np.float64]:
        return self._core.mix(np.ascontiguousarray(log_probs), gates)

    def fingerprint(self) -> bytes:
        return self._core.fingerprint()


@register("stacked")
class Stacked(_Linear):
    name = "stacked"
    evidence = True

    def __init__(self, experts: Sequence[str], gate_sizes: Sequence[int] = ()) -> None:
        proper = [name for name in experts if name not in AdaptiveExperts.evidence_names]
        lengths = len(experts) - len(proper)
        # What counts contexts is put on top of what doesn't.
        base = [row for row, name in enumerate(proper) if name not in AdaptiveExperts.counting_names]
        gates = gate_sizes[: len(gate_sizes) - lengths]
        self._core = LinearMixture(
            self.name, len(proper), gates, base or range(len(proper)), lengths, ready(proper)
        )


@register("eg")
class ExponentiatedGradient(_Linear):
    name = "eg"


@register("fixed-share")
class FixedShare(_Linear):
    name = "fixed-share"


@register("bayes")
class Bayes(_Linear):
    name = "bayes"
