"""Kinds of arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import tyro


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
