"""GPTQ (Frantar et al. 2023, arXiv 2210.17323): rounding a matrix so that its outputs change little.

Rounding to nearest makes the smallest error of each weight. What counts is the error of the outputs: for
inputs X and an error E of the weights, ‖X Eᵀ‖² = tr(E H Eᵀ) with H = XᵀX. GPTQ rounds one column after the
other and moves the columns that are left to where they make up best for the error so far.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hybridlm.model.grid import Grid
from hybridlm.model.rounding import round_to_grid

DAMPING = 0.01
"""Of the mean of H's diagonal, added to it: inputs that calibration didn't see are not free."""
TIED_DAMPING = 0.1
"""Besides, for an embedding that is also the output layer: a row that is looked up is wrong by all of its
error, which H doesn't know of. Without it, GPTQ loses more than rounding to nearest on `tiny` at a step of a
fifth of a row's deviation; 0.1 beats both at a tenth, a fifth and two fifths."""
_BLOCK = 128
"""Columns whose errors reach the columns after them in one product."""


class _InputProducts(TorchFunctionMode):
    """Watches each product of inputs with one of a model's matrices, wherever forward makes it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(weight): name for name, weight in model.named_parameters() if weight.ndim == 2}
        self.found: dict[str, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and (name := self._names.get(id(args[1]))) is not None:
            inputs = args[0].detach().flatten(0, -2).float()
            product = (inputs.T @ inputs).double()
            self.found[name] = product if name not in self.found else self.found[name] + product
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def input_products(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """H = XᵀX of the inputs of every matrix that ``model`` multiplies by, over ``batches`` of tokens.

    By the parameter's name, float64 [columns, columns] on the CPU. A matrix that is used several times, in
    layers that recur, sees the inputs of all its uses; the tied embedding those of the output layer, and
    `TIED_DAMPING`.
    Batches are int64 [B, T], on the model's device. Products are taken in float32 without autocast, and on a
    CPU by one thread, because how a sum is cut decides its last bits.
    """
    watch = _InputProducts(model)
    for tokens in batches:
        with one_thread(), torch.autocast(tokens.device.type, enabled=False), watch:
            model(tokens)
    found = {name: product.cpu() for name, product in watch.found.items()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and (name := f"{name}.weight") in found:
            found[name].diagonal().add_(TIED_DAMPING * found[name].diagonal().mean())
    return found


@torch.no_grad()
def gptq(weight: Tensor, scales: Tensor, grid: Grid, products: Tensor) -> Tensor:
    """The whole numbers, in float64, that ``weight`` [rows, columns] is rounded to.

    scales: [rows, 1], the steps of the rows' grids. products: H of the inputs, float64 [columns, columns].
    Columns are rounded in the order of falling diagonal of H: those that matter most have the most others
    left to make up for their error. Runs on one thread, as `input_products` does.
    """
    with one_thread():
        return _round_columns(weight.double(), scales.double(), grid, products.double())


def _round_columns(weight: Tensor, scales: Tensor, grid: Grid, products: Tensor) -> Tensor:
    damping = DAMPING * products.diagonal().mean()
    if damping == 0:  # inputs that are always zero: no error matters more than another
        return round_to_grid(weight, scales, grid)
    order = products.diagonal().argsort(descending=True, stable=True)
    weight = weight[:, order]
    damped = products[order][:, order] + damping * torch.eye(len(order), dtype=torch.float64)
    # Row i of this factor U of H⁻¹ = UᵀU is, but for its length, the first row of the inverse of H without
    # the columns before i: what is needed of all these inverses, at once.
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor = torch.linalg.cholesky(inverse, upper=True)

    rounded = torch.empty_like(weight)
    for start in range(0, len(order), _BLOCK):
        end = min(start + _BLOCK, len(order))
        errors = torch.empty(len(weight), end - start, dtype=torch.float64)
        for column in range(start, end):
            nearest = round_to_grid(weight[:, column : column + 1], scales, grid)
            error = (weight[:, column : column + 1] - nearest * scales) / factor[column, column]
            weight[:, column + 1 : end] -= error * factor[column, column + 1 : end]
            rounded[:, column : column + 1] = nearest
            errors[:, column - start : column - start + 1] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    return rounded[:, order.argsort()]


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch works on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
