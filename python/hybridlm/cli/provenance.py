"""What a score was made of, as a person reads it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybridlm.provenance import Provenance

_SHOWN = 8
"""Shards that are listed one by one."""


def print_provenance(made_of: "Provenance") -> None:
    """The files that a score was made of, with the SHA-256 of each; many shards are cut short."""
    files = [(record.path, record.sha256) for record in (made_of.scored, made_of.tokenizer)]
    files += [(shard.path, shard.sha256) for shard in made_of.shards[:_SHOWN]]
    width = max(len(path) for path, _ in files)
    for path, sha256 in files:
        print(f"{path:{width}}  sha256 {sha256}")
    if len(made_of.shards) > _SHOWN:
        print(f"and {len(made_of.shards) - _SHOWN} more shards, which --json lists")
