"""Writing files so that a reader never meets half of one, and reading small ones that may hold anything."""

import errno
import hashlib
import io
import json
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, cast

from hybridlm import _core
from hybridlm.errors import FormatError, InputError

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves has to be removed by hand
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("hybridlm.files")

# Names that only this program makes, in Python and in Rust: PREFIX PID - NUMBER SUFFIX.
_PREFIX = ".hybridlm-"
_SUFFIX = ".part"
_FOLDER_SUFFIX = ".folder"
_numbers = count()


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that becomes ``path`` only when the block ends without an exception.

    The bytes go to a temporary sibling, are flushed to the disk, and are renamed into place; on any
    exception, Ctrl-C among them, the sibling is removed and ``path`` is as it was. Where ``path`` is a
    symbolic link, the link stays and its target is replaced. A device or a FIFO is written through, since
    there is nothing to replace. Raises OSError, naming ``path``.
    """
    path = Path(path)
    target = _target(path)
    if target is None:
        with _Output(os.open(path, os.O_WRONLY), path) as raw, io.BufferedWriter(raw) as stream:
            yield cast(BinaryIO, stream)
        return
    descriptor, sibling = _locked_sibling(target.parent, path)
    # Windows renames no file that is open, and has no locks to keep here.
    lock = None if fcntl is None else os.dup(descriptor)
    try:
        with _Output(descriptor, path) as raw, io.BufferedWriter(raw) as file:
            yield cast(BinaryIO, file)
            file.flush()
            with naming(path):
                os.fsync(descriptor)
        # The sibling is private; a result gets the mode that an ordinary open() would have given it.
        umask = os.umask(0)
        os.umask(umask)
        with naming(path):
            sibling.chmod(0o666 & ~umask)
            sibling.replace(target)
    except BaseException:
        sibling.unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    atomic_write_bytes(path, utf8(text))


def utf8(text: str) -> bytes:
    r"""``text`` in UTF-8. Bytes of a file's name that aren't UTF-8 become ``\udcNN``, as JSON writes them."""
    return text.encode(errors="backslashreplace")


def check_output(path: str | os.PathLike[str]) -> None:
    """Checks, before the work begins, that its result can be written to ``path``.

    Raises OSError, naming ``path``, for a folder and for a place that can't be written to; InputError where
    its folder doesn't exist. Removes what killed processes have left beside it.
    """
    path = Path(path)
    target = _target(path)
    if target is None:
        return
    if not target.parent.is_dir():
        raise InputError(f"{path}: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    sweep(target.parent)


def is_written_through(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a device or a FIFO, which can be written once and not be read again."""
    return _target(Path(path)) is None


def _target(path: Path) -> Path | None:
    """The file to replace: ``path``, or what it is a link to. None: a device or FIFO to write through."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # perhaps a link to where there is nothing yet
        return Path(os.path.realpath(path)) if path.is_symlink() else path
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        return None
    return Path(os.path.realpath(path)) if path.is_symlink() else path


class _Output(io.FileIO):
    """Names its file when a write fails, such as on a full disk; the system's own error doesn't."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "wb")
        self._path = path

    def write(self, data: Any, /) -> int:
        with naming(self._path):
            return super().write(data)


