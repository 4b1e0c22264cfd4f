"""The neural expert: sliding windows of a stream through the model, spread over the ranks."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hybridlm.distributed import Distributed
from hybridlm.model import GPT
from hybridlm.scoring.windows import WindowGrid


class NeuralExpert:
    """ln p of the model for each target, the same to the bit for any chunks and any number of ranks.

    Consecutive windows of the grid make up fixed groups of ``group`` windows, and a group is always one
    forward pass of the same shape, padded with token 0 past the end of what may be seen: what a window gives
    then depends neither on which rank computes it nor on which chunk asks. (Padding can't reach a row,
    because attention is causal.)
    """

    family = "neural"
    names = ("neural",)

    def __init__(
        self,
        model: GPT,
        grid: WindowGrid,
        dist: Distributed,
        *,
        group: int = 16,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.grid = grid
        self._dist = dist
        self._group = group
        self._autocast = autocast

    @torch.no_grad()
    def score(self, stream: NDArray[np.uint16], start: int) -> NDArray[np.float32]:
        """float32 [1, N − start]: ln p of stream[start:], each given the tokens before it. start ≥ 1.

        A collective: every rank calls it with the same arguments and gets the same result.
        """
        device = self._dist.device
        first_group = self.grid.window_of(start) // self._group
        last_group = self.grid.window_of(len(stream) - 1) // self._group
        origin = self.grid.start(first_group * self._group)
        visible = torch.from_numpy(stream[origin:].astype(np.int64)).to(device)
        size = self.grid.last_target((last_group + 1) * self._group - 1) + 1 - origin
        padded = F.pad(visible, (0, max(0, size - len(visible))))
        scores = torch.zeros(size, dtype=torch.float32, device=device)
        self.model.eval()
        for group in range(first_group, last_group + 1):
            if group % self._dist.world_size == self._dist.rank:
                for target, window_scores in self._score_group(padded, origin, group):
                    scores[target - origin : target - origin + len(window_scores)] = window_scores
        # One rank's score and the others' zeros: their sum is exact in any order.
        self._dist.all_reduce_sum_(scores)
        return scores[start - origin : len(stream) - origin].cpu().numpy()[None]

    def _score_group(
        self, padded: torch.Tensor, origin: int, group: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """For each window, the first target that it scores and the ln p of all that it scores."""
        length = self.grid.length
        windows = range(group * self._group, (group + 1) * self._group)
        offset = self.grid.start(windows[0]) - origin
        span = padded[offset : offset + self.grid.start(self._group - 1) + length + 1]
        rows = span.unfold(0, length + 1, self.grid.stride)
        log_probs = target_log_probs(self.model, rows, self._autocast)
        for row, window in enumerate(windows):
            target = self.grid.first_target(window)
            yield target, log_probs[row, target - self.grid.start(window) - 1 :]


def target_log_probs(model: GPT, rows: torch.Tensor, autocast: torch.dtype | None) -> torch.Tensor:
    """int64 [B, T + 1] → float32 [B, T]: ln p of each row's tokens after the first."""
    with torch.autocast(rows.device.type, dtype=autocast, enabled=autocast is not None):
        logits = model(rows[:, :-1])
    nll = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    return -nll.view(rows.shape[0], -1)
