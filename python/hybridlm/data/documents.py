"""Documents: read from files, cleaned, freed of near-duplicates, split into train and validation."""

import codecs
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from errno import EISDIR
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import FormatError, InputError

Split = Literal["train", "val"]

LONGEST_DOCUMENT = 16_384
"""Characters after which a document of a plain text file is cut."""

SHINGLE_WORDS = 8
REPEATED_SHARE = 0.5

_CHUNK_BYTES = 1 << 20
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_TRAILING_SPACE = re.compile(r"[^\S\n]+$", re.MULTILINE)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it comes from, as a person would say it: a path, ``path:line``, a module's name."""

    source: str
    text: str


def read(
    paths: Sequence[str | os.PathLike[str]],
    *,
    one_per_file: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Document]:
    """The documents of text files, in order, cleaned; files may be larger than memory.

    A ``.jsonl`` file holds one JSON object a line with the document in its "text". Any other file is UTF-8
    text whose documents are separated by blank lines; a document longer than LONGEST_DOCUMENT characters is
    cut there, at the end of a line if it has one, so that a text with few or no blank lines gives documents
    of about that length. With ``one_per_file`` each such file is one document, never cut.

    Documents without text are left out. ``on_bytes`` is told how many bytes were read, part by part.

    Raises InputError naming the file and byte offset (text) or line (JSONL) of what can't be read, or when
    there is no document at all; OSError for a file that isn't there, before any is read.
    """
    files = [Path(path) for path in paths]
    for file in files:
        if file.is_dir():
            raise IsADirectoryError(EISDIR, "Is a directory, not a text file", os.fspath(file))
        file.stat()
    return _read(files, one_per_file, on_bytes or (lambda count: None))


def _read(files: list[Path], one_per_file: bool, on_bytes: Callable[[int], None]) -> Iterator[Document]:
    found = False
    for file in files:
        for document in _read_file(file, one_per_file, on_bytes):
            if text := clean(document.text):
                found = True
                yield Document(document.source, text)
    if not found:
        raise InputError(f"no text in {', '.join(map(os.fspath, files)) or 'no files'}")


def _read_file(file: Path, one_per_file: bool, on_bytes: Callable[[int], None]) -> Iterator[Document]:
    if file.suffix == ".jsonl":
        yield from _read_jsonl(file, on_bytes)
    elif one_per_file:
        yield Document(os.fspath(file), "".join(_decoded(file, on_bytes)))
    else:
        for number, text in enumerate(_separated(_decoded(file, on_bytes)), start=1):
            yield Document(f"{file}#{number}", text)


def clean(text: str) -> str:
    """Unix line ends, no control characters, no white space at line ends, at most one blank line in a row."""
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    text = _TRAILING_SPACE.sub("", _CONTROLS.sub("", text))
    return BLANK_LINES.sub("\n\n", text).strip()


def _decoded(file: Path, on_bytes: Callable[[int], None]) -> Iterator[str]:
    """The file's text in parts of about a megabyte. Raises FormatError at the first byte that isn't UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    with file.open("rb") as stream:
        while True:
            chunk = stream.read(_CHUNK_BYTES)
            held_back = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                raise FormatError(
                    f"{file}: not UTF-8 text: {error.reason} at byte {position - held_back + error.start}"
                ) from None
            position += len(chunk)
            on_bytes(len(chunk))
            if not chunk:
                return
            yield text


def _separated(chunks: Iterable[str]) -> Iterator[str]:
    """Texts between blank lines, long ones cut; never holds more than a chunk and a document."""
    pending = ""
    for chunk in chunks:
        pending = (pending + chunk).replace("\r\n", "\n")
        *complete, pending = BLANK_LINES.split(pending)
        for text in complete:
            yield from _cut(text)
        *long, pending = _cut(pending)
        yield from long
    if pending:
        yield pending


def _cut(text: str) -> list[str]:
    """``text`` in pieces of at most LONGEST_DOCUMENT characters, cut after a line, else after a word."""
    pieces = []
    start = 0
    while len(text) - start > LONGEST_DOCUMENT:
        end = start + LONGEST_DOCUMENT
        for separator in ("\n", " "):
            if (found := text.rfind(separator, start, end)) > start:
                end = found + 1
                break
        pieces.append(text[start:end])
        start = end
    pieces.append(text[start:])
    return pieces


def _read_jsonl(file: Path, on_bytes: Callable[[int], None]) -> Iterator[Document]:
    position = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            position += len(line)
            on_bytes(len(line))
            if not line.strip():
                continue
            where = f"{file}:{number}"
            try:
                record = json.loads(line)
            except UnicodeDecodeError as error:
                at = position - len(line) + error.start
                raise FormatError(f"{where}: not UTF-8 text: {error.reason} at byte {at}") from None
            except (ValueError, RecursionError) as error:
                raise FormatError(f"{where}: not a line of JSON: {error}") from None
            text = record.get("text") if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise FormatError(f'{where}: no "text" string in this line')
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise FormatError(
                    f'{where}: "text" has half of a surrogate pair at character {error.start}'
                ) from None
            yield Document(where, text)


def deduplicate(documents: Iterable[Document]) -> list[Document]:
    """The documents without paragraphs that mostly occurred before, in the same order.

    The unit of comparison is the shingle, eight consecutive words, case ignored (a shorter paragraph is one
    shingle). A paragraph is dropped when at least half of its shingles occur in an earlier paragraph, be it
    of the same document; a document that loses all of its paragraphs is dropped. So copies and near-copies
    can't end up on both sides of the train/validation split. Takes about 60 bytes of memory a word.
    """
    split_documents = [(document, document.text.split("\n\n")) for document in documents]
    repeated = iter(_repeated([text for _, paragraphs in split_documents for text in paragraphs]).tolist())
    kept = []
    for document, paragraphs in split_documents:
        fresh = [text for text in paragraphs if not next(repeated)]
        if fresh:
            same = len(fresh) == len(paragraphs)
            kept.append(document if same else Document(document.source, "\n\n".join(fresh)))
    return kept


def _repeated(paragraphs: Sequence[str]) -> NDArray[np.bool_]:
    """bool [paragraphs]: at least REPEATED_SHARE of the paragraph's shingles occur in an earlier one."""
    shingles, owner = _shingles(paragraphs)
    _, first, occurrence = np.unique(shingles, return_index=True, return_inverse=True)
    seen_before = owner[first[occurrence.reshape(-1)]] < owner
    seen = np.bincount(owner, weights=seen_before, minlength=len(paragraphs))
    total = np.bincount(owner, minlength=len(paragraphs))
    repeated: NDArray[np.bool_] = seen >= REPEATED_SHARE * total
    return repeated


