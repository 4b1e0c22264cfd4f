"""Documents in JSON: told from prose by how a file begins, and read from lines or from an array.

Whatever its name, a file is taken for JSON by its beginning, when
- more than half of the lines there are objects, or the first one is an object with a text in the field that
  is asked for, by default "text": JSON Lines;
- or a parser reads objects and arrays there, one after the other and nothing else, of which the last may be
  cut off: JSON Lines if an object's line goes on beyond, an array if there is one, else refused;
- or what the parser can't read begins as nothing but an object does, ``{"name":``: refused.
Anything else is prose, such as "[1] Smith", "{x | x > 0}" or "{} is an empty dictionary", unless the file is
named as JSON.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from hybridlm.data.origin import Origin
from hybridlm.data.text_encoding import not_utf8
from hybridlm.errors import FormatError

Layout = Literal["lines", "array"]

TEXT_FIELD = "text"
"""The member of an object that is its document, by default."""

LONGEST_ARRAY = 32 << 20
"""Bytes of a file that is parsed as one array, which takes up to some 20 times as much memory."""

_NAMES = {".json", ".jsonl", ".ndjson", ".ldjson", ".jsonlines"}

# Files put one after the other keep their byte order marks, and RFC 7464 begins records with a separator.
_BETWEEN_VALUES = " \t\r\n\x1e\ufeff"

_LINE_END = re.compile(r"[\r\n]+")
_OBJECT_START = re.compile(r'(?:,\s*)?(?:\[\s*)*\{\s*"(?:[^"\\\n]|\\.)*"\s*:')

# How far before its end a text that is cut off can be found wrong, unless in a string: at the start of the
# longest token, a pair of surrogates such as "\ud83d\ude00".
_CUT_OFF = 16


def recognise(file: Origin, head: bytes, whole: bool, field: str = TEXT_FIELD) -> Layout | None:
    """How the documents of a file that begins with ``head`` (or is that, if ``whole``) are laid out.

    None is prose. Raises FormatError for JSON that is neither lines nor an array.
    """
    text = head.decode(errors="ignore")
    if _is_lines(text, whole, field):
        return "lines"
    named = file.suffix in _NAMES
    text = text.lstrip(_BETWEEN_VALUES)
    if not text.startswith(("{", "[")):
        return "lines" if named else None
    values, problem = _read_values(text, whole)
    if text[0] == "[" and (named or (values < 2 and not problem)):
        return "array"
    if named and problem:
        return "lines"
    if problem == "prose":
        return None
    if problem:
        raise FormatError(f"{file}: begins like JSON, but isn't: {problem}; {_to_lines(file)}")
    if not whole and not _LINE_END.search(text):
        return "lines"
    raise FormatError(f"{file}: JSON, but neither JSON Lines nor an array; {_to_lines(file)}")


def _is_lines(text: str, whole: bool, field: str) -> bool:
    lines = _LINE_END.split(text)
    if not whole and lines[-1].lstrip(_BETWEEN_VALUES).startswith("{"):
        lines.pop()
    values = [_object(line) for line in lines if line.strip(_BETWEEN_VALUES)]
    if values and values[0] is not None and isinstance(values[0].get(field), str):
        return True
    return sum(value is not None for value in values) * 2 > len(values)


def _object(line: str) -> dict[str, Any] | None:
    line = line.strip(_BETWEEN_VALUES)
    if not (line.startswith("{") and line.endswith("}")):
        return None
    try:
        value = _ANY_JSON.decode(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_values(text: str, whole: bool) -> tuple[int, str]:
    """(objects and arrays that ``text`` holds in full, what comes after them that is no JSON).

    The latter is empty at the end of the text or where only its end is missing.
    """
    position = values = 0
    while True:
        while position < len(text) and text[position] in _BETWEEN_VALUES:
            position += 1
        if position == len(text):
            return values, ""
        problem = "something else follows"
        if text[position] in "{[":
            try:
                _, position = _ANY_JSON.raw_decode(text, position)
                values += 1
                continue
            except RecursionError:
                return values, "it is nested too deeply"
            except json.JSONDecodeError as error:
                in_string = error.msg.startswith("Unterminated string")
                if not whole and (in_string or error.pos >= len(text.rstrip()) - _CUT_OFF):
                    return values, ""
                problem = _in_words(error)
        return values, problem if _OBJECT_START.match(text, position) else "prose"


def _to_lines(file: Origin) -> str:
    rewritten = file.converted_by("jq -c .", ".lines.jsonl")
    return (
        f'give each document a line {{"text": ...}} of its own ({rewritten} rewrites valid JSON so); '
        "`data shard --plain` takes it for prose"
    )


def read_lines(file: Origin, parts: Iterable[bytes], field: str = TEXT_FIELD) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of each line of JSON Lines; ``parts`` are the file's bytes.

    Of an object the text is that in ``field``.

    Raises FormatError naming line, and byte offset of what isn't UTF-8.
    """
    position = 0
    for number, line in enumerate(_lines(parts), start=1):
        where = f"{file}:{number}"
        try:
            content = line.decode().strip(_BETWEEN_VALUES)
        except UnicodeDecodeError as error:
            raise not_utf8(file, where, error.reason, position + error.start, line) from None
        position += len(line)
        if content:
            value = _parsed(content, f"{where}: not a line of JSON", field)
            yield where, _text_of(value, where, field)


