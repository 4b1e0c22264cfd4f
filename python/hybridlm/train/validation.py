"""How a model in training does on held-out tokens."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hybridlm.data.byte_table import ByteTable
from hybridlm.distributed import Distributed
from hybridlm.model.gpt import GPT

_TARGETS_AT_ONCE = 16_384


@dataclass(frozen=True)
class ValidationResult:
    """loss: nats per token; bpb: bits per byte of the decoded text."""

    loss: float
    bpb: float


class Validator:
    """Mean loss over consecutive windows of a stream, each target once, context cut at window starts.

    The windows are spread over the ranks. Scoring proper slides its windows and so gives a better figure.
    """

    def __init__(
        self, stream: NDArray[np.uint16], byte_table: ByteTable, length: int, distributed: Distributed
    ) -> None:
        targets = len(stream) - 1
        self._targets, self._bytes = targets, int(byte_table.lengths(stream).sum())
        windows = -(-targets // length)
        padded = np.zeros(windows * length + 1, np.int64)
        padded[: len(stream)] = stream
        self._rows = torch.from_numpy(
            np.lib.stride_tricks.sliding_window_view(padded, length + 1)[::length].copy()
        )
        self._scored = torch.from_numpy((np.arange(windows * length) < targets).reshape(windows, length))
        self._at_once = max(1, _TARGETS_AT_ONCE // length)
        self._distributed = distributed

    @torch.no_grad()
    def __call__(self, model: GPT, precision: torch.dtype) -> ValidationResult:
        """A collective: every rank calls it and gets the same result."""
        device = self._distributed.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        for index, start in enumerate(range(0, len(self._rows), self._at_once)):
            if index % self._distributed.world_size != self._distributed.rank:
                continue
            rows = self._rows[start : start + self._at_once].to(device)
            scored = self._scored[start : start + self._at_once].to(device)
            with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
                logits = model(rows[:, :-1])
            nats = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
            total += (nats * scored.flatten()).sum(dtype=torch.float64)
        nats_in_all = float(self._distributed.all_reduce_sum_(total))
        return ValidationResult(nats_in_all / self._targets, nats_in_all / math.log(2) / max(1, self._bytes))
