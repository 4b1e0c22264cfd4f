import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.distributed import Distributed
from hybridlm.model import GPT, ModelConfig
from hybridlm.train.config import OptimizerConfig
from hybridlm.train.optimizer import Muon, Optimizers, newton_schulz, parameter_groups, spread

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


def test_newton_schulz_of_zero_is_zero() -> None:
    assert not newton_schulz(torch.zeros(4, 6), 5, torch.float32).any()


def test_a_step_is_momentum_orthogonalised_and_decay_apart() -> None:
    torch.manual_seed(0)
    config = OptimizerConfig(newton_schulz_dtype="float32")
    weight = torch.nn.Parameter(torch.randn(12, 5))
    optimizer = Muon([{"params": [weight], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}], config, ALONE)
    wanted, momentum = weight.detach().clone(), torch.zeros(12, 5)
    for _ in range(3):
        gradient = torch.randn(12, 5)
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        direction = newton_schulz(0.9 * momentum + 0.1 * gradient, 5, torch.float32)
        wanted = wanted * (1 - 0.1 * 0.5) - 0.1 * (12 / 5) ** 0.5 * direction
        torch.testing.assert_close(weight.detach(), wanted)


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


def digest_after_steps(distributed: Distributed) -> str:
    """SHA-256 of a model's parameters after three steps with made-up gradients."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = GPT(CONFIG)
    optimizers = Optimizers(model, OptimizerConfig(), distributed)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizers.step(1.0, 0.9)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


@pytest.mark.slow
def test_spread_over_ranks_gives_the_parameters_of_one(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            from pathlib import Path
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_muon import digest_after_steps
            from hybridlm.distributed import initialise

            distributed = initialise("cpu")
            Path({str(tmp_path)!r}, f"rank{{distributed.rank}}").write_text(digest_after_steps(distributed))
            distributed.close()
            """
        )
    )
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
        check=True,
        capture_output=True,
    )
    alone = digest_after_steps(ALONE)
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == [alone, alone]
