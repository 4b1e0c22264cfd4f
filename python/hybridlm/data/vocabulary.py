"""What the token ids of a shard, a file of counts, an oracle or an artifact mean."""

from dataclasses import dataclass

DEFAULT_BOS = 1
"""The document token of the tokenizers that `hybridlm data tokenizer` trains."""

DEFAULT_SIZE = 1024
"""Their number of pieces, by default."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The identity of a tokenizer, as far as it is known.

    size: token ids are below it.
    bos_id: the id that every document begins with.
    fingerprint: SHA-256 of the tokenizer's file as 64 hex digits; None where it isn't known.

    >>> hybridlm.Vocabulary(50257, bos_id=50256)
    Vocabulary(size=50257, bos_id=50256, fingerprint=None)
    """

    size: int
    bos_id: int = DEFAULT_BOS
    fingerprint: str | None = None
