"""A model's weights to integers, scales and half-precision numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridlm.errors import InputError
from hybridlm.model.gptq import gptq, one_thread
from hybridlm.model.grid import DEFAULT_SCHEME, Grid, Scheme, kind_of
from hybridlm.model.low_rank import correction
from hybridlm.model.quantised import QuantisedMatrix, QuantisedState
from hybridlm.model.rounding import HALF_MAX, round_to_grid, row_scales


@torch.no_grad()
def quantise(
    state: Mapping[str, Tensor],
    scheme: Scheme = DEFAULT_SCHEME,
    products: Mapping[str, Tensor] | None = None,
) -> QuantisedState:
    """Quantise a state dict (on any device; the result is on the CPU).

    Matrices that ``products`` has, as `hybridlm.model.gptq.input_products` gives them, are rounded by GPTQ,
    the others to nearest. Raises InputError, naming the tensor, for weights and products that are not finite.
    """
    products = products or {}
    weights: dict[str, Tensor] = {}
    matrices: dict[str, QuantisedMatrix] = {}
    floats: dict[str, NDArray[Any]] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().float().cpu()
        if not torch.isfinite(tensor).all():
            raise InputError(f"weight {name} holds a value that is not finite: the training run diverged")
        kind = kind_of(name, tensor.shape)
        if kind is None:
            fits = not tensor.numel() or float(tensor.abs().amax()) <= HALF_MAX
            floats[name] = (tensor.half() if fits else tensor).contiguous().numpy()
        else:
            weights[name] = tensor
            matrices[name] = _rounded(name, tensor, scheme.grids[kind], products.get(name))
    with one_thread():
        for name in _worst(weights, matrices, scheme):
            matrix = matrices[name]
            error = weights[name].double() - torch.from_numpy(matrix.values()).double()
            low_rank = correction(error, scheme.low_rank.rank, products.get(name))
            matrices[name] = QuantisedMatrix(matrix.bits, matrix.integers, matrix.scales, low_rank)
    return QuantisedState(matrices, floats)


def _rounded(name: str, weight: Tensor, grid: Grid, products: Tensor | None) -> QuantisedMatrix:
    scales = row_scales(weight, grid)
    if products is None:
        integers = round_to_grid(weight, scales, grid)
    elif torch.isfinite(products).all():
        integers = gptq(weight, scales, grid, products)
    else:
        raise InputError(f"the inputs of {name} leave what float32 can hold on the calibration's text")
    return QuantisedMatrix(
        grid.bits, integers.to(torch.int8).contiguous().numpy(), scales.squeeze(1).half().numpy()
    )


def _worst(
    weights: Mapping[str, Tensor], matrices: Mapping[str, QuantisedMatrix], scheme: Scheme
) -> list[str]:
    """The matrices that get a low-rank correction: those with the largest errors in all, gates left out."""
    if not scheme.low_rank.rank:
        return []
    norms = {
        name: float(np.linalg.norm(weights[name].numpy() - matrix.values()))
        for name, matrix in matrices.items()
        if scheme.low_rank.rank <= min(matrix.integers.shape)
        and kind_of(name, matrix.integers.shape) != "gate"
    }
    return sorted(norms, key=lambda name: (-norms[name], name))[: scheme.low_rank.matrices]
