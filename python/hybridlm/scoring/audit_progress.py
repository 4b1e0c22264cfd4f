"""How far an audit is: a subject that tells how many targets it has scored."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from hybridlm.scoring.audit import Scorer, Subject, Tokens


def targets_to_score(stream: int, *, changes: int, other_chunks: bool) -> int:
    """About how many targets an audit of a stream of ``stream`` tokens scores in all.

    The whole stream once for reference, twice around the rows, and in three other chunk sizes; after each
    change a whole stream, and one that is cut off, on average in the middle.
    """
    whole = 3 + (3 if other_chunks else 0) + changes
    return (stream - 1) * whole + changes * (stream - 1) // 2


class Watched:
    """``subject``, of which ``update`` is told how many targets have been scored so far."""

    def __init__(self, subject: Subject, update: Callable[[int], None]) -> None:
        self._subject = subject
        self._update = update
        self._scored = 0

    def count(self, targets: int) -> None:
        self._scored += targets
        self._update(self._scored)

    def scorer(self) -> Scorer:
        return _WatchedScorer(self._subject.scorer(), self.count)

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        for start, nll in self._subject.run(stream, chunk):
            self.count(len(nll))
            yield start, nll


class _WatchedScorer:
    def __init__(self, scorer: Scorer, count: Callable[[int], None]) -> None:
        self._scorer = scorer
        self._count = count

    def score(self, stream: Tokens, start: int) -> NDArray[np.float64]:
        nll = self._scorer.score(stream, start)
        self._count(len(nll))
        return nll

    def row(self, stream: Tokens) -> NDArray[np.float64]:
        return self._scorer.row(stream)

    def learn(self, stream: Tokens, start: int) -> None:
        self._scorer.learn(stream, start)

    def fingerprint(self) -> Mapping[str, bytes]:
        return self._scorer.fingerprint()
