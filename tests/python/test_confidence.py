"""Intervals and tests, against slow or published references."""

import math

import numpy as np
import pytest

from hybridlm.errors import InputError
from hybridlm.scoring.confidence import bpb_interval, compare, student_t_below, welch


def density(t: float, degrees: float) -> float:
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    return math.exp(scale) * (1 + t * t / degrees) ** (-(degrees + 1) / 2)


@pytest.mark.parametrize("degrees", [1.0, 2.0, 3.7, 10.0, 200.0])
@pytest.mark.parametrize("t", [-8.0, -1.3, 0.0, 0.4, 2.5])
def test_student_s_distribution_is_the_integral_of_its_density(t: float, degrees: float) -> None:
    points = np.linspace(0.0, abs(t), 20_001)
    heights = np.array([density(point, degrees) for point in points])
    area = float(((heights[1:] + heights[:-1]) / 2 * np.diff(points)).sum())
    assert student_t_below(t, degrees) == pytest.approx(0.5 + math.copysign(area, t), abs=1e-8)


def test_quantiles_are_those_of_the_tables() -> None:
    for degrees, quantile in ((1, 6.314), (4, 2.132), (10, 1.812), (30, 1.697)):
        assert student_t_below(quantile, degrees) == pytest.approx(0.95, abs=5e-5)


def test_welch_s_test_finds_what_is_there_and_asks_for_the_margin() -> None:
    first, second = [1.101, 1.099, 1.100], [1.091, 1.090, 1.092]
    found = welch(first, second)
    # Equal variances and sizes: Student's own test, t = Δ / (s √(2/n)) with 2 (n − 1) degrees of freedom.
    assert found.t == pytest.approx(-0.009 / (0.001 * math.sqrt(2 / 3)))
    assert found.degrees == pytest.approx(4)
    assert found.p_value < 0.001 < 0.4 < welch(first, second, 0.009).p_value
    assert welch(second, first).p_value == pytest.approx(1 - found.p_value)
    for a, b in (([1.0], second), (first, [1.0]), ([1.0, 1.0], [1.1, 1.1])):
        with pytest.raises(InputError):
            welch(a, b)


def test_an_interval_holds_the_true_rate_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        sizes = rng.integers(10, 400, 80).astype(float)
        bits = sizes * rng.normal(1.2, 0.1, 80)
        interval = bpb_interval(bits, sizes)
        assert interval is not None and interval[0] < bits.sum() / sizes.sum() < interval[1]
        held += interval[0] <= 1.2 <= interval[1]
    assert 50 <= held < 60
    assert bpb_interval(np.ones(1), np.ones(1)) is None
    assert bpb_interval(np.zeros(2), np.zeros(2)) is None, "no text, no rate"


def test_a_paired_comparison_sees_what_two_intervals_can_not() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(10, 400, 100).astype(float)
    first = sizes * rng.normal(1.2, 0.3, 100)
    second = first - 0.002 * sizes * rng.uniform(0.5, 1.5, 100)
    found = compare(first, second, sizes)
    assert found.interval is not None and found.interval[0] < found.difference < found.interval[1] < 0
    assert found.difference == pytest.approx(-0.002, rel=0.1) and found.p_value < 0.002
    a, b = bpb_interval(first, sizes), bpb_interval(second, sizes)
    assert a is not None and b is not None and a[0] < b[1]
    back = compare(second, first, sizes)
    assert back.difference == -found.difference and back.p_value > 0.99
    assert compare(first, first, sizes).p_value == 1.0
    with pytest.raises(InputError):
        compare(first[:1], first[:1], sizes[:1])
