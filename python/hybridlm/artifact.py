"""PGAR version 1: the one file that holds everything a score may use.

A 16-byte little-endian header (u32 magic, u8 version, three zero bytes, u32 neural_len, u32 oracle_len), then
the neural blob and the oracle blob, and nothing after them. Either length may be zero. The header is checked
field by field; each blob is a zstd frame with its own content checksum.

Nothing here imports torch; only `Artifact.load_model` does, when it is called.
"""

import os
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hybridlm.errors import FormatError, InputError
from hybridlm.neural_blob import NeuralHeader, encode, load_model, read
from hybridlm.oracle import Oracle

if TYPE_CHECKING:
    from hybridlm.data.tokenizer import Tokenizer
    from hybridlm.model import GPT
    from hybridlm.quantize import ClipRule

MAGIC = 0x50474152
VERSION = 1
BUDGET_BYTES = 16_000_000
"""What an artifact may weigh, in decimal bytes."""

_HEADER = struct.Struct("<IB3sII")
_MAX_LENGTH = 2**32 - 1


def pack(neural: bytes | None, oracle: bytes | None) -> bytes:
    """The artifact's bytes. Raises InputError where a part is too long for its length field."""
    neural, oracle = neural or b"", oracle or b""
    for part, blob in (("neural", neural), ("oracle", oracle)):
        if len(blob) > _MAX_LENGTH:
            raise InputError(f"the {part} part has {len(blob)} bytes; an artifact can hold {_MAX_LENGTH}")
    return _HEADER.pack(MAGIC, VERSION, bytes(3), len(neural), len(oracle)) + neural + oracle


def bundle(
    run: Path | None,
    oracle: bytes | None,
    tokenizer: "Tokenizer",
    *,
    name: str = "artifact",
    clip: "ClipRule | None" = None,
    over_budget: bool = False,
) -> "Artifact":
    """The artifact of a training run's final weights, quantised, and of an oracle file's bytes.

    Raises InputError when a part was made with another tokenizer or, unless ``over_budget``, when the whole
    is larger than `BUDGET_BYTES`; FormatError for a damaged part.
    """
    neural = None
    if run is not None:
        from hybridlm.train.checkpoint import load_model as load_trained

        model, metadata = load_trained(run)
        neural = encode(model, tokenizer=metadata.tokenizer, clip=clip)
    # Through its bytes, so that what is returned is what a reader of the file gets.
    artifact = Artifact.from_bytes(pack(neural, oracle), name)
    artifact.check_tokenizer(tokenizer.fingerprint, tokenizer.vocab_size)
    if not over_budget:
        artifact.check_budget()
    return artifact


class _Lengths(NamedTuple):
    neural: int
    oracle: int


def _check_header(header: bytes, total_bytes: int, name: str) -> _Lengths:
    """The two lengths of a header that belongs to a file of ``total_bytes``. Raises FormatError."""
    if len(header) < _HEADER.size:
        raise FormatError(
            f"{name}: {len(header)} bytes are too few for an artifact's {_HEADER.size}-byte header"
        )
    magic, version, reserved, neural_len, oracle_len = _HEADER.unpack_from(header)
    if magic != MAGIC:
        raise FormatError(f"{name}: not an artifact: magic {magic:#010x} at offset 0, expected {MAGIC:#010x}")
    if version != VERSION:
        raise FormatError(f"{name}: artifact version {version} at offset 4; this program reads {VERSION}")
    if reserved != bytes(3):
        raise FormatError(f"{name}: reserved bytes at offset 5 are {reserved.hex(' ')}, expected zeros")
    expected = _HEADER.size + neural_len + oracle_len
    if total_bytes != expected:
        fault = "truncated" if total_bytes < expected else "followed by other bytes"
        raise FormatError(
            f"{name}: neural_len {neural_len} (offset 8) and oracle_len {oracle_len} (offset 12) make "
            f"{expected} bytes, but there are {total_bytes}: the file is {fault}"
        )
    return _Lengths(neural_len, oracle_len)


