"""Experts: whatever gives each target a probability from the tokens before it.

`neural.NeuralExpert` is the other one; it lives apart because it needs torch.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hybridlm._core import AdaptiveExperts, OnlineExperts
from hybridlm.errors import InputError
from hybridlm.oracle import Oracle


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


class OracleExperts:
    """One expert per order of a frozen oracle, each looked up with the whole stream as context."""

    family = "oracle"

    def __init__(self, oracle: Oracle, threads: int | None = None) -> None:
        self.names = tuple(f"oracle_{order}" for order in oracle.orders)
        self.vocab_size = oracle.vocab_size
        self._oracle = oracle
        self._threads = threads

    def score(self, stream: NDArray[np.uint16], start: int) -> NDArray[np.float32]:
        return self._oracle.target_log_probs(stream, start=start, threads=self._threads)

    def score_rows(
        self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        rows[:] = self._oracle.log_probs(stream, np.arange(start, len(stream)), threads=self._threads)
        return self.score(stream, start)

    def next_log_probs(self, stream: NDArray[np.uint16]) -> NDArray[np.float32]:
        return self._oracle.log_probs(stream, np.array([len(stream)]), threads=self._threads)[:, 0]

    def fingerprint(self) -> bytes:
        """Nothing: an oracle has no method that changes it."""
        return b""


class OnlineCounts:
    """Unigram, bigram, hashed trigram and decay cache: counts of what the stream has shown so far."""

    family = "online"
    names = tuple(OnlineExperts.names)

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._counts = OnlineExperts(vocab_size)
        self._seen = 0

    def score(self, stream: NDArray[np.uint16], start: int) -> NDArray[np.float32]:
        return self.score_rows(stream, start, None)

    def score_rows(
        self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        if self._seen == 0:
            self._counts.observe(stream[:start])
        elif self._seen != start:
            raise ValueError(f"scored up to {self._seen}, so the next piece can't start at {start}")
        self._seen = len(stream)
        return self._counts.score(stream[start:], rows)

    def next_log_probs(self, stream: NDArray[np.uint16]) -> NDArray[np.float32]:
        return self._counts.next_log_probs()

    def fingerprint(self) -> bytes:
        return self._seen.to_bytes(8, "little") + self._counts.fingerprint()


class AdaptiveCounts:
    """An n-gram model, a match model and a cache of what the stream has shown so far."""

    family = "adaptive"
    names = tuple(AdaptiveExperts.names)
    gate_sizes = tuple(AdaptiveExperts.gate_sizes)
    evidence_names = tuple(AdaptiveExperts.evidence_names)
    class_sizes = tuple(AdaptiveExperts.class_sizes)

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._experts = AdaptiveExperts(vocab_size)
        self._seen = 0
        self.gates = np.empty((len(self.gate_sizes), 0), np.uint8)
        self.shares = np.empty((len(self.class_sizes), 0), np.float32)
        self.classes = np.empty((len(self.class_sizes), 0), np.uint8)

    def score(self, stream: NDArray[np.uint16], start: int) -> NDArray[np.float32]:
        return self.score_rows(stream, start, None)

    def score_rows(
        self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        if self._seen == 0:
            self._experts.observe(stream[:start])
        elif self._seen != start:
            raise ValueError(f"scored up to {self._seen}, so the next piece can't start at {start}")
        self._seen = len(stream)
        log_probs, self.gates, self.shares, self.classes = self._experts.score(stream[start:], rows)
        return log_probs

    def next_log_probs(self, stream: NDArray[np.uint16]) -> NDArray[np.float32]:
        return self._experts.next_log_probs()

    def fingerprint(self) -> bytes:
        return self._seen.to_bytes(8, "little") + self._experts.fingerprint()

    def next_gates(self) -> NDArray[np.uint8]:
        return self._experts.next_gates()

    def next_shares(self) -> NDArray[np.float32]:
        return self._experts.next_shares()

    def next_classes(self) -> NDArray[np.uint8]:
        return self._experts.next_classes()


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
