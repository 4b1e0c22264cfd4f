"""Text files as people have them: single, in folders, matched by globs, on stdin; plain or compressed.

What a file is decides how it is opened, not what it is called: gzip, bzip2, xz and zstd by the bytes that
each begins with (RFC 1952, RFC 8878 and their own documents), Parquet by its magic. lz4, for which Python has
no decoder, is left to `text_encoding.check_beginning`, which says how to convert it.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from hybridlm import _core
from hybridlm.data.origin import Origin
from hybridlm.data.shards import expand
from hybridlm.errors import FormatError, InputError
from hybridlm.files import open_to_read

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STDIN = Path("-")
"""What stands for stdin among paths."""

_MAGICS = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip"),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2"),
    (re.compile(rb"\xfd7zXZ\0"), "xz"),
    # A frame, or a skippable frame before one.
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zstd"),
    # A text could begin with the magic, but not with the first byte of a page's header, which comes next.
    (re.compile(rb"PAR1\x15"), "parquet"),
)
_MAGIC_BYTES = 16
_PIECE = 1 << 17
_TESTED = 1 << 20


def find(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that ``paths`` name: files, folders, globs, and "-" for stdin.

    Of a folder all files, those of folders in it as well, sorted by their paths; of a glob the files that
    match and those in folders that match, each once, sorted; neither gives anything hidden. Raises InputError
    for a glob without a match, a folder without a file and for stdin that is named twice, FileNotFoundError
    for what isn't there.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path == STDIN:
            if STDIN in found:
                raise InputError("- is named twice, but stdin can be read once")
            found.append(STDIN)
        elif path.is_dir():
            found += _files_in(path)
        elif any(mark in str(path) for mark in "*?[") and not path.exists():
            # "**" gives a folder and the files in it, which are meant once.
            matches = (_files_in(match) if match.is_dir() else [match] for match in expand(path))
            found += dict.fromkeys(chain.from_iterable(matches))
        else:
            path.stat()
            found.append(path)
    return found


def _files_in(folder: Path) -> list[Path]:
    files = []
    for inside, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(inside, name) for name in names if not name.startswith(".")]
    if not files:
        raise InputError(f"{folder}: a folder without files")
    return sorted(files)


def total_bytes(files: Sequence[Path]) -> int | None:
    """Bytes of ``files``, compressed or not; None where stdin is among them."""
    return None if STDIN in files else sum(file.stat().st_size for file in files)


@dataclass(frozen=True)
class Opened:
    """An open file: ``name`` is what errors call it, ``stream`` its content, decompressed.

    kind: ``text``, ``parquet``, or what the content was compressed with. A Parquet file is read by its path
    and has an empty stream.
    """

    name: Path
    kind: str
    stream: BinaryIO
    is_stdin: bool = False

    @property
    def origin(self) -> Origin:
        return Origin(self.name, "" if self.kind in ("text", "parquet") else self.kind, self.is_stdin)


@contextmanager
def open_file(file: Path, on_bytes: Callable[[int], None]) -> Iterator[Opened]:
    """Opens a file that `find` has found. ``on_bytes`` is told of bytes that are read, before decompression.

    Reading the stream raises FormatError where compressed data is damaged or cut off, and OSError.
    """
    name = Path("stdin") if file == STDIN else file
    raw = sys.stdin.buffer if file == STDIN else open_to_read(file)
    try:
        head = raw.read(_MAGIC_BYTES)
        kind = next((kind for magic, kind in _MAGICS if magic.match(head)), "text")
        counted: io.BufferedReader = io.BufferedReader(_Counted(head, cast(BinaryIO, raw), on_bytes), _PIECE)
        if kind == "parquet":
            if file == STDIN:
                raise InputError(
                    "stdin: a Parquet file, which is read from its end: give its path instead of -"
                )
            yield Opened(name, kind, io.BytesIO())
        elif kind == "text":
            yield Opened(name, kind, cast(BinaryIO, counted), file == STDIN)
        else:
            content = _Guarded(name, kind, _decompressed(kind, counted, name))
            yield Opened(name, kind, cast(BinaryIO, io.BufferedReader(content, _PIECE)), file == STDIN)
    finally:
        if file != STDIN:
            raw.close()


def _decompressed(kind: str, counted: io.BufferedReader, name: Path) -> io.BufferedIOBase | io.RawIOBase:
    match kind:
        case "gzip":
            return gzip.GzipFile(fileobj=counted, mode="rb")
        case "bzip2":
            return bz2.BZ2File(counted)
        case "xz":
            return lzma.LZMAFile(counted)
        case _:
            return _Zstd(counted, str(name))


class _Counted(io.RawIOBase):
    """``head`` and then the rest of ``raw``, all of it told to ``on_bytes``."""

    def __init__(self, head: bytes, raw: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._head = head
        self._raw = raw
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        data = self._head[: len(view)] or self._raw.read(len(view))
        self._head = self._head[len(data) :]
        view[: len(data)] = data
        self._on_bytes(len(data))
        return len(data)


class _Zstd(io.RawIOBase):
    """The content of zstd frames."""

    def __init__(self, source: io.BufferedReader, name: str) -> None:
        self._source = source
        self._name = name
        self._decoder = _core.ZstdDecoder(name)
        self._needs_input = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        while True:
            data = self._source.read(_PIECE) if self._needs_input else b""
            if self._needs_input and not data:
                if self._decoder.inside_frame:
                    raise EOFError
                return 0
            content = self._decoder.decode(data, len(view))
            self._needs_input = len(content) < len(view)
            if content:
                view[: len(content)] = content
                return len(content)


class _Guarded(io.RawIOBase):
    """A decompressor whose complaints name the file."""

    def __init__(self, name: Path, kind: str, content: io.BufferedIOBase | io.RawIOBase) -> None:
        self._name = name
        self._kind = kind
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        try:
            # Small pieces, so that little is lost where decompression fails in the middle.
            return self._content.readinto(view[:_TESTED]) or 0
        except EOFError:
            raise FormatError(
                f"{self._name}: the {self._kind} data is cut off: copy the file again"
            ) from None
        except FormatError:
            raise
        except (OSError, zlib.error, lzma.LZMAError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise FormatError(f"{self._name}: the {self._kind} data is damaged: {error}") from None
