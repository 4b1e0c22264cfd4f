"""English text that is already on the machine: the documentation inside Python and hybridlm's dependencies.

It is read from files, without importing or running any of them: the language reference behind `help()`, the
documentation strings of the standard library and of the installed packages that hybridlm needs, directly or
not (PyTorch, NumPy, SymPy, NetworkX, ...), and those packages' descriptions and licences. What there is
depends on what is installed; the same installation gives the same documents.
"""

import ast
import importlib.metadata
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from pydoc_data.topics import topics

from hybridlm.data.documents import BLANK_LINES, LONGEST_DOCUMENT, Document, clean, deduplicate

# Code that isn't there to be read, copies of other packages, and things that aren't part of the library.
_SKIPPED_FOLDERS = {
    *("test", "tests", "testing", "_testing", "idlelib", "lib2to3", "turtledemo"),
    *("_vendor", "vendored_packages", "third_party", "site-packages", "dist-packages"),
}

# Comments and all string literals, so that a quote inside one is never taken for the start of another; only
# the triple-quoted ones have a group. A lexer is all that is needed, and ten times as fast as a parser.
_LITERAL = re.compile(
    r"""
      \#[^\n]*
    | \"{3} (?P<double> (?:[^"\\]|\\.|"(?!""))* ) \"{3}
    | '{3}  (?P<single> (?:[^'\\]|\\.|'(?!''))* ) '{3}
    | "(?:[^"\\\n]|\\.)*"
    | '(?:[^'\\\n]|\\.)*'
    """,
    re.VERBOSE | re.DOTALL,
)
_PREFIX = re.compile(r"[A-Za-z]*$")
_NOT_TEXT = {"b", "br", "rb", "f", "fr", "rf", "t", "tr", "rt"}

_DIRECTIVE = re.compile(r"\.\. ([\w-]+)::[^\S\n]*")
_READ_ALOUD = {
    *("note", "warning", "seealso", "tip", "hint", "important", "caution", "attention", "admonition"),
    *("topic", "versionadded", "versionchanged", "deprecated"),
}
_RULE_OR_PROMPT = re.compile(
    r"\s*(?:([-=~^*+#_.\"'`|])\1{2,}[-=~^*+#_.\"'`| ]*|>>>.*|\.\.\..*|[{%]\S*[}%]?)\s*"
)
_ROLE = re.compile(r":[\w:+-]+:`([^`]*)`")
_TARGET = re.compile(r"\s*<[^<>]*>$")
_ADDRESS = re.compile(r"\s*<https?://[^<>]*>")
_MARKUP = re.compile(r"\*\*|``|`_{0,2}|(?<![\w*])\*(?=\w)|(?<=\w)\*(?![\w*])")
_TEMPLATE = re.compile(r"\{\{|\}\}|%\(\w+\)|\$\{|[{};]\s*$", re.MULTILINE)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_FUNCTION_WORDS = frozenset(
    """
    a all also an and any are as at be been but by can do does each for from has have how if in into is it its
    may more must no not of on one only or other same should so such than that the their them then there these
    they this to used using was we when where whether which while will with would you your
    """.split()  # noqa: SIM905 - a text to read, not seventy lines
)

EXTRAS = ("train",)
"""Of hybridlm, whose packages have text, too."""

_EXTRA = re.compile(r"extra == ['\"]([\w.-]+)['\"]")

MIN_WORDS = 6
MIN_FUNCTION_WORD_SHARE = 0.2
MIN_LETTER_SHARE = 0.78
MIN_DOCUMENT_CHARACTERS = 200


def installed_documents() -> Iterator[Document]:
    """Cleaned, deduplicated English documents, always in the same order; a few seconds for tens of megabytes.

    A document is the prose of one source file or help topic: paragraphs of running text, without code,
    tables, formulas and markup. Long ones are cut between paragraphs.
    """
    for document in deduplicate(_sources()):
        for text in _cut_between_paragraphs(document.text):
            if len(text) >= MIN_DOCUMENT_CHARACTERS:
                yield Document(document.source, text)


def _sources() -> Iterator[Document]:
    for source, texts in _raw_texts():
        paragraphs = [paragraph for text in texts for paragraph in prose(text)]
        if paragraphs:
            yield Document(source, "\n\n".join(paragraphs))


