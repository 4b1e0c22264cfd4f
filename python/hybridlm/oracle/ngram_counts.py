"""Looking n-grams up in a file of sparse counts, which `hybridlm oracle count` writes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.arrays import token_array
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import FormatError
from hybridlm.oracle.vocabularies import vocabulary_of


class NgramCounts:
    """The distinct n-grams of some shards, and how often each occurs. Only what is asked for is read.

    >>> import numpy as np, hybridlm
    >>> from hybridlm._core import SparseCounts
    >>> hybridlm.write_shard("few.bin", np.array([1, 5, 6, 5, 6, 7], np.uint16))
    >>> SparseCounts.count(["few.bin"], 8, 3, 1 << 20, "few.part").nbytes > 0
    True
    >>> counts = hybridlm.NgramCounts.from_file("few.part")
    >>> counts.count([5, 6]), counts.continuations([6])
    (2, (array([5, 7]), array([1, 1])))
    """

    def __init__(self, core: _core.SparseCounts) -> None:
        self._core = core

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Raises OSError, or FormatError for what isn't an intact file of sparse counts."""
        try:
            return cls(_core.SparseCounts.open(path))
        except FormatError:
            with Path(path).open("rb") as file:
                kind = _core.looks_like(file.read(512))
            if kind in (None, "partial counts"):
                raise
        raise FormatError(
            f"{os.fspath(path)}: not partial counts: it looks like {kind}; `hybridlm oracle count "
            "--estimator sparse` makes counts of shards"
        )

    @property
    def order(self) -> int:
        """Tokens of the longest n-grams."""
        return self._core.order

    @property
    def tokens(self) -> int:
        """Tokens that were counted."""
        return self._core.tokens

    @property
    def vocabulary(self) -> Vocabulary:
        return vocabulary_of(self._core)

    def count(self, ngram: Sequence[int]) -> int:
        """How often ``ngram``, of 1 to ``order`` tokens, occurs; the token that begins the next document may
        be its last one, but none reaches further. Raises InputError."""
        return self._core.occurrences(token_array(ngram, self.vocabulary.size).tolist())

    def continuations(self, context: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(tokens, counts), int64 [n] each: what follows ``context``, of 0 to ``order`` − 1 tokens, by
        ascending token. Raises InputError."""
        found = self._core.continuations(token_array(context, self.vocabulary.size).tolist())
        tokens, counts = np.array(found, np.int64).reshape(-1, 2).T.copy()
        return tokens, counts
