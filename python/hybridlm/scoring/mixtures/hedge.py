"""Hedge: weights fall exponentially with an expert's accumulated loss.

Freund and Schapire, "A decision-theoretic generalization of on-line learning" (1997). After losses L_k the
weight of expert k is proportional to w_k exp(−η L_k). It converges to the best single *expert*, not to the
best mixture, and is kept as the reference that other mixtures are compared with.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from hybridlm.scoring.log_sum_exp import log_sum_exp
from hybridlm.scoring.mixtures.interface import register

if TYPE_CHECKING:
    from torch import Tensor

RATE = 0.01
"""η, per unit of loss in nats."""
SPAN = 64
"""Targets between two updates of the reference form."""
FAMILIES = ("neural", "online", "oracle")
"""The experts of the reference."""
NEURAL_LOG_WEIGHT = 2.0
"""The neural expert's log-weight at the start; every other expert's is 0."""


def initial_log_weights(experts: Sequence[str]) -> NDArray[np.float64]:
    """[K], not normalised."""
    return np.array([NEURAL_LOG_WEIGHT if name == "neural" else 0.0 for name in experts])


def _normalised(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return log_weights - log_sum_exp(log_weights)


class _ByCumulativeLoss:
    """Weights that are the initial ones less η times the losses so far."""

    families: ClassVar[tuple[str, ...]] = FAMILIES
    evidence: ClassVar[bool] = False

    def __init__(self, experts: Sequence[str], gate_sizes: Sequence[int] = ()) -> None:
        self._initial = initial_log_weights(experts)
        self._loss = np.zeros(len(experts))

    @property
    def log_weights(self) -> NDArray[np.float64]:
        """[K], in nats: the logarithms of the weights that the next target will meet."""
        return _normalised((self._initial - RATE * self._loss)[:, None])[:, 0]

    def weights(self, gates: NDArray[np.uint8] | None = None) -> NDArray[np.float64]:
        return np.exp(self.log_weights)

    def fingerprint(self) -> bytes:
        return hashlib.sha256(self._loss.tobytes()).digest()


@register("hedge")
class SpanHedge(_ByCumulativeLoss):
    """The reference: one update of −η · mean(nll) after every span of 64 targets.

    Spans lie on the grid of the whole stream. The targets of a span that a call leaves unfinished are kept,
    so that a span's mean is always taken over the same 64 numbers at once, whatever the calls.
    """

    def __init__(self, experts: Sequence[str], gate_sizes: Sequence[int] = ()) -> None:
        super().__init__(experts, gate_sizes)
        self._unfinished = np.empty((len(experts), 0))

    def fingerprint(self) -> bytes:
        return hashlib.sha256(super().fingerprint() + self._unfinished.tobytes()).digest()

    def mix(
        self, log_probs: NDArray[np.float32], gates: NDArray[np.uint8] | None = None
    ) -> NDArray[np.float64]:
        known = self._unfinished.shape[1]
        columns = np.concatenate((self._unfinished, log_probs.astype(np.float64)), axis=1)
        experts, total = columns.shape
        spans = total // SPAN
        losses = -columns[:, : spans * SPAN].reshape(experts, spans, SPAN).mean(axis=2)
        before = np.cumsum(np.concatenate((self._loss[:, None], losses), axis=1), axis=1)
        log_weights = _normalised(self._initial[:, None] - RATE * before)
        per_target = np.repeat(log_weights, SPAN, axis=1)[:, known:total]
        self._loss, self._unfinished = before[:, -1].copy(), columns[:, spans * SPAN :].copy()
        return -log_sum_exp(per_target + columns[:, known:])


@register("hedge-token")
class TokenHedge(_ByCumulativeLoss):
    """The exact form: one update of −η · nll after every target.

    Needs no loop: the log-weights before target t are the initial ones less η times the *exclusive*
    cumulative sum of the losses.
    """

    def mix(
        self, log_probs: NDArray[np.float32], gates: NDArray[np.uint8] | None = None
    ) -> NDArray[np.float64]:
        columns = log_probs.astype(np.float64)
        before = np.cumsum(np.concatenate((self._loss[:, None], -columns), axis=1), axis=1)
        self._loss = before[:, -1].copy()
        return -log_sum_exp(_normalised(self._initial[:, None] - RATE * before[:, :-1]) + columns)


def hedge_token_on_device(
    log_probs: "Tensor", log_weights: "Tensor", rate: float = RATE
) -> tuple["Tensor", "Tensor"]:
    """`TokenHedge.mix` for log-probabilities that are on a device already, without leaving it.

    log_probs [K, n] and log_weights float64 [K] → nll float64 [n] and the next call's log_weights. Equal to
    the NumPy form but for the rounding of a parallel cumulative sum.
    """
    import torch

    gains = torch.cat((log_weights[:, None], rate * log_probs.double()), dim=1).cumsum(dim=1)
    mixed = torch.log_softmax(gains[:, :-1], dim=0) + log_probs.double()
    return -torch.logsumexp(mixed, dim=0), gains[:, -1]
