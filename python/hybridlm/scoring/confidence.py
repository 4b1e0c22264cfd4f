"""How sure is a score? Resampling of documents, and the t-test of several seeds.

Documents are the units: tokens of one document aren't independent. Percentile bootstrap (Efron, "Bootstrap
methods", 1979) over whole documents; two scores of the same text are compared by the same resampled documents
for both (paired). Several seeds of each are compared by Welch's one-sided test (Welch, 1947).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError

RESAMPLES = 1000
LEVEL = 0.95
_SEED = 0

Floats = NDArray[np.float64]


def _resampled_ratios(tops: Sequence[Floats], bottom: Floats) -> Floats:
    """[len(tops), RESAMPLES]: Σ top / Σ bottom over as many documents, drawn with replacement."""
    documents = len(bottom)
    random = np.random.default_rng(_SEED)
    columns = np.stack([*tops, bottom])
    sums = np.empty((len(columns), RESAMPLES))
    for at in range(RESAMPLES):
        counts = np.bincount(random.integers(0, documents, documents), minlength=documents)
        sums[:, at] = columns @ counts
    # A sample of documents without any text has no rate.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:-1] / sums[-1])


def _interval(values: Floats) -> tuple[float, float] | None:
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bpb_interval(bits: Floats, text_bytes: Floats) -> tuple[float, float] | None:
    """The 95% interval of Σ bits / Σ bytes over documents; None for fewer than two."""
    if len(bits) < 2:
        return None
    return _interval(_resampled_ratios([bits], text_bytes)[0])


@dataclass(frozen=True)
class Comparison:
    """Two scores of the same documents.

    difference: bits per byte of the second less those of the first: below 0, the second is better.
    interval: its 95% interval. p_value: the share of resamples in which the second is not better.
    """

    first: float
    second: float
    difference: float
    interval: tuple[float, float] | None
    p_value: float
    documents: int


def compare(first: Floats, second: Floats, text_bytes: Floats) -> Comparison:
    """Paired bootstrap of two scores' bits [documents]. Raises InputError for fewer than two documents."""
    if len(text_bytes) < 2:
        raise InputError("a comparison takes at least two documents")
    (differences,) = _resampled_ratios([second - first], text_bytes)
    differences = differences[np.isfinite(differences)]
    total = float(text_bytes.sum())
    rates = float(first.sum()) / total, float(second.sum()) / total
    # One is added to both, so that no finite sample claims certainty (Davison and Hinkley, 1997).
    worse = (1 + int(np.count_nonzero(differences >= 0))) / (1 + len(differences))
    return Comparison(*rates, rates[1] - rates[0], _interval(differences), worse, len(text_bytes))


@dataclass(frozen=True)
class SeedComparison:
    """Several scores of each of two ways.

    difference: mean of the second less that of the first. p_value: one-sided, that the second is not lower by
    more than ``margin``. degrees: of freedom, by Welch and Satterthwaite.
    """

    first: float
    second: float
    difference: float
    margin: float
    t: float
    degrees: float
    p_value: float


def welch(first: Sequence[float], second: Sequence[float], margin: float = 0.0) -> SeedComparison:
    """Is the mean of ``second`` lower than that of ``first`` by more than ``margin``? Raises InputError for
    fewer than two scores of either, and where neither varies."""
    if len(first) < 2 or len(second) < 2:
        raise InputError("Welch's test takes at least two scores of each")
    means = float(np.mean(first)), float(np.mean(second))
    parts = [float(np.var(scores, ddof=1)) / len(scores) for scores in (first, second)]
    if not sum(parts):
        raise InputError("all scores of each are the same: they tell nothing of how seeds vary")
    t = (means[1] - means[0] + margin) / math.sqrt(sum(parts))
    degrees = sum(parts) ** 2 / sum(
        part**2 / (len(scores) - 1) for part, scores in zip(parts, (first, second), strict=True)
    )
    return SeedComparison(*means, means[1] - means[0], margin, t, degrees, student_t_below(t, degrees))


def one_sample(first: float, second: Sequence[float], margin: float = 0.0) -> SeedComparison:
    """As `welch`, where ``first`` is a single score and is taken for exact: Student's one-sample test."""
    if len(second) < 2:
        raise InputError("a test takes at least two scores")
    mean, spread = float(np.mean(second)), float(np.std(second, ddof=1))
    if not spread:
        raise InputError("all scores are the same: they tell nothing of how seeds vary")
    t = (mean - first + margin) * math.sqrt(len(second)) / spread
    degrees = float(len(second) - 1)
    return SeedComparison(first, mean, mean - first, margin, t, degrees, student_t_below(t, degrees))


def student_t_below(t: float, degrees: float) -> float:
    """P(T ≤ t) of Student's distribution."""
    tail = 0.5 * _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))
    return tail if t <= 0 else 1 - tail


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), regularised, by its continued fraction (Abramowitz and Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # From the innermost term outwards: as many as x near its bound takes.
    fraction = 1.0
    for m in range(400, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        fraction = 1 + even / (1 + odd / fraction)
    first = -(a + b) * x / (a + 1)
    return math.exp(scale) / a / (1 + first / fraction)
