"""What each token id of a SentencePiece model stands for, read once and checked against the decoder.

SentencePiece writes a space as "▁". The decoder turns "▁" back into a space, except where a text begins:

============================ ==========================================================
normaliser setting           what the decoder drops there
============================ ==========================================================
``remove_extra_whitespaces`` the first "▁" of every piece, as long as the text is empty
else ``add_dummy_prefix``    the first "▁" of the first piece
neither                      nothing
============================ ==========================================================

Which of them holds is found by decoding and not taken from the settings. Every piece is decoded once, so that
a model whose decoder does anything else is refused rather than counted wrongly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hybridlm.data.case_folding import MARKS
from hybridlm.errors import FormatError

if TYPE_CHECKING:
    import sentencepiece

SPACE = "▁"


class Kind(Enum):
    TEXT = "text"
    BYTE = "byte"
    CONTROL = "control"
    UNKNOWN = "unknown"
    UNUSED = "unused"
    MARK = "mark"
    """A mark of `hybridlm.data.case_folding`, in a model that has them all."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token id stands for.

    text: its bytes, a space for each "▁" but not for the ``leading_space``. A byte piece has one byte;
        control pieces and marks have none, nor has the unknown piece, whose text is lost.
    leading_space: whether a space comes before ``text`` that the decoder drops where a text begins.
    blank: whether a text that begins with this piece is still empty after it, so that the next leading space
        is dropped too. True of control pieces and, where the decoder drops all leading spaces, of "▁".
    score: the model's, by which BPE chooses what to merge first.
    kind: what SentencePiece calls it. Unused pieces have text, but text is never cut into them.
    """

    text: bytes
    leading_space: bool
    blank: bool
    score: float
    kind: Kind

    @property
    def whole(self) -> bytes:
        """The piece's bytes inside a text."""
        return b" " + self.text if self.leading_space else self.text

    @property
    def is_text(self) -> bool:
        """Whether a text's tokens can include this one."""
        return self.kind in (Kind.TEXT, Kind.BYTE, Kind.MARK)


def read_pieces(model: "sentencepiece.SentencePieceProcessor", name: str) -> list[Piece]:
    """The pieces of a loaded model by token id; errors call it ``name``.

    Raises FormatError for a model whose tokens have no bytes of their own: it rewrites decoded text as a
    whole, a piece doesn't decode to its own text, or spaces are encoded as the bytes of "▁".
    """
    if _rewrites_decoded_text(model.serialized_model_proto()):
        raise FormatError(
            f"{name}: this tokenizer has denormalisation rules, which rewrite decoded text, so its tokens "
            "have no bytes of their own; use one that was trained without such rules"
        )
    tokens = range(model.get_piece_size())
    marks = mark_tokens(model)
    alone: list[str] = model.decode([[token] for token in tokens], num_threads=1)
    written: list[str] = [model.id_to_piece(token) for token in tokens]
    kinds = [Kind.MARK if token in marks else _kind(model, token) for token in tokens]
    texts = {
        token: written[token].replace(SPACE, " ")
        for token in tokens
        if kinds[token] in (Kind.TEXT, Kind.UNUSED)
    }
    drops = any(alone[token] != text for token, text in texts.items() if written[token].startswith(SPACE))

    def piece(token: int) -> Piece:
        kind, score = kinds[token], float(model.get_score(token))
        if kind is Kind.BYTE:
            return Piece(bytes([int(written[token][3:5], 16)]), False, False, score, kind)
        if token not in texts:
            # To the decoder a mark is text, so a space after it is kept.
            return Piece(b"", False, not alone[token], score, kind)
        leading_space = drops and written[token].startswith(SPACE)
        text = texts[token][1:] if leading_space else texts[token]
        # If the decoder drops one space at most, the second "▁" is decoded.
        blank = not text and not model.decode([token, token])
        return Piece(text.encode(), leading_space, blank, score, kind)

    pieces = [piece(token) for token in tokens]
    _check(model, name, pieces, alone)
    return pieces


def mark_tokens(model: "sentencepiece.SentencePieceProcessor") -> frozenset[int]:
    """The ids of the marks for capitals, or none unless the model has all of them as pieces of their own."""
    tokens = [model.piece_to_id(mark) for mark in MARKS]
    whole = all(model.id_to_piece(token) == mark for token, mark in zip(tokens, MARKS, strict=True))
    return frozenset(tokens) if whole else frozenset()


def _kind(model: "sentencepiece.SentencePieceProcessor", token: int) -> Kind:
    if model.is_control(token):
        return Kind.CONTROL
    if model.is_unknown(token):
        return Kind.UNKNOWN
    if model.is_byte(token):
        return Kind.BYTE
    return Kind.UNUSED if model.is_unused(token) else Kind.TEXT


def _check(
    model: "sentencepiece.SentencePieceProcessor", name: str, pieces: Sequence[Piece], alone: Sequence[str]
) -> None:
    """Raises FormatError unless ``pieces`` are what they decode to, one by one (``alone``) and in a row."""
    texts = [token for token, piece in enumerate(pieces) if piece.kind in (Kind.TEXT, Kind.UNUSED)]
    controls = [token for token, piece in enumerate(pieces) if piece.kind is Kind.CONTROL]
    for token in [*texts, *controls]:
        text = pieces[token].text.decode()
        if alone[token] != text:
            raise FormatError(
                f"{name}: piece {token}, {model.id_to_piece(token)!r}, decodes to {alone[token]!r}, not to "
                f"{text!r}, so its bytes can't be counted"
            )
    first = next((token for token in texts if alone[token]), None)
    if first is not None:
        row = alone[first] + b"".join(pieces[token].whole for token in texts).decode()
        if model.decode([first, *texts]) != row:
            raise FormatError(
                f"{name}: the pieces decode differently in a row than one by one, so their bytes can't be "
                "counted"
            )
    if any(piece.kind is Kind.BYTE for piece in pieces) and _writes_spaces_as_bytes(model, pieces):
        raise FormatError(
            f'{name}: this tokenizer encodes spaces as the three bytes of "▁", which do not decode to a '
            'space; use one that has "▁" as a piece and is not a word model with byte fallback'
        )


def _writes_spaces_as_bytes(model: "sentencepiece.SentencePieceProcessor", pieces: Sequence[Piece]) -> bool:
    """Whether byte fallback encodes a "▁" too, as it does with a word model's unknown words."""
    known = set().union(*(piece.text.decode() for piece in pieces if piece.kind is Kind.TEXT))
    for character in map(chr, range(0xE000, 0xF900)):
        # A private character, which no model should know or normalise.
        if character not in known and character in model.normalize(character):
            return SPACE in model.decode(model.encode(f"{character} {character}"))
    return False


def _rewrites_decoded_text(model: bytes) -> bool:
    """Whether a ModelProto has denormalisation rules: its ``denormalizer_spec.precompiled_charsmap``."""
    return any(
        bool(rules)
        for field, spec in _fields(memoryview(model))
        if field == 5
        for rule, rules in _fields(spec)
        if rule == 2
    )


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of a protobuf message's length-delimited fields; numbers are passed over.

    The message is one that SentencePiece has parsed.
    https://protobuf.dev/programming-guides/encoding/
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        match key & 7:
            case 0:
                varint()
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                length = varint()
                yield key >> 3, message[at : at + length]
                at += length
            case _:
                pass  # The beginning or the end of a group, whose fields lie between them.
