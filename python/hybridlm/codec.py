"""Lossless compression by an artifact: the proof that its score is real.

A file is cut into pieces of the tokenizer's vocabulary without normalising it, so that any bytes come back
exactly, and every token is coded with the distribution that `hybridlm eval --ttt off` scores
(`hybridlm.prediction`), from a state that holds nothing but the artifact.

Blocks of 65,536 bytes that a general compressor makes no smaller, such as images, are stored unchanged, and
the model doesn't see them; so is the whole content where coding would make it larger. A file is at most 64
bytes and 0.01% larger than its content.

A compressed file is, little-endian:

======== ======= ==================================================
offset   bytes   what
======== ======= ==================================================
0        4       ``HLMZ``
4        1       version, 5
5        1       flags: 1: the artifact has a neural model; 2: the content is UTF-8 with its capitals as
                 marks (`hybridlm.data.case_folding`), and what follows is said of that form; 4: some blocks
                 are stored
6        1       n, the length of the text at offset 44
7        1       zero
8        8       the artifact: first bytes of its SHA-256
16       4       the tokenizer: first bytes of its SHA-256
20       4       CRC-32 of the first 64 tokens' frequencies
24       8       the content as it was: first bytes of its SHA-256
32       8       the content's length
40       4       CRC-32 of all other bytes of the file
44       n       text: what a neural model's arithmetic depends on
44 + n   ⌈b / 8⌉ if blocks are stored: of each of the b blocks, bit 0 of the first byte first, whether it is
…        …       the stored blocks
…        4 each  CRC-32 of every whole 65,536 bytes of what is coded, which is all else
…        …       payload: a range coder's words
======== ======= ==================================================

A file is coded by the mixture of its version, so earlier versions, of other mixtures, are not read.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hybridlm._core import CODEC_BLOCK, Segmenter
from hybridlm._core import compress as compress_zstd
from hybridlm.artifact import Artifact
from hybridlm.data.case_folding import fold, unfold
from hybridlm.data.pieces import Kind
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import FormatError, InputError
from hybridlm.prediction import Prediction

MAGIC = b"HLMZ"
VERSION = 5
_HEADER = struct.Struct("<4sBBBB8s4sI8sQ")
_CRC = struct.Struct("<I")
_START = _HEADER.size + _CRC.size
_NEURAL, _FOLDED, _STORED = 1, 2, 4

_WORTH_A_TRY = 1024
"""Bytes below which a block is coded whatever a general compressor makes of it."""

Report = Callable[[int], object]


@dataclass(frozen=True)
class Compressed:
    """What `Codec.compress` makes of a content.

    Attributes:
        data: the compressed file.
        claimed_bits: −Σ log₂ p of its ``tokens`` tokens, as the model says.
        stored: bytes of the content that are stored unchanged and not coded as tokens.
    """

    data: bytes
    claimed_bits: float
    tokens: int
    stored: int


class Codec:
    """Compresses and decompresses with one artifact and its tokenizer.

    With a neural model, a file decodes where the model's sums are rounded as they were: with the same version
    of PyTorch on the same kind of processor. Elsewhere it is refused, or found out by checksums within the
    first 64 tokens or within 65,536 bytes; it never gives wrong output.

    Raises InputError for an artifact of another tokenizer, and for a tokenizer without byte pieces.

    >>> artifact = hybridlm.Artifact.from_file("artifact.pgar")
    >>> codec = hybridlm.Codec(artifact, hybridlm.Tokenizer.load("tok.model"))
    >>> compressed = codec.compress(b"The value of the expression is the object itself.")
    >>> codec.decompress(compressed.data)
    b'The value of the expression is the object itself.'
    """

    def __init__(self, artifact: Artifact, tokenizer: Tokenizer) -> None:
        self._prediction = Prediction(artifact, tokenizer)
        self._artifact_id = hashlib.sha256(artifact.to_bytes()).digest()[:8]
        self._tokenizer_id = bytes.fromhex(tokenizer.fingerprint)[:4]
        self._segmenter = segmenter(tokenizer)
        self._folds_case = tokenizer.folds_case

    def compress(self, content: bytes, progress: Report | None = None) -> Compressed:
        """``progress`` is told bytes of content."""
        folded = _folded(content) if self._folds_case else None
        form = content if folded is None else folded
        stored = [_is_incompressible(block) for block in _blocks(form)]
        made = self._file(content, form, folded is not None, stored, progress)
        blocks = len(_blocks(content))
        if len(made.data) > _START + len(_bitmap([True] * blocks)) + len(content):
            made = self._file(content, content, False, [True] * blocks, progress)
        return made

    def _file(
        self, content: bytes, form: bytes, folded: bool, stored: list[bool], progress: Report | None
    ) -> Compressed:
        """``form``: the content, or that with its capitals as marks; it is what has the blocks."""
        coded, kept = _divided(form, stored)
        text, payload, first, bits, tokens = b"", b"", 0, 0.0, 0
        blocks: list[int] = []
        if coded or not any(stored):
            payload, (first, blocks), bits, tokens = self._segmenter.compress(
                coded, self._prediction.predictor(), progress
            )
            text = self._prediction.arithmetic().encode()
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            self._flags(folded, any(stored)),
            len(text),
            0,
            self._artifact_id,
            self._tokenizer_id,
            first,
            _digest(content),
            len(form),
        )
        body = text + (_bitmap(stored) if any(stored) else b"") + kept
        body += struct.pack(f"<{len(blocks)}I", *blocks) + payload
        return Compressed(header + _CRC.pack(_checksum(header, body)) + body, bits, tokens, len(kept))

    def decompress(self, data: bytes, name: str = "compressed file", progress: Report | None = None) -> bytes:
        """The content of a compressed file, which ``name`` stands for in errors.

        Raises FormatError for a file that is no such file, is damaged, was made with another artifact or
        tokenizer or by other arithmetic, or where the content that comes out is not the one that went in.
        """
        if data[:4] != MAGIC:
            raise FormatError(f"{name}: not a file made by `hybridlm compress`: it doesn't begin with HLMZ")
        if len(data) < _START:
            raise FormatError(f"{name}: truncated: {len(data)} bytes, where the header alone has {_START}")
        header, body = data[: _HEADER.size], data[_START:]
        _, version, flags, text_length, zero, artifact_id, tokenizer_id, first, digest, length = (
            _HEADER.unpack(header)
        )
        if version != VERSION:
            raise FormatError(
                f"{name}: version {version} of the format, and this program decodes version {VERSION} alone, "
                "since each has a mixture of its own: use the hybridlm that wrote it"
            )
        if _CRC.unpack_from(data, _HEADER.size)[0] != _checksum(header, body):
            raise FormatError(f"{name}: damaged: altered or truncated, its checksum doesn't fit")
        if tokenizer_id != self._tokenizer_id:
            raise FormatError(f"{name}: made with another tokenizer")
        if artifact_id != self._artifact_id:
            raise FormatError(f"{name}: made with another artifact than {self._prediction.artifact.name}")
        is_folded = self._folds_case and bool(flags & _FOLDED)
        has_stored = bool(flags & _STORED)
        if zero or flags != self._flags(is_folded, has_stored):
            raise FormatError(f"{name}: its header contradicts itself")
        made, body = body[:text_length].decode(errors="replace"), body[text_length:]
        stored, kept, body = _parted(body, length, name) if has_stored else ([], b"", body)
        count = (length - len(kept)) // CODEC_BLOCK
        if 4 * count > len(body):
            raise FormatError(f"{name}: its header contradicts itself")
        here = self._prediction.arithmetic() if len(kept) < length or not stored else ""
        if made != here:
            raise FormatError(
                f"{name}: its neural model was run by PyTorch and vector instructions {made}, and here are "
                f"{here}, which may round otherwise: decompress it where it was made"
            )
        blocks = list(struct.unpack_from(f"<{count}I", body))
        payload = body[4 * count :]
        if len(kept) < length or not stored:
            coded = self._segmenter.decompress(
                payload, length - len(kept), (first, blocks), self._prediction.predictor(), name, progress
            )
        elif payload or first:
            raise FormatError(f"{name}: its header contradicts itself")
        else:
            coded = b""
        content = _joined(coded, kept, stored) if stored else coded
        if is_folded:
            content = unfold(content.decode(errors="replace")).encode()
        if _digest(content) != digest:
            raise FormatError(
                f"{name}: what comes out is not what went in: made by another build or on another kind of "
                "machine, whose arithmetic differs"
            )
        return content

    def _flags(self, folded: bool, stored: bool) -> int:
        neural = _NEURAL if self._prediction.has_neural else 0
        return neural | (_FOLDED if folded else 0) | (_STORED if stored else 0)


def _folded(content: bytes) -> bytes | None:
    """``content`` with its capitals as marks; None if it isn't UTF-8."""
    try:
        return fold(content.decode()).encode()
    except UnicodeDecodeError:
        return None


