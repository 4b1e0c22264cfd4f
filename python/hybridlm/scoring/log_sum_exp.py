"""ln Σ exp over a few rows, to bits that don't depend on how many columns there are."""

import numpy as np
from numpy.typing import NDArray


def log_sum_exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K, n] → [n], always added in the order of the rows.

    NumPy's own sum over them picks its order by the array's shape, so that the last bit of a score would
    depend on how many targets a call has.
    """
    largest = values.max(axis=0)
    total = np.zeros_like(largest)
    for row in values:
        total += np.exp(row - largest)
    return np.asarray(largest + np.log(total))
