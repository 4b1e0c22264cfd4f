"""Test-time training: the model learns from a chunk once the chunk's scores are committed.

A step's gradient is the same, bit for bit, on 1, 2, 4 or 8 ranks. Floating-point sums depend on their
order, so the order is fixed: a batch is cut into 8 lanes, each lane's gradient is computed on its own, and
the lanes are added as a balanced binary tree. A rank owns an aligned run of lanes, which is a whole subtree;
the ranks exchange their subtrees' sums in one flattened collective, and each finishes the tree by itself.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hybridlm.distributed import Distributed
from hybridlm.model import GPT
from hybridlm.scoring.config import TTTConfig
from hybridlm.scoring.neural import state_hash

LANES = 8
"""Parts of a batch whose gradients are computed apart. More ranks than this leave the rest idle here."""

DEFAULT_LEARNING_RATE = {"sgd": 0.002, "adamw": 0.00005}
_ADAM_BETAS = (0.9, 0.95)
_ADAM_EPSILON = 1e-8
_NO_TARGET = -100  # cross_entropy's ignore_index
_OUTPUT_PROJECTIONS = ("attention.output.weight", "mlp.down.weight")
_INPUT_PROJECTIONS = ("mlp.up.weight",)


class TestTimeTrainer:
    """Trains a model in place, chunk after chunk; the optimiser's state is carried from chunk to chunk.

    The objective of a step is the mean nll of its targets. AdamW's learning rate falls from its full value
    along a half cosine within each chunk and restarts with the next; SGD's is constant. Neither decays
    weights: what they should return to is not zero but what they were trained to be.

    All trained parameters are handled as one flat vector, because that is what ranks exchange. (torch's own
    optimisers would also import the whole of its compiler, seconds of every score.)
    """

    __test__ = False  # to pytest, the name looks like one of its own

    def __init__(
        self,
        model: GPT,
        optimizer: Literal["sgd", "adamw"],
        config: TTTConfig,
        dist: Distributed,
        *,
        sequence_length: int,
        autocast: torch.dtype | None = None,
    ) -> None:
        self._model = model
        self._config = config
        self._dist = dist
        self._sequence_length = sequence_length
        self._autocast = autocast
        self._optimizer = optimizer
        self._parameters, scales = _trained(model, config)
        rate = config.learning_rate or DEFAULT_LEARNING_RATE[optimizer]
        self._rates = torch.cat(
            [
                torch.full((parameter.numel(),), rate * scale, device=dist.device)
                for parameter, scale in zip(self._parameters, scales, strict=True)
            ]
        )
        self._steps = 0
        self._mean = torch.zeros_like(self._rates)
        self._square = torch.zeros_like(self._rates) if optimizer == "adamw" else None

    def learn(self, stream: NDArray[np.uint16], start: int) -> None:
        """Trains on targets stream[start:] (start ≥ 1), all of which have been scored. A collective."""
        inputs, targets = self._sequences(stream, start)
        batch = self._config.batch
        steps_per_epoch = math.ceil(len(inputs) / batch)
        steps = steps_per_epoch * self._config.epochs
        with _deterministic(self._dist.device):
            for step in range(steps):
                first = step % steps_per_epoch * batch
                self._step(inputs[first : first + batch], targets[first : first + batch], step / steps)
        if self._dist.device.type == "cuda":
            torch.cuda.synchronize(self._dist.device)  # so that a stage's seconds are its own

    @property
    def updates(self) -> int:
        """Steps so far."""
        return self._steps

    def fingerprint(self) -> bytes:
        """A hash of the optimiser's state; the weights are the model's."""
        moments = [self._mean] if self._square is None else [self._mean, self._square]
        return state_hash([torch.tensor(self._steps), *moments])

    def _sequences(self, stream: NDArray[np.uint16], start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, int64 [sequences, length], of stream[start:]; the last one is padded."""
        length = self._sequence_length
        count = math.ceil((len(stream) - start) / length)
        tokens = torch.from_numpy(stream[start - 1 :].astype(np.int64))
        inputs = F.pad(tokens[:-1], (0, count * length - len(tokens) + 1))
        targets = F.pad(tokens[1:], (0, count * length - len(tokens) + 1), value=_NO_TARGET)
        device = self._dist.device
        return inputs.view(count, length).to(device), targets.view(count, length).to(device)

    @torch.no_grad()
    def _step(self, inputs: torch.Tensor, targets: torch.Tensor, progress: float) -> None:
        """``progress``: the part of the chunk's steps that is done."""
        gradient = self._summed_gradient(inputs, targets)
        gradient /= (targets != _NO_TARGET).sum()
        gradient *= (self._config.clip / (gradient.norm() + 1e-6)).clamp(max=1.0)
        update = self._rates * self._direction(gradient, progress)
        offset = 0
        for parameter in self._parameters:
            parameter.sub_(update[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()

    def _direction(self, gradient: torch.Tensor, progress: float) -> torch.Tensor:
        """What the learning rates multiply, now that the optimiser's state has taken the gradient in."""
        self._steps += 1
        if self._square is None:
            self._mean.mul_(self._config.momentum).add_(gradient)
            return self._mean
        decay, square_decay = _ADAM_BETAS
        self._mean.lerp_(gradient, 1 - decay)
        self._square.lerp_(gradient.square(), 1 - square_decay)
        mean = self._mean / (1 - decay**self._steps)
        deviation = (self._square / (1 - square_decay**self._steps)).sqrt()
        return 0.5 * (1 + math.cos(math.pi * progress)) * mean / (deviation + _ADAM_EPSILON)

    def _summed_gradient(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Flat gradient of the batch's summed nll, the same on every rank."""
        # The largest power of two that both the lanes and the ranks allow: each subtree must be whole.
        owners = min(LANES, 1 << (self._dist.world_size.bit_length() - 1))
        lanes_each = LANES // owners
        first_lane = self._dist.rank * lanes_each
        per_lane = self._config.batch // LANES

        def lane_gradient(lane: int) -> torch.Tensor:
            rows = slice((first_lane + lane) * per_lane, (first_lane + lane + 1) * per_lane)
            return self._lane_gradient(inputs[rows], targets[rows])

        sums = self._dist.all_gather(_tree_sum(lanes_each, lane_gradient))
        return _tree_sum(owners, sums.__getitem__)

    def _lane_gradient(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Flat gradient of a lane's summed nll; zeros for a lane past the end of the chunk."""
        if not len(inputs):
            return torch.zeros_like(self._rates)
        with (
            torch.enable_grad(),
            torch.autocast(inputs.device.type, dtype=self._autocast, enabled=self._autocast is not None),
        ):
            logits = self._model(inputs)
            loss = F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=_NO_TARGET
            )
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in gradients])


def _tree_sum(count: int, leaf: Callable[[int], torch.Tensor], first: int = 0) -> torch.Tensor:
    """leaf(first) + … over ``count`` = 2^k leaves, as a balanced tree of pairs; k + 1 held at a time."""
    if count == 1:
        return leaf(first)
    half = count // 2
    return _tree_sum(half, leaf, first) + _tree_sum(half, leaf, first + half)


def _trained(model: GPT, config: TTTConfig) -> tuple[list[torch.nn.Parameter], list[float]]:
    """Parameters outside the first ``frozen_blocks`` blocks, and what scales each one's learning rate."""
    frozen = tuple(f"blocks.{block}." for block in range(config.frozen_blocks))
    parameters, scales = [], []
    for name, parameter in model.named_parameters():
        if name.startswith(frozen):
            parameter.requires_grad_(False)
            continue
        parameters.append(parameter)
        if name.endswith(_OUTPUT_PROJECTIONS):
            scales.append(config.output_scale)
        elif name.endswith(_INPUT_PROJECTIONS):
            scales.append(config.input_scale)
        else:
            scales.append(1.0)
    return parameters, scales


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On a GPU, kernels whose backward adds in a fixed order, where there is a choice."""
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
