"""What a score was made of: which files, by their hashes, which settings and which versions.

It is part of the score. `hybridlm verify` reads it back, holds the files against their hashes, scores again
and compares.
"""

import dataclasses
import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hybridlm import __version__
from hybridlm.data.shards import ShardRecord
from hybridlm.errors import FormatError
from hybridlm.files import open_to_read


@dataclass(frozen=True)
class FileRecord:
    """A file that was read: the path it was given by, its bytes, its SHA-256 as 64 hex digits."""

    path: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        """Raises OSError."""
        with open_to_read(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(os.fspath(path), file.tell(), digest)


@dataclass(frozen=True)
class Provenance:
    """What a score was made of.

    Attributes:
        command: the command that made it, ``eval`` or ``oracle eval``.
        scored: the artifact's or the oracle's file.
        tokenizer: the tokenizer's file; ``bos_id`` is the token that documents begin with.
        shards: the stream, in order, and ``max_tokens`` how much of it was read; None: all.
        repeated_tokens: how many of its tokens are those of documents that are exact copies of earlier ones.
        stated_bytes: files that state the bytes of each token; none: those of the decoded text count.
        settings: the protocol's choices as they were resolved, by name.
        versions: of the programs that took part, by name.
    """

    command: str
    scored: FileRecord
    tokenizer: FileRecord
    bos_id: int
    shards: tuple[ShardRecord, ...]
    max_tokens: int | None
    repeated_tokens: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    stated_bytes: tuple[ShardRecord, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, found: Any, where: str) -> Self:
        """What `as_dict` gave, read back. Raises FormatError, calling the place ``where``."""
        try:
            return cls(
                command=_typed(found["command"], str),
                scored=_record(FileRecord, found["scored"]),
                tokenizer=_record(FileRecord, found["tokenizer"]),
                bos_id=_typed(found["bos_id"], int),
                shards=tuple(_record(ShardRecord, shard) for shard in found["shards"]),
                max_tokens=None if found["max_tokens"] is None else _typed(found["max_tokens"], int),
                repeated_tokens=_typed(found["repeated_tokens"], int),
                settings=_typed(found["settings"], dict),
                versions=_typed(found["versions"], dict),
                stated_bytes=tuple(_record(ShardRecord, file) for file in found.get("stated_bytes", ())),
            )
        except (KeyError, TypeError) as error:
            raise FormatError(
                f"{where}: doesn't say what the score was made of ({error}); scores do that since version 0.2"
            ) from None


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    if isinstance(value, str) and "\0" in value:
        raise TypeError(f"{value!r} holds a NUL")
    return value


def _record(cls: Any, found: Any) -> Any:
    hints = {field.name: field.type for field in dataclasses.fields(cls)}
    kinds: dict[Any, type] = {"str": str, "int": int, str: str, int: int}
    return cls(**{name: _typed(found[name], kinds[hint]) for name, hint in hints.items()})


def versions() -> dict[str, str]:
    """Of what can change a score's last digits; torch's only where it has been loaded."""
    found = {
        "hybridlm": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    if torch := sys.modules.get("torch"):
        found["torch"] = torch.__version__
    return found
