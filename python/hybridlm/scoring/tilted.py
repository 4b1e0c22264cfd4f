"""A network's distribution, tilted by what an oracle's n-grams raise.

p(w) ∝ p_net(w) Π_n r_n(w)^θ_n, where r_n(w) ≥ 1 is by how much the oracle's n-gram of order n that ends with
w raises it over the shorter one. It is the geometric mixture of network and oracle, at the cost of the few
tokens that any n-gram raises: only their ln p are asked of the network. Formulas, and what the exponents
learn by, stand with the implementation, rust/src/experts/tilted.rs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.errors import InputError
from hybridlm.oracle import Oracle
from hybridlm.scoring.asked import Asked, Network
from hybridlm.scoring.experts import Expert, Scored

_CONTEXT = 16
"""Tokens, more than any oracle looks back."""


@dataclass(frozen=True)
class _Told:
    """What a network has said of the targets from ``start`` to before ``end``: ln p [n] of them, and [m] of
    what was asked or [n, V] of every token."""

    start: int
    end: int
    log_probs: NDArray[np.float32]
    others: NDArray[np.float32]


class Questioned(Expert):
    """A network as it is, asked at every target about the tokens that n-grams raise, for `Tilted` to use."""

    def __init__(self, network: Network, tilt: _core.TiltedExpert) -> None:
        self.family, self.names, self.vocab_size = network.family, network.names, network.vocab_size
        self.told: _Told | None = None
        self._network = network
        self._tilt = tilt

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        asked = Asked(*self._tilt.raised_tokens(stream, start))
        scored, others = self._network.score_asked(stream, start, asked)
        self.told = _Told(start, len(stream), scored.log_probs[0], others)
        return scored

    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        scored = self._network.score_rows(stream, start, rows)
        self.told = _Told(start, len(stream), scored.log_probs[0], rows[0])
        return scored

    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        return self._network.predict(stream)

    def fingerprint(self) -> bytes:
        return self._network.fingerprint()


class Tilted(Expert):
    """The network's distribution, tilted by an oracle's n-grams; its exponents learn target by target.

    ``network`` must have scored a piece before this is asked of it.
    """

    family = "tilted"
    names = ("tilted",)

    def __init__(self, network: Questioned, tilt: _core.TiltedExpert) -> None:
        self.vocab_size = network.vocab_size
        self._network = network
        self._tilt = tilt

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        told = self._told(stream, start)
        return Scored(self._tilt.mix(stream, start, told.log_probs, told.others)[None])

    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        network = self._told(stream, start).others.reshape(-1)
        return Scored(self._tilt.mix_rows(stream, start, network, rows[0].reshape(-1))[None])

    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        row = self._network.predict(stream).log_probs[0]
        return Scored(self._tilt.row(stream[-_CONTEXT:], row)[None])

    def fingerprint(self) -> bytes:
        return self._tilt.fingerprint()

    def state(self) -> dict[str, NDArray[Any]]:
        """All that later scores depend on, between two pieces."""
        return {"tilt": self._tilt.state()}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Takes over what `state` gave. Raises InputError for that of another kind of oracle."""
        if state.keys() != {"tilt"} or state["tilt"].dtype != np.float64 or state["tilt"].ndim != 1:
            raise InputError("the state is not that of an expert that is tilted by an oracle")
        self._tilt.restore(np.ascontiguousarray(state["tilt"]))

    def _told(self, stream: NDArray[np.uint16], start: int) -> _Told:
        told = self._network.told
        if told is None or (told.start, told.end) != (start, len(stream)):
            raise ValueError(f"the network hasn't scored the targets from {start} to before {len(stream)}")
        return told


def has_ngrams(oracle: Oracle) -> bool:
    """Whether it can tilt: of the sparse estimator, with n-grams of three tokens or more."""
    return oracle.native.raising_orders > 0


def tilted(network: Network, oracle: Oracle) -> tuple[Questioned, Tilted]:
    """The network to score with, and the expert that it makes with the oracle, in this order.

    Raises InputError for an oracle that can't tilt.
    """
    tilt = _core.TiltedExpert(oracle.native)
    questioned = Questioned(network, tilt)
    return questioned, Tilted(questioned, tilt)