def _lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their ends, which are LF, CR or CRLF: outside of strings JSON takes all three for space."""
    begun: list[bytes] = []
    carriage_return = b""
    for part in parts:
        part = carriage_return + part
        carriage_return = b"\r" if part.endswith(b"\r") else b""
        for line in part[: len(part) - len(carriage_return)].splitlines(keepends=True):
            begun.append(line)
            if line.endswith((b"\n", b"\r")):
                yield b"".join(begun)
                begun.clear()
    if last := b"".join(begun) + carriage_return:
        yield last


def read_array(file: Origin, parts: Iterable[bytes], field: str = TEXT_FIELD) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of each element of one array of objects with a text in ``field`` or of strings.

    Raises FormatError for anything else, and for a file of more than LONGEST_ARRAY bytes.
    """
    content = bytearray()
    for part in parts:
        content += part
        if len(content) > LONGEST_ARRAY:
            lines = file.converted_by("jq -c '.[]'", ".jsonl")
            raise FormatError(
                f"{file}: an array of JSON of more than {LONGEST_ARRAY >> 20} MiB, too large to be parsed at "
                f"once; write its elements as lines: {lines}"
            )
    try:
        text = content.decode().strip(_BETWEEN_VALUES)
    except UnicodeDecodeError as error:
        raise not_utf8(file, str(file), error.reason, error.start, bytes(content)) from None
    elements = _parsed(text, f"{file}: begins like an array of JSON, but isn't one", field)
    for index, element in enumerate(elements):
        where = f"{file}[{index}]"
        yield where, _text_of(element, where, field)


def _parsed(text: str, complaint: str, field: str) -> Any:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) and [name for name, _ in pairs].count(field) > 1:
            raise _RepeatedText
        return found

    try:
        return json.JSONDecoder(parse_int=len, object_pairs_hook=members).decode(text)
    except RecursionError:
        raise FormatError(f"{complaint}: it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{complaint}: {_in_words(error)}") from None
    except _RepeatedText:
        raise FormatError(f'{complaint} with one text: it has two members named "{field}"') from None


def _text_of(value: Any, where: str, field: str) -> str:
    if isinstance(value, dict):
        if field not in value:
            names = ", ".join(repr(name)[:40] for name in [*value][:8])
            hint = f", only {names}; --text-field names another" if names else ""
            raise FormatError(f'{where}: no "{field}" string here{hint}')
        return checked_text(value[field], where, field)
    if not isinstance(value, str):
        raise FormatError(f'{where}: no "{field}" string here, but {_kind(value)}')
    return checked_text(value, where, field)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a string"
        case dict():
            return "an object"
        case list():
            return "an array"
        case _:
            return "a number"


def checked_text(text: Any, where: str, field: str) -> str:
    """``text`` if it is a string that can be a document; else FormatError."""
    if not isinstance(text, str):
        raise FormatError(f'{where}: no "{field}" string here: "{field}" is {_kind(text)}')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            f'{where}: "{field}" has half of a surrogate pair at character {error.start}'
        ) from None
    if (found := text.find("\0")) >= 0:
        raise FormatError(f'{where}: "{field}" has a NUL (U+0000) at character {found}')
    return text


def _in_words(error: json.JSONDecodeError) -> str:
    return f"{error.msg[0].lower()}{error.msg[1:].removesuffix(' at')} at character {error.pos}"


class _RepeatedText(ValueError):
    """An object has two members of the text's name, of which a parser would silently keep the last."""


# No number is of use here, and Python refuses to read long ones.
_ANY_JSON = json.JSONDecoder(parse_int=len)
