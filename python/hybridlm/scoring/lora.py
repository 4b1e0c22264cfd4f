"""Low-rank adapters on a model's matrices, y = W x + (α / r) B A x: one for the batch, or one for each row.

Hu et al., "LoRA" (2021). A [r, in] is random at first and B [out, r] zero, so that fresh adapters change
nothing. They sit on what attention reads and writes, on the MLPs and on the head.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridlm.model import GPT

_ADAPTED = (
    "attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down",
)  # fmt: skip
_SEED = 0


@dataclass(frozen=True)
class _Site:
    """A matrix [outputs, inputs] that is adapted."""

    inputs: int
    outputs: int


class Adapters:
    """Adapters of one model, as flat vectors of ``size`` numbers: all A, then all B.

    The vectors are the caller's, [1, size] for the whole batch or [batch, size] for a row each. They act
    within `applied`; outside it the model is what it was.
    """

    def __init__(self, model: GPT, rank: int, alpha: float) -> None:
        self.rank, self.scale = rank, alpha / rank
        self._sites: list[_Site] = []
        self._parts: tuple[Tensor, ...] | None = None
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name.endswith(_ADAPTED):
                module.register_forward_hook(self._hook(len(self._sites)))
                self._sites.append(_Site(module.in_features, module.out_features))
        head = len(self._sites)
        self._sites.append(_Site(model.config.width, model.config.vocab_size))
        model.head_adapter = lambda x, logits: self._added(head, x, logits)
        self.first_size = rank * sum(site.inputs for site in self._sites)
        self.size = self.first_size + rank * sum(site.outputs for site in self._sites)

    def fresh(self) -> Tensor:
        """float32 [size] on the CPU, the same each time: A uniform within ±1/√in, B zero."""
        generator = torch.Generator().manual_seed(_SEED)
        random = torch.rand(self.first_size, generator=generator) * 2 - 1
        parts = torch.split(random, [self.rank * site.inputs for site in self._sites])
        firsts = [part / math.sqrt(site.inputs) for part, site in zip(parts, self._sites, strict=True)]
        return F.pad(torch.cat(firsts), (0, self.size - self.first_size))

    @contextmanager
    def applied(self, vectors: Tensor) -> Iterator[None]:
        """Within the block the model has these adapters. ``vectors``: float32 [1 or batch, size]."""
        sizes = [site.inputs for site in self._sites] + [site.outputs for site in self._sites]
        before = self._parts
        # One split of all, because each slice's gradient would be as long as the whole vector.
        self._parts = torch.split(vectors, [self.rank * size for size in sizes], dim=1)
        try:
            yield
        finally:
            self._parts = before

    def _hook(self, site: int) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            return None if self._parts is None else self._added(site, inputs[0], output)

        return add

    def _added(self, site: int, x: Tensor, output: Tensor) -> Tensor:
        """``output`` [batch, T, out], the matrix's for x [batch, T, in], and what its adapter adds."""
        if self._parts is None:
            return output
        size, rows = self._sites[site], self._parts[site].shape[0]
        first = self._parts[site].view(rows, self.rank, size.inputs)
        second = self._parts[len(self._sites) + site].view(rows, size.outputs, self.rank)
        if rows == 1 < len(x):
            return output + F.linear(self.scale * F.linear(x, first[0]), second[0])
        # The scale is taken by the product, since what is added is much larger than what it is made of.
        inner = torch.bmm(x, first.mT)
        return torch.baddbmm(output.to(inner.dtype), inner, second.mT, alpha=self.scale)
