"""What a score looked like along the text: for pictures, and to see which expert predicts what.

Along the whole stream, in a few hundred pieces, bits per byte of every expert and of the mixture, and weights
and shares of the experts at a few targets of each piece. Of one passage, each token's bits and shares.

The *share* of expert k in a target is w_k p_k / Σ w_j p_j, its part of the probability that the mixture gave
the token that came: the posterior probability that the token was drawn from that expert.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError
from hybridlm.scoring.units import LN_2

if TYPE_CHECKING:
    from hybridlm.data.tokenizer import Tokenizer

FORMAT = 1
PIECES = 200
SAMPLES = 8
"""Targets of each piece at which shares are looked at, one after the other from its start."""
PASSAGE = 320
"""Tokens that are shown one by one."""


class Trace:
    """Watches one score of ``stream`` [N]. Give it to `hybridlm.scoring.evaluate.evaluate`.

    ``passage_start`` is the passage's first token, from 1; None: a document's start near the middle, if
    documents begin with ``bos_id``. Raises InputError for one outside of the stream.
    """

    def __init__(
        self, stream: NDArray[np.uint16], bos_id: int | None = None, passage_start: int | None = None
    ) -> None:
        targets = len(stream) - 1
        if passage_start is None:
            passage_start = _middle(stream, bos_id)
        if not 1 <= passage_start <= max(1, targets):
            raise InputError(f"the passage can't begin at token {passage_start} of {targets + 1}")
        self._stream = stream
        self._targets = targets
        self._pieces = max(1, min(PIECES, targets))
        self._first, self._end = passage_start, min(passage_start + PASSAGE, targets + 1)
        # Of each piece: its bytes, and the nats of each expert and of the mixture.
        self._bytes = np.zeros(self._pieces, np.int64)
        self._nats: dict[str, NDArray[np.float64]] = {}
        self._passage_nats = np.zeros(self._end - self._first)
        # Of each target that is looked at, what weights the mixture had and what became of them.
        self._weights: dict[int, NDArray[np.float64]] = {}
        self._shares: dict[int, NDArray[np.float64]] = {}
        self._names: tuple[str, ...] = ()

    def wanted(self, start: int, end: int) -> NDArray[np.int64]:
        """The targets in start … end − 1 whose shares are to be told, in order."""
        at = np.arange(start, end)
        piece = self._piece(at)
        begins = 1 + -(-piece * self._targets // self._pieces)
        sampled = at - begins < SAMPLES
        return at[sampled | ((at >= self._first) & (at < self._end))]

    def observe(
        self,
        target: int,
        names: Sequence[str],
        weights: NDArray[np.float64],
        log_probs: NDArray[np.float32],
    ) -> None:
        """Of one target, the weights [K] before it and what each of K named experts gave it, ln p [K]."""
        parts = weights * np.exp(log_probs.astype(np.float64))
        self._names = tuple(names)
        self._weights[target] = np.array(weights)
        self._shares[target] = parts / parts.sum()

    def add(
        self,
        start: int,
        nats: Mapping[str, NDArray[np.floating[Any]]],
        mixture: NDArray[np.float64],
        lengths: NDArray[np.integer[Any]],
    ) -> None:
        """Of committed targets from ``start`` on: nats [n] of each expert and of the mixture, and bytes."""
        piece = self._piece(np.arange(start, start + len(mixture)))
        self._bytes += np.bincount(piece, lengths, self._pieces).astype(np.int64)
        for name, values in {**nats, "mixture": mixture}.items():
            found = self._nats.setdefault(name, np.zeros(self._pieces))
            found += np.bincount(piece, values.astype(np.float64), self._pieces)
        first, end = max(start, self._first), min(start + len(mixture), self._end)
        if first < end:
            self._passage_nats[first - self._first : end - self._first] = mixture[first - start : end - start]

    def as_dict(self, tokenizer: "Tokenizer") -> dict[str, Any]:
        """All of it, as JSON: bits per byte (null for a piece without text) and shares."""
        ends = [-(-(index + 1) * self._targets // self._pieces) for index in range(self._pieces)]
        return {
            "format": FORMAT,
            "targets": self._targets,
            "ends": ends,
            "bits_per_byte": {
                name: [
                    round(value / LN_2 / size, 4) if size else None
                    for value, size in zip(values.tolist(), self._bytes.tolist(), strict=True)
                ]
                for name, values in self._nats.items()
            },
            "share_names": list(self._names),
            "weights": self._means(self._weights, ends),
            "shares": self._means(self._shares, ends),
            "passage": self._passage(tokenizer),
        }

    def _means(
        self, observed: Mapping[int, NDArray[np.float64]], ends: Sequence[int]
    ) -> list[list[float] | None]:
        """Of each piece, the mean over those of its targets that are looked at; empty where none are."""
        means: list[list[float] | None] = []
        for first, end in zip([1, *(end + 1 for end in ends)], ends, strict=False):
            found = [observed[target] for target in range(first, end + 1)[:SAMPLES] if target in observed]
            mean = np.mean(found, axis=0).tolist() if found else None
            means.append(None if mean is None else [round(value, 4) for value in mean])
        return means if observed else []

    def _passage(self, tokenizer: "Tokenizer") -> dict[str, Any]:
        tokens = []
        for target in range(self._first, self._end):
            token = int(self._stream[target])
            shares = self._shares.get(target)
            tokens.append(
                {
                    "text": _shown(tokenizer, token),
                    "bits": round(float(self._passage_nats[target - self._first]) / LN_2, 3),
                    "shares": {}
                    if shares is None
                    else {
                        name: round(share, 3)
                        for name, share in zip(self._names, shares.tolist(), strict=True)
                        if share >= 0.0005
                    },
                }
            )
        return {"start": self._first, "tokens": tokens}

    def _piece(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        return (targets - 1) * self._pieces // self._targets


def _middle(stream: NDArray[np.uint16], bos_id: int | None) -> int:
    middle = max(1, len(stream) // 2)
    if bos_id is None:
        return middle
    begins = np.flatnonzero(stream[middle : -PASSAGE or None] == bos_id)
    return middle + int(begins[0]) if len(begins) else middle


def _shown(tokenizer: "Tokenizer", token: int) -> str:
    """A token as a reader sees it: a space for SentencePiece's mark, the piece's name for what isn't text."""
    return str(tokenizer.model.id_to_piece(token)).replace("▁", " ")
