"""What a mixture is, and the names that mixtures are found by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybridlm._core import AdaptiveExperts
from hybridlm.errors import InputError


class Mixture(Protocol):
    """A mixture over K named experts that learns as it goes.

    Experts may come with G gates: small numbers known before the target, by which a mixture may choose
    among sets of weights. ``gate_sizes`` says how many values each has. A mixture need not use them.
    """

    families: ClassVar[tuple[str, ...]]
    """Of the experts that it mixes where none are named."""
    evidence: ClassVar[bool]
    """Whether it also takes the evidence of experts that count. If so, the names and the rows of
    log-probabilities of the L contexts come after those of the K experts, the contexts' classes after the
    other gates, and there are K + L weights. Only such rows may hold −inf."""

    def __init__(self, experts: Sequence[str], gate_sizes: Sequence[int] = ()) -> None: ...

    def weights(self, gates: NDArray[np.uint8] | None = None) -> NDArray[np.float64]:
        """[K]: the weights that the next target will meet if its gates [G] are these."""
        ...

    def mix(
        self, log_probs: NDArray[np.float32], gates: NDArray[np.uint8] | None = None
    ) -> NDArray[np.float64]:
        """The nll of the next n targets in nats, [n], from what each expert gave them: log_probs [K, n],
        and their gates [G, n].

        Target j is mixed with what was learned from targets before j alone. The state is carried on: a
        stream gives the same numbers, bit for bit, however it is cut into calls.
        """
        ...

    def fingerprint(self) -> bytes:
        """A hash of all state that later scores depend on: unchanged until `mix` is called."""
        ...


class RowMixture(Protocol):
    """A mixture that takes the experts' whole rows at every target. It learns as it goes, too."""

    families: ClassVar[tuple[str, ...]]

    def __init__(self, experts: Sequence[str], vocab_size: int) -> None: ...

    def mix(self, rows: NDArray[np.float32], targets: NDArray[np.uint16]) -> NDArray[np.float64]:
        """The nll of the next n targets in nats, [n], from ln p_k of every token, [K, n, V]; what holds for
        `Mixture.mix` holds here."""
        ...

    def row(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """ln p [V] of each possible next token, from the experts' rows [K, V]; learns nothing."""
        ...

    def fingerprint(self) -> bytes:
        """Of the whole state."""
        ...


@dataclass(frozen=True)
class Pair:
    """A mixture of whole rows in two parts: of what a linear mixture says and of what one of rows says, each
    over the same experts, the linear mixture ``over`` makes one distribution."""

    linear: str
    of_rows: str
    over: str
    families: tuple[str, ...]


def ready(experts: Sequence[str]) -> list[int]:
    """Those that know something before the stream begins: a mixture may trust them sooner."""
    return [row for row, name in enumerate(experts) if name not in AdaptiveExperts.names]


_MIXTURES: dict[str, type[Mixture]] = {}
_ROW_MIXTURES: dict[str, type[RowMixture]] = {}
_PAIRS: dict[str, Pair] = {}
M = TypeVar("M", bound=type[Mixture])
R = TypeVar("R", bound=type[RowMixture])


def register(name: str) -> Callable[[M], M]:
    """Class decorator: makes a mixture known as ``name``."""

    def remember(mixture: M) -> M:
        _MIXTURES[name] = mixture
        return mixture

    return remember


def register_row_mixture(name: str) -> Callable[[R], R]:
    """Class decorator: makes a mixture of whole rows known as ``name``."""

    def remember(mixture: R) -> R:
        _ROW_MIXTURES[name] = mixture
        return mixture

    return remember


def register_pair(name: str, pair: Pair) -> None:
    _PAIRS[name] = pair


def mixture_names() -> list[str]:
    """Of those that take probabilities of the targets alone."""
    return sorted(_MIXTURES)


def row_mixture_names() -> list[str]:
    return sorted([*_ROW_MIXTURES, *_PAIRS])


def find_mixture(name: str) -> type[Mixture] | type[RowMixture] | Pair:
    """Raises InputError for a name that isn't registered."""
    found = _MIXTURES.get(name) or _ROW_MIXTURES.get(name) or _PAIRS.get(name)
    if found is None:
        names = [*mixture_names(), *row_mixture_names()]
        raise InputError(f"there is no mixer {name!r}; there are {', '.join(names)}")
    return found


def create_mixture(name: str, experts: Sequence[str], gate_sizes: Sequence[int] = ()) -> Mixture:
    """Raises InputError for a name that isn't one of `mixture_names` and for no experts at all."""
    find_mixture(name)
    if name not in _MIXTURES:
        raise InputError(f"{name} mixes whole rows, not probabilities of the targets alone")
    if not experts:
        raise InputError("there is no expert to mix")
    return _MIXTURES[name](experts, gate_sizes)


def create_row_mixture(name: str, experts: Sequence[str], vocab_size: int) -> RowMixture:
    """The mixture of that name, one of `row_mixture_names` but no pair. Raises InputError for no experts at
    all."""
    if not experts:
        raise InputError("there is no expert to mix")
    return _ROW_MIXTURES[name](experts, vocab_size)