@dataclass(frozen=True)
class Artifact:
    """An artifact's parts in memory.

    Attributes:
        name: what errors call it (a path, usually).
        neural_blob: zstd frame around int6 weights (`hybridlm.neural_blob`); None if there is no model.
        oracle_blob: an oracle file's bytes; None if there is no oracle.
    """

    name: str
    neural_blob: bytes | None
    oracle_blob: bytes | None

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "artifact") -> "Artifact":
        """Raises FormatError, naming field and offset, unless the header and the lengths are exact."""
        lengths = _check_header(data, len(data), name)
        oracle_start = _HEADER.size + lengths.neural
        return cls(
            name,
            bytes(data[_HEADER.size : oracle_start]) if lengths.neural else None,
            bytes(data[oracle_start:]) if lengths.oracle else None,
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Artifact":
        """As `from_bytes`; a foreign file is refused before its body is read. Raises OSError too."""
        with Path(path).open("rb") as file:
            header = file.read(_HEADER.size)
            _check_header(header, os.fstat(file.fileno()).st_size, str(path))
            return cls.from_bytes(header + file.read(), str(path))

    def to_bytes(self) -> bytes:
        return pack(self.neural_blob, self.oracle_blob)

    @property
    def neural_bytes(self) -> int:
        return len(self.neural_blob or b"")

    @property
    def oracle_bytes(self) -> int:
        return len(self.oracle_blob or b"")

    @property
    def total_bytes(self) -> int:
        return _HEADER.size + self.neural_bytes + self.oracle_bytes

    def neural_header(self) -> NeuralHeader | None:
        """What the neural part says of itself, without torch. Raises FormatError, as `load_model` does."""
        return read(self.neural_blob, self._part("neural")).header if self.neural_blob else None

    def check_tokenizer(self, fingerprint: str, vocab_size: int) -> None:
        """Raises InputError unless both parts were made with this tokenizer.

        A model knows its tokenizer's fingerprint (SHA-256 of the file), an oracle only the size of the
        vocabulary.
        """
        neural = self.neural_header()
        if neural is not None and neural.tokenizer != fingerprint:
            raise InputError(
                f"{self.name} was made with the tokenizer {neural.tokenizer}, "
                f"but the one given is {fingerprint} (SHA-256 of the files)"
            )
        oracle = self.load_oracle()
        if oracle is not None and oracle.vocab_size != vocab_size:
            raise InputError(
                f"{self.name} holds an oracle of a vocabulary of {oracle.vocab_size} tokens, but the "
                f"tokenizer given has {vocab_size}"
            )

    def load_model(self) -> "GPT | None":
        """The model in float32 on the CPU, in evaluation mode; a new one each time. Raises FormatError."""
        return load_model(self.neural_blob, self._part("neural")) if self.neural_blob else None

    def load_oracle(self) -> Oracle | None:
        """Raises FormatError."""
        return self._oracle

    @cached_property
    def _oracle(self) -> Oracle | None:
        return Oracle.from_bytes(self.oracle_blob, self._part("oracle")) if self.oracle_blob else None

    def check_budget(self) -> None:
        """Raises InputError, naming the parts' bytes, for an artifact larger than `BUDGET_BYTES`."""
        if self.total_bytes > BUDGET_BYTES:
            raise InputError(
                f"{self.name} would have {self.total_bytes:,} bytes (neural {self.neural_bytes:,}, oracle "
                f"{self.oracle_bytes:,}), and the budget is {BUDGET_BYTES:,}: make a part smaller"
            )

    def summary(self) -> dict[str, Any]:
        """What the artifact holds, as plain JSON values; both parts are decoded and so checked in full."""
        neural, oracle = self.neural_header(), self.load_oracle()
        return {
            "version": VERSION,
            "neural_bytes": self.neural_bytes,
            "oracle_bytes": self.oracle_bytes,
            "total_bytes": self.total_bytes,
            "budget_bytes": BUDGET_BYTES,
            "parameters": neural.parameters if neural else 0,
            "orders": list(oracle.orders) if oracle else [],
            "model": neural.model if neural else None,
            "clip": neural.clip if neural else None,
            "tokenizer": neural.tokenizer if neural else None,
            "estimator": oracle.estimator if oracle else None,
            "vocab_size": oracle.vocab_size if oracle else neural.model.get("vocab_size") if neural else None,
        }

    def _part(self, part: str) -> str:
        return f"{self.name} ({part} part)"
