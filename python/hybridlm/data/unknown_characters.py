"""Counts what a tokenizer without byte fallback has no piece for, and so turns into ``<unk>``."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError

TOLERATED_SHARE = 0.001
"""The share of unknown characters above which text isn't turned into tokens unless asked for."""

_NAMED = 8


class UnknownCharacters:
    """The characters of texts that became ``<unk>``, as the tokenizer normalises them.

    tokens: how many unknown tokens; one stands for a run of unknown characters, however long.
    counts: how often each unknown character occurs.
    total: characters of all texts, before normalisation.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.counts: Counter[str] = Counter()
        self.total = 0

    @property
    def share(self) -> float:
        return self.counts.total() / max(1, self.total)

    def add(self, tokenizer: Tokenizer, texts: Sequence[str], encoded: Sequence[NDArray[np.uint16]]) -> None:
        """Count in ``encoded``, the tokens that ``tokenizer`` makes of each of ``texts``."""
        self.total += sum(map(len, texts))
        unknown = tokenizer.model.unk_id()
        for text, tokens in zip(texts, encoded, strict=True):
            at = np.flatnonzero(tokens == unknown)
            if len(at):
                self.tokens += len(at)
                surfaces = tokenizer.encode_as_pieces(text)
                self.counts.update("".join(surfaces[index] for index in at.tolist()))

    def merge(self, others: "UnknownCharacters") -> None:
        """Count what is counted in ``others`` as well."""
        self.tokens += others.tokens
        self.total += others.total
        self.counts.update(others.counts)

    def refuse(self) -> None:
        """Raise InputError if their share is above TOLERATED_SHARE."""
        if self.share > TOLERATED_SHARE:
            raise InputError(
                f"{self}; that is more than {TOLERATED_SHARE:.1%} of the text: take a tokenizer with byte "
                "fallback (`hybridlm data tokenizer` trains one), or --allow-unknown to lose these characters"
            )

    def __str__(self) -> str:
        """One line: "12 unknown characters (0.010%) in 9 <unk> tokens: '世' U+4E16 7, '界' U+754C 5"."""
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{character!r} U+{ord(character):04X} {count:,}" for character, count in ranked[:_NAMED]]
        if len(ranked) > _NAMED:
            named.append(f"{len(ranked) - _NAMED} others")
        characters = f"{self.counts.total():,} unknown characters ({self.share:.3%})"
        return f"{characters} in {self.tokens:,} <unk> tokens: {', '.join(named) or 'none'}"
