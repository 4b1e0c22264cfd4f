"""What a rounded matrix lacks, as a product of two thin matrices of few bits (LQER, arXiv 2402.02446)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridlm.model.gptq import DAMPING
from hybridlm.model.grid import range_of
from hybridlm.model.quantised import GROUP, LEFT_BITS, RIGHT_BITS, Factor, LowRank
from hybridlm.model.rounding import HALF_MAX, MIN_SCALE

_SHARES = torch.linspace(0.3, 1.0, 29, dtype=torch.float64)
"""Of a group's largest magnitude, the places where its grid may end."""


def correction(error: Tensor, rank: int, products: Tensor | None = None) -> LowRank:
    """The correction of rank ``rank`` that leaves little of ``error``, float64 [rows, columns].

    With H = XᵀX of the inputs (``products``), little of the error of the outputs, tr(E H Eᵀ). The left factor
    is rounded first; the right one is then the best that there is to the rounded left one.
    """
    root = torch.eye(error.shape[1], dtype=torch.float64)
    if products is not None and (damping := DAMPING * products.diagonal().mean()) > 0:
        root = torch.linalg.cholesky(products + damping * root)
    left, sizes, _ = torch.linalg.svd(error @ root, full_matrices=False)
    stored_left = rounded_factor((left[:, :rank] * sizes[:rank]).T, LEFT_BITS)
    basis = torch.from_numpy(stored_left.values()).T
    # Least squares: the same right factor is best for each column of `error`, whatever the weight of columns.
    right = torch.linalg.pinv(basis) @ error
    return LowRank(stored_left, rounded_factor(right, RIGHT_BITS))


def rounded_factor(values: Tensor, bits: int) -> Factor:
    """float64 [rank, n] on grids of (integer + ½) · scale, each group's scale the best of some."""
    rank, size = values.shape
    low, high = range_of(bits)
    groups = F.pad(values, (0, -size % GROUP)).view(rank, -1, 1, GROUP)
    largest = groups.abs().amax(dim=-1, keepdim=True)
    scales = (largest * _SHARES[:, None] / (high + 0.5)).clamp(MIN_SCALE, HALF_MAX).half().double()
    integers = (groups / scales - 0.5).round().clamp(low, high)
    used = F.pad(torch.ones(size), (0, -size % GROUP)).view(-1, 1, GROUP)
    errors = (((integers + 0.5) * scales - groups).square() * used).sum(-1)
    best = errors.argmin(dim=-1)[..., None, None]
    chosen = integers.gather(2, best.expand(*best.shape[:-1], GROUP)).view(rank, -1)[:, :size]
    return Factor(
        chosen.to(torch.int8).contiguous().numpy(),
        scales.gather(2, best).view(rank, -1).numpy().astype(np.float16),
    )
