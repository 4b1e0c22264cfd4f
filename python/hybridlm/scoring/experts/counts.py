"""What the stream itself has shown so far, counted by the native core."""

import numpy as np
from numpy.typing import NDArray

from hybridlm._core import AdaptiveExperts, OnlineExperts
from hybridlm.scoring.experts import register


@register
class OnlineCounts:
    """Unigram, bigram, hashed trigram and decay cache: counts of what the stream has shown so far."""

    family = "online"
    names = tuple(OnlineExperts.names)

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._counts = OnlineExperts(vocab_size)
        self._seen = 0

    def score(self, stream: NDArray[np.uint16], start: int) -> NDArray[np.float32]:
        return self.score_rows(stream, start, None)

    def score_rows(
        self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        if self._seen == 0:
            self._counts.observe(stream[:start])
        elif self._seen != start:
            raise ValueError(f"scored up to {self._seen}, so the next piece can't start at {start}")
        self._seen = len(stream)
        return self._counts.score(stream[start:], rows)

    def next_log_probs(self, stream: NDArray[np.uint16]) -> NDArray[np.float32]:
        return self._counts.next_log_probs()

    def fingerprint(self) -> bytes:
        return self._seen.to_bytes(8, "little") + self._counts.fingerprint()


@register
class AdaptiveCounts:
    """An n-gram model, a match model and a cache of what the stream has shown so far."""

    family = "adaptive"
    names = tuple(AdaptiveExperts.names)
    gate_sizes = tuple(AdaptiveExperts.gate_sizes)
    evidence_names = tuple(AdaptiveExperts.evidence_names)
    class_sizes = tuple(AdaptiveExperts.class_sizes)

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._experts = AdaptiveExperts(vocab_size)
        self._seen = 0
        self.gates = np.empty((len(self.gate_sizes), 0), np.uint8)
        self.shares = np.empty((len(self.class_sizes), 0), np.float32)
        self.classes = np.empty((len(self.class_sizes), 0), np.uint8)

    def score(self, stream: NDArray[np.uint16], start: int) -> NDArray[np.float32]:
        return self.score_rows(stream, start, None)

    def score_rows(
        self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        if self._seen == 0:
            self._experts.observe(stream[:start])
        elif self._seen != start:
            raise ValueError(f"scored up to {self._seen}, so the next piece can't start at {start}")
        self._seen = len(stream)
        log_probs, self.gates, self.shares, self.classes = self._experts.score(stream[start:], rows)
        return log_probs

    def next_log_probs(self, stream: NDArray[np.uint16]) -> NDArray[np.float32]:
        return self._experts.next_log_probs()

    def fingerprint(self) -> bytes:
        return self._seen.to_bytes(8, "little") + self._experts.fingerprint()

    def next_gates(self) -> NDArray[np.uint8]:
        return self._experts.next_gates()

    def next_shares(self) -> NDArray[np.float32]:
        return self._experts.next_shares()

    def next_classes(self) -> NDArray[np.uint8]:
        return self._experts.next_classes()
