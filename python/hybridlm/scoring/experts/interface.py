"""What an expert is, and the list of those that learn while they score."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError


def _no_numbers() -> NDArray[np.uint8]:
    return np.empty((0, 0), np.uint8)


def _no_shares() -> NDArray[np.float32]:
    return np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Scored:
    """What an expert says of n targets, fixed before each is known, except for its own probability.

    log_probs: float32 [K, n], ln p of the targets in nats, a row for each of the expert's names.
    gates: uint8 [G, n], in what kind of context each target stands: by them a mixture may choose its weights.
    shares: float32 [L, n], what the expert has counted: in the context of each of L lengths, ln of the share
        of the target among the tokens that have followed; −inf where it never has. A token that never
        followed has no share, so this is evidence and not an expert. But each share is that of a
        distribution, or nothing where the context isn't known, and so a mixture may give it a weight.
    classes: uint8 [L, n], of those contexts; 0 is an unknown context.
    """

    log_probs: NDArray[np.float32]
    gates: NDArray[np.uint8] = field(default_factory=_no_numbers)
    shares: NDArray[np.float32] = field(default_factory=_no_shares)
    classes: NDArray[np.uint8] = field(default_factory=_no_numbers)


class Expert(ABC):
    """One source of probabilities, or several that are computed together.

    family: ``neural``, ``online``, ``oracle`` or ``adaptive``: what mixtures are told to take or to leave.
    names: of its K rows. vocab_size: V.
    gate_sizes: how many values each of its G gates has.
    evidence_names, class_sizes: of the L lengths of context whose counts it shows, and how many classes the
        contexts of each have.
    """

    family: str
    names: tuple[str, ...]
    vocab_size: int
    gate_sizes: tuple[int, ...] = ()
    evidence_names: tuple[str, ...] = ()
    class_sizes: tuple[int, ...] = ()

    @abstractmethod
    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        """What the expert says of the targets stream[start:], each given the tokens before it. start ≥ 1.

        Called for consecutive pieces of one stream: ``stream`` ends where the piece does, so nothing later
        can be seen. A row of it is one distribution over the vocabulary, fixed before the token is known.
        """

    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        """`score`, which also fills ``rows`` [K, N − start, V] with ln p_k of each possible token.

        Raises InputError for an expert that can't.
        """
        raise InputError(f"the {self.family} expert has no whole rows to mix")

    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        """Of each possible token after ``stream``, all of which has been scored: log_probs [K, V] and shares
        [L, V], gates [G, 1] and classes [L, 1]. Learns nothing.

        Raises InputError for an expert that can't.
        """
        raise InputError(f"the {self.family} expert has no whole rows to show")

    @abstractmethod
    def fingerprint(self) -> bytes:
        """A hash of all state that later scores depend on, of any length: unchanged until it learns."""


@dataclass(frozen=True)
class RateReport:
    """What became of one learning rate: its own loss over all targets in nats, its updates, and how often
    training had diverged and was undone."""

    rate: float
    nats: float
    updates: int
    undone: int


class Learner(Protocol):
    """What makes an expert learn between chunks."""

    def learn(self, stream: NDArray[np.uint16], start: int) -> None:
        """Called when the chunk stream[start:] has been committed and more follows."""
        ...

    def fingerprints(self) -> dict[str, bytes]:
        """By component, hashes of state beside the experts' own that later scores depend on."""
        ...

    def report(self) -> list[RateReport]: ...

    def state(self) -> dict[str, NDArray[Any]]:
        """All that later scores depend on, between two chunks."""
        ...

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Takes over what `state` gave. Raises InputError for the state of another learner."""
        ...


_ONLINE: list[type[Expert]] = []
E = TypeVar("E", bound=type[Expert])


def register(expert: E) -> E:
    """Class decorator: lets every score use this expert, made from the vocabulary's size alone."""
    _ONLINE.append(expert)
    return expert


def online_experts(vocab_size: int) -> list[Expert]:
    """All that are registered, at their start: they know nothing but the vocabulary's size."""
    return [expert(vocab_size) for expert in _ONLINE]  # type: ignore[call-arg]
