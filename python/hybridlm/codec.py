"""Lossless compression by an artifact: the proof that its score is real.

A file is cut into pieces of the tokenizer's vocabulary without normalising it, so that any bytes come back
exactly, and every token is coded with the distribution that `hybridlm eval` scores: oracle and adaptive
experts, mixed by ``eg``, from a state that holds nothing but the artifact.

A compressed file is, little-endian:

====== ===== ==================================================
offset bytes what
====== ===== ==================================================
0      4     ``HLMZ``
4      1     version, 1
5      3     zero
8      8     the artifact: first bytes of its SHA-256
16     8     the tokenizer: first bytes of its SHA-256
24     8     the content: first bytes of its SHA-256
32     8     the content's length
40     4     CRC-32 of the bytes before it and of the payload
44     …     payload: a range coder's words
====== ===== ==================================================
"""

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from hybridlm._core import Segmenter
from hybridlm.artifact import Artifact
from hybridlm.data.byte_table import SPACE
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import FormatError

MAGIC = b"HLMZ"
VERSION = 1
_HEADER = struct.Struct("<4sB3x8s8s8sQ")
_CRC = struct.Struct("<I")

Report = Callable[[int], object]


@dataclass(frozen=True)
class Compressed:
    """data: the compressed file. claimed_bits: −Σ log₂ p of its ``tokens`` tokens, as the model says."""

    data: bytes
    claimed_bits: float
    tokens: int


class Codec:
    """Compresses and decompresses with one artifact and its tokenizer.

    Raises InputError for an artifact of another tokenizer, or with a neural model: its oracle alone can be
    used by packing one without the model.
    """

    def __init__(self, artifact: Artifact, tokenizer: Tokenizer) -> None:
        artifact.check_tokenizer(tokenizer.fingerprint, tokenizer.vocab_size)
        artifact.check_oracle_alone("the codec")
        self._oracle = artifact.oracle_blob
        self._name = artifact.name
        self._artifact_id = hashlib.sha256(artifact.to_bytes()).digest()[:8]
        self._tokenizer_id = bytes.fromhex(tokenizer.fingerprint)[:8]
        self._bos = tokenizer.bos_id
        self._segmenter = segmenter(tokenizer)

    def compress(self, content: bytes, progress: Report | None = None) -> Compressed:
        """``progress`` is told bytes of content."""
        payload, bits, tokens = self._segmenter.compress(
            content, self._oracle, first=self._bos, name=self._name, progress=progress
        )
        checksum = hashlib.sha256(content).digest()[:8]
        header = _HEADER.pack(MAGIC, VERSION, self._artifact_id, self._tokenizer_id, checksum, len(content))
        crc = zlib.crc32(payload, zlib.crc32(header))
        return Compressed(header + _CRC.pack(crc) + payload, bits, tokens)

    def decompress(self, data: bytes, name: str = "compressed file", progress: Report | None = None) -> bytes:
        """The content of a compressed file, which ``name`` stands for in errors.

        Raises FormatError for a file that is no such file, is damaged, or was made with another artifact or
        tokenizer, or where the content that comes out is not the one that went in.
        """
        start = _HEADER.size + _CRC.size
        if data[:4] != MAGIC:
            raise FormatError(f"{name}: not a file made by `hybridlm compress`: it doesn't begin with HLMZ")
        if len(data) < start:
            raise FormatError(f"{name}: truncated: {len(data)} bytes, where the header alone has {start}")
        _, version, artifact_id, tokenizer_id, checksum, length = _HEADER.unpack_from(data)
        if version != VERSION:
            raise FormatError(f"{name}: version {version} of the format, and this program reads {VERSION}")
        payload = data[start:]
        if _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(payload, zlib.crc32(data[: _HEADER.size])):
            raise FormatError(f"{name}: damaged: altered or truncated, its checksum doesn't fit")
        if tokenizer_id != self._tokenizer_id:
            raise FormatError(f"{name}: made with another tokenizer")
        if artifact_id != self._artifact_id:
            raise FormatError(f"{name}: made with another artifact than {self._name}")
        content = self._segmenter.decompress(
            payload, length, self._oracle, first=self._bos, name=name, progress=progress
        )
        if hashlib.sha256(content).digest()[:8] != checksum:
            raise FormatError(
                f"{name}: what comes out is not what went in: made by another build or on another kind of "
                "machine, whose arithmetic differs"
            )
        return content


def content_length(data: bytes) -> int:
    """What a compressed file's header says about its content's length; 0 where there is no such header."""
    return int(_HEADER.unpack_from(data)[5]) if len(data) >= _HEADER.size else 0


def segmenter(tokenizer: Tokenizer) -> Segmenter:
    """The tokenizer's pieces as plain bytes, a space for each "▁"."""
    model = tokenizer.model
    pieces: list[tuple[bytes, float, bool]] = []
    for token in range(tokenizer.vocab_size):
        piece = model.id_to_piece(token)
        if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
            pieces.append((b"", 0.0, False))
        elif model.is_byte(token):
            pieces.append((bytes([int(piece[1:-1], 16)]), 0.0, True))
        else:
            pieces.append((piece.replace(SPACE, " ").encode(), model.get_score(token), False))
    return Segmenter(pieces)
