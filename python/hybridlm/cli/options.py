"""What a command can be told: its options with their names, values, defaults and meaning.

Read from the same signatures, dataclasses and docstrings that tyro parses a command line by; a test holds
the two against each other. Help, suggestions for misspelt options and shell completion are made of it.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

HIDDEN = frozenset({"--output"})
"""Earlier names, which work on and are no longer shown."""

_SECTIONS = ("Args", "Raises", "Returns", "Attributes", "Yields", "Example", "Examples")


@dataclass(frozen=True)
class Range:
    """What a number may be, ends included; with ``below``, without the upper one. Stands in an annotation."""

    low: float
    high: float = 2**63 - 1
    below: bool = False

    def problem(self, number: float) -> str | None:
        """What is wrong with ``number``, such as "must be at least 1"."""
        if self.low <= number and (number < self.high if self.below else number <= self.high):
            return None
        if number < self.low:
            wanted = f"at least {self.low:,}"
        elif self.below:
            wanted = f"below {self.high:,}"
        elif number > self.high:
            wanted = f"at most {self.high:,}"
        else:
            wanted = "a number"
        return f"must be {wanted}"


@dataclass(frozen=True)
class Option:
    """One option, or one argument that is given by its place.

    Attributes:
        names: as they are written, the shortest first, such as ``-o`` and ``--out``; none for an argument
            that is given by its place.
        value: what stands for its value, such as INT; None for a switch.
        help: what it does.
        default: the value where it isn't given; empty where there is nothing to say.
        required: whether the command can't do without.
        group: of nested settings, what their names begin with (``model``); else empty.
        many: whether it takes several values.
        choices: all that it can be, if these can be listed.
        range: of a number, what it may be.
        read: what parses one word of its value, and raises ValueError.
    """

    names: tuple[str, ...]
    value: str | None
    help: str
    default: str
    required: bool
    group: str
    many: bool = False
    choices: tuple[str, ...] = ()
    range: Range | None = None
    read: Callable[[str], object] = str

    def problem(self, word: str) -> str | None:
        """What is wrong with ``word`` as its value, such as "--rows must be at least 1, not 0"."""
        try:
            self.read(word)
        except ValueError as error:
            problem = str(error)
            if not problem.startswith("must be "):
                return f"{self.name}: {problem if len(problem) <= 150 else problem[:150] + '…'}"
            shown = word if len(word) <= 40 else word[:40] + "…"
            return f"{self.name} {problem}, not {shown or repr(word)}"
        return None

    @property
    def name(self) -> str:
        return self.names[-1] if self.names else self.value or ""

    @property
    def shown_names(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name not in HIDDEN)

    @property
    def written(self) -> str:
        """As it is written, such as ``-o, --out PATH``."""
        return " ".join(part for part in (", ".join(self.shown_names), self.value) if part)


@dataclass(frozen=True)
class Described:
    """A command: what it does, all that it can be told, and what its groups of settings are for."""

    summary: str
    details: str
    options: tuple[Option, ...]
    groups: Mapping[str, str]

    @property
    def by_name(self) -> dict[str, Option]:
        return {name: option for option in self.options for name in option.names}


def describe(target: Any, defaults: Any = None) -> Described:
    """The command whose function or dataclass is ``target``.

    ``defaults`` is an instance of the dataclass that holds what the preset and the environment say.
    """
    docstring = inspect.getdoc(target) or ""
    groups: dict[str, str] = {}
    options = tuple(_options(target, defaults, "", groups))
    # An argument that is given by its place comes first, as in the usage line.
    ordered = sorted(options, key=lambda option: (bool(option.names), option.group != ""))
    summary, _, details = _prose(docstring).partition("\n\n")
    return Described(" ".join(summary.split()), details, tuple(ordered), groups)


def wrong_usage(described: Described, arguments: Sequence[str], command: str) -> str | None:
    """One line about the first option that the command doesn't have or whose value can't be, or about those
    that it lacks."""
    known = described.by_name
    given: set[str] = set()
    places = [option for option in described.options if not option.names]
    several = next((place for place in places if place.many), None)
    many: Option | None = None
    words = iter(arguments)
    for word in words:
        if word == "--":
            places = []
            break
        if not word.startswith("-") or word == "-" or word[1:2].isdigit() or word[1:2] == ".":
            if many is None and not places:
                if several is not None:
                    return f"{word!r} stands apart from the other files: name them one after the other"
                return f"`{command}` has no place for {word!r}"
            place = many or places.pop(0)
            if problem := place.problem(word):
                return problem
            many = place if place.many else None
            continue
        name, equals, value = word.partition("=")
        option = known.get(_spelt(name))
        if option is None:
            return f"`{command}` has no option {name}{suggestion(_spelt(name), known)}"
        given.add(option.names[-1])
        many = option if option.many and not equals else None
        if option.value is None or many is not None:
            continue
        if not equals:
            following = next(words, None)
            if following is None:
                return f"{name} needs a value, {option.value}"
            value = following
        if problem := option.problem(value):
            return problem
    lacking = [place.name for place in places if place.required] + [
        option.written
        for option in described.options
        if option.required and option.names and option.names[-1] not in given
    ]
    if lacking:
        return f"`{command}` needs {' and '.join(lacking)}"
    return None


ELSEWHERE = {
    "--batch-size": ("--batch-tokens",),
    "--block-size": ("--sequence-length", "--window"),
    "--context-length": ("--sequence-length", "--window"),
    "--epochs": ("--iterations",),
    "--learning-rate": ("--optimizer.matrix-lr", "--ttt-options.learning-rates"),
    "--lr": ("--optimizer.matrix-lr", "--ttt-options.learning-rates"),
    "--max-iters": ("--iterations",),
    "--max-steps": ("--iterations",),
    "--n-embd": ("--model.width",),
    "--n-head": ("--model.heads",),
    "--n-layer": ("--model.layers",),
    "--order": ("--orders",),
    "--output-dir": ("--out",),
    "--steps": ("--iterations",),
    "--validation": ("--val",),
}
"""What other trainers and toolkits call an option, and what it is called here, if the command has it."""


def suggestion(name: str, known: typing.Iterable[str]) -> str:
    """``; did you mean …?`` with what is spelt most like ``name``, or nothing."""
    candidates = [candidate for candidate in known if candidate not in HIDDEN]
    close = difflib.get_close_matches(name, candidates, n=2, cutoff=0.6)
    # `--layers` for `--model.layers`
    ends = [candidate for candidate in candidates if candidate.endswith("." + name.lstrip("-"))]
    elsewhere = [ours for ours in ELSEWHERE.get(name, ()) if ours in candidates]
    found = elsewhere or list(dict.fromkeys([*ends, *close]))[:2]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _spelt(name: str) -> str:
    """tyro takes ``--max_tokens`` for ``--max-tokens``."""
    return name.replace("_", "-")


def _options(target: Any, defaults: Any, prefix: str, groups: dict[str, str]) -> Iterator[Option]:
    is_class = inspect.isclass(target)
    hints = typing.get_type_hints(target, include_extras=True)
    helps = _field_docs(target) if is_class else _argument_docs(inspect.getdoc(target) or "")
    for name, default in _defaults(target, defaults).items():
        hint, extras = _unwrapped(hints[name])
        conf = next((extra for extra in extras if hasattr(extra, "help_behavior_hint")), None)
        if tyro.conf.Suppress in extras:
            continue
        shown = name if conf is None or conf.name is None else conf.name
        long = ".".join(part for part in (prefix, shown.replace("_", "-")) if part)
        if dataclasses.is_dataclass(hint) and not any(hasattr(extra, "nargs") for extra in extras):
            text = helps.get(name) or _prose(inspect.getdoc(hint) or "").partition("\n\n")[0]
            if long:
                groups[long] = " ".join(text.split())
            yield from _options(hint, None if _missing(default) else default, long, groups)
            continue
        text = " ".join((helps.get(name) or "").split())
        value: str | None
        value, many, choices = _value(hint, extras)
        if conf is not None and conf.metavar is not None:
            value = conf.metavar
        if tyro.conf.Positional in extras:
            value = value if many else name.upper().replace("_", "-")
            read = _reader(hint, extras, _range(hint, extras))
            # Of several files none would do, where no default says what is read then.
            required = _missing(default) or (many and not default)
            yield Option((), value, text, "", required, "", many, choices, read=read)
            continue
        names = [f"--{long}"]
        if hint is bool and not _missing(default):
            value = None
            if default:
                head, dot, tail = long.rpartition(".")
                names = [f"--{head}{dot}no-{tail}"]
                text = f"Switches off: {text}"
        if conf is not None and conf.aliases is not None:
            names = [*conf.aliases, *names]
        names.sort(key=lambda name: name.startswith("--"))
        label = "" if value is None or _missing(default) else _shown(default, extras)
        span = _range(hint, extras)
        read = _reader(hint, extras, span)
        yield Option(tuple(names), value, text, label, _missing(default), prefix, many, choices, span, read)


def _defaults(target: Any, instance: Any) -> dict[str, Any]:
    """By parameter or field, in order, its default; tyro.MISSING where there is none."""
    if not inspect.isclass(target):
        return {
            name: tyro.MISSING if parameter.default is inspect.Parameter.empty else parameter.default
            for name, parameter in inspect.signature(target).parameters.items()
        }
    found: dict[str, Any] = {}
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(target)  # type: ignore[arg-type]
    for field in fields:
        if instance is not None:
            found[field.name] = getattr(instance, field.name)
        elif field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
        else:
            found[field.name] = tyro.MISSING
    return found


def _missing(value: Any) -> bool:
    return value is tyro.MISSING


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type within Annotated, and what is annotated."""
    extras: tuple[Any, ...] = ()
    while typing.get_origin(hint) is typing.Annotated:
        hint, *more = typing.get_args(hint)
        extras += tuple(more)
    return hint, extras


