"""The neural expert: sliding windows of a stream through the model, spread over the ranks."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hybridlm.distributed import Distributed
from hybridlm.model import GPT
from hybridlm.model.gpt import Rolling
from hybridlm.scoring.asked import Asked, Network
from hybridlm.scoring.experts import Scored
from hybridlm.scoring.windows import WindowGrid

LARGEST_LOGIT = 1e30
"""Beyond it, a row is no distribution that float32 can hold. Softmax is exact to its last bit far below."""


class NeuralExpert(Network):
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
        rolling: Rolling | None = None,
        untrained: GPT | None = None,
        applied: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """``rolling`` is how far attention reaches within a window; None: all of it. ``untrained`` stands in
        for a model that has diverged, at each position where that has no finite distribution; None: for a
        model that doesn't learn. Forward passes run within ``applied()``, which attaches trained adapters."""
        self.model = model
        self._untrained = untrained
        self._applied = applied
        self.vocab_size = model.config.vocab_size
        self.grid = grid
        self._dist = dist
        self._group = group
        self.autocast = autocast
        self._rolling = rolling

    def learning(self, model: GPT, applied: Callable[[], AbstractContextManager[None]]) -> "NeuralExpert":
        """An expert with the same windows and precision for a ``model`` that learns; this one's model stands
        in where that has diverged."""
        return NeuralExpert(
            model, self.grid, self._dist,
            group=self._group, autocast=self.autocast, rolling=self._rolling,
            untrained=self.model, applied=applied,
        )  # fmt: skip

    @torch.no_grad()
    def score_asked(
        self, stream: NDArray[np.uint16], start: int, asked: Asked
    ) -> tuple[Scored, NDArray[np.float32]]:
        """ln p [1, N − start] of stream[start:], each given the tokens before it, and ln p [m] of the tokens
        that are asked about. start ≥ 1.

        A collective: every rank calls it with the same arguments and gets the same result.
        """
        first_group = self.grid.window_of(start) // self._group
        last_group = self.grid.window_of(len(stream) - 1) // self._group
        origin = self.grid.start(first_group * self._group)
        padded = self._padded(stream, origin, (last_group + 1) * self._group)
        scores = torch.zeros(len(padded), dtype=torch.float32, device=self._dist.device)
        told = torch.zeros(len(asked.tokens), dtype=torch.float32, device=self._dist.device)
        self.model.eval()
        for group in range(first_group, last_group + 1):
            if group % self._dist.world_size == self._dist.rank:
                rows = self._rows(padded, self.grid.start(group * self._group) - origin)
                logits = self._logits(rows).float()
                normal = normalisers(logits)
                for target, window_scores in self._score_group(logits, normal, rows, group):
                    scores[target - origin : target - origin + len(window_scores)] = window_scores
                self._tell(logits, normal, group, start, len(stream), asked, told)
        # One rank's score and the others' zeros: their sum is exact in any order.
        self._dist.all_reduce_sum_(scores)
        self._dist.all_reduce_sum_(told)
        return Scored(scores[start - origin : len(stream) - origin].cpu().numpy()[None]), told.cpu().numpy()

    @torch.no_grad()
    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        """What `score` gives but for rounding, and into ``rows`` [1, N − start, V] ln p of each possible
        token. Every rank computes all of it."""
        end = len(stream)
        self.model.eval()
        first_group = self.grid.window_of(start) // self._group
        for group in range(first_group, self.grid.window_of(end - 1) // self._group + 1):
            windows = range(group * self._group, (group + 1) * self._group)
            origin = self.grid.start(windows[0])
            logits = self._logits(self._rows(self._padded(stream, origin, windows[-1] + 1), 0))
            for row, window in enumerate(windows):
                first = max(start, self.grid.first_target(window))
                last = min(end - 1, self.grid.last_target(window))
                if first <= last:
                    at = first - 1 - self.grid.start(window)
                    log_probs = row_log_probs(logits[row, at : at + last - first + 1])
                    rows[0, first - start : last + 1 - start] = log_probs.cpu().numpy()
        targets = stream[start:].astype(np.int64)
        return Scored(np.take_along_axis(rows, targets[None, :, None], axis=2)[..., 0])

    @torch.no_grad()
    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        """ln p [1, V] of each possible token after ``stream``, from the forward pass that scores it.

        Every rank computes all of it.
        """
        target = len(stream)
        window = self.grid.window_of(target)
        first = window // self._group * self._group
        self.model.eval()
        rows = self._rows(self._padded(stream, self.grid.start(first), first + self._group), 0)
        logits = self._logits(rows)
        at = target - self.grid.start(window) - 1
        return Scored(row_log_probs(logits[window - first, at : at + 1]).cpu().numpy())

    def fingerprint(self) -> bytes:
        return state_hash(self.model.state_dict().values())

    def _padded(self, stream: NDArray[np.uint16], origin: int, end: int) -> torch.Tensor:
        """int64: stream[origin:], with token 0 after it up to all that windows before ``end`` read."""
        visible = torch.from_numpy(stream[origin:].astype(np.int64)).to(self._dist.device)
        return F.pad(visible, (0, max(0, self.grid.last_target(end - 1) + 1 - origin - len(visible))))

    def _rows(self, padded: torch.Tensor, offset: int) -> torch.Tensor:
        """int64 [group, T + 1]: the windows of the group that begins at ``offset``."""
        span = padded[offset : offset + self.grid.start(self._group - 1) + self.grid.length + 1]
        return span.unfold(0, self.grid.length + 1, self.grid.stride)

    def _logits(self, rows: torch.Tensor) -> torch.Tensor:
        """[B, T, V] of tokens int64 [B, T + 1], the last of which is no input."""
        with autocasting(rows.device, self.autocast), self._applied():
            logits: torch.Tensor = self.model(rows[:, :-1], self._rolling)
        if self._untrained is None:
            return logits
        return healthy_logits(logits, rows[:, :-1], self._untrained, self.autocast, self._rolling)

    def _score_group(
        self, logits: torch.Tensor, normal: torch.Tensor, rows: torch.Tensor, group: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """For each window, the first target that it scores and the ln p of all that it scores."""
        windows = range(group * self._group, (group + 1) * self._group)
        log_probs = log_probs_at(logits, normal, rows[:, 1:])
        for row, window in enumerate(windows):
            target = self.grid.first_target(window)
            yield target, log_probs[row, target - self.grid.start(window) - 1 :]

    def _tell(
        self,
        logits: torch.Tensor,
        normal: torch.Tensor,
        group: int,
        start: int,
        end: int,
        asked: Asked,
        told: torch.Tensor,
    ) -> None:
        """Into ``told``, what the group's logits [B, T, V] say of the tokens asked about at targets from
        ``start`` to before ``end``."""
        if not len(asked.tokens):
            return
        targets, cells = [], []
        for row, window in enumerate(range(group * self._group, (group + 1) * self._group)):
            first = max(start, self.grid.first_target(window))
            scored = np.arange(first, min(end, self.grid.last_target(window) + 1))
            targets.append(scored - start)
            cells.append(row * logits.shape[1] + scored - 1 - self.grid.start(window))
        flat = logits.flatten(0, 1), normal.flatten()
        tell(*flat, np.concatenate(cells), np.concatenate(targets), asked, told)


def tell(
    logits: torch.Tensor,
    normal: torch.Tensor,
    cells: NDArray[np.int64],
    targets: NDArray[np.int64],
    asked: Asked,
    told: torch.Tensor,
) -> None:
    """Into ``told`` [m], ln p of the tokens that are asked about at ``targets`` [n], the logits of which are
    those of ``cells`` [n] among ``logits`` [N, V], with their `normalisers` [N]."""
    places, of = asked.of(targets)
    device = logits.device
    rows = torch.from_numpy(cells[of]).to(device)
    tokens = torch.from_numpy(asked.tokens[places].astype(np.int64)).to(device)
    told[torch.from_numpy(places).to(device)] = (logits[rows, tokens].double() - normal[rows]).float()


def normalisers(logits: torch.Tensor) -> torch.Tensor:
    """ln Σ exp, float64 [...], of each row of logits float32 [..., V], to within 3e-7; with it, ln p of a
    token has the same bits whether it is asked for alone or in its whole row, and wherever the row stands.

    PyTorch's own log-softmax adds up in float32, which moves all of a row by 10⁻⁶ with 8,192 tokens and by
    10⁻⁵ with 49,152. Here only 64 at a time are; in float64 throughout it would take twice the time.
    """
    top = logits.amax(dim=-1, keepdim=True)
    terms = (logits - top).exp_()
    sixty_fours = terms.shape[-1] // 64
    parts = terms[..., : sixty_fours * 64].view(*terms.shape[:-1], sixty_fours, 64)
    rest = terms[..., sixty_fours * 64 :].sum(dim=-1).double()
    total: torch.Tensor = parts.sum(dim=-1).double().sum(dim=-1) + rest
    return top[..., 0].double() + total.log()


def log_probs_at(logits: torch.Tensor, normal: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """ln p float32 [...] of ``tokens`` int64 [...], from logits float32 [..., V] and their `normalisers`."""
    return (logits.gather(-1, tokens[..., None])[..., 0].double() - normal).float()


def row_log_probs(logits: torch.Tensor) -> torch.Tensor:
    """ln p float32 [n, V] of every token, of logits [n, V]."""
    logits = logits.float()
    return (logits.double() - normalisers(logits)[:, None]).float()


def autocasting(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Within it, matrix products on ``device`` run in ``dtype``; None: in that of their inputs."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def state_hash(tensors: Iterable[torch.Tensor]) -> bytes:
    """SHA-256 over the bits of all tensors."""
    hasher = hashlib.sha256()
    for tensor in tensors:
        hasher.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hasher.digest()


def target_log_probs(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """ln p [B, T] of rows[:, 1:], for tokens ``rows`` int64 [B, T + 1] and the logits [B, T, V] of them."""
    logits = logits.float()
    return log_probs_at(logits, normalisers(logits), rows[:, 1:])


@torch.no_grad()
def healthy_logits(
    logits: torch.Tensor,
    inputs: torch.Tensor,
    untrained: GPT,
    autocast: torch.dtype | None,
    rolling: Rolling | None = None,
) -> torch.Tensor:
    """``logits`` [B, T, V] of the last T tokens, but those of the ``untrained`` model wherever they are no
    distribution.

    It is decided position by position from its whole row: what comes later, and the target, has no part.
    """
    broken = ~(logits.abs().amax(dim=-1) < LARGEST_LOGIT)
    if not broken.any():
        return logits
    with autocasting(inputs.device, autocast):
        return torch.where(broken[..., None], untrained(inputs, rolling)[:, -logits.shape[1] :], logits)
