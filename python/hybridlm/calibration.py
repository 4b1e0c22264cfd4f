"""Training text to calibrate quantisation on: windows that are spread evenly over shards."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.data.shards import inspect_shards, is_validation_shard, known_vocabulary
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

CALIBRATION_TOKENS = 131_072
"""Tokens that are drawn, about."""
_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Calibration:
    """windows: int64 [n, T]. shards: SHA-256 (hex) over those of the shards' files, 32 bytes each, sorted."""

    windows: NDArray[np.int64]
    shards: str

    def batches(self) -> Iterator["Tensor"]:
        """int64 [B, T] each, of a size that doesn't depend on the machine."""
        import torch

        rows = max(1, _BATCH_TOKENS // self.windows.shape[1])
        for start in range(0, len(self.windows), rows):
            yield torch.from_numpy(self.windows[start : start + rows])


def draw(
    paths: Iterable[Path], vocabulary: Vocabulary, *, length: int, tokens: int = CALIBRATION_TOKENS
) -> Calibration:
    """Windows of ``length`` tokens, about ``tokens`` in all, spread evenly over each shard.

    Raises InputError for shards that are named as validation shards (the rules ban calibration on them), are
    given twice, are of another tokenizer or too short; FormatError for damaged ones; OSError.
    """
    names = [str(path) for path in paths]
    for name in names:
        if is_validation_shard(name):
            raise InputError(f"{name}: a validation shard; calibration takes training shards only")
    records = inspect_shards(names)
    known_vocabulary(
        records, size=vocabulary.size, bos_id=vocabulary.bos_id, fingerprint=vocabulary.fingerprint
    )
    windows = []
    per_shard = max(1, tokens // length // max(1, len(records)))
    for record in records:
        count = min(per_shard, record.tokens // length)
        for index in range(count):
            # The middle one of as many even parts as there are windows.
            start = (2 * index + 1) * (record.tokens - length) // (2 * count)
            windows.append(_core.read_shard(record.path, start, length, vocabulary.size))
    if not windows:
        raise InputError(f"{', '.join(names)}: no window of {length} tokens to calibrate on")
    digests = sorted(bytes.fromhex(record.sha256) for record in records)
    return Calibration(np.stack(windows).astype(np.int64), hashlib.sha256(b"".join(digests)).hexdigest())