def _value(hint: Any, extras: tuple[Any, ...]) -> tuple[str, bool, tuple[str, ...]]:
    """What stands for a value of type ``hint``, whether there may be several, and all that there are."""
    spec = next((extra for extra in extras if hasattr(extra, "nargs")), None)
    if spec is not None:
        return spec.metavar, spec.nargs == "*", ()
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        inner, more = _unwrapped(kinds[0])
        return _value(inner, more)
    if typing.get_origin(hint) is Literal:
        choices = tuple(map(str, typing.get_args(hint)))
        return "{" + ",".join(choices) + "}", False, choices
    if typing.get_origin(hint) is tuple:
        inner, more = _unwrapped(typing.get_args(hint)[0])
        value, _, choices = _value(inner, more)
        return f"{value} ...", True, choices
    names = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "{True,False}"}
    return names.get(hint, "VALUE"), False, ()


def _reader(hint: Any, extras: Sequence[Any], span: Range | None) -> Callable[[str], object]:
    """As tyro reads one word of a value of type ``hint``; what it raises says what the value must be."""
    hint, more = _unwrapped(hint)
    spec = next((extra for extra in (*extras, *more) if hasattr(extra, "nargs")), None)
    if spec is not None:
        return lambda word: spec.instance_from_str([word])
    if typing.get_origin(hint) is Literal:
        return functools.partial(_one_of, tuple(map(str, typing.get_args(hint))))
    if hint is bool:
        return functools.partial(_one_of, ("True", "False"))
    if hint in (int, float):
        return functools.partial(_number, hint, span)
    kinds = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return _reader(kinds[0], (), span)
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and types.NoneType in kinds:
        (kind,) = (kind for kind in kinds if kind is not types.NoneType)
        read = _reader(kind, (), span)
        return lambda word: None if word == "None" else read(word)
    return str


