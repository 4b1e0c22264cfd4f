"""How much of a validation text is in the training text: by n-grams, and by whole documents."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hybridlm import _core
from hybridlm.data.shards import inspect_shards, known_vocabulary
from hybridlm.errors import InputError
from hybridlm.threads import thread_count

LENGTHS = (8, 13, 20, 32, 50)
"""Tokens of an n-gram. 13 words is what GPT-3's authors called an overlap (Brown et al. 2020, appendix C)."""

File = str | os.PathLike[str]


@dataclass(frozen=True)
class Place:
    """Where a document begins: a shard's name, and a position among its tokens."""

    shard: str
    position: int

    def __str__(self) -> str:
        return f"{self.shard}:{self.position}"


@dataclass(frozen=True)
class DocumentOverlap:
    """Of one validation document: of each length, how many n-grams it has (``ngrams``), and how many of them
    occur in training (``found``); and the first training document with the same tokens, if there is one."""

    place: Place
    tokens: int
    ngrams: tuple[int, ...]
    found: tuple[int, ...]
    copy_of: Place | None

    def share(self, which: int) -> float:
        """Of the n-grams of the ``which``-th length; 0 where it has none."""
        return self.found[which] / self.ngrams[which] if self.ngrams[which] else 0.0


@dataclass(frozen=True)
class Overlap:
    """What validation and training text have in common, document by document, in the order of the shards."""

    lengths: tuple[int, ...]
    documents: tuple[DocumentOverlap, ...]
    train_tokens: int

    def share(self, which: int) -> float:
        """Of all n-grams of the ``which``-th length, each counted as often as it occurs."""
        ngrams = sum(document.ngrams[which] for document in self.documents)
        return sum(document.found[which] for document in self.documents) / ngrams if ngrams else 0.0

    @property
    def copies(self) -> list[DocumentOverlap]:
        """The documents that are in the training text as a whole."""
        return [document for document in self.documents if document.copy_of is not None]

    def as_dict(self) -> dict[str, Any]:
        return {
            "train_tokens": self.train_tokens,
            "val_tokens": sum(document.tokens for document in self.documents),
            "val_documents": len(self.documents),
            "copies": len(self.copies),
            "shares": {str(length): self.share(at) for at, length in enumerate(self.lengths)},
            "documents": [
                {
                    "shard": document.place.shard,
                    "position": document.place.position,
                    "tokens": document.tokens,
                    "shares": {
                        str(length): document.share(at) if document.ngrams[at] else None
                        for at, length in enumerate(self.lengths)
                    },
                    "copy_of": None if document.copy_of is None else str(document.copy_of),
                }
                for document in self.documents
            ],
        }


def overlap(
    train: Sequence[File],
    val: Sequence[File],
    *,
    lengths: Sequence[int] = LENGTHS,
    bos_id: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Overlap:
    """Looks for the n-grams of ``val`` shards in ``train`` shards, reading each of these once.

    An n-gram lies within a document; document tokens don't count. Takes 12 to 24 bytes of memory for each
    validation token and each length, and none for training text. n-grams are told apart by 61-bit hashes.
    ``progress`` is told training tokens. Raises InputError where the shards were made with different
    tokenizers, or for lengths that don't ascend; FormatError; OSError.
    """
    names, val_names = [os.fspath(path) for path in train], [os.fspath(path) for path in val]
    if not names or not val_names:
        raise InputError("overlap takes at least one training shard and one validation shard")
    # A shard on both sides is what this is to find, so each side is looked at alone.
    records = [*inspect_shards(names), *inspect_shards(val_names)]
    vocabulary = known_vocabulary(records, bos_id=bos_id)
    found = _core.overlap(names, val_names, vocabulary.bos_id, [*lengths], thread_count(threads), progress)
    return Overlap(
        tuple(lengths),
        tuple(
            DocumentOverlap(
                Place(val_names[shard], position),
                tokens,
                tuple(ngrams),
                tuple(counts),
                None if copy is None else Place(names[copy[0]], copy[1]),
            )
            for (shard, position), tokens, ngrams, counts, copy in found
        ),
        sum(record.tokens for record in records[: len(names)]),
    )
