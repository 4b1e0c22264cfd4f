"""The file beside a shard that says what made it: ``SHARD.bin.json``.

Token ids mean nothing without their tokenizer, and a shard of another one with as many pieces scores
plausibly and wrongly. So `hybridlm data shard` leaves the tokenizer's fingerprint beside each shard, and
whoever reads the shard holds it against the tokenizer that it is given. Shards from elsewhere have no such
file.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import FormatError, InputError
from hybridlm.files import atomic_write_text, open_to_read, read_json

SUFFIX = ".json"
"""What is put behind the shard's own name."""

_FORMAT = 1
_LARGEST = 1 << 22


@dataclass(frozen=True)
class Sidecar:
    """What is known of a shard.

    tokens, documents: how many it holds. text_bytes: UTF-8 bytes that it decodes to.
    sha256: of the shard's file, 64 hex digits. vocabulary: of the tokenizer that made it.
    source: what it was made from and with which settings; for people only, and not checked.
    """

    tokens: int
    documents: int
    text_bytes: int
    sha256: str
    vocabulary: Vocabulary
    source: Mapping[str, Any]

    @classmethod
    def beside(cls, shard: str | os.PathLike[str]) -> Self | None:
        """The sidecar of ``shard``, or of the file that it is a link to; None where there is none.

        Raises FormatError for a file of that name that isn't a sidecar, and OSError.
        """
        for place in (Path(shard), Path(os.path.realpath(shard))):
            path = sidecar_path(place)
            if path.is_file():
                return cls._read(path)
        return None

    @classmethod
    def _read(cls, path: Path) -> Self:
        found = read_json(path, _LARGEST)
        try:
            if found["format"] != _FORMAT:
                raise FormatError(f"{path}: sidecar format {found['format']!r}; this program reads {_FORMAT}")
            shard, made_with = found["shard"], found["tokenizer"]
            numbers = [shard["tokens"], shard["documents"], shard["text_bytes"]]
            ids = [made_with["vocab_size"], made_with["bos_id"]]
            digests = [shard["sha256"], made_with["sha256"]]
            if not all(type(number) is int and number >= 0 for number in numbers + ids):
                raise ValueError("a count is not a whole number")
            if not all(type(digest) is str and len(bytes.fromhex(digest)) == 32 for digest in digests):
                raise ValueError("a hash is not one of SHA-256")
            if not ids[1] < ids[0] <= 1 << 16:
                raise ValueError("its document token is outside its vocabulary")
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                f"{path}: not what `hybridlm data shard` leaves beside a shard ({error}); remove it to use "
                "the shard without it"
            ) from None
        source = found.get("source")
        return cls(
            tokens=numbers[0],
            documents=numbers[1],
            text_bytes=numbers[2],
            sha256=digests[0],
            vocabulary=Vocabulary(size=ids[0], bos_id=ids[1], fingerprint=digests[1]),
            source=source if isinstance(source, dict) else {},
        )

    def to_json(self) -> str:
        """The file's text: the same for the same shard and settings."""
        content = {
            "format": _FORMAT,
            "shard": {
                "tokens": self.tokens,
                "documents": self.documents,
                "text_bytes": self.text_bytes,
                "sha256": self.sha256,
            },
            "tokenizer": {
                "sha256": self.vocabulary.fingerprint,
                "vocab_size": self.vocabulary.size,
                "bos_id": self.vocabulary.bos_id,
            },
            "source": dict(self.source),
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def check(self, shard: str, tokens: int, sha256: str | None = None) -> None:
        """Raises InputError unless it is of this shard, which has ``tokens`` tokens and that hash."""
        if self.tokens != tokens or sha256 not in (None, self.sha256):
            raise InputError(
                f"{shard}: not the shard that {sidecar_path(shard).name} describes: it was replaced or "
                "altered; remove the .json file if the shard is the one you mean"
            )


def write_sidecar(
    shard: Path,
    tokens: NDArray[np.uint16],
    vocabulary: Vocabulary,
    *,
    text_bytes: int = 0,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Leaves the sidecar of a shard that has just been written. Raises OSError."""
    with open_to_read(shard) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    documents = int(np.count_nonzero(tokens == vocabulary.bos_id))
    sidecar = Sidecar(len(tokens), documents, text_bytes, sha256, vocabulary, source or {})
    atomic_write_text(sidecar_path(shard), sidecar.to_json())


def sidecar_path(shard: str | os.PathLike[str]) -> Path:
    path = Path(shard)
    return path.with_name(path.name + SUFFIX)
