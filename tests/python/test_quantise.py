import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridlm.errors import FormatError, InputError
from hybridlm.model import GPT, ModelConfig
from hybridlm.model.grid import KINDS, Grid, Scheme, kind_of
from hybridlm.model.quantise import quantise
from hybridlm.model.quantised import Factor, LowRank, QuantisedMatrix, QuantisedState, dequantise
from hybridlm.model.rounding import TRAINING_GRID, fake_quantise, is_quantised, row_scales

GRIDS = [Grid.parse(text) for text in ("absmax", "std:4", "7:std:12", "4:absmax", "8:percentile:99.5")]
NAME = "blocks.0.mlp.up.weight"


def matrix(seed: int, rows: int = 48, columns: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(rows, 1, generator=generator) * 3
    return torch.randn(rows, columns, generator=generator) * spread


def quantised(weight: torch.Tensor, grid: Grid) -> QuantisedMatrix:
    return quantise({NAME: weight}, Scheme({"mlp": grid})).matrices[NAME]


def slow_row(row: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.float16]:
    """One row, one weight at a time."""
    magnitudes, clip = np.abs(row), grid.clip
    end = 2 ** (grid.bits - 1) - 1
    if clip.kind == "absmax":
        bound = magnitudes.max()
    elif clip.kind == "std":
        bound = np.float32(clip.value) * np.sqrt(np.mean(magnitudes**2, dtype=np.float32))
    else:
        bound = np.percentile(magnitudes, clip.value)
    scale = np.float16(max(np.float32(bound) / np.float32(end), np.float32(2.0**-24)))
    integers = []
    for value in row:
        quotient = np.float32(value) / np.float32(scale)
        integers.append(min(max(int(np.rint(quotient)), -end - 1), end))
    return np.array(integers), scale


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rows_equal_a_slow_loop(grid: Grid) -> None:
    weight = matrix(1)
    stored = quantised(weight, grid)
    assert stored.bits == grid.bits
    for row in range(weight.shape[0]):
        integers, scale = slow_row(weight[row].numpy(), grid)
        # The bound may differ in its last float32 bit, which half precision can turn into one step of scale.
        assert abs(float(stored.scales[row]) / float(scale) - 1) <= 2**-10
        if stored.scales[row] == scale:
            np.testing.assert_array_equal(stored.integers[row], integers)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_fake_quantisation_is_the_real_one_and_passes_gradients_through(grid: Grid) -> None:
    weight = matrix(2).requires_grad_()
    fake = fake_quantise(weight, grid)
    np.testing.assert_array_equal(fake.detach().numpy(), quantised(weight, grid).values())
    upstream = torch.randn(weight.shape)
    (fake * upstream).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, upstream)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-30, 12), grid=st.sampled_from(GRIDS))
def test_error_is_within_half_a_step_unless_clipped(seed: int, exponent: int, grid: Grid) -> None:
    weight = matrix(seed) * 2.0**exponent
    stored = quantised(weight, grid)
    low, high = grid.ends
    assert low <= stored.integers.min() and stored.integers.max() <= high
    scales = stored.scales.astype(np.float32)[:, None]
    inside = (weight.numpy() >= (low - 0.5) * scales) & (weight.numpy() <= (high + 0.5) * scales)
    error = np.abs(stored.values() - weight.numpy())
    assert (error <= scales * 0.5 * (1 + 1e-5))[inside].all()


def test_rows_of_zeros_and_constant_rows_survive() -> None:
    weight = torch.zeros(40, 40)
    weight[1] = 0.25
    for grid in GRIDS:
        restored = quantised(weight, grid).values()
        assert not restored[0].any()
        np.testing.assert_allclose(restored[1], weight[1], rtol=0.2)
    assert torch.isfinite(row_scales(torch.full((32, 32), 1e30))).all()


def test_small_and_control_tensors_stay_float() -> None:
    state = {"gain": torch.randn(300), "mix": torch.randn(2, 300), "huge": torch.tensor([1e9, -3.0])}
    state["skip_weight"] = torch.randn(40, 300)
    stored = quantise(state)
    assert not stored.matrices and stored.floats["mix"].dtype == np.float16
    restored = dequantise(stored)
    np.testing.assert_array_equal(restored["huge"], state["huge"])
    np.testing.assert_allclose(restored["gain"], state["gain"], rtol=2**-10, atol=2**-24)


