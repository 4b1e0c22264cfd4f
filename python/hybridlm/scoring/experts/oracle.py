"""The frozen oracle's orders as experts."""

import numpy as np
from numpy.typing import NDArray

from hybridlm.oracle import Oracle
from hybridlm.scoring.experts.interface import Expert, Scored


class OracleExperts(Expert):
    """One expert per order of a frozen oracle, each looked up with the whole stream as context."""

    family = "oracle"

    def __init__(self, oracle: Oracle, threads: int | None = None) -> None:
        self.names = tuple(f"oracle_{order}" for order in oracle.orders)
        self.vocab_size = oracle.vocab_size
        self._oracle = oracle
        self._threads = threads

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        return Scored(self._oracle.target_log_probs(stream, start=start, threads=self._threads))

    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        rows[:] = self._oracle.log_probs(stream, np.arange(start, len(stream)), threads=self._threads)
        return self.score(stream, start)

    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        return Scored(self._oracle.log_probs(stream, np.array([len(stream)]), threads=self._threads)[:, 0])

    def fingerprint(self) -> bytes:
        """Nothing: an oracle has no method that changes it."""
        return b""
