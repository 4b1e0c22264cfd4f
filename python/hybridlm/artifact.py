"""PGAR: the one file that holds everything a score may use.

A little-endian header, then the neural blob and the oracle blob, and nothing after them. Either length may be
zero. Version 2 has a header of 60 bytes:

====== ======== ==================================================
offset type     content
====== ======== ==================================================
0      u32      magic, 0x50474152
4      u8       version, 2
5      3 bytes  zero
8      u32      bytes of the neural blob
12     u32      bytes of the oracle blob
16     32 bytes the tokenizer: SHA-256 of its file
48     u32      the vocabulary's size
52     u32      the id that documents begin with
56     u32      CRC-32 of the bytes before
====== ======== ==================================================

Version 1 ends its header at offset 16 and doesn't say which tokenizer its parts are of; it is still read. The
header is checked field by field; each blob has a checksum of its own.

Nothing here imports torch; only `Artifact.load_model` does, when it is called.
"""

import logging
import os
import stat
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hybridlm import _core
from hybridlm.arguments import check_kind
from hybridlm.calibration import draw
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import FormatError, InputError
from hybridlm.extras import require_torch
from hybridlm.files import open_to_read
from hybridlm.model.grid import DEFAULT_SCHEME, Scheme
from hybridlm.model.neural_blob import NeuralHeader, encode, load_model, read
from hybridlm.oracle import Oracle

if TYPE_CHECKING:
    from hybridlm.data.tokenizer import Tokenizer
    from hybridlm.model import GPT

log = logging.getLogger("hybridlm.artifact")

MAGIC = 0x50474152
VERSION = 2
BUDGET_BYTES = 16_000_000
"""The most bytes that an artifact may have: 16 decimal megabytes."""

_LENGTHS = struct.Struct("<IB3sII")
_VOCABULARY = struct.Struct("<32sII")
_CRC = struct.Struct("<I")
_CHECKED_BYTES = _LENGTHS.size + _VOCABULARY.size
_HEADER_BYTES = {1: _LENGTHS.size, 2: _CHECKED_BYTES + _CRC.size}
_MAX_LENGTH = 2**32 - 1


def pack(neural: bytes | None, oracle: bytes | None, vocabulary: Vocabulary | None = None) -> bytes:
    """The artifact's bytes: of version 2 with a vocabulary, and of version 1 without one.

    Raises InputError where a part is too long for its length field, ValueError for a vocabulary without a
    fingerprint.
    """
    neural, oracle = neural or b"", oracle or b""
    for part, blob in (("neural", neural), ("oracle", oracle)):
        if len(blob) > _MAX_LENGTH:
            raise InputError(f"the {part} part has {len(blob)} bytes; an artifact can hold {_MAX_LENGTH}")
    version = 1 if vocabulary is None else VERSION
    header = _LENGTHS.pack(MAGIC, version, bytes(3), len(neural), len(oracle))
    if vocabulary is not None:
        if vocabulary.fingerprint is None:
            raise ValueError("an artifact names its tokenizer, and this vocabulary has no fingerprint")
        fingerprint = bytes.fromhex(vocabulary.fingerprint)
        header += _VOCABULARY.pack(fingerprint, vocabulary.size, vocabulary.bos_id)
        header += _CRC.pack(zlib.crc32(header))
    return header + neural + oracle


def bundle(
    run: Path | None,
    oracle: bytes | None,
    tokenizer: "Tokenizer",
    *,
    name: str = "artifact",
    scheme: Scheme = DEFAULT_SCHEME,
    calibration: Iterable[Path] = (),
    over_budget: bool = False,
) -> "Artifact":
    """The artifact of a training run's final weights, quantised, and of an oracle file's bytes.

    Weights are rounded by GPTQ where there are training shards to calibrate on (``calibration``).

    Raises InputError when a part was made with another tokenizer, when there is a run and no PyTorch, or,
    unless ``over_budget``, when the whole is larger than `BUDGET_BYTES`; FormatError for a damaged part.

    >>> tokenizer = hybridlm.Tokenizer.load("tok.model")
    >>> artifact = hybridlm.bundle(None, Path("oracle.ngsp").read_bytes(), tokenizer)
    >>> Path("artifact.pgar").write_bytes(artifact.to_bytes()) == artifact.total_bytes
    True
    """
    from hybridlm.data.tokenizer import Tokenizer

    check_kind(tokenizer, Tokenizer, "tokenizer")
    if oracle is not None and not isinstance(oracle, bytes):
        kind = type(oracle).__name__
        raise TypeError(f"oracle must be an oracle file's bytes, as Oracle.to_bytes() gives them, not {kind}")
    neural = None
    if run is not None:
        require_torch("packing a model")
        from hybridlm.train.checkpoint import load_model as load_trained

        model, metadata = load_trained(run)
        text = None
        if paths := list(calibration):
            text = draw(paths, tokenizer.vocabulary, length=model.config.sequence_length)
        neural = encode(model, tokenizer=metadata.tokenizer, scheme=scheme, calibration=text)
    # Through its bytes, so that what is returned is what a reader of the file gets.
    artifact = Artifact.from_bytes(pack(neural, oracle, tokenizer.vocabulary), name)
    artifact.check_tokenizer(tokenizer.vocabulary)
    packed = artifact.load_oracle()
    if packed is not None and packed.fingerprint is None:
        log.warning(
            "%s: the oracle doesn't say which tokenizer it was built with, so the artifact names the one "
            "given: make sure that it is the right one",
            name,
        )
    if not over_budget:
        artifact.check_budget()
    return artifact


