"""Tokens whose probability is wanted of a network, beside those of the targets."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridlm.scoring.experts import Expert, Scored


@dataclass(frozen=True)
class Asked:
    """Of n targets, of target j the tokens[ends[j] : ends[j + 1]].

    tokens: uint16 [m]. ends: uint32 [n + 1], from 0 to m.
    """

    tokens: NDArray[np.uint16]
    ends: NDArray[np.uint32]

    def of(self, targets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places of all tokens of some targets, among ``tokens``, and for each place which of these
        targets it is of: int64 [k] and [k], target by target."""
        first = self.ends[targets].astype(np.int64)
        counts = self.ends[targets + 1].astype(np.int64) - first
        rows = np.repeat(np.arange(len(targets)), counts)
        return np.arange(len(rows)) + np.repeat(first - (np.cumsum(counts) - counts), counts), rows


def nothing_asked(targets: int) -> Asked:
    return Asked(np.empty(0, np.uint16), np.zeros(targets + 1, np.uint32))


class Network(Expert):
    """A neural expert, which can be asked about other tokens than the targets."""

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        return self.score_asked(stream, start, nothing_asked(len(stream) - start))[0]

    @abstractmethod
    def score_asked(
        self, stream: NDArray[np.uint16], start: int, asked: Asked
    ) -> tuple[Scored, NDArray[np.float32]]:
        """What `score` gives, to the same bits, and ln p [m] of the tokens that are asked about."""
