"""Writing files so that a reader never meets half of one, and reading small ones that may hold anything."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from hybridlm.errors import FormatError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that becomes ``path`` only when the block ends without an exception.

    The bytes go to a temporary sibling, are flushed to the disk, and are renamed into place; on any
    exception, Ctrl-C among them, the sibling is removed and ``path`` is as it was. Raises OSError.
    """
    path = Path(path)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        # The user named `path` and has never heard of the sibling.
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a result gets the mode that an ordinary open() would have given it.
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    atomic_write_bytes(path, text.encode())


def read_json(path: str | os.PathLike[str], largest: int) -> Any:
    """The JSON value of a file of at most ``largest`` bytes. Raises FormatError naming it, or OSError."""
    with Path(path).open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise FormatError(f"{os.fspath(path)}: more than {largest:,} bytes, too large for what it should be")
    try:
        return json.loads(data, object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{os.fspath(path)}: not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    except (ValueError, RecursionError) as error:  # also integers too long, and nesting too deep
        raise FormatError(f"{os.fspath(path)}: not JSON: {error}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. A member that comes twice would mean different things to different readers."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object with two members {repeated!r}")
    return found
