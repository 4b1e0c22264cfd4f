import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridlm.errors import FormatError, InputError
from hybridlm.model.quantise import (
    INT6_MAX,
    INT6_MIN,
    ClipRule,
    QuantisedState,
    dequantise,
    fake_quantise_int6,
    quantise,
    row_scales,
)

CLIPS = [ClipRule("absmax"), ClipRule("std", 4.0), ClipRule("std", 12.0), ClipRule("percentile", 99.5)]


def matrix(seed: int, rows: int = 48, columns: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(rows, 1, generator=generator) * 3
    return torch.randn(rows, columns, generator=generator) * spread


def slow_row(row: np.ndarray, clip: ClipRule) -> tuple[np.ndarray, np.float16]:
    """One row, one weight at a time."""
    magnitudes = np.abs(row)
    if clip.kind == "absmax":
        bound = magnitudes.max()
    elif clip.kind == "std":
        bound = np.float32(clip.value) * np.sqrt(np.mean(magnitudes**2, dtype=np.float32))
    else:
        bound = np.percentile(magnitudes, clip.value)
    scale = np.float16(max(np.float32(bound) / np.float32(31), np.float32(2.0**-24)))
    integers = []
    for value in row:
        quotient = np.float32(value) / np.float32(scale)
        integers.append(min(max(int(np.rint(quotient)), -32), 31))
    return np.array(integers), scale


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_rows_equal_a_slow_loop(clip: ClipRule) -> None:
    weight = matrix(1)
    stored = quantise({"w": weight}, clip)
    for row in range(weight.shape[0]):
        integers, scale = slow_row(weight[row].numpy(), clip)
        # The bound may differ in its last float32 bit, which half precision can turn into one step of scale.
        assert abs(float(stored.scales["w"][row]) / float(scale) - 1) <= 2**-10
        if float(stored.scales["w"][row]) == float(scale):
            np.testing.assert_array_equal(stored.integers["w"][row].numpy(), integers)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_fake_quantisation_is_the_real_one_and_passes_gradients_through(clip: ClipRule) -> None:
    weight = matrix(2).requires_grad_()
    fake = fake_quantise_int6(weight, clip)
    assert torch.equal(fake, dequantise(quantise({"w": weight}, clip))["w"])
    upstream = torch.randn(weight.shape)
    (fake * upstream).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, upstream)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-30, 12), clip=st.sampled_from(CLIPS))
def test_error_is_within_half_a_step_unless_clipped(seed: int, exponent: int, clip: ClipRule) -> None:
    weight = matrix(seed) * 2.0**exponent
    stored = quantise({"w": weight}, clip)
    assert int(stored.integers["w"].min()) >= INT6_MIN and int(stored.integers["w"].max()) <= INT6_MAX
    scales = stored.scales["w"].float()[:, None]
    inside = (weight >= (INT6_MIN - 0.5) * scales) & (weight <= (INT6_MAX + 0.5) * scales)
    error = (dequantise(stored)["w"] - weight).abs()
    assert bool((error <= scales * 0.5 * (1 + 1e-5))[inside].all())


def test_rows_of_zeros_and_constant_rows_survive() -> None:
    weight = torch.zeros(40, 40)
    weight[1] = 0.25
    for clip in CLIPS:
        restored = dequantise(quantise({"w": weight}, clip))["w"]
        assert torch.equal(restored[0], weight[0])
        torch.testing.assert_close(restored[1], weight[1], rtol=0.2, atol=0)
    assert torch.isfinite(row_scales(torch.full((32, 32), 1e30))).all()


def test_small_and_control_tensors_stay_float() -> None:
    state = {"gain": torch.randn(300), "mix": torch.randn(2, 300), "huge": torch.tensor([1e9, -3.0])}
    stored = quantise(state)
    assert not stored.integers and stored.floats["mix"].dtype == torch.float16
    restored = dequantise(stored)
    assert torch.equal(restored["huge"], state["huge"])
    torch.testing.assert_close(restored["gain"], state["gain"], rtol=2**-10, atol=2**-24)


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"blocks\.0\.weight .*not finite"):
        quantise({"blocks.0.weight": torch.tensor([[1.0, float("nan")]])})


def test_stored_values_that_cannot_be_are_refused() -> None:
    good = quantise({"w": matrix(3), "g": torch.ones(3)})
    i, s, f = good.integers["w"], good.scales["w"], good.floats["g"]
    cases = [
        (QuantisedState({"w": i}, {}, {}), "without scales"),
        (QuantisedState({"w": i}, {"w": s[1:]}, {}), "shape"),
        (QuantisedState({"w": torch.full_like(i, 32)}, {"w": s}, {}), "outside"),
        (QuantisedState({"w": i}, {"w": s * float("nan")}, {}), "scale"),
        (QuantisedState({"w": i}, {"w": -s}, {}), "scale"),
        (QuantisedState({}, {}, {"g": f / 0}), "not finite"),
    ]
    for stored, message in cases:
        with pytest.raises(FormatError, match=message):
            dequantise(stored)


@pytest.mark.parametrize("text", ["absmax", "std:6.5", "percentile:99.9"])
def test_clip_rules_are_spelled_and_read_back(text: str) -> None:
    assert str(ClipRule.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "std", "std:0", "std:-1", "std:x", "absmax:1", "percentile:101", "std:nan", "other:1"]
)
def test_other_clip_rules_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="clip rule"):
        ClipRule.parse(text)
