"""Test-time training: the model learns from a chunk once the chunk's scores are committed.

A step's gradient is the same, bit for bit, on any number of ranks. Floating-point sums depend on their order,
so the order is fixed: a batch is cut into micro-batches of `MICRO_BATCH` sequences, and their gradients are
added as a balanced binary tree. A rank owns an aligned run of micro-batches, which is a whole subtree; the
ranks exchange their subtrees' sums in one flattened collective, and each finishes the tree by itself.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hybridlm.distributed import Distributed
from hybridlm.model import GPT
from hybridlm.scoring.config import TTTConfig
from hybridlm.scoring.lora import Adapters
from hybridlm.scoring.neural import autocasting, state_hash

MICRO_BATCH = 4
"""Sequences whose gradient is computed in one go. Ranks beyond batch / MICRO_BATCH are idle here."""

DEFAULT_LEARNING_RATE = {"sgd": 0.002, "adamw": 0.00005, "lora": 0.001, "documents": 0.005}
_ADAM_BETAS = (0.9, 0.95)
_ADAM_EPSILON = 1e-8
_NO_TARGET = -100  # cross_entropy's ignore_index
_OUTPUT_PROJECTIONS = ("attention.output.weight", "mlp.down.weight")
_INPUT_PROJECTIONS = ("mlp.up.weight",)


class TestTimeTrainer:
    """Trains a model in place, chunk after chunk; the optimiser's state is carried from chunk to chunk.

    ``sgd`` and ``adamw`` train the model's own weights, ``lora`` the ``adapters`` of the whole stream (by
    AdamW). The objective of a step is the mean nll of its targets. AdamW's learning rate falls from its full
    value along a half cosine within each chunk and restarts with the next; SGD's is constant. Neither decays
    weights: what they should return to is not zero but what they were trained to be.

    All trained parameters are views of one flat vector, and so are their gradients: that is what ranks
    exchange, what a step is a handful of operations on, and what is put back when training has diverged.
    (torch's own optimisers would also import the whole of its compiler, seconds of every score.)
    """

    __test__ = False  # to pytest, the name looks like one of its own

    def __init__(
        self,
        model: GPT,
        optimizer: Literal["sgd", "adamw", "lora"],
        config: TTTConfig,
        dist: Distributed,
        *,
        rate: float,
        sequence_length: int,
        adapters: Adapters | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self._model = model
        self._config = config
        self._dist = dist
        self._sequence_length = sequence_length
        self._autocast = autocast
        self._adapters = adapters
        if adapters is None:
            parameters, scales = _trained(model, config)
        else:
            model.requires_grad_(False)
            parameters, scales = [torch.nn.Parameter(adapters.fresh()[None].to(dist.device))], [1.0]
        self._parameters = parameters
        self._rates = torch.cat(
            [
                torch.full((parameter.numel(),), rate * scale, device=dist.device)
                for parameter, scale in zip(parameters, scales, strict=True)
            ]
        )
        self._weights = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self._untrained = self._weights.clone()
        for parameter, view in zip(parameters, self._views(self._weights), strict=True):
            parameter.data = view
        # One for each level of the tree; a pair of micro-batches shares one.
        self._gradients = [torch.zeros_like(self._weights)]
        self._mean = torch.zeros_like(self._weights)
        self._square = None if optimizer == "sgd" else torch.zeros_like(self._weights)
        self._steps = 0

    @property
    def updates(self) -> int:
        """Steps so far, those among them that have been undone."""
        return self._steps

    @property
    def undone(self) -> int:
        return 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model is as trained so far: what adapters add is added there alone."""
        with nullcontext() if self._adapters is None else self._adapters.applied(self._parameters[0]):
            yield

    def learn(self, stream: NDArray[np.uint16], start: int) -> None:
        """Trains on targets stream[start:] (start ≥ 1), all of which have been scored. A collective."""
        inputs, targets = self._sequences(stream, start)
        batch = self._config.batch
        steps_per_epoch = math.ceil(len(inputs) / batch)
        steps = steps_per_epoch * self._config.epochs
        with deterministic(self._dist.device), self.applied():
            for step in range(steps):
                first = step % steps_per_epoch * batch
                self._step(inputs[first : first + batch], targets[first : first + batch], step / steps)
        if self._dist.device.type == "cuda":
            torch.cuda.synchronize(self._dist.device)  # so that a stage's seconds are its own

    def is_finite(self) -> bool:
        return bool(torch.isfinite(self._weights).all())

    def undo(self) -> None:
        """Forgets all training: the weights and the optimiser are as they were at first."""
        self._weights.copy_(self._untrained)
        for moment in (self._mean, self._square):
            if moment is not None:
                moment.zero_()

    def state(self) -> dict[str, torch.Tensor]:
        """All that later scores depend on, by name."""
        found = {"weights": self._weights, "mean": self._mean, "steps": torch.tensor([self._steps])}
        return found if self._square is None else {**found, "square": self._square}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what `state` gave, of the same shapes."""
        self._weights.copy_(state["weights"])
        self._mean.copy_(state["mean"])
        if self._square is not None:
            self._square.copy_(state["square"])
        self._steps = int(state["steps"])

    def fingerprint(self) -> bytes:
        """A hash of the optimiser's state; the weights are the model's, or the adapters'."""
        state = self.state()
        if self._adapters is None:
            del state["weights"]
        return state_hash(state.values())

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
        count = (targets != _NO_TARGET).sum()
        norm = torch.linalg.vector_norm(gradient) / count
        gradient *= (self._config.clip / (norm + 1e-6)).clamp(max=1.0) / count
        self._steps += 1
        if self._square is None:
            self._mean.mul_(self._config.momentum).add_(gradient)
            self._weights.addcmul_(self._rates, self._mean, value=-1)
            return
        decay, square_decay = _ADAM_BETAS
        self._mean.lerp_(gradient, 1 - decay)
        self._square.lerp_(gradient.square_(), 1 - square_decay)
        deviation = (self._square / (1 - square_decay**self._steps)).sqrt_().add_(_ADAM_EPSILON)
        falling = 0.5 * (1 + math.cos(math.pi * progress)) / (1 - decay**self._steps)
        self._weights.addcdiv_(self._rates * self._mean, deviation, value=-falling)

    def _summed_gradient(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Flat gradient of the batch's summed nll, the same on every rank; valid until the next step's."""
        parts = max(1, self._config.batch // MICRO_BATCH)
        # The largest power of two that both the parts and the ranks allow: each subtree must be whole.
        owners = min(parts, 1 << (self._dist.world_size.bit_length() - 1))
        own = self._tree_sum(inputs, targets, self._dist.rank * (parts // owners), parts // owners)
        sums = self._dist.all_gather(own)[:owners]
        while len(sums) > 1:
            sums = [sums[at].add_(sums[at + 1]) for at in range(0, len(sums), 2)]
        return sums[0]

    def _tree_sum(
        self, inputs: torch.Tensor, targets: torch.Tensor, first: int, count: int, level: int = 0
    ) -> torch.Tensor:
        """The gradients of ``count`` = 2^k micro-batches, added as a balanced tree of pairs."""
        if level == len(self._gradients):
            self._gradients.append(torch.zeros_like(self._weights))
        gradient = self._gradients[level]
        if count > 2:
            half = count // 2
            self._tree_sum(inputs, targets, first, half, level)
            return gradient.add_(self._tree_sum(inputs, targets, first + half, half, level + 1))
        gradient.zero_()
        for parameter, view in zip(self._parameters, self._views(gradient), strict=True):
            parameter.grad = view
        for part in range(first, first + count):
            rows = slice(part * MICRO_BATCH, (part + 1) * MICRO_BATCH)
            if len(inputs[rows]):
                # Backward adds to each parameter's gradient once, when all of its uses have been summed.
                self._nll(inputs[rows], targets[rows]).backward()  # type: ignore[no-untyped-call]
        return gradient

    @torch.enable_grad()
    def _nll(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed over the targets, in nats."""
        with autocasting(inputs.device, self._autocast):
            logits = self._model(inputs)
            return F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=_NO_TARGET
            )

    def _views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The parts of a flat vector that are the parameters'."""
        parts = torch.split(flat, [parameter.numel() for parameter in self._parameters])
        return [part.view_as(parameter) for part, parameter in zip(parts, self._parameters, strict=True)]


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
def deterministic(device: torch.device) -> Iterator[None]:
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
