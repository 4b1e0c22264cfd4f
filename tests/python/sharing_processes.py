"""Looks up in an oracle in processes that are forked or spawned, and compares. Run by test_concurrency.py.

Arguments: the oracle's file, and fork or spawn.
"""

import multiprocessing
import sys

import numpy as np
from numpy.typing import NDArray

from hybridlm.oracle import Oracle

STREAM = np.random.default_rng(3).integers(1, 512, 4000).astype(np.uint16)
LOADED: list[Oracle] = []
"""What a forked child finds in its memory."""


def answers(oracle: Oracle, at: int, threads: int) -> NDArray[np.float32]:
    """Of some part of the stream, both kinds of look-up."""
    first = at * 37 % 3000
    part = STREAM[first : first + 500]
    told = oracle.target_log_probs(part, threads=threads)
    rows = oracle.log_probs(part, np.arange(0, 500, 50), threads=threads)
    return np.concatenate([told.ravel(), rows.ravel()])


def in_child(path: str, at: int) -> NDArray[np.float32]:
    oracle = LOADED[0] if LOADED else Oracle.from_file(path)
    return answers(oracle, at, 2)


if __name__ == "__main__":
    LOADED.append(Oracle.from_file(sys.argv[1]))
    # The parent uses threads before, which a fork doesn't take along.
    alone = [answers(LOADED[0], at, 3) for at in range(6)]
    with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
        waiting = [pool.apply_async(in_child, (sys.argv[1], at)) for at in range(6)]
        found = [one.get(timeout=60) for one in waiting]
    for one, other in zip(alone, found, strict=True):
        assert np.array_equal(one, other)
    print("the same")
