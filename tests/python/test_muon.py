import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.distributed import Distributed
from hybridlm.model import GPT, ModelConfig
from hybridlm.train.config import OptimizerConfig
from hybridlm.train.optimizer import (
    POLAR_EXPRESS,
    QUINTIC,
    Coefficients,
    Muon,
    Optimizers,
    clip_norm_,
    newton_schulz,
    parameter_groups,
    spread,
)
from hybridlm.train.schedule import StepPlan

ALONE = Distributed(0, 1, 0, torch.device("cpu"))
CONFIG = ModelConfig(
    vocab_size=40, layers=3, width=16, heads=2, kv_heads=1, mlp_hidden=24, rope_dims=4, bigram_rows=32
)


@pytest.mark.parametrize("shape", [(32, 32), (48, 16), (16, 48), (1, 8), (33, 31)])
@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_newton_schulz_keeps_singular_vectors_and_levels_singular_values(
    shape: tuple[int, int], dtype: torch.dtype, slack: float
) -> None:
    torch.manual_seed(0)
    rank = min(shape)
    left, _ = torch.linalg.qr(torch.randn(shape[0], rank, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(shape[1], rank, dtype=torch.float64))
    values = torch.logspace(0, -1.5, rank, dtype=torch.float64)
    matrix = (left * values) @ right.T
    got = newton_schulz(matrix.float() * 3, 5, dtype).double()
    in_its_own_axes = left.T @ got @ right
    diagonal = in_its_own_axes.diagonal()
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    assert (in_its_own_axes - torch.diag(diagonal)).abs().max() < slack


@pytest.mark.parametrize(
    ("coefficients", "margin", "within"), [(QUINTIC, 1.0, (0.6, 1.3)), (POLAR_EXPRESS, 1.02, (0.8, 1.2))]
)
@pytest.mark.parametrize(("shape", "steps"), [((9, 24), 5), ((24, 9), 5), ((16, 16), 7), ((8, 8), 0)])
def test_newton_schulz_equals_its_polynomials_of_the_singular_values(
    coefficients: Coefficients, margin: float, within: tuple[float, float], shape: tuple[int, int], steps: int
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt() / margin
    for step in range(steps):
        a, b, c = coefficients[step] if step < len(coefficients) else coefficients[-1]
        values = a * values + b * values**3 + c * values**5
    got = newton_schulz(matrix, steps, torch.float64, coefficients, margin)
    torch.testing.assert_close(got, left @ torch.diag(values) @ right, rtol=1e-5, atol=1e-6)
    if steps == 5:
        assert within[0] < values.min() and values.max() < within[1]


def test_newton_schulz_of_zero_is_zero() -> None:
    assert not newton_schulz(torch.zeros(4, 6), 5, torch.float32).any()


@pytest.mark.parametrize("rows_normalised", [False, True])
def test_a_step_is_momentum_orthogonalised_and_decay_apart(rows_normalised: bool) -> None:
    torch.manual_seed(0)
    config = OptimizerConfig(newton_schulz_dtype="float32", normalise_rows=rows_normalised)
    weight = torch.nn.Parameter(torch.randn(12, 5))
    optimizer = Muon([{"params": [weight], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}], config, ALONE)
    wanted, momentum = weight.detach().clone(), torch.zeros(12, 5)
    for _ in range(3):
        gradient = torch.randn(12, 5) * torch.logspace(-2, 2, 12)[:, None]
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        direction = 0.9 * momentum + 0.1 * gradient
        if rows_normalised:
            direction = torch.stack([row / row.square().sum().sqrt() for row in direction])
        direction = newton_schulz(direction, 5, torch.float32)
        wanted = wanted * (1 - 0.1 * 0.5) - 0.1 * (12 / 5) ** 0.5 * direction
        torch.testing.assert_close(weight.detach(), wanted, rtol=1e-4, atol=1e-5)


def test_each_kind_of_parameter_decays_by_its_own_rate_and_by_the_taper() -> None:
    """Without gradients, nothing but decay moves a weight."""
    model = GPT(CONFIG)
    config = OptimizerConfig(
        matrix_lr=0.1, embedding_lr=0.2, scalar_lr=0.3, weight_decay=0.4, embedding_decay=0.5,
        scalar_decay=0.6, decoder_lr_factor=1.0,
    )  # fmt: skip
    optimizers = Optimizers(model, config, ALONE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizers.step(StepPlan(lr_scale=0.5, decay_scale=0.25, momentum=0.9, recurrent=False, quantised=False))
    factors = {"matrices": 0.1 * 0.4, "embeddings": 0.2 * 0.5, "scalars": 0.3 * 0.6}
    for name, parameter in model.named_parameters():
        kind = (
            "embeddings" if "embedding" in name or "table" in name
            else "matrices" if name.endswith(".weight") else "scalars"
        )  # fmt: skip
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.5 * 0.25 * factors[kind]))


@pytest.mark.parametrize(("largest", "factor"), [(0.0, 1.0), (10.0, 1.0), (2.5, 0.5)])
def test_a_gradient_is_scaled_to_the_largest_norm(largest: float, factor: float) -> None:
    gradient = torch.tensor([3.0, -4.0])
    assert clip_norm_(gradient, largest).item() == 5
    torch.testing.assert_close(gradient, factor * torch.tensor([3.0, -4.0]))


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20),
    st.integers(1, 6),
)
def test_work_is_shared_out_evenly_and_once(shapes: list[tuple[int, int]], ranks: int) -> None:
    matrices = [torch.empty(shape) for shape in shapes]
    shares = spread(matrices, ranks)
    assert sorted(id(matrix) for share in shares for matrix in share) == sorted(map(id, matrices))
    work = [sum(matrix.numel() * min(matrix.shape) for matrix in share) for share in shares]
    largest = max(matrix.numel() * min(matrix.shape) for matrix in matrices)
    assert max(work) - min(work) <= largest


