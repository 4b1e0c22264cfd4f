"""What the stream itself has shown so far, counted by the native core."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm._core import AdaptiveExperts, OnlineExperts
from hybridlm.scoring.experts.interface import Expert, Scored, register


class _NativeCounts(Expert):
    """Counts that the core holds, which must meet every token of a stream once and in order."""

    def __init__(self, vocab_size: int, core: Any) -> None:
        self.vocab_size = vocab_size
        self._core = core
        self._seen = 0

    def _reach(self, stream: NDArray[np.uint16], start: int) -> None:
        if self._seen == 0:
            self._core.observe(stream[:start])
        elif self._seen != start:
            raise ValueError(f"scored up to {self._seen}, so the next piece can't start at {start}")
        self._seen = len(stream)

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        return self._score(stream, start, None)

    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        return self._score(stream, start, rows)

    def _score(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32] | None) -> Scored:
        raise NotImplementedError

    def fingerprint(self) -> bytes:
        core: bytes = self._core.fingerprint()
        return self._seen.to_bytes(8, "little") + core


@register
class OnlineCounts(_NativeCounts):
    """Unigram, bigram, hashed trigram and decay cache: counts of what the stream has shown so far."""

    family = "online"
    names = tuple(OnlineExperts.names)

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size, OnlineExperts(vocab_size))

    def _score(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32] | None) -> Scored:
        self._reach(stream, start)
        return Scored(self._core.score(stream[start:], rows))

    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        return Scored(self._core.next_log_probs())


@register
class AdaptiveCounts(_NativeCounts):
    """An n-gram model, a match model and a cache of what the stream has shown so far."""

    family = "adaptive"
    names = tuple(AdaptiveExperts.names)
    gate_sizes = tuple(AdaptiveExperts.gate_sizes)
    evidence_names = tuple(AdaptiveExperts.evidence_names)
    class_sizes = tuple(AdaptiveExperts.class_sizes)

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size, AdaptiveExperts(vocab_size))

    def _score(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32] | None) -> Scored:
        self._reach(stream, start)
        return Scored(*self._core.score(stream[start:], rows))

    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        core = self._core
        gates, classes = core.next_gates()[:, None], core.next_classes()[:, None]
        return Scored(core.next_log_probs(), gates, core.next_shares(), classes)
