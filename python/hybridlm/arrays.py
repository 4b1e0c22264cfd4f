"""Callers' arrays, tensors and sequences as NumPy arrays, checked and never truncated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError

if TYPE_CHECKING:
    import torch

Integers: TypeAlias = "NDArray[np.integer[Any]] | torch.Tensor | Sequence[int]"


def as_numpy(values: Any) -> NDArray[Any]:
    """The values of an array, of a sequence, or of a tensor on any device, as a NumPy array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        return np.asarray(values.float() if values.is_floating_point() else values)
    return np.asarray(values)


def token_array(values: Integers, vocab_size: int) -> NDArray[np.uint16]:
    """uint16 [n]: token ids of any integer type, or of a tensor.

    Raises InputError for what isn't one row of whole numbers, and for ids outside the vocabulary.
    """
    tokens = whole_numbers(values, "tokens")
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise InputError(
            f"tokens reach from {tokens.min()} to {tokens.max()}, but the vocabulary has {vocab_size}"
        )
    return np.ascontiguousarray(tokens, np.uint16)


def whole_numbers(values: Integers, name: str) -> NDArray[np.integer[Any]]:
    """[n], of any integer type. Raises InputError, calling them ``name``, for anything else."""
    found = as_numpy(values)
    if found.ndim == 1 and not len(found):
        return found.astype(np.int64)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise InputError(f"{name} must be one row of whole numbers, not {found.dtype} of shape {found.shape}")
    return found
