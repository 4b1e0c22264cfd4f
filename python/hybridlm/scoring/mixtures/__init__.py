"""Mixtures: what turns the log-probabilities of several experts into one.

A mixture is causal and normalised by construction: before each target it holds non-negative weights that
sum to one and that depend on earlier targets alone, and the mixed probability is the weighted sum of the
experts' probabilities. Adding one is adding a module to this package: a class with the `Mixture` interface,
registered under the name that ``--mixer`` takes.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError


class Mixture(Protocol):
    """A mixture over K named experts that learns as it goes."""

    def __init__(self, experts: Sequence[str]) -> None: ...

    @property
    def log_weights(self) -> NDArray[np.float64]:
        """[K], in nats: the logarithms of the weights that the next target will meet."""
        ...

    def mix(self, log_probs: NDArray[np.float32]) -> NDArray[np.float64]:
        """The nll of the next n targets in nats, [n], from what each expert gave them: log_probs [K, n].

        Target j is mixed with what was learned from targets before j alone. The state is carried on: a
        stream gives the same numbers, bit for bit, however it is cut into calls.
        """
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


def create_mixture(name: str, experts: Sequence[str]) -> Mixture:
    """Raises InputError for a name that isn't registered and for no experts at all."""
    if name not in _MIXTURES:
        raise InputError(f"there is no mixer {name!r}; there are {', '.join(mixture_names())}")
    if not experts:
        raise InputError("there is no expert to mix")
    return _MIXTURES[name](experts)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