def _blocks(content: bytes) -> list[bytes]:
    return [content[at : at + CODEC_BLOCK] for at in range(0, len(content), CODEC_BLOCK)]


def _is_incompressible(block: bytes) -> bool:
    """Whether zstd, in a thousandth of the time that a model takes, makes the block no smaller."""
    return len(block) >= _WORTH_A_TRY and len(compress_zstd(block, 1)) >= len(block)


def _bitmap(stored: list[bool]) -> bytes:
    return np.packbits(np.array(stored, bool), bitorder="little").tobytes()


def _divided(content: bytes, stored: list[bool]) -> tuple[bytes, bytes]:
    """What is coded and what is stored."""
    blocks = list(zip(_blocks(content), stored, strict=True))
    coded = b"".join(block for block, is_stored in blocks if not is_stored)
    return coded, b"".join(block for block, is_stored in blocks if is_stored)


def _parted(body: bytes, length: int, name: str) -> tuple[list[bool], bytes, bytes]:
    """Which blocks are stored, the stored blocks, and the rest of the body. Raises FormatError."""
    count = -(-length // CODEC_BLOCK)
    size = -(-count // 8)
    # Compared before anything of the claimed length is made.
    if size > len(body):
        raise FormatError(f"{name}: its header contradicts itself")
    bits = np.unpackbits(np.frombuffer(body[:size], np.uint8), bitorder="little").astype(bool)
    stored = bits[:count].tolist()
    last = length - (count - 1) * CODEC_BLOCK
    kept = sum(stored) * CODEC_BLOCK - (CODEC_BLOCK - last if stored and stored[-1] else 0)
    if bits[count:].any() or not any(stored) or size + kept > len(body):
        raise FormatError(f"{name}: its header contradicts itself")
    return stored, body[size : size + kept], body[size + kept :]


def _joined(coded: bytes, kept: bytes, stored: list[bool]) -> bytes:
    parts = []
    at = {True: 0, False: 0}
    for is_stored in stored:
        source = kept if is_stored else coded
        parts.append(source[at[is_stored] : at[is_stored] + CODEC_BLOCK])
        at[is_stored] += len(parts[-1])
    return b"".join(parts)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:8]


def _checksum(header: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(header))


def content_length(data: bytes) -> int:
    """What a compressed file's header says about its content's length; 0 where there is no such header."""
    return int(_HEADER.unpack_from(data)[-1]) if len(data) >= _HEADER.size else 0


def segmenter(tokenizer: Tokenizer) -> Segmenter:
    """The tokenizer's pieces as plain bytes, a space for each "▁"; marks for capitals are characters.

    Raises InputError for a tokenizer without byte pieces: it can't stand for any file.
    """
    if not any(piece.kind is Kind.BYTE for piece in tokenizer.pieces):
        raise InputError(
            f"{tokenizer.name}: this tokenizer has no byte pieces, so there are files it can't stand for; "
            "compress with one that was trained with byte fallback"
        )
    return Segmenter(
        [
            (_bytes_of(tokenizer, token), piece.score, piece.kind is Kind.BYTE)
            for token, piece in enumerate(tokenizer.pieces)
        ]
    )


def _bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    piece = tokenizer.pieces[token]
    if piece.kind is Kind.MARK:
        return str(tokenizer.model.id_to_piece(token)).encode()
    return piece.whole if piece.is_text else b""
