"""Experts that need only tokens, run in a thread of their own while a network computes."""

from concurrent.futures import Executor, Future

import numpy as np
from numpy.typing import NDArray

from hybridlm.scoring.experts import Expert, Scored


class Ahead(Expert):
    """An expert whose next pieces are scored by ``pool``, in the order in which they were prepared.

    ``pool`` must run one call at a time, and a piece that was prepared must be asked for before any other.
    """

    def __init__(self, expert: Expert, pool: Executor) -> None:
        self.family, self.names, self.vocab_size = expert.family, expert.names, expert.vocab_size
        self.gate_sizes = expert.gate_sizes
        self.evidence_names, self.class_sizes = expert.evidence_names, expert.class_sizes
        self.expert = expert
        self._pool = pool
        self._prepared: dict[tuple[int, int], Future[Scored]] = {}

    def prepare(self, stream: NDArray[np.uint16], start: int) -> None:
        """Begins to score a piece that `score` will be asked for. Repeating a call changes nothing."""
        piece = (start, len(stream))
        if piece not in self._prepared:
            self._prepared[piece] = self._pool.submit(self.expert.score, stream, start)

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        prepared = self._prepared.pop((start, len(stream)), None)
        return self.expert.score(stream, start) if prepared is None else prepared.result()

    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        return self.expert.score_rows(stream, start, rows)

    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        return self.expert.predict(stream)

    def fingerprint(self) -> bytes:
        return self.expert.fingerprint()
