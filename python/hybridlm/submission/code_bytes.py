"""How many bytes of code a submission has.

The challenge counts "code bytes plus compressed model bytes": the script's file as it is, uncompressed unless
it unpacks itself. Libraries that it imports are not counted, and neither is the tokenizer. Counted here is
every file of a record's folder that is Python, a shared library or another language's source, whatever its
name; not counted are logs, README, JSON, requirements and the model.

hybridlm is such a library. Who thinks that its scoring code ought to be paid for gets that number, too: its
Python files and its native library, as one tar archive compressed by xz.
"""

import io
import lzma
import tarfile
from functools import cache
from pathlib import Path

CODE_SUFFIXES = frozenset(
    {".py", ".pyx", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".rs", ".so", ".pyd", ".sh", ".toml"}
)


def code_files(folder: Path) -> list[Path]:
    """The files of ``folder`` that count as code, in order of their names. Raises OSError."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in CODE_SUFFIXES)


def code_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in code_files(folder))


@cache
def library_bytes() -> int:
    """hybridlm's own code, compressed. It depends on the platform that the native library is built for."""
    package = Path(__file__).parents[1]
    files = [path for path in package.rglob("*") if path.suffix in {".py", ".so", ".pyd", ".toml"}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(files):
            entry = tarfile.TarInfo(path.relative_to(package).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return len(lzma.compress(buffer.getvalue(), preset=6))
