"""Mixtures: what turns the log-probabilities of several experts into one.

A mixture is causal and normalised by construction: before each target it holds non-negative weights that
sum to one and that depend on earlier targets alone, and the mixed probability is the weighted sum of the
experts' probabilities. Adding one is adding a module to this package: a class with the `Mixture` interface,
registered under the name that ``--mixer`` takes.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError


class Mixture(Protocol):
    """A mixture over K named experts that learns as it goes.

    Experts may come with G gates: small numbers known before the target, by which a mixture may choose
    among sets of weights. ``gate_sizes`` says how many values each has. A mixture need not use them.
    """

    families: ClassVar[tuple[str, ...]]
    """Of the experts that it mixes where none are named."""

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


_MIXTURES: dict[str, type[Mixture]] = {}
M = TypeVar("M", bound=type[Mixture])


def register(name: str) -> Callable[[M], M]:
    """Class decorator: makes a mixture known as ``name``."""

    def remember(mixture: M) -> M:
        _MIXTURES[name] = mixture
        return mixture

    return remember


def mixture_names() -> list[str]:
    return sorted(_MIXTURES)


def find_mixture(name: str) -> type[Mixture]:
    """Raises InputError for a name that isn't registered."""
    if name not in _MIXTURES:
        raise InputError(f"there is no mixer {name!r}; there are {', '.join(mixture_names())}")
    return _MIXTURES[name]


def create_mixture(name: str, experts: Sequence[str], gate_sizes: Sequence[int] = ()) -> Mixture:
    """Raises InputError for a name that isn't registered and for no experts at all."""
    kind = find_mixture(name)
    if not experts:
        raise InputError("there is no expert to mix")
    return kind(experts, gate_sizes)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
