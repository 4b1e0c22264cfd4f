"""Experts: whatever gives each target a probability from the tokens before it.

This package holds those that need no torch; `hybridlm.scoring.neural` has the other one. Adding one that
learns while it scores is adding a module here: a class with the `OnlineExpert` interface, registered.
docs/mixing.md has an example.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError


class Expert(Protocol):
    """One source of probabilities, or several that are computed together."""

    @property
    def family(self) -> str:
        """``neural``, ``online``, ``oracle`` or ``adaptive``: what mixtures are told to take or to leave."""
        ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def score(self, stream: NDArray[np.uint16], start: int) -> NDArray[np.float32]:
        """float32 [K, N − start]: ln p_k of stream[start:], each given the tokens before it. start ≥ 1.

        Called for consecutive pieces of one stream: ``stream`` ends where the piece does, so nothing later
        can be seen. A row of it is one distribution over the vocabulary, fixed before the token is known.
        """
        ...

    def fingerprint(self) -> bytes:
        """A hash of all state that later scores depend on, of any length: unchanged until it learns."""
        ...


@runtime_checkable
class RowExpert(Expert, Protocol):
    """An expert whose whole distribution can be seen."""

    def next_log_probs(self, stream: NDArray[np.uint16]) -> NDArray[np.float32]:
        """float32 [K, V]: ln p_k of each possible token after ``stream``, all of which has been scored."""
        ...


@runtime_checkable
class FullExpert(Expert, Protocol):
    """An expert that can show its whole distribution at every target of a piece."""

    @property
    def vocab_size(self) -> int: ...

    def score_rows(
        self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """`score`, which also fills ``rows`` [K, N − start, V] with ln p_k of each possible token."""
        ...


@runtime_checkable
class GatedExpert(Expert, Protocol):
    """An expert that also says in what kind of context each target stands, before the target is known."""

    @property
    def gate_sizes(self) -> tuple[int, ...]:
        """How many values each of its G gates has."""
        ...

    @property
    def gates(self) -> NDArray[np.uint8]:
        """[G, n]: the gates of the targets of the piece that was scored last."""
        ...

    def next_gates(self) -> NDArray[np.uint8]:
        """[G]: the gates of the target after that piece."""
        ...


@runtime_checkable
class CountingExpert(GatedExpert, Protocol):
    """An expert that also shows what it has counted: in the context of each of L lengths, the shares of the
    tokens that have followed.

    A token that never followed has no share, so this is evidence and not an expert. But each share is that
    of a distribution, or nothing where the context isn't known, and so a mixture may give it a weight.
    """

    @property
    def evidence_names(self) -> tuple[str, ...]:
        """Of the L lengths."""
        ...

    @property
    def class_sizes(self) -> tuple[int, ...]:
        """How many classes the contexts of each length have; a class is a gate, 0 for an unknown context."""
        ...

    @property
    def shares(self) -> NDArray[np.float32]:
        """[L, n]: ln of the targets' shares, −inf for none, of the piece that was scored last."""
        ...

    @property
    def classes(self) -> NDArray[np.uint8]:
        """[L, n]: the classes of these contexts."""
        ...

    def next_shares(self) -> NDArray[np.float32]:
        """[L, V]: ln of each possible token's shares after that piece."""
        ...

    def next_classes(self) -> NDArray[np.uint8]:
        """[L]: the classes of the contexts after that piece."""
        ...


class OnlineExpert(Expert, Protocol):
    """An expert that starts knowing nothing but the vocabulary's size, and learns while it scores."""

    def __init__(self, vocab_size: int) -> None: ...


_ONLINE: list[type[OnlineExpert]] = []
E = TypeVar("E", bound=type[OnlineExpert])


def register(expert: E) -> E:
    """Class decorator: lets every score use this expert."""
    _ONLINE.append(expert)
    return expert


def online_experts(vocab_size: int) -> list[Expert]:
    """All that are registered, at their start."""
    return [expert(vocab_size) for expert in _ONLINE]


def expert_names(experts: Sequence[Expert]) -> tuple[str, ...]:
    return tuple(name for expert in experts for name in expert.names)


Stage = Callable[[str], AbstractContextManager[None]]


def gather(
    experts: Sequence[Expert],
    stream: NDArray[np.uint16],
    start: int,
    *,
    rows: NDArray[np.float32] | None = None,
    stage: Stage = lambda family: nullcontext(),
) -> NDArray[np.float32]:
    """float32 [K, N − start], the rows in the order of `expert_names`.

    Into ``rows`` [K, N − start, V] go the whole distributions. Each expert works within ``stage(family)``.
    Raises InputError where an expert's value is not finite: a model that has diverged has no score.
    """
    found = []
    first = 0
    for expert in experts:
        with stage(expert.family):
            if rows is None:
                found.append(expert.score(stream, start))
            else:
                own = rows[first : first + len(expert.names)]
                found.append(_full(expert).score_rows(stream, start, own))
        first += len(expert.names)
    log_probs = np.concatenate(found)
    finite = np.isfinite(log_probs)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"expert {expert_names(experts)[row]} gives target {start + column} a log-probability of "
            f"{log_probs[row, column]}: its weights have diverged"
        )
    return log_probs


def rows_of(experts: Sequence[Expert], targets: int) -> NDArray[np.float32]:
    """An array [K, targets, V] for whole rows. Raises InputError for an expert that can't show them."""
    return np.empty((len(expert_names(experts)), targets, vocabulary_of(experts)), np.float32)


def vocabulary_of(experts: Sequence[Expert]) -> int:
    """V. Raises InputError for an expert that can't show whole rows."""
    return min(_full(expert).vocab_size for expert in experts)


def _full(expert: Expert) -> FullExpert:
    if not isinstance(expert, FullExpert):
        raise InputError(f"the {expert.family} expert has no whole rows to mix")
    return expert


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
