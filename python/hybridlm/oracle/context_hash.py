"""The mapping of contexts to table rows, once more in NumPy and in torch.

FNV-1a over the n − 1 tokens before a position, oldest first, one 32-bit word each, modulo the table's rows.
Order 1 has one row and order 2 has the previous token as its row. The mapping is part of the oracle's file
format, so the native code and its twins have to agree bit for bit: a build checks that before it starts.
"""

import sys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core

if TYPE_CHECKING:
    import torch

OFFSET_BASIS = 2_166_136_261
PRIME = 16_777_619
MAX_ORDER = 8


def fnv1a(context: NDArray[np.integer]) -> NDArray[np.uint32]:
    """uint32 [...] hashes of ``context`` [..., n − 1], oldest token first."""
    hashed = np.full(context.shape[:-1], OFFSET_BASIS, np.uint32)
    for age in range(context.shape[-1]):
        hashed = (hashed ^ context[..., age].astype(np.uint32)) * np.uint32(PRIME)
    return hashed


def context_buckets(tokens: NDArray[np.uint16], order: int, rows: int) -> NDArray[np.uint32]:
    """uint32 [N]: the row of the context before each token; before the stream's start is token 0."""
    if order == 1:
        return np.zeros(len(tokens), np.uint32)
    padded = np.concatenate([np.zeros(order - 1, np.uint16), tokens[:-1]])
    if order == 2:
        return padded[: len(tokens)].astype(np.uint32)
    contexts = np.lib.stride_tricks.sliding_window_view(padded, order - 1)[: len(tokens)]
    return fnv1a(contexts) % np.uint32(rows)


def torch_context_buckets(tokens: "torch.Tensor", order: int, rows: int) -> "torch.Tensor":
    """int64 [N] on the tokens' device: ``context_buckets`` of integer ``tokens`` [N]."""
    import torch

    tokens = tokens.long()
    if order == 1:
        return torch.zeros_like(tokens)
    padded = torch.cat([tokens.new_zeros(order - 1), tokens[:-1]])
    count = len(tokens)
    if order == 2:
        return padded[:count]
    hashed = torch.full_like(tokens, OFFSET_BASIS)
    for age in range(order - 1):
        # 32 bits times 25 bits fit int64, so the product modulo 2^32 is exact.
        hashed = (hashed ^ padded[age : age + count]) * PRIME & 0xFFFFFFFF
    return hashed % rows


def verify_hash_twins(*, with_torch: bool | None = None) -> None:
    """Hold the native mapping, NumPy's and torch's against each other on a sample of contexts.

    By default torch takes part if it is already imported: loading it takes longer than a small build, and
    whoever puts tables on a device checks it then. Raises RuntimeError on a difference.
    """
    if with_torch is None:
        with_torch = "torch" in sys.modules
    # Words of all sizes, runs of one token, and both ends of the range.
    step = np.arange(512, dtype=np.uint64)
    sample = (step * step * 2_654_435_761 >> np.uint64(7)).astype(np.uint16)
    sample[:64] >>= 8
    sample[64:80] = 0
    sample[80:96] = 0xFFFF
    for order in range(1, MAX_ORDER + 1):
        for rows in (1,) if order == 1 else (1 << 16,) if order == 2 else (256, 4096, 1 << 17, 1000, 12_289):
            native = _core.context_buckets(sample, order, rows)
            twins = {"NumPy": context_buckets(sample, order, rows)}
            if with_torch:
                import torch

                rows_of = torch_context_buckets(torch.from_numpy(sample.astype(np.int64)), order, rows)
                twins["torch"] = rows_of.numpy().astype(np.uint32)
            for name, twin in twins.items():
                if not np.array_equal(native, twin):
                    at = int(np.flatnonzero(native != twin)[0])
                    raise RuntimeError(
                        f"the native hash and its {name} twin disagree (order {order}, {rows} rows, position "
                        f"{at}: {native[at]} and {twin[at]}): oracles would not mean the same everywhere"
                    )
