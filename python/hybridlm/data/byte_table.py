"""How many bytes of text each token stands for: the denominator of bits per byte.

A document is what follows a document token, up to the next one. Over its tokens these bytes sum to the UTF-8
length of the text that the tokenizer decodes it to:

- a piece of text counts its UTF-8 length, with one byte for each "▁" in it. A leading "▁" counts nothing
  where the decoder drops it, as with most models where a text begins (see `hybridlm.data.pieces`);
- a control piece counts 0: it decodes to nothing.

Two kinds count less than the decoder writes, so that a score gets no credit for text that isn't there:

- a byte piece, ``<0xE2>``, counts 1, even where the bytes around it form no character. For each such byte the
  decoder writes U+FFFD, which has 3;
- the unknown piece counts 0. The decoder writes a mark, " ⁇ ", in place of text that is lost.

The tokenizer normalises (NFKC, runs of white space become one space), so these bytes are not in general those
of the file.
"""

import logging
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hybridlm.data.pieces import Kind, Piece
from hybridlm.errors import InputError

log = logging.getLogger("hybridlm.data")

# Tokens looked at in one go: what is made on the way takes some 40 bytes per token.
_PART_TOKENS = 1 << 18


class ByteTable:
    """The look-up behind the byte counts: a few small arrays of one entry per piece.

    text_bytes: int32 [V], the bytes of the piece without its leading space.
    leading_space: bool [V], whether the piece begins with a space that isn't decoded where a text begins.
    begins: bool [V], whether a text begins after the piece: true of the document token alone.
    blank: bool [V], whether a text that begins has still to begin after the piece; by default ``begins``.
    unknown: bool [V], whether the piece stands for text that is lost; by default none does.
    """

    def __init__(
        self,
        text_bytes: NDArray[np.int32],
        leading_space: NDArray[np.bool_],
        begins: NDArray[np.bool_],
        blank: NDArray[np.bool_] | None = None,
        unknown: NDArray[np.bool_] | None = None,
    ) -> None:
        self.text_bytes = text_bytes
        self.leading_space = leading_space
        self.begins = begins
        self.blank = begins if blank is None else blank
        self.unknown = np.zeros_like(begins) if unknown is None else unknown
        self._warned = False

    @classmethod
    def from_pieces(cls, pieces: Sequence[Piece], bos_id: int) -> Self:
        """The table of a tokenizer whose documents begin with the token ``bos_id``."""
        return cls(
            np.array([len(piece.text) for piece in pieces], np.int32),
            np.array([piece.leading_space for piece in pieces], np.bool_),
            np.arange(len(pieces)) == bos_id,
            np.array([piece.blank for piece in pieces], np.bool_),
            np.array([piece.kind is Kind.UNKNOWN for piece in pieces], np.bool_),
        )

    @property
    def vocab_size(self) -> int:
        return len(self.text_bytes)

    def lengths(self, tokens: NDArray[np.uint16], start: int = 1) -> NDArray[np.int64]:
        """int64 [N − start]: the bytes of each ``tokens[i]``, i ≥ start, given the tokens before it.

        The first token counts as the beginning of a text. Warns, once, about unknown pieces. Raises
        InputError for a token id that the vocabulary doesn't have.
        """
        if start < 0:
            raise InputError(f"start must be at least 0, not {start}")
        lengths = self.counter().lengths(tokens)[start:]
        lost = int(np.count_nonzero(self.unknown[tokens[start:]]))
        if lost and not self._warned:
            self._warned = True
            log.warning(
                "%d of %d tokens are the unknown piece: their text is lost and counts no bytes",
                lost,
                len(lengths),
            )
        return lengths

    def counter(self) -> "ByteCounter":
        """Counts the bytes of a stream that comes in parts."""
        return ByteCounter(self)


class ByteCounter:
    """The bytes of a stream's tokens, part by part; the first part begins a text."""

    def __init__(self, table: ByteTable) -> None:
        self._table = table
        self._seen = 0
        self._begun = False

    def lengths(self, tokens: NDArray[np.uint16]) -> NDArray[np.int64]:
        """int64 [N]: the bytes of each token of the next part. Raises as `ByteTable.lengths` does."""
        self._check(tokens)
        lengths = np.empty(len(tokens), np.int64)
        for at in range(0, len(tokens), _PART_TOKENS):
            part = tokens[at : at + _PART_TOKENS]
            lengths[at : at + len(part)] = self._table.text_bytes[part]
            lengths[at : at + len(part)] += self._table.leading_space[part] & self._begun_before(part)
        self._seen += len(tokens)
        return lengths

    def _begun_before(self, tokens: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """bool [N]: whether, before each token, its document's text has begun."""
        begins = self._table.begins[tokens]
        decides = begins | ~self._table.blank[tokens]
        # For each token the latest one up to it that decides, counted from 1; 0: what came before this part.
        latest = np.maximum.accumulate(np.where(decides, np.arange(1, len(tokens) + 1), 0))
        begun: NDArray[np.bool_] = np.append(self._begun, ~begins)[np.append(0, latest)]
        self._begun = bool(begun[-1])
        return begun[:-1]

    def _check(self, tokens: NDArray[np.uint16]) -> None:
        vocab_size = self._table.vocab_size
        if len(tokens) and int(tokens.max()) >= vocab_size:
            at = int(np.argmax(tokens >= vocab_size))
            raise InputError(
                f"token {tokens[at]} at position {self._seen + at} is outside the tokenizer's vocabulary of "
                f"{vocab_size}: the tokens come from another tokenizer"
            )