def _shingles(paragraphs: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all shingles, paragraph by paragraph, and the index of the paragraph that each is of."""
    numbers: dict[str, int] = {}
    words: list[int] = []
    lengths = np.empty(len(paragraphs), np.int64)
    for index, paragraph in enumerate(paragraphs):
        found = _WORD.findall(paragraph.lower())
        # A short paragraph is filled up to one shingle with 0, which is no word's number.
        lengths[index] = max(len(found), SHINGLE_WORDS)
        words += [numbers.setdefault(word, len(numbers) + 1) for word in found]
        words += [0] * (SHINGLE_WORDS - len(found))
    if not paragraphs:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    # A polynomial in an odd multiplier modulo 2^64, over word numbers spread by another: 64 bits are enough
    # for no two of some 10^8 different shingles to be expected to collide.
    spread = np.array(words, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    spread ^= spread >> np.uint64(29)
    windows = len(words) - SHINGLE_WORDS + 1
    hashes = np.zeros(windows, np.uint64)
    for offset in range(SHINGLE_WORDS):
        hashes *= np.uint64(0xD6E8FEB86659FD93)
        hashes += spread[offset : offset + windows]
    ends = np.cumsum(lengths)
    counts = lengths - SHINGLE_WORDS + 1
    owner = np.repeat(np.arange(len(paragraphs)), counts)
    starts = np.repeat(ends - lengths - (np.cumsum(counts) - counts), counts) + np.arange(len(owner))
    return hashes[starts], owner


def text_hash(text: str) -> int:
    """A 64-bit number that depends on the words of ``text`` alone, not on the white space between them."""
    digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def split_stream(documents: Iterable[Document], val_fraction: float) -> Iterator[tuple[Split, Document]]:
    """Each document with its side, as they come: held out if its ``text_hash`` falls in the fraction.

    So a document's side depends on its own text, and equal documents are never parted. Until both sides have
    a document, the one with the smallest hash so far waits: with a fraction above 0, neither side is empty in
    the end where two different documents exist; a single one goes to train. Raises InputError for a fraction
    outside [0, 1).
    """
    check_fraction(val_fraction)
    limit = val_fraction * 2**64
    waiting: list[Document] = []
    smallest = 2**64
    seen: set[Split] = set()
    for document in documents:
        value = text_hash(document.text)
        ready = [document]
        if len(seen) < 2:
            if value == smallest:
                waiting.append(document)
                continue
            if value < smallest:
                ready, waiting = waiting, ready
                value, smallest = smallest, value
        side: Split = "val" if value < limit else "train"
        for settled in ready:
            seen.add(side)
            yield side, settled
    side = "val" if "train" in seen and (smallest < limit or (limit and "val" not in seen)) else "train"
    for document in waiting:
        yield side, document


def check_fraction(val_fraction: float) -> None:
    if not 0 <= val_fraction < 1:
        raise InputError(f"the validation fraction must be at least 0 and below 1, not {val_fraction}")


def split(documents: Sequence[Document], val_fraction: float) -> tuple[list[Document], list[Document]]:
    """(train, validation): whole documents, in order; about ``val_fraction`` of the characters held out.

    Documents are held out by ascending ``text_hash`` until they make up the fraction, so that the outcome
    doesn't depend on their order and equal ones stay together. Where two different documents exist, neither
    side is empty (with a fraction above 0); a single document goes to train. Raises InputError for a fraction
    outside [0, 1).
    """
    check_fraction(val_fraction)
    wanted = val_fraction * sum(len(document.text) for document in documents)
    hashes = [text_hash(document.text) for document in documents]
    size: dict[int, int] = {}
    for value, document in zip(hashes, documents, strict=True):
        size[value] = size.get(value, 0) + len(document.text)
    held_out: set[int] = set()
    characters = 0
    for value in sorted(size)[:-1]:
        if characters >= wanted:
            break
        held_out.add(value)
        characters += size[value]
    train = [document for value, document in zip(hashes, documents, strict=True) if value not in held_out]
    val = [document for value, document in zip(hashes, documents, strict=True) if value in held_out]
    return train, val
