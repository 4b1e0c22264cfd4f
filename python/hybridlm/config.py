"""Settings in layers: defaults < preset (TOML) < environment < command line.

A command's settings are one dataclass, nested where it helps. :func:`resolve` gives the instance that the
first three layers make; the command line is parsed on top of it. Environment names are declared beside
the field they set: ``field(default=0.5, metadata={"environment": "LEAKY_RELU_SLOPE"})``.
"""

import contextlib
import dataclasses
import os
import textwrap
import tomllib
import types
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from hybridlm.errors import InputError, UsageError
from hybridlm.files import read_bytes

T = TypeVar("T")


def preset_names() -> list[str]:
    folder = resources.files("hybridlm") / "presets"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_preset(name: str) -> dict[str, Any]:
    """The preset called ``name``, or the TOML file of that path. Raises UsageError for another name,
    InputError for another file, OSError."""
    if name in preset_names():
        return tomllib.loads((resources.files("hybridlm") / "presets" / f"{name}.toml").read_text())
    path = Path(name)
    if path.suffix != ".toml":
        raise UsageError(
            f"no preset is called {name!r}; there are {', '.join(preset_names())}, or a .toml file"
        )
    try:
        return tomllib.loads(read_bytes(path).decode())
    except (ValueError, RecursionError) as error:  # also integers too long, and nesting too deep
        raise InputError(f"{path}: not a TOML file: {error}") from None


def resolve(cls: type[T], preset: str | None = None, environment: Mapping[str, str] = os.environ) -> T:
    """An instance of the dataclass ``cls`` from its defaults, ``preset`` and ``environment``.

    Raises InputError for a name that ``cls`` doesn't have or a value of the wrong type, naming both.
    """
    values = load_preset(preset) if preset else {}
    return _build(cls, values, environment, f"preset {preset}", "")


def from_values(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    """An instance of the dataclass ``cls`` from its defaults and ``values`` alone, as `as_dict` gave them.

    Raises InputError, calling their origin ``source``, as `resolve` does.
    """
    return _build(cls, values, {}, source, "")


def _build(
    cls: type[T], values: Mapping[str, Any], environment: Mapping[str, str], source: str, prefix: str
) -> T:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise InputError(f"{source}: there is no setting {prefix}{name}; there are {', '.join(fields)}")
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            section = values.get(name, {})
            if not isinstance(section, Mapping):
                raise InputError(f"{source}: {prefix}{name} must be a table")
            arguments[name] = _build(
                typing.cast(type, hint), section, environment, source, f"{prefix}{name}."
            )
            continue
        if name in values:
            arguments[name] = _checked(values[name], hint, f"{source}: {prefix}{name}")
        variable = field.metadata.get("environment")
        if variable and variable in environment:
            arguments[name] = _parsed(environment[variable], hint, variable)
    return cls(**arguments)


def check_ranges(settings: Any, prefix: str, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises InputError, naming the field, for a number of ``settings`` outside its range, ends included."""
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise InputError(f"{prefix}{name} must be from {low:,g} to {high:,g}, not {shown(value)}")


def shown(value: object) -> str:
    """``value`` as it is shown in an error: not all of it where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:80]}…"


def _options(hint: Any) -> list[Any]:
    """The types that ``hint`` admits: those of a union, or itself."""
    return (
        list(typing.get_args(hint)) if typing.get_origin(hint) in (typing.Union, types.UnionType) else [hint]
    )


def _checked(value: Any, hint: Any, where: str) -> Any:
    for option in _options(hint):
        if typing.get_origin(option) is typing.Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and type(value) in (int, float):
            with contextlib.suppress(OverflowError):
                return float(value)
        elif option is Path and isinstance(value, str):
            return Path(value)
        elif typing.get_origin(option) is tuple and isinstance(value, list):
            return tuple(_checked(item, typing.get_args(option)[0], where) for item in value)
        elif isinstance(option, type) and type(value) is option:
            return value
    raise InputError(f"{where} = {shown(value)} is not {_describe(hint)}")


def _parsed(text: str, hint: Any, variable: str) -> Any:
    for option in _options(hint):
        if typing.get_origin(option) is typing.Literal:
            if text in typing.get_args(option):
                return text
        elif option is bool:
            if text.lower() in ("1", "true", "yes", "0", "false", "no"):
                return text.lower() in ("1", "true", "yes")
        elif option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
        elif option in (str, Path):
            return option(text)
    raise InputError(f"{variable}={shown(text)} is not {_describe(hint)}")


def _describe(hint: Any) -> str:
    names = []
    for option in _options(hint):
        if typing.get_origin(option) is typing.Literal:
            names += [repr(choice) for choice in typing.get_args(option)]
        elif option is not types.NoneType:
            names.append(getattr(option, "__name__", str(option)))
    return "one of " + ", ".join(names) if len(names) > 1 else f"a value of type {names[0]}"


def as_dict(settings: Any) -> dict[str, Any]:
    """The dataclass as plain JSON values, nested as it is."""
    return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def readable(settings: Mapping[str, Any], width: int = 100) -> str:
    """``settings`` as `as_dict` gives them: a paragraph for each section, ``name value`` between commas."""
    lines = []
    single = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    sections = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    for title, section in [("", single), *sections.items()]:
        if section:
            words = ", ".join(f"{name} {_written(value)}" for name, value in section.items())
            head = f"{title}: " if title else ""
            lines += textwrap.wrap(
                head + words, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
            )
    return "\n".join(lines)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return "[" + " ".join(map(str, value)) + "]"
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def peek_option(arguments: list[str], name: str) -> str | None:
    """The value of ``name`` (such as ``--preset``) among command-line arguments, before they are parsed."""
    for index, argument in enumerate(arguments):
        if argument == name and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None
