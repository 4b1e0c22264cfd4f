"""The units of a score: nats as whole numbers, which add up exactly, and as bits."""

import numpy as np
from numpy.typing import NDArray

UNIT = 2.0**-32
"""Nats: sums of nll are whole multiples of it. Whole numbers add up to the same in any order, so a total
doesn't depend on the chunks; the rounding is 10^-10 nats a target."""

LN_2 = float(np.log(2.0))
"""Nats in a bit."""


def in_units(nats: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(nats / UNIT).astype(np.int64)
