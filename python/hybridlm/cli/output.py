"""What commands print on stdout: one JSON object for programs, tables for people."""

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from hybridlm.provenance import Provenance

_SHOWN = 8
"""Shards that are listed one by one."""

_PIPE_WIDTH = 140
"""Columns where there is no terminal to ask for its width."""


def print_json(value: dict[str, Any]) -> None:
    """One object on one line."""
    print(json.dumps(value))


def number_table(name: str, *numbers: str, framed: bool = True) -> "Table":
    """A table whose rows have a name and, to the right of it, numbers."""
    from rich import box
    from rich.table import Table

    table = Table(name, box=box.HEAVY_HEAD if framed else None, pad_edge=framed)
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