class _Header(NamedTuple):
    size: int
    neural: int
    oracle: int
    vocabulary: Vocabulary | None


def _read_header(data: bytes, total_bytes: int, name: str) -> _Header:
    """The header of a file of ``total_bytes`` that begins with ``data``. Raises FormatError."""
    if len(data) < _LENGTHS.size:
        raise FormatError(
            f"{name}: {len(data)} bytes are too few for an artifact's header, which has "
            f"{_HEADER_BYTES[VERSION]}"
        )
    magic, version, reserved, neural, oracle = _LENGTHS.unpack_from(data)
    if magic != MAGIC:
        raise FormatError(f"{name}: not an artifact: {_what_it_is(data, magic)}")
    if version not in _HEADER_BYTES:
        raise FormatError(
            f"{name}: artifact version {version} at offset 4; this program reads 1 and {VERSION}"
        )
    if reserved != bytes(3):
        raise FormatError(f"{name}: reserved bytes at offset 5 are {reserved.hex(' ')}, expected zeros")
    size = _HEADER_BYTES[version]
    expected = size + neural + oracle
    if total_bytes != expected:
        fault = "truncated" if total_bytes < expected else "followed by other bytes"
        raise FormatError(
            f"{name}: neural_len {neural} (offset 8) and oracle_len {oracle} (offset 12) make "
            f"{expected} bytes, but there are {total_bytes}: the file is {fault}"
        )
    vocabulary = None
    if version > 1:
        (checksum,) = _CRC.unpack_from(data, _CHECKED_BYTES)
        if checksum != (found := zlib.crc32(data[:_CHECKED_BYTES])):
            raise FormatError(
                f"{name}: the header's checksum at offset {_CHECKED_BYTES} is {checksum:#010x}, but that of "
                f"the bytes before it {found:#010x}: the file was altered"
            )
        fingerprint, vocab_size, bos_id = _VOCABULARY.unpack_from(data, _LENGTHS.size)
        if not 0 < vocab_size <= 1 << 16 or bos_id >= vocab_size:
            raise FormatError(
                f"{name}: a vocabulary of {vocab_size} tokens (offset 48) whose documents begin with token "
                f"{bos_id} (offset 52)"
            )
        vocabulary = Vocabulary(vocab_size, bos_id, fingerprint.hex())
    return _Header(size, neural, oracle, vocabulary)


def _what_it_is(data: bytes, magic: int) -> str:
    kind = _core.looks_like(data)
    if kind is None:
        return f"magic {magic:#010x} at offset 0, expected {MAGIC:#010x}"
    hint = "; `hybridlm artifact pack --oracle` makes an artifact of one" if "oracle" in kind else ""
    return f"it looks like {kind}{hint}"


