"""How many bytes of text each token stands for: the denominator of bits per byte.

A token's bytes depend on the token before it. SentencePiece writes a space as a leading "▁" on the next
piece, and the decoder drops that space where a text starts, which is after a piece that stands for no text:

- control, unknown and unused pieces: 0;
- a byte piece, ``<0xE2>``: 1;
- any other piece: the UTF-8 length of its text without the leading "▁", plus 1 for that "▁" unless the
  previous token is one of those that count 0.

Over the tokens of a text this sums to the UTF-8 length of the *decoded* text. The tokenizer normalises
(NFKC, runs of white space become one space), so these bytes are not in general those of the file.
"""

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError

if TYPE_CHECKING:
    from hybridlm.data.tokenizer import Tokenizer

SPACE = "▁"


class ByteTable:
    """The look-up behind the byte counts: a few small arrays of one entry per piece.

    text_bytes: int32 [V], the bytes of the piece without its leading space.
    leading_space: bool [V], whether the piece starts with "▁".
    boundary: bool [V], whether the piece is control, unknown or unused, and so stands for no text.
    """

    def __init__(
        self, text_bytes: NDArray[np.int32], leading_space: NDArray[np.bool_], boundary: NDArray[np.bool_]
    ) -> None:
        self.text_bytes = text_bytes
        self.leading_space = leading_space
        self.boundary = boundary

    @classmethod
    def from_tokenizer(cls, tokenizer: "Tokenizer") -> Self:
        model = tokenizer.model
        size = tokenizer.vocab_size
        text_bytes = np.zeros(size, np.int32)
        leading_space = np.zeros(size, np.bool_)
        boundary = np.zeros(size, np.bool_)
        for token, piece in enumerate(tokenizer.pieces):
            if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
                boundary[token] = True
            elif model.is_byte(token):
                text_bytes[token] = 1
            else:
                leading_space[token] = piece.startswith(SPACE)
                # Only the first "▁" depends on what came before; one inside a piece is always a space.
                text_bytes[token] = len(piece.removeprefix(SPACE).replace(SPACE, " ").encode())
        return cls(text_bytes, leading_space, boundary)

    @property
    def vocab_size(self) -> int:
        return len(self.text_bytes)

    def lengths(self, tokens: NDArray[np.uint16], start: int = 1) -> NDArray[np.int64]:
        """int64 [N − start]: the bytes of each ``tokens[i]``, i ≥ start, given ``tokens[i − 1]``.

        With ``start`` 0 the first token counts as the beginning of a text. Raises InputError for a token
        id that the vocabulary doesn't have.
        """
        if start < 0:
            raise InputError(f"start must be at least 0, not {start}")
        self._check(tokens)
        targets = tokens[start:]
        lengths = self.text_bytes[targets].astype(np.int64)
        spaced = self.leading_space[targets]
        if start == 0:
            spaced[1:] &= ~self.boundary[tokens[:-1]]
            spaced[:1] = False
        else:
            spaced &= ~self.boundary[tokens[start - 1 : -1]]
        lengths += spaced
        return lengths

    def _check(self, tokens: NDArray[np.uint16]) -> None:
        if len(tokens) and int(tokens.max()) >= self.vocab_size:
            at = int(np.argmax(tokens >= self.vocab_size))
            raise InputError(
                f"token {tokens[at]} at position {at} is outside the tokenizer's vocabulary of "
                f"{self.vocab_size}: the tokens come from another tokenizer"
            )