def _one_of(choices: tuple[str, ...], word: str) -> str:
    if word not in choices:
        raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
    return word


def _number(kind: type[int] | type[float], span: Range | None, word: str) -> float:
    try:
        number = kind(word)
    except ValueError:
        raise ValueError(f"must be a {'whole ' if kind is int else ''}number") from None
    if span is not None and (problem := span.problem(number)):
        raise ValueError(problem)
    return number


def _range(hint: Any, extras: Sequence[Any]) -> Range | None:
    """That of the number, or of those among several, that ``hint`` is."""
    hint, more = _unwrapped(hint)
    for extra in (*extras, *more):
        if isinstance(extra, Range):
            return extra
    kinds = typing.get_args(hint) if typing.get_origin(hint) is not Literal else ()
    return next((found for kind in kinds if (found := _range(kind, ()))), None)


def _shown(default: Any, extras: tuple[Any, ...]) -> str:
    if default is None or default == () or default == "":
        return ""
    spec = next((extra for extra in extras if hasattr(extra, "str_from_instance")), None)
    if spec is not None:
        return " ".join(spec.str_from_instance(default))
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _prose(docstring: str) -> str:
    """What a docstring says before its sections and examples, without its sentence about exceptions."""
    kept = []
    for line in docstring.splitlines():
        if line.rstrip(":") in _SECTIONS or line.startswith(">>>"):
            break
        kept.append(line)
    text = re.sub(r"(^|\s+)Raises \w[^.]*\.", "", "\n".join(kept).strip())
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _argument_docs(docstring: str) -> dict[str, str]:
    """By parameter, what the section Args says of it."""
    found: dict[str, str] = {}
    within, name = False, ""
    for line in docstring.splitlines():
        if line == "Args:":
            within = True
        elif within and line and not line.startswith(" "):
            break
        elif within and line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(": ")
            found[name] = text
        elif within and name:
            found[name] += " " + line.strip()
    return found


@functools.cache
def _field_docs(cls: type) -> dict[str, str]:
    """By field, the docstring below it in the class's source."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[field.target.id] = inspect.cleandoc(after.value.value)
    return found
