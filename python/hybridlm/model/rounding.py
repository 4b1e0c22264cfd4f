"""Rounding weights: every row of a matrix to its own grid of whole numbers times a half-precision scale.

Quantising and the straight-through form that late quantisation-aware training uses share one grid, so a
weight that training sees quantised is the weight that the artifact holds, if it is packed by the default
scheme and rounded to nearest.
"""

import torch
from torch import Tensor

from hybridlm.model.grid import MIN_SIDE, Grid

# The smallest positive half-precision number: the scale of a row of zeros, which must not divide by zero.
MIN_SCALE = 2.0**-24
HALF_MAX = 65504.0

TRAINING_GRID = Grid()
"""What late quantisation-aware training rounds to: that of the default scheme's matrices, gates excepted."""


def is_quantised(tensor: Tensor) -> bool:
    """Whether a layer's weight is stored as whole numbers (a matrix proper) or as floats."""
    return tensor.ndim == 2 and min(tensor.shape) >= MIN_SIDE


def row_scales(weight: Tensor, grid: Grid = TRAINING_GRID) -> Tensor:
    """float32 [rows, 1]: the step of each row's grid, already rounded to half precision."""
    magnitude = weight.detach().float().abs()
    clip = grid.clip
    if clip.kind == "absmax":
        bound = magnitude.amax(dim=1, keepdim=True)
    elif clip.kind == "std":
        bound = clip.value * magnitude.square().mean(dim=1, keepdim=True).sqrt()
    else:
        bound = torch.quantile(magnitude, clip.value / 100, dim=1, keepdim=True)
    return (bound / grid.ends[1]).clamp(MIN_SCALE, HALF_MAX).half().float()


def round_to_grid(weight: Tensor, scales: Tensor, grid: Grid) -> Tensor:
    """The nearest whole number of the grid for each weight, in the dtype of ``weight``."""
    return (weight / scales).round().clamp(*grid.ends)


def fake_quantise(weight: Tensor, grid: Grid = TRAINING_GRID) -> Tensor:
    """``weight`` [rows, columns] as its quantised self, with the gradient of the identity.

    Values equal `dequantise(quantise(...))` exactly, in the dtype of ``weight``. Has no data-dependent
    control flow, so it can be compiled.
    """
    scales = row_scales(weight, grid)
    rounded = (round_to_grid(weight.detach().float(), scales, grid) * scales).to(weight.dtype)
    # x + (rounded − x) is not exactly `rounded` in floating point; this is, and its gradient is that of x.
    return rounded + (weight - weight.detach())
