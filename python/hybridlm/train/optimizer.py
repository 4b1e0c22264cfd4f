"""Muon for the matrices, AdamW for the rest.

Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix by the
nearest semi-orthogonal matrix, approximately, so that a step moves all its singular directions alike.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hybridlm.distributed import Distributed
from hybridlm.errors import FormatError
from hybridlm.model.gpt import GPT, Linear
from hybridlm.train.config import OptimizerConfig
from hybridlm.train.schedule import StepPlan

Coefficients = Sequence[tuple[float, float, float]]

# Odd quintic whose iteration drives singular values from (0, 1] to around 1, found by Jordan for speed: it
# doesn't converge to 1, it settles between about 0.7 and 1.2, which serves as well.
QUINTIC: Coefficients = ((3.4445, -4.7750, 2.0315),)
# Polar Express (Amsel et al., 2025, https://arxiv.org/abs/2505.16932): the best quintic for the interval
# that the steps before have left, computed for 5 steps with a safety margin of 2%.
POLAR_EXPRESS: Coefficients = (
    (8.1566, -22.4833, 15.8788),
    (4.0429, -2.8089, 0.5000),
    (3.8917, -2.7725, 0.5061),
    (3.2858, -2.3681, 0.4645),
    (2.3465, -1.7098, 0.4232),
)
_COEFFICIENTS = {"quintic": QUINTIC, "polar_express": POLAR_EXPRESS}
_MARGIN = {"quintic": 1.0, "polar_express": 1.02}
_EPSILON = 1e-7


def newton_schulz(
    matrix: Tensor, steps: int, dtype: torch.dtype, coefficients: Coefficients = QUINTIC, margin: float = 1.0
) -> Tensor:
    """U Vᵀ of ``matrix`` [rows, columns] = U Σ Vᵀ, approximately, by products in ``dtype``; 0 for 0.

    X ← aX + (bA + cA²)X with A = XXᵀ, from X = matrix / (margin · its Frobenius norm); step i takes the
    i-th coefficients (a, b, c), and the last ones from then on.
    """
    x = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    x = x / (margin * x.norm() + _EPSILON)
    for step in range(steps):
        a, b, c = coefficients[min(step, len(coefficients) - 1)]
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal


def normalised_rows(matrix: Tensor) -> Tensor:
    """Each row over its norm; rows of zeros stay."""
    rows: Tensor = matrix / (matrix.norm(dim=1, keepdim=True) + _EPSILON)
    return rows


def clip_norm_(gradient: Tensor, largest: float) -> Tensor:
    """Scales ``gradient`` [n], in place, to a norm of at most ``largest`` (0: any); returns its norm before.

    The norm is a scalar tensor on the device; the host doesn't wait for it.
    """
    norm: Tensor = torch.linalg.vector_norm(gradient)
    if largest:
        gradient.mul_((largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; decoupled weight decay.

    Every rank holds the momenta (all have the same gradients), but orthogonalises only its share of the
    matrices; the results are gathered, so parameters stay identical on all ranks, and are bit for bit those
    of a single rank. A group's options: ``lr``, ``momentum``, ``weight_decay``.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        config: OptimizerConfig,
        distributed: Distributed,
    ) -> None:
        defaults = {
            "lr": config.matrix_lr,
            "momentum": config.momentum_start,
            "weight_decay": config.weight_decay,
        }
        super().__init__(groups, defaults)
        self._distributed = distributed
        self._config = config
        on_cuda = distributed.device.type == "cuda"
        names = {"bfloat16": torch.bfloat16, "float32": torch.float32}
        self._dtype = names.get(config.newton_schulz_dtype, torch.bfloat16 if on_cuda else torch.float32)
        self._shares = spread(
            [parameter for group in self.param_groups for parameter in group["params"]],
            distributed.world_size,
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        directions: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter].get("momentum")
                if momentum is None:
                    momentum = self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                directions[parameter] = parameter.grad.lerp(momentum, group["momentum"])  # Nesterov's
        updates = self._orthogonalise(directions)
        for group in self.param_groups:
            for parameter in group["params"]:
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                # A tall matrix's update has the norm of its narrow side; scaled, its rows' norm matches.
                parameter.add_(
                    updates[parameter].to(parameter.dtype),
                    alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5,
                )

    def _orthogonal(self, direction: Tensor) -> Tensor:
        config = self._config
        return newton_schulz(
            normalised_rows(direction) if config.normalise_rows else direction,
            config.newton_schulz_steps,
            self._dtype,
            _COEFFICIENTS[config.newton_schulz],
            _MARGIN[config.newton_schulz],
        )

    def _orthogonalise(self, directions: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        length = max(sum(parameter.numel() for parameter in share) for share in self._shares)
        mine = torch.zeros(length, dtype=self._dtype, device=self._distributed.device)
        start = 0
        for parameter in self._shares[self._distributed.rank]:
            update = self._orthogonal(directions[parameter])
            mine[start : start + update.numel()] = update.flatten()
            start += update.numel()
        updates: dict[Tensor, Tensor] = {}
        for share, gathered in zip(self._shares, self._distributed.all_gather(mine), strict=True):
            sizes = [parameter.numel() for parameter in share]
            pieces = torch.split(gathered[: sum(sizes)], sizes)
            updates |= {p: piece.view(p.shape) for p, piece in zip(share, pieces, strict=True)}
        return updates


def spread(matrices: list[Tensor], ranks: int) -> list[list[Tensor]]:
    """The matrices shared out so that ranks have about the same work; the same on every rank."""

    def work(matrix: Tensor) -> int:
        return matrix.numel() * min(matrix.shape)

    shares: list[list[Tensor]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for matrix in sorted(matrices, key=work, reverse=True):  # stable: ties stay in model order
        lightest = loads.index(min(loads))
        shares[lightest].append(matrix)
        loads[lightest] += work(matrix)
    return shares


def parameter_groups(model: GPT, config: OptimizerConfig) -> dict[str, dict[str, Any]]:
    """The model's parameters by who updates them and how fast; each is in exactly one group.

    Keys: ``matrices`` and ``decoder_matrices`` (for Muon), ``embeddings``, ``scalars`` and
    ``decoder_scalars`` (for AdamW). An untied output layer counts as an embedding.
    """
    rates = {
        "matrices": config.matrix_lr,
        "decoder_matrices": config.matrix_lr * config.decoder_lr_factor,
        "embeddings": config.embedding_lr,
        "scalars": config.scalar_lr,
        "decoder_scalars": config.scalar_lr * config.decoder_lr_factor,
    }
    decays = {
        "matrices": config.weight_decay,
        "decoder_matrices": config.weight_decay,
        "embeddings": config.embedding_decay,
        "scalars": config.scalar_decay,
        "decoder_scalars": config.scalar_decay,
    }
    groups: dict[str, dict[str, Any]] = {
        name: {
            "name": name,
            "params": [],
            "lr": rate,
            "base_lr": rate,
            "weight_decay": decays[name],
            "base_decay": decays[name],
        }
        for name, rate in rates.items()
    }
    decoder = {
        id(parameter)
        for block in list(model.blocks)[model.config.layers // 2 :]
        for parameter in block.parameters()
    }
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding) or module is model.head:
                kind = "embeddings"
            else:
                kind = "matrices" if isinstance(module, Linear) else "scalars"
                kind = f"decoder_{kind}" if id(parameter) in decoder else kind
            groups[kind]["params"].append(parameter)
    return {name: group for name, group in groups.items() if group["params"]}


class Optimizers:
    """The two optimisers, stepped as one."""

    def __init__(self, model: GPT, config: OptimizerConfig, distributed: Distributed) -> None:
        groups = parameter_groups(model, config)
        matrices = [group for name, group in groups.items() if name.endswith("matrices")]
        others = [group for name, group in groups.items() if not name.endswith("matrices")]
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self._muon = Muon(matrices, config, distributed)
        self._adamw = torch.optim.AdamW(
            others,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            fused=distributed.device.type == "cuda",
        )

    def step(self, plan: StepPlan) -> None:
        for optimizer in (self._muon, self._adamw):
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * plan.lr_scale
                group["weight_decay"] = group["base_decay"] * plan.decay_scale
                if optimizer is self._muon:
                    group["momentum"] = plan.momentum
            optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """The state tensors themselves (not copies) by ``<parameter>/<quantity>``; empty before a step."""
        return {
            f"{self._names[parameter]}/{quantity}": value
            for optimizer in (self._muon, self._adamw)
            for parameter, state in optimizer.state.items()
            for quantity, value in state.items()
        }

    def load_state(self, state: dict[str, Tensor], where: str) -> None:
        """The inverse of :meth:`state`; tensors are moved to where their parameter is, and kept.

        Raises FormatError, naming ``where`` and the tensor, for the state of other parameters.
        """
        self._check(state, where)
        for optimizer in (self._muon, self._adamw):
            optimizer.state.clear()
            for group in optimizer.param_groups if state else ():
                for parameter in group["params"]:
                    for quantity in _QUANTITIES[type(optimizer)]:
                        value = state[f"{self._names[parameter]}/{quantity}"]
                        # AdamW's step count lives on the CPU unless its fused kernel reads it.
                        stays = quantity == "step" and not group.get("fused")
                        optimizer.state[parameter][quantity] = value.to(
                            value.device if stays else parameter.device
                        )

    def _check(self, state: dict[str, Tensor], where: str) -> None:
        wanted = {
            f"{self._names[parameter]}/{quantity}": torch.Size() if quantity == "step" else parameter.shape
            for optimizer in (self._muon, self._adamw)
            for group in optimizer.param_groups
            for parameter in group["params"]
            for quantity in _QUANTITIES[type(optimizer)]
        }
        for name in sorted(state.keys() | wanted.keys()) if state else ():
            if name not in state or name not in wanted:
                problem = "missing" if name in wanted else "unknown"
            elif state[name].shape != wanted[name] or state[name].dtype != torch.float32:
                problem = f"{state[name].dtype} {list(state[name].shape)}, not float32 {list(wanted[name])}"
            else:
                continue
            raise FormatError(f"{where} (optimizer): tensor {name} is {problem}")


_QUANTITIES: dict[type, tuple[str, ...]] = {
    Muon: ("momentum",),
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
}