def test_every_parameter_has_one_group_and_the_decoder_learns_faster() -> None:
    model = GPT(CONFIG)
    groups = parameter_groups(model, OptimizerConfig(matrix_lr=0.01, scalar_lr=0.03, decoder_lr_factor=2.0))
    names = {parameter: name for name, parameter in model.named_parameters()}
    grouped = {name: [names[p] for p in group["params"]] for name, group in groups.items()}
    assert sorted(name for group in grouped.values() for name in group) == sorted(names.values())
    assert set(grouped["embeddings"]) == {"token_embedding.weight", "bigram_hash.table.weight"}
    for kind, wanted in [("matrices", 0.01), ("scalars", 0.03)]:
        assert groups[kind]["lr"] == wanted
        assert groups[f"decoder_{kind}"]["lr"] == 2 * wanted
        assert not any(name.startswith(("blocks.1", "blocks.2")) for name in grouped[kind])
        assert all(name.startswith(("blocks.1", "blocks.2")) for name in grouped[f"decoder_{kind}"])
    assert all(name.endswith(".weight") for name in grouped["matrices"] + grouped["decoder_matrices"])


@dataclass(frozen=True)
class Thread(Distributed):
    """A rank that is a thread of this process: they meet at a barrier and read each other's tensors."""

    meeting: threading.Barrier
    board: list[torch.Tensor]

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.board[self.rank] = tensor
        self.meeting.wait(timeout=60)
        gathered = list(self.board)
        self.meeting.wait(timeout=60)
        return gathered


def weights_after_steps(distributed: Distributed, model: GPT) -> list[torch.Tensor]:
    """A model's parameters after three steps with made-up gradients."""
    config = OptimizerConfig(newton_schulz="polar_express", normalise_rows=True, scalar_decay=0.1)
    optimizers = Optimizers(model, config, distributed)
    random = torch.Generator().manual_seed(1)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        optimizers.step(StepPlan(1.0, 1.0, 0.9, False, False))
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("ranks", [2, 3])
def test_spread_over_ranks_gives_the_parameters_of_one(ranks: int) -> None:
    model = GPT(CONFIG)
    barrier, board = threading.Barrier(ranks), [torch.empty(0)] * ranks
    cpu = torch.device("cpu")
    members = [Thread(rank, ranks, rank, cpu, barrier, board) for rank in range(ranks)]
    with ThreadPoolExecutor(ranks) as pool:
        copies = [copy.deepcopy(model) for _ in members]
        found = list(pool.map(weights_after_steps, members, copies))
    alone = weights_after_steps(ALONE, model)
    for weights in found:
        assert all(torch.equal(one, other) for one, other in zip(weights, alone, strict=True))