@dataclass(frozen=True)
class Artifact:
    """An artifact's parts in memory.

    >>> artifact = hybridlm.Artifact.from_file("artifact.pgar")
    >>> artifact.total_bytes <= 16_000_000
    True
    >>> artifact.load_oracle().orders
    (1, 2, 3)

    Attributes:
        name: what errors call it (a path, usually).
        neural_blob: the quantised weights (`hybridlm.model.neural_blob`); None if there is no model.
        oracle_blob: an oracle file's bytes; None if there is no oracle.
        vocabulary: of the tokenizer that the parts were made with; None in version 1, which doesn't say.
    """

    name: str
    neural_blob: bytes | None
    oracle_blob: bytes | None
    vocabulary: Vocabulary | None = None

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "artifact") -> "Artifact":
        """Raises FormatError, naming field and offset, unless the header and the lengths are exact."""
        header = _read_header(data, len(data), name)
        oracle_start = header.size + header.neural
        return cls(
            name,
            bytes(data[header.size : oracle_start]) if header.neural else None,
            bytes(data[oracle_start:]) if header.oracle else None,
            header.vocabulary,
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Artifact":
        """As `from_bytes`; a foreign file is refused before its body is read. Raises OSError too."""
        with open_to_read(path) as file:
            start = file.read(_HEADER_BYTES[VERSION])
            about = os.fstat(file.fileno())
            if stat.S_ISREG(about.st_mode):  # what comes through a FIFO has no size yet
                _read_header(start, about.st_size, str(path))
            return cls.from_bytes(start + file.read(), str(path))

    def to_bytes(self) -> bytes:
        return pack(self.neural_blob, self.oracle_blob, self.vocabulary)

    @property
    def version(self) -> int:
        return 1 if self.vocabulary is None else VERSION

    @property
    def header_bytes(self) -> int:
        return _HEADER_BYTES[self.version]

    @property
    def neural_bytes(self) -> int:
        return len(self.neural_blob or b"")

    @property
    def oracle_bytes(self) -> int:
        return len(self.oracle_blob or b"")

    @property
    def total_bytes(self) -> int:
        return self.header_bytes + self.neural_bytes + self.oracle_bytes

    def neural_header(self) -> NeuralHeader | None:
        """What the neural part says of itself, without torch. Raises FormatError, as `load_model` does."""
        return read(self.neural_blob, self._part("neural")).header if self.neural_blob else None

    def check_tokenizer(self, vocabulary: Vocabulary) -> None:
        """Raises InputError unless the artifact and both of its parts are of this tokenizer.

        Where no part knows its tokenizer (an oracle alone, in a file of version 1) a warning is all that can
        be given: another tokenizer with as many pieces would score plausibly and wrongly.
        """
        neural, oracle = self.neural_header(), self.load_oracle()
        known: list[tuple[str, str | None, Any]] = []
        if self.vocabulary is not None:
            known.append(("", self.vocabulary.fingerprint, self.vocabulary.size))
        if neural is not None:
            known.append((" (neural part)", neural.tokenizer, neural.model.get("vocab_size")))
        if oracle is not None:
            known.append((" (oracle part)", oracle.vocabulary.fingerprint, oracle.vocab_size))
        for part, fingerprint, size in known:
            if fingerprint not in (None, vocabulary.fingerprint) or size != vocabulary.size:
                raise InputError(
                    f"{self.name}{part}: made with a tokenizer of {size} pieces, SHA-256 "
                    f"{fingerprint or 'unknown'}, but the one given has {vocabulary.size} pieces and SHA-256 "
                    f"{vocabulary.fingerprint}"
                )
        if self.vocabulary is not None and self.vocabulary.bos_id != vocabulary.bos_id:
            raise InputError(
                f"{self.name}: documents begin with token {self.vocabulary.bos_id}, but with the tokenizer "
                f"given they begin with {vocabulary.bos_id}: give --bos-id {self.vocabulary.bos_id}"
            )
        if all(fingerprint is None for _, fingerprint, _ in known):
            log.warning(
                "%s: doesn't say which tokenizer it was made with (artifact version 1): the score is right "
                "only if it was the one given; `hybridlm artifact pack` makes one that says it",
                self.name,
            )

    def require_torch(self) -> None:
        """Raises InputError, saying what to install, where a neural part has no PyTorch to run it."""
        if self.neural_blob is not None:
            require_torch(f"{self.name}: its neural part")

    def load_model(self) -> "GPT | None":
        """The model in float32 on the CPU, in evaluation mode; a new one each time.

        Raises FormatError, and InputError where there is no PyTorch.
        """
        self.require_torch()
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
            "version": self.version,
            "neural_bytes": self.neural_bytes,
            "oracle_bytes": self.oracle_bytes,
            "total_bytes": self.total_bytes,
            "budget_bytes": BUDGET_BYTES,
            "parameters": neural.parameters if neural else 0,
            "orders": list(oracle.orders) if oracle else [],
            "model": neural.model if neural else None,
            "quantisation": neural.quantisation if neural else None,
            "tokenizer": self._fingerprint(neural, oracle),
            "bos_id": self.vocabulary.bos_id if self.vocabulary else None,
            "estimator": oracle.estimator if oracle else None,
            "vocab_size": oracle.vocab_size if oracle else neural.model.get("vocab_size") if neural else None,
        }

    def _fingerprint(self, neural: NeuralHeader | None, oracle: Oracle | None) -> str | None:
        if self.vocabulary is not None:
            return self.vocabulary.fingerprint
        return neural.tokenizer if neural else oracle.vocabulary.fingerprint if oracle else None

    def _part(self, part: str) -> str:
        return f"{self.name} ({part} part)"
