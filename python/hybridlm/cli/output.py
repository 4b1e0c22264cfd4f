"""What commands write: results to files, one JSON object for programs and tables for people to stdout."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from hybridlm.provenance import Provenance

_SHOWN = 8
"""Shards that are listed one by one."""

_PIPE_WIDTH = 140
"""Columns where there is no terminal to ask for its width."""


_STANDARD = Path("-")
"""Stands for stdin where a command has one input, and for stdout where it has one output."""


def is_standard(path: Path) -> bool:
    return path == _STANDARD


def check_output(path: Path) -> None:
    """`hybridlm.files.check_output`, to be called before the work whose result goes to ``path``."""
    if not is_standard(path):
        # Imported late, so that the doctor can print what it finds where the extension can't be loaded.
        from hybridlm import files

        files.check_output(path)


def write_output(path: Path, data: bytes) -> None:
    """Writes a command's result. Raises OSError."""
    if not is_standard(path):
        from hybridlm import files

        files.atomic_write_bytes(path, data)
        return
    # What has been printed so far comes first.
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """The file to write a command's result to: ``path``, or one that goes to stdout when the block ends."""
    if not is_standard(path):
        yield path
        return
    from hybridlm.files import read_bytes, scratch_folder

    with scratch_folder() as folder:
        yield folder / "output"
        write_output(path, read_bytes(folder / "output"))


def read_input(path: Path) -> tuple[bytes, str]:
    """A command's one input, and what errors call it. Raises OSError."""
    if is_standard(path):
        return sys.stdin.buffer.read(), "standard input"
    from hybridlm.files import read_bytes

    return read_bytes(path), str(path)


def print_json(value: dict[str, Any]) -> None:
    """One object on one line."""
    print(json.dumps(value))


def number_of(count: int, noun: str) -> str:
    """``count`` of them, such as "1 document" and "1,000 documents"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def number_table(name: str, *numbers: str, framed: bool = True) -> "Table":
    """A table whose rows have a name and, to the right of it, numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.HEAVY_HEAD if framed else None, pad_edge=framed)
    # A long path goes on in the next line, where it would be cut short.
    table.add_column(name, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def print_table(table: "Table") -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def print_provenance(made_of: "Provenance") -> None:
    """The files that a score was made of, with the SHA-256 of each; many shards are cut short."""
    files = [(record.path, record.sha256) for record in (made_of.scored, made_of.tokenizer)]
    files += [(shard.path, shard.sha256) for shard in made_of.shards[:_SHOWN]]
    width = max(len(path) for path, _ in files)
    for path, sha256 in files:
        print(f"{path:{width}}  sha256 {sha256}")
    if len(made_of.shards) > _SHOWN:
        print(f"and {len(made_of.shards) - _SHOWN} more shards, which --json lists")
