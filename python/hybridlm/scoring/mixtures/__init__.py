"""Mixtures: what turns the log-probabilities of several experts into one.

A mixture is causal and normalised by construction: before each target it holds non-negative weights that sum
to one and that depend on earlier targets alone, and the mixed probability is the weighted sum of the experts'
probabilities. What one has to be is in `interface`. Adding one is adding a module here: a class with that
interface, registered under the name that ``--mixer`` takes. docs/mixing.md has an example.
"""

import importlib
import pkgutil

from hybridlm.scoring.mixtures.interface import (
    Mixture,
    Pair,
    RowMixture,
    create_mixture,
    create_row_mixture,
    find_mixture,
    mixture_names,
    register,
    register_pair,
    register_row_mixture,
    row_mixture_names,
)

__all__ = [
    "Mixture",
    "Pair",
    "RowMixture",
    "create_mixture",
    "create_row_mixture",
    "find_mixture",
    "mixture_names",
    "register",
    "register_pair",
    "register_row_mixture",
    "row_mixture_names",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
