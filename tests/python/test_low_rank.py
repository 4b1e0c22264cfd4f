"""Low-rank corrections of rounding errors, against the best that a rank can do."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hybridlm.errors import InputError
from hybridlm.model.gptq import DAMPING
from hybridlm.model.grid import LowRankRule, Scheme
from hybridlm.model.low_rank import correction, rounded_factor
from hybridlm.model.quantise import quantise


def low_rank_error(rank: int, seed: int = 0) -> Tensor:
    """float64 [70, 100]: of that rank, but for noise of a tenth."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(70, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, 100, generator=generator, dtype=torch.float64)
    return left @ right + 0.1 * torch.randn(70, 100, generator=generator, dtype=torch.float64)


def norm(error: Tensor, products: Tensor) -> float:
    return float(((error @ products) * error).sum())


@pytest.mark.parametrize("rank", [1, 3])
def test_most_of_an_error_of_low_rank_is_gone(rank: int) -> None:
    """No correction of that rank does better than the SVD's; two and four bits come near."""
    error = low_rank_error(rank)
    found = torch.from_numpy(correction(error, rank).values())
    best = float(torch.linalg.svdvals(error)[rank:].square().sum())
    left = float((error - found).square().sum())
    assert best < left < 0.3 * float(error.square().sum())


def test_inputs_decide_what_is_corrected() -> None:
    """Of two errors of rank one, the smaller one is corrected where only its inputs come."""
    error = torch.zeros(64, 80, dtype=torch.float64)
    error[:32, 3], error[32:, 50] = 5.0, 1.0
    products = torch.zeros(80, 80, dtype=torch.float64)
    products[50, 50] = 1.0
    damped = products + DAMPING * products.diagonal().mean() * torch.eye(80)
    plain = torch.from_numpy(correction(error, 1).values())
    aware = torch.from_numpy(correction(error, 1, products).values())
    assert norm(error - aware, damped) < 0.2 * norm(error, damped) < norm(error - plain, damped)


@pytest.mark.parametrize(("bits", "distortion"), [(2, 0.1188), (4, 0.01154)])
def test_a_factor_is_on_its_grid_and_each_group_has_its_own_scale(bits: int, distortion: float) -> None:
    """As good as the best uniform quantiser of normal numbers (Max 1960), but for what small samples add."""
    generator = torch.Generator().manual_seed(bits)
    values = torch.randn(3, 150, generator=generator, dtype=torch.float64)
    values[:, 64:128] *= 1000
    values[1] = 0
    factor = rounded_factor(values, bits)
    assert factor.integers.shape == (3, 150) and factor.scales.shape == (3, 3)
    ends = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    assert ends[0] <= factor.integers.min() and factor.integers.max() <= ends[1]
    wanted = values[[0, 2]].numpy()
    error = np.abs(factor.values()[[0, 2]] - wanted)
    for group in (slice(0, 64), slice(64, 128), slice(128, 150)):
        assert np.square(error[:, group]).mean() < 1.3 * distortion * np.square(wanted[:, group]).mean()
    assert np.abs(factor.values()[1]).max() <= 2.0**-20


def test_the_matrices_with_the_largest_errors_are_corrected() -> None:
    generator = torch.Generator().manual_seed(3)
    state = {
        f"blocks.{layer}.mlp.up.weight": torch.randn(40, 48, generator=generator) * size
        for layer, size in enumerate((1.0, 4.0, 0.5, 2.0))
    }
    state["blocks.0.attention.gate_weight"] = torch.randn(4, 48, generator=generator) * 1000
    plain = quantise(state, Scheme.parse(["3:absmax"])).matrices
    found = quantise(state, Scheme.parse(["3:absmax", "low-rank=4:2"])).matrices
    corrected = {name for name, matrix in found.items() if matrix.low_rank is not None}
    assert corrected == {"blocks.1.mlp.up.weight", "blocks.3.mlp.up.weight"}
    for name in corrected:
        before = np.square(plain[name].values() - state[name].numpy()).sum()
        assert np.square(found[name].values() - state[name].numpy()).sum() < 0.9 * before
        np.testing.assert_array_equal(found[name].integers, plain[name].integers)


@pytest.mark.parametrize("text", ["", "4", "0:3", "4:0", "-1:3", "4:x", "4:3:2"])
def test_other_rules_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="RANK:MATRICES"):
        Scheme.parse([f"low-rank={text}"])
    assert Scheme.parse(["low-rank=4:3"]).low_rank == LowRankRule(4, 3)
