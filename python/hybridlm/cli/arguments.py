"""Kinds of arguments that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hybridlm.cli.options import Range
from hybridlm.threads import MOST

if TYPE_CHECKING:
    from hybridlm.data.tokenizer import Tokenizer


Count = Annotated[int, Range(1)]
"""How many there are of something that must be there."""

Natural = Annotated[int, Range(0)]

Threads = Annotated[int, Range(1, MOST)]
"""Threads, or processes."""

Margin = Annotated[float, Range(-1000, 1000)]
"""Bits per byte."""

TokenId = Annotated[int, Range(0, (1 << 16) - 1)]

Pieces = Annotated[int, Range(257, 1 << 16)]
"""Of a tokenizer that is trained here: one for each byte and more. A token has 16 bits."""

Fraction = Annotated[float, Range(0, 1, below=True)]

VocabSize = Annotated[int, Range(1, 1 << 16)]
"""Of a tokenizer from elsewhere."""


def _at_least_one(words: list[str]) -> tuple[Path, ...]:
    if not words:
        raise ValueError("at least one file is needed")
    return tuple(map(Path, words))


Files = tyro.conf.Positional[
    Annotated[
        tuple[Path, ...],
        tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar="FILE [FILE ...]",
            instance_from_str=_at_least_one,
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [str(path) for path in value],
        ),
    ]
]
"""One or more files, named without an option; none is wrong usage."""


@dataclass(frozen=True)
class TokenizerChoice:
    """The tokenizer that everything a command reads must have been made with."""

    tokenizer: Path
    """What the other files were made with: a SentencePiece model, or a byte-level tokenizer.json."""
    bos_id: TokenId | None = None
    """The token that documents begin with, where the tokenizer has no BOS piece or documents have another."""

    def load(self) -> "Tokenizer":
        from hybridlm.data.tokenizer import Tokenizer

        return Tokenizer.load(self.tokenizer, self.bos_id)


ChosenTokenizer = Annotated[TokenizerChoice, tyro.conf.arg(name="")]
"""``--tokenizer`` and ``--bos-id``."""

Out = Annotated[Path, tyro.conf.arg(aliases=["-o", "--output"])]
"""``-o`` and ``--out``, the same in every command that writes; ``--output`` is an earlier name."""

OptionalOut = Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--output"])]
"""As `Out`, where nothing need be written, or where there is a default."""

Glob = Annotated[str, tyro.conf.arg(metavar="GLOB")]
"""Shards: a glob, quoted so that the shell leaves it alone."""

OptionalGlob = Annotated[str | None, tyro.conf.arg(metavar="GLOB")]
