"""Several learning rates at once, the better one trusted: a choice that is made target by target, beforehand.

Bayes over K rates: after losses L_k the weight of rate k is proportional to exp(−L_k), so the mixture's
whole loss is at most ln K nats above that of the best rate, whichever it is. So that a rate that was bad for
a while can come back, a small share of all weights is dealt out evenly at fixed places of the stream
(Herbster and Warmuth, "Tracking the best expert", 1998): there, −ln(1 − share) nats are lost at most.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from hybridlm.scoring.log_sum_exp import log_sum_exp

SPAN = 256
"""Targets between two places where weights are shared out."""
SHARE = 0.001
"""Of all weight, dealt out evenly: 4·10⁻⁶ nats a target."""


class RateMixture:
    """Weights of K rates. Float64; a stream gives the same bits however it is cut into calls."""

    def __init__(self, rates: int) -> None:
        self._log_weights = np.full(rates, -np.log(rates))
        """At the beginning of the span."""
        self._gain = np.zeros(rates)
        """Σ ln p of the span so far."""
        self._at = 0
        """Targets of the span so far."""

    def weights(self) -> NDArray[np.float64]:
        """[K]: what the next target will meet."""
        return np.exp(self._mixed(self._gain[:, None])[0][:, 0])

    def mix(self, log_probs: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """ln p of the mixture [n], and the log-weights [K, n] that each target met, for ln p_k [K, n]."""
        found, weights = [], []
        done, targets = 0, log_probs.shape[1]
        while done < targets:
            piece = log_probs[:, done : done + SPAN - self._at].astype(np.float64)
            # Added one by one from the carried sum, so that a cut changes nothing.
            gains = np.cumsum(np.concatenate((self._gain[:, None], piece), axis=1), axis=1)
            before, _ = self._mixed(gains[:, :-1])
            found.append(log_sum_exp(before + piece))
            weights.append(before)
            self._gain = gains[:, -1].copy()
            done, self._at = done + piece.shape[1], self._at + piece.shape[1]
            if self._at == SPAN:
                self._share()
        if not found:
            return np.empty(0), np.empty((len(self._gain), 0))
        return np.concatenate(found), np.concatenate(weights, axis=1)

    def state(self) -> NDArray[np.float64]:
        """[2 K + 1]: all that later weights depend on."""
        return np.concatenate((self._log_weights, self._gain, [self._at]))

    def restore(self, state: NDArray[np.float64]) -> None:
        """What `state` gave of as many rates."""
        rates = len(self._gain)
        self._log_weights, self._gain = state[:rates].copy(), state[rates : 2 * rates].copy()
        self._at = int(state[-1])

    def fingerprint(self) -> bytes:
        return hashlib.sha256(self.state().tobytes()).digest()

    def _mixed(self, gains: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log-weights [K, n] after the span's gains [K, n], and their normaliser [n]."""
        weights = self._log_weights[:, None] + gains
        total = log_sum_exp(weights)
        return weights - total, total

    def _share(self) -> None:
        weights = np.exp(self._mixed(self._gain[:, None])[0][:, 0])
        self._log_weights = np.log((1 - SHARE) * weights + SHARE / len(weights))
        self._gain, self._at = np.zeros_like(self._gain), 0
