"""Experts: whatever gives each target a probability from the tokens before it.

This package holds those that need no torch; `hybridlm.scoring.neural` has the other one. `interface` says
what an expert has to be. Adding one that learns while it scores is adding a module here: a class with that
interface, registered. docs/mixing.md has an example.
"""

import importlib
import pkgutil

from hybridlm.scoring.experts.interface import (
    Expert,
    Learner,
    RateReport,
    Scored,
    online_experts,
    register,
)

__all__ = ["Expert", "Learner", "RateReport", "Scored", "online_experts", "register"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
