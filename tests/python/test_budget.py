"""Choosing within a budget: what is chosen fits and is the best of what was tried."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import hybridlm
from hybridlm.budget import Choice, Oracles, choose, curve_table, grid_of, step_shares
from hybridlm.calibration import draw
from hybridlm.data.shards import data_folder, read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.model import GPT, ModelConfig
from hybridlm.model.grid import Kind, kind_of
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import evaluate

pytestmark = pytest.mark.slow

STEPS = (0.15, 0.8)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    torch.manual_seed(0)
    config = ModelConfig(
        layers=1, width=32, heads=2, kv_heads=2, mlp_hidden=64, vocab_size=tokenizer.vocab_size,
        sequence_length=32, bigram_rows=64, bigram_width=32, zero_init_projections=False, embedding_std=0.3,
    )  # fmt: skip
    return GPT(config).eval()


@pytest.fixture(scope="module")
def train_shards(shard_dir: Path) -> list[Path]:
    return data_folder(shard_dir)[0]


@pytest.fixture(scope="module")
def holdout(train_shards: list[Path], tokenizer: Tokenizer) -> np.ndarray:
    return read_stream(train_shards[-1:], tokenizer.vocab_size, 1500)


@pytest.fixture(scope="module")
def oracles(train_shards: list[Path], tokenizer: Tokenizer) -> Oracles:
    builder = hybridlm.OracleBuilder(tokenizer.vocabulary, order=3)
    builder.add_shard(train_shards[0])
    sizes: dict[int, bytes] = {}

    def build(most: int) -> bytes:
        return sizes.setdefault(most, builder.build(max_bytes=most).to_bytes())

    return build


@pytest.fixture(scope="module")
def choice(
    model: GPT, oracles: Oracles, tokenizer: Tokenizer, holdout: np.ndarray, train_shards: list[Path]
) -> Choice:
    calibration = draw(train_shards[:1], tokenizer.vocabulary, length=32, tokens=2000)
    return choose(model, oracles, tokenizer, holdout, 30_000, calibration=calibration, steps=STEPS)


def test_all_that_was_tried_fits_and_the_best_of_it_is_chosen(
    choice: Choice, tokenizer: Tokenizer, holdout: np.ndarray
) -> None:
    assert len(choice.curve) == len(STEPS) + 3
    assert all(point.total_bytes <= 30_000 and point.oracle_bytes > 4000 for point in choice.curve)
    assert choice.best.bpb == min(point.bpb for point in choice.curve)
    assert choice.artifact.total_bytes == choice.best.total_bytes
    scored = evaluate(choice.artifact, holdout, tokenizer.byte_table, ScoringConfig(ttt="off"))
    assert scored.bpb == choice.best.bpb
    header = choice.artifact.neural_header()
    assert header is not None and header.quantisation["rounding"] == "gptq"
    assert header.quantisation["grids"] == choice.best.scheme.words(header.quantisation["grids"])
    assert header.quantisation["low_rank"] == str(choice.best.scheme.low_rank)


def test_coarser_weights_leave_more_to_the_oracle(choice: Choice) -> None:
    plain = [point for point in choice.curve if not point.scheme.low_rank.rank]
    assert [point.step for point in plain] == sorted(point.step for point in plain)
    for finer, coarser in itertools.pairwise(plain):
        assert finer.neural_bytes > coarser.neural_bytes and finer.oracle_bytes < coarser.oracle_bytes


def test_the_table_marks_the_choice(choice: Choice) -> None:
    lines = curve_table(choice)
    assert len(lines) == len(choice.curve) + 1
    (marked,) = (line for line in lines if line.startswith("*"))
    assert f"{choice.best.total_bytes:,}" in marked and f"{choice.best.bpb:.4f}" in marked


def test_a_budget_that_nothing_fits_is_refused_with_what_it_takes(
    model: GPT, tokenizer: Tokenizer, holdout: np.ndarray
) -> None:
    with pytest.raises(InputError, match=r"of \d+,\d+ bytes, and the budget is 5,000"):
        choose(model, lambda most: None, tokenizer, holdout, 5000, steps=(0.8,))
    with pytest.raises(InputError, match="the budget is 30,000"):
        choose(model, lambda most: bytes(30_000), tokenizer, holdout, 30_000, steps=(0.8,))


def test_steps_are_where_no_exchange_between_kinds_gains(model: GPT) -> None:
    """Lagrange: at the least Σ c t² with Σ n log t given, c t² / n is the same for all kinds."""
    losses: dict[Kind, float] = {"attention": 0.02, "mlp": 0.01, "embedding": 0.09, "bigram": 0.03}
    shares = step_shares(model, losses)
    sizes = dict.fromkeys(losses, 0)
    for name, parameter in model.named_parameters():
        kind = kind_of(name, parameter.shape)
        if kind in sizes:
            sizes[kind] += parameter.numel()
    slopes = [losses[kind] * shares[kind] ** 2 / sizes[kind] for kind in losses]
    np.testing.assert_allclose(slopes, slopes[0])
    assert abs(sum(sizes[kind] * np.log(shares[kind]) for kind in sizes)) < 1e-6
    # A kind that seems to gain, by noise, is not coarsened without bound.
    assert max(step_shares(model, {**losses, "mlp": -0.5}).values()) <= 5


@pytest.mark.parametrize("step", [0.1, 0.19, 0.4, 1.0, 2.0])
def test_a_grid_has_the_step_and_reaches_far(step: float) -> None:
    grid = grid_of(step)
    assert grid.clip.value / grid.ends[1] == pytest.approx(step, rel=1e-3)
    assert grid.clip.value >= 12


@pytest.mark.parametrize("step", [1e-6, 0.04, 0.09])
def test_fine_steps_clip_nothing(step: float) -> None:
    assert str(grid_of(step)) == "8:absmax"