def test_every_kind_of_matrix_is_found_and_training_rounds_the_same_ones(recipe: ModelConfig) -> None:
    configs = [recipe, ModelConfig(vocab_size=64, layers=1, width=64, mlp_hidden=64, tied_embeddings=False)]
    found = set()
    for config in configs:
        with torch.device("meta"):
            model = GPT(config)
        for name, parameter in model.named_parameters():
            kind = kind_of(name, parameter.shape)
            found.add(kind)
            if kind != "gate" and name.endswith(".weight"):
                assert (kind is not None) == is_quantised(parameter), name
    assert found == {*KINDS, None}
    steps = {kind: grid.clip.value / grid.ends[1] for kind, grid in Scheme().grids.items() if grid.clip.value}
    assert set(steps) == set(KINDS) - {"gate", "embedding"}
    # No coarser than quantisation-aware training makes the model used to, and hardly finer.
    for step in steps.values():
        assert 0.95 < step / (TRAINING_GRID.clip.value / TRAINING_GRID.ends[1]) <= 1


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"blocks\.0\.weight .*not finite"):
        quantise({"blocks.0.weight": torch.tensor([[1.0, float("nan")]])})


def test_stored_values_that_cannot_be_are_refused() -> None:
    i, s = (quantised(matrix(3), Grid()).__dict__[name] for name in ("integers", "scales"))
    left = Factor(np.zeros((1, 48), np.int8), np.ones((1, 1), np.float16))
    right = Factor(np.full((1, 64), 8, np.int8), np.ones((1, 1), np.float16))
    cases = [
        (QuantisedMatrix(6, i, s[1:]), "shape"),
        (QuantisedMatrix(6, np.full_like(i, 32), s), r"outside -32\.\.31"),
        (QuantisedMatrix(2, i, s), r"outside -2\.\.1"),
        (QuantisedMatrix(6, i, s * np.float16("nan")), "scale"),
        (QuantisedMatrix(6, i, -s), "scale"),
        (QuantisedMatrix(6, i, s, LowRank(left, right)), r"outside -8\.\.7"),
    ]
    for stored, message in cases:
        with pytest.raises(FormatError, match=f"w: .*{message}"):
            dequantise(QuantisedState({"w": stored}, {}))
    with pytest.raises(FormatError, match="not finite"):
        dequantise(QuantisedState({}, {"g": np.array([np.inf], np.float16)}))


@pytest.mark.parametrize("text", ["6:absmax", "6:std:6.5", "4:percentile:99.9"])
def test_grids_are_spelled_and_read_back(text: str) -> None:
    assert str(Grid.parse(text)) == text
    assert str(Grid.parse("std:6.5")) == "6:std:6.5"


@pytest.mark.parametrize(
    "text",
    ["", "std", "std:0", "std:-1", "std:x", "absmax:1", "percentile:101", "std:nan", "other:1", "6", "6:",
     "1:absmax", "9:absmax", "-4:absmax", "x:absmax", "mlp=", "mlp=6", "head=absmax", "=absmax",
     "gate=mlp=absmax", "99999999999999999999:absmax"],
)  # fmt: skip
def test_other_grids_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"clip rule|bits|no kind"):
        Scheme.parse([text])


def test_later_words_of_a_scheme_win_and_gates_are_named() -> None:
    grids = Scheme.parse(["mlp=5:std:9", "4:absmax", "attention=std:13"]).grids
    assert {kind: str(grid) for kind, grid in grids.items()} == {
        "attention": "6:std:13",
        "mlp": "4:absmax",
        "embedding": "4:absmax",
        "bigram": "4:absmax",
        "gate": "8:absmax",
    }
    assert str(Scheme.parse(["gate=4:absmax"]).grids["gate"]) == "4:absmax"
    assert Scheme.parse([]) == Scheme()


@pytest.mark.parametrize("name", [NAME, "blocks.0.attention.key.weight", "token_embedding.weight"])
def test_the_default_grids_keep_a_weight_that_stands_out(name: str) -> None:
    weight = matrix(5)
    weight[:, 3] = 30 * weight[:, 4:].std(dim=1)  # the width lets it be seven deviations of the whole row
    state = quantise({name: weight})
    restored = torch.from_numpy(dequantise(state)[name])
    step = torch.from_numpy(state.matrices[name].scales.astype(np.float32))[:, None]
    assert (weight[:, 3] / weight.std(dim=1)).min() > 6.5
    assert ((restored - weight).abs() <= 0.51 * step).all()