class _Input(io.FileIO):
    """Names its file when a read fails."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "rb")
        self._path = path

    def read(self, size: int | None = -1, /) -> Any:
        with naming(self._path):
            return super().read(size)

    def readall(self) -> Any:
        with naming(self._path):
            return super().readall()

    def readinto(self, buffer: Any, /) -> Any:
        with naming(self._path):
            return super().readinto(buffer)


def open_to_read(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A binary file whose errors name it, as Python's own do only when it can't be opened.

    Raises OSError, and InputError for a device that never ends, such as /dev/zero.
    """
    file = _Input(os.fspath(path))
    if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty() and file.read(1):
        file.close()
        raise InputError(f"{os.fspath(path)}: a device, which has no end; name a file")
    return io.BufferedReader(file)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All that a file holds. Raises OSError, naming it."""
    with open_to_read(path) as file:
        return file.read()


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within the block an OSError is one of ``path``, whatever file it names or doesn't."""
    try:
        yield
    except OSError as error:
        # The user named `path` and has never heard of the sibling.
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _locked_sibling(folder: Path, path: Path) -> tuple[int, Path]:
    """A new file in ``folder``, open for writing; the lock on it says that its process is alive."""
    while True:
        sibling = folder / f"{_PREFIX}{os.getpid()}-{next(_numbers)}{_SUFFIX}"
        try:
            with naming(path):
                descriptor = os.open(sibling, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:  # left by a killed process that had the same number
            continue
        if _lock(descriptor) and _is_still(sibling, descriptor):
            return descriptor, sibling
        os.close(descriptor)  # somebody has swept it between the two calls


def _lock(descriptor: int) -> bool:
    """Whether nobody else holds the lock. A file system without locks says that nobody does."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        there, opened = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)


@contextmanager
def scratch_folder(parent: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """A new hidden folder in ``parent`` (by default where temporary files go), gone when the block ends.

    First it removes those of processes that were killed. Raises OSError.
    """
    parent = Path(tempfile.gettempdir() if parent is None else parent)
    sweep(parent)
    descriptor, sibling = _locked_sibling(parent, parent)
    folder = sibling.with_suffix(_FOLDER_SUFFIX)
    try:
        folder.mkdir(0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        sibling.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def exclusive(path: str | os.PathLike[str], *, folder: bool = False) -> Iterator[None]:
    """Within the block no other process is in such a block for the same ``path``.

    The lock is a file beside ``path``, or in it if it is a ``folder``, which must be there.
    Raises InputError, with the other's process id, where one is; OSError.
    """
    path = Path(path)
    if fcntl is None:
        yield
        return
    lock = path / ".lock" if folder else path.with_name(f".{path.name}.lock")
    while True:
        with naming(path):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        if not _lock(descriptor):
            other = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
            os.close(descriptor)
            raise InputError(
                f"{path}: another process, {other}, is at work on it: wait for that, or write to another "
                + ("folder" if folder else "file")
            )
        if _is_still(lock, descriptor):
            break
        os.close(descriptor)  # the one before has just ended and removed it
    try:
        with naming(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Removes from ``folder`` what killed processes were writing, and says so.

    A process holds a lock on the file it writes, and the lock ends with the process. So a file that can be
    locked belongs to no running process, whatever machine or container it is from.
    """
    if fcntl is None:
        return
    swept = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                with suppress(OSError):  # another sweeper was faster, or it belongs to another user
                    swept += _removed(Path(entry.path))
    if swept:
        log.info("%s: removed %d unfinished results of processes that were killed", folder, swept)


def _removed(sibling: Path) -> bool:
    """Removes ``sibling``, and the folder that goes with it, unless its process is alive."""
    descriptor = os.open(sibling, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its process is alive; or there are no locks here, and nobody can tell
            return False
        if os.fstat(descriptor).st_uid != os.geteuid() or not _is_still(sibling, descriptor):
            return False
        shutil.rmtree(sibling.with_suffix(_FOLDER_SUFFIX), ignore_errors=True)
        sibling.unlink()
        return True
    finally:
        os.close(descriptor)


_CHECKSUM = "checksum"


def write_json(path: str | os.PathLike[str], members: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Writes a JSON object whose last member is a checksum of the others; `read_json` compares it.

    Raises OSError.
    """
    plain = json.loads(json.dumps(members))
    text = json.dumps({**plain, _CHECKSUM: _checksum(plain)}, indent=indent)
    atomic_write_text(path, text + "\n")


def read_json(path: str | os.PathLike[str], largest: int) -> Any:
    """The JSON value of a file of at most ``largest`` bytes, without the checksum that an object may have.

    Raises FormatError naming the file, also where it isn't what its checksum is of; OSError.
    """
    with open_to_read(path) as file:
        data = file.read(largest + 1)
    name = os.fspath(path)
    if len(data) > largest:
        raise FormatError(f"{name}: more than {largest:,} bytes, too large for what it should be")
    value = parse_json(data, name)
    if isinstance(value, dict) and _CHECKSUM in value and value.pop(_CHECKSUM) != _checksum(value):
        raise FormatError(
            f"{name}: damaged or altered: its checksum is that of other content; remove the member "
            f"{_CHECKSUM!r} to read it all the same"
        )
    return value


def _checksum(members: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of plain JSON values, however they are laid out."""
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def parse_json(data: str | bytes, what: str) -> Any:
    """The JSON value of ``data``. Raises FormatError, calling it ``what``, for anything else."""
    try:
        return json.loads(data, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:  # also integers too long, and nesting too deep
        if isinstance(data, bytes) and (kind := _core.looks_like(data)) not in (None, "text"):
            raise FormatError(f"{what}: not JSON: it looks like {kind}") from None
        if isinstance(error, UnicodeDecodeError):
            raise FormatError(f"{what}: not UTF-8 text: {error.reason} at byte {error.start}") from None
        raise FormatError(f"{what}: not JSON: {error}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. A member that comes twice would mean different things to different readers."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object with two members {repeated!r}")
    return found
