"""The text of `hybridlm COMMAND --help`."""

import shutil
import textwrap
from collections.abc import Iterator

from hybridlm.cli.examples import EXAMPLES
from hybridlm.cli.options import Described, Option

_WIDEST = 110
_INDENT = 26


def help_text(command: str, described: Described) -> str:
    """What ``command`` does, what it can be told, and examples of it."""
    width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)
    required = [option for option in described.options if option.required]
    parts = [option.written for option in required if not option.names]
    parts += [f"[{option.written}]" for option in described.options if not (option.names or option.required)]
    parts += [option.written.split(", ")[-1] for option in required if option.names]
    usage = textwrap.fill(
        " ".join([f"usage: hybridlm {command}", *parts, "[OPTIONS]"]), width, subsequent_indent="    "
    )
    lines = [usage, "", *textwrap.wrap(described.summary, width)]
    for paragraph in filter(None, described.details.split("\n\n")):
        lines += ["", *textwrap.wrap(" ".join(paragraph.split()), width)]
    lines += ["", "examples:", *(f"  {line}" for line in EXAMPLES[command])]
    for title, options in _groups(described):
        lines += ["", *textwrap.wrap(title, width)]
        for option in options:
            lines += _option(option, width)
    return "\n".join(lines)


def _groups(described: Described) -> Iterator[tuple[str, list[Option]]]:
    single = [option for option in described.options if not option.group]
    if placed := [option for option in single if not option.names]:
        yield "arguments:", placed
    if required := [option for option in single if option.names and option.required]:
        yield "required:", required
    shown = Option(("-h", "--help"), None, "Show this help.", "", False, "")
    yield "options:", [shown, *(option for option in single if option.names and not option.required)]
    for group, text in described.groups.items():
        if options := [option for option in described.options if option.group == group]:
            yield f"{group}: {text}", options


def _option(option: Option, width: int) -> list[str]:
    text = option.help + (f" (default: {option.default})" if option.default else "")
    head = f"  {option.written}"
    body = textwrap.wrap(text, max(30, width - _INDENT)) or [""]
    indented = [" " * _INDENT + line for line in body]
    if len(head) + 2 <= _INDENT:
        return [(f"{head:{_INDENT}}" + body[0]).rstrip(), *indented[1:]]
    return [head, *indented]