def _raw_texts() -> Iterator[tuple[str, list[str]]]:
    """(source, texts as they are written there) of everything that may hold prose."""
    for topic in sorted(topics):
        yield f"help:{topic}", [topics[topic]]
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if not _skipped(name := path.relative_to(library)):
            yield name.as_posix(), documentation_strings(_source_text(path))
    yield "LICENSE.txt", [_source_text(library / "LICENSE.txt")]
    for distribution in _dependencies("hybridlm"):
        _, _, description = (distribution.read_text("METADATA") or "").partition("\n\n")
        yield f"{distribution.metadata['Name']}:description", [description]
        for file in sorted(distribution.files or [], key=str):
            path = Path(str(file.locate()))
            if file.suffix == ".py" and not _skipped(file):
                yield file.as_posix(), documentation_strings(_source_text(path))
            elif file.parent.name == "licenses" or file.name.upper().startswith(("LICENSE", "COPYING")):
                yield file.as_posix(), [_source_text(path)]


def _skipped(name: PurePath) -> bool:
    return not _SKIPPED_FOLDERS.isdisjoint(name.parts[:-1]) or ".." in name.parts


def _source_text(path: Path) -> str:
    """The file's text, or nothing: what can't be read as UTF-8 is of no use here."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _dependencies(name: str) -> list[importlib.metadata.Distribution]:
    """The installed distributions that ``name`` needs, with its EXTRAS, and what those need, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = {_canonical(name)}
    seen: set[str] = set()
    while wanted:
        seen |= wanted
        required: set[str] = set()
        for distribution in map(_installed, sorted(wanted)):
            if distribution is None:
                continue
            found[_canonical(distribution.metadata["Name"])] = distribution
            extras = EXTRAS if distribution.metadata["Name"] == name else ()
            for requirement in distribution.requires or []:
                extra = _EXTRA.search(requirement)
                if (extra is None or extra[1] in extras) and (match := re.match(r"[\w.-]+", requirement)):
                    required.add(_canonical(match[0]))
        wanted = required - seen
    found.pop(_canonical(name), None)
    return [found[key] for key in sorted(found)]


def _installed(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def documentation_strings(source: str) -> list[str]:
    """The triple-quoted string literals of Python source code: docstrings and what is written like them.

    Much of NumPy's and PyTorch's documentation is handed to a function, ``add_docstr``, instead of standing
    where a docstring would, so where a literal stands says little; ``prose`` tells text from code.
    """
    strings = []
    for match in _LITERAL.finditer(source):
        body = match["double"] or match["single"]
        if not body:
            continue
        prefix = _PREFIX.findall(source[max(0, match.start() - 3) : match.start()])[0].lower()
        if prefix in _NOT_TEXT:
            continue
        strings.append(_unescaped(match[0], body) if "\\" in body and prefix != "r" else body)
    return strings


def _unescaped(literal: str, body: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" and the like are for the literal's author to mend.
        try:
            return str(ast.literal_eval(literal))
        except (SyntaxError, ValueError):
            return body


def prose(text: str) -> list[str]:
    """The paragraphs of running English in a documentation string, a line each, without markup."""
    paragraphs = []
    literal_indent: int | None = None
    for block in BLANK_LINES.split(inspect.cleandoc(text)):
        indent = len(block) - len(block.lstrip())
        if literal_indent is not None and indent > literal_indent:
            continue
        literal_indent = None
        if directive := _DIRECTIVE.match(block, indent):
            if directive[1] not in _READ_ALOUD:
                literal_indent = indent
                continue
            block = block[directive.end() :]
        elif block.rstrip().endswith("::"):
            literal_indent = indent
        lines = [line for line in block.split("\n") if not _RULE_OR_PROMPT.fullmatch(line)]
        paragraph = without_markup(" ".join(" ".join(lines).split()))
        if ">>>" not in block and not _TEMPLATE.search(block) and is_prose(paragraph):
            paragraphs.append(paragraph)
    return paragraphs


def without_markup(text: str) -> str:
    """``:func:`~a.b```, ``**bold**``, ``*emphasis*`` and the like, as one would read them aloud."""
    text = _ROLE.sub(lambda role: _TARGET.sub("", role[1]).lstrip("~!."), _ADDRESS.sub("", text))
    text = _MARKUP.sub("", text)
    return f"{text[:-2]}:" if text.endswith("::") else text


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph reads as English: enough words, mostly letters, and the words that join others."""
    words = _WORD.findall(paragraph.lower())
    if len(words) < MIN_WORDS:
        return False
    letters = sum(map(len, words)) + paragraph.count(" ")
    if letters < MIN_LETTER_SHARE * len(paragraph):
        return False
    return sum(map(_FUNCTION_WORDS.__contains__, words)) >= MIN_FUNCTION_WORD_SHARE * len(words)


def _cut_between_paragraphs(text: str) -> Iterator[str]:
    piece: list[str] = []
    length = 0
    for paragraph in text.split("\n\n"):
        if piece and length + len(paragraph) > LONGEST_DOCUMENT:
            yield clean("\n\n".join(piece))
            piece, length = [], 0
        piece.append(paragraph)
        length += len(paragraph)
    yield clean("\n\n".join(piece))
