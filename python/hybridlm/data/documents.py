"""Documents: read from files, cleaned, freed of near-duplicates, split into train and validation."""

import codecs
import hashlib
import heapq
import io
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybridlm.data import json_documents, parquet, text_files
from hybridlm.data.origin import Origin
from hybridlm.data.text_encoding import check_beginning, check_nul, not_utf8, refuse_table
from hybridlm.errors import InputError

log = logging.getLogger("hybridlm.data")

Split = Literal["train", "val"]

LONGEST_DOCUMENT = 16_384
"""Characters after which a document of a plain text file is cut."""

MOST_BLANKS = 1000
"""Of more blanks in a row on one line, that many are kept."""

SHINGLE_WORDS = 8
REPEATED_SHARE = 0.5

_HEAD_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20

BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_BLANKS = " \t\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_MORE_THAN_ONE_BLANK_LINE = re.compile(r"\n{3,}")
_MANY_BLANKS = re.compile(f"[{_BLANKS}]{{32,}}")

# All that `str.splitlines` and Unicode (section 5.8) know, after CRLF.
_LINE_ENDS = re.compile("[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")

# What stands between words without showing. C1 controls aren't among them: in practice they are quotation
# marks, dashes and letters of Windows-1252 that were decoded as Latin-1.
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f\ufeff]")
_ORDINARY_CONTROLS = "\x1f\ufeff"

_ZERO_WIDTH_JOINER = "\u200d"

# Characters that are seen as one, in any text that is meant to be seen.
_LONGEST_CLUSTER = 64

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
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
    plain: bool = False,
    text_field: str = json_documents.TEXT_FIELD,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Document]:
    """The documents of text files, in order, cleaned; files may be larger than memory.

    ``paths`` are those of files, folders and globs, and "-" for stdin (see `text_files.find`). A file is
    Parquet, of which each row of a column is a document, or UTF-8, with or without a byte order mark, plain
    or compressed with gzip, bzip2, xz or zstd. Its content decides how it is read, not its name (see
    ``json_documents``): as JSON Lines, an object with the document in its ``text_field`` on each line; as one
    JSON array of such objects or of strings; or as prose, which with ``plain`` it always is. The documents of
    prose are separated by blank lines; one longer than LONGEST_DOCUMENT characters is cut there, at the end
    of a line if it has one, else after a word, so that a text with few or no blank lines gives documents of
    about that length. With ``one_per_file`` a file of prose is one document, never cut.

    Documents without text are left out. ``on_bytes`` is told how many bytes of the files were read, part by
    part. Files with the same content and control characters read as blanks are each told of in one warning
    at the end.

    Raises InputError naming the file and byte offset or line of what can't be read, with what to do about it,
    when a file is named twice, or when there is no document at all; OSError for a file that isn't there.
    Missing and repeated files are refused before any is read.
    """
    files = text_files.find(paths)
    seen: dict[tuple[int, int], Path] = {}
    for file in files:
        if file == text_files.STDIN:
            continue
        status = file.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), file)
        if first is not file and S_ISREG(status.st_mode):
            same = "is named twice" if first == file else f"is the same file as {first}"
            raise InputError(f"{file} {same}: its text would be in the data twice")
    how = _Reading(one_per_file, plain, text_field, on_bytes or (lambda count: None))
    return _read(files, how)


@dataclass(frozen=True)
class _Reading:
    """How files are read."""

    one_per_file: bool
    plain: bool
    text_field: str
    on_bytes: Callable[[int], None]


@dataclass
class _Noticed:
    """What deserves a warning, but is no error."""

    controls: Counter[str] = field(default_factory=Counter)
    contents: dict[bytes, Path] = field(default_factory=dict)
    copies: list[tuple[Path, Path]] = field(default_factory=list)

    def content(self, file: Path, digest: bytes) -> None:
        first = self.contents.setdefault(digest, file)
        if first is not file:
            self.copies.append((first, file))

    def warn(self) -> None:
        if self.controls:
            (most, _), *_ = self.controls.most_common(1)
            count = self.controls.total()
            log.warning("%d control characters, mostly U+%04X, were read as blanks", count, ord(most))
        if self.copies:
            first, copy = self.copies[0]
            others = f" and {len(self.copies) - 1} more such" if len(self.copies) > 1 else ""
            log.warning("%s has the same bytes as %s%s: their text is there twice", copy, first, others)


def _read(files: list[Path], how: _Reading) -> Iterator[Document]:
    noticed = _Noticed()
    found = False
    for file in files:
        with text_files.open_file(file, how.on_bytes) as opened:
            read = _read_parquet if opened.kind == "parquet" else _read_file
            for document in read(opened, how, noticed):
                if document.text:
                    found = True
                    yield document
    if not found:
        names = ["stdin" if file == text_files.STDIN else os.fspath(file) for file in files]
        raise InputError(f"no text in {', '.join(names) or 'no files'}")
    noticed.warn()


def _read_parquet(opened: text_files.Opened, how: _Reading, noticed: _Noticed) -> Iterator[Document]:
    digest = hashlib.blake2b(digest_size=16)
    for where, raw in parquet.read_column(opened.name, how.text_field, how.on_bytes):
        digest.update(len(raw).to_bytes(8, "little") + raw.encode())
        yield Document(where, _cleaned(raw, noticed.controls))
    noticed.content(opened.name, digest.digest())


def _read_file(opened: text_files.Opened, how: _Reading, noticed: _Noticed) -> Iterator[Document]:
    file = opened.origin
    parts = _parts(opened, noticed)
    head = next(parts, b"")
    parts = chain([head], parts)
    layout = None
    if not how.plain:
        refuse_table(file)
        layout = json_documents.recognise(file, head, len(head) < _HEAD_BYTES, how.text_field)
    if layout is None:
        text = _tidied(_plain(chunk, noticed.controls) for chunk in _decoded(file, parts))
        if how.one_per_file:
            yield Document(str(file), "".join(text).strip())
        else:
            texts = filter(None, map(str.strip, _separated(text)))
            for number, document in enumerate(texts, start=1):
                yield Document(f"{file}#{number}", document)
    else:
        read_json = json_documents.read_lines if layout == "lines" else json_documents.read_array
        for where, raw in read_json(file, parts, how.text_field):
            yield Document(where, _cleaned(raw, noticed.controls))


def _parts(opened: text_files.Opened, noticed: _Noticed) -> Iterator[bytes]:
    """The file's content: _HEAD_BYTES of it or all, then the rest. Raises FormatError for what isn't text."""
    position = 0
    digest = hashlib.blake2b(digest_size=16)
    while part := opened.stream.read(_CHUNK_BYTES if position else _HEAD_BYTES):
        if not position:
            check_beginning(opened.origin, part)
        check_nul(opened.origin, part, position)
        position += len(part)
        digest.update(part)
        yield part
    if position:
        noticed.content(opened.name, digest.digest())


def clean(text: str) -> str:
    """Unix line ends, no control characters, no blanks at line ends, at most one blank line in a row.

    All of Unicode's line ends become "\\n": LF, CR, CRLF, VT, FF, FS, GS, RS, NEL, LS and PS. Tabs stay. The
    other controls below U+0020, U+007F and U+FEFF become blanks, as any of them may be all that stands
    between two words; a backspace is no exception and rubs nothing out. So the words are those of ``text``,
    in order, if a word is what neither white space nor these controls are part of. Of more than MOST_BLANKS
    blanks in a row, that many stay. Takes time linear in the text.
    """
    return _cleaned(text, Counter())


def _cleaned(text: str, controls: Counter[str]) -> str:
    return "".join(_tidied([_plain(text, controls)])).strip()


def _plain(text: str, controls: Counter[str]) -> str:
    """``text`` without any other line end than "\\n" and without controls, which are counted."""
    text = _LINE_ENDS.sub("\n", text.replace("\r\n", "\n"))
    without, replaced = _CONTROLS.subn(" ", text)
    if replaced:
        controls.update(control for control in _CONTROLS.findall(text) if control not in _ORDINARY_CONTROLS)
    return without


def _tidied(chunks: Iterable[str]) -> Iterator[str]:
    """White space as ``clean`` has it, but for what the text begins with, in chunks that never end with any.

    How the text is divided into chunks doesn't show in the joined result, and white space is never held
    beyond a chunk's worth of it.
    """
    space = ""
    for chunk in chunks:
        text = space + chunk
        up_to_word = text.rstrip()
        if not up_to_word:
            space = _tidy(text)
            continue
        space = text[len(up_to_word) :]
        yield _tidy(up_to_word)


def _tidy(text: str) -> str:
    *lines, last = text.split("\n")
    text = "\n".join([*(line.rstrip() for line in lines), last])
    if "\n\n\n" in text:
        text = _MORE_THAN_ONE_BLANK_LINE.sub("\n\n", text)
    return _MANY_BLANKS.sub(lambda blanks: blanks[0][:MOST_BLANKS], text)


def _decoded(file: Origin, parts: Iterable[bytes]) -> Iterator[str]:
    """The text with "\\n" for CR and CRLF. Raises FormatError at the first byte that isn't UTF-8."""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    position = 0
    for part in chain(parts, [b""]):
        held_back = len(utf8.getstate()[0])
        try:
            text = decoder.decode(part, final=not part)
        except UnicodeDecodeError as error:
            at = position - held_back + error.start
            raise not_utf8(file, str(file), error.reason, at, error.object) from None
        position += len(part)
        yield text


def _separated(chunks: Iterable[str]) -> Iterator[str]:
    """Texts between blank lines, long ones cut; never holds more than a chunk and a document.

    The chunks are tidied ones: as none ends with white space, no later one shortens a text that is cut.
    """
    pending = ""
    for chunk in chunks:
        *complete, pending = (pending + chunk).split("\n\n")
        for text in complete:
            yield from _cut(text)
        *long, pending = _cut(pending)
        yield from long
    yield from _cut(pending)


def _cut(text: str) -> list[str]:
    """``text`` in pieces of at most LONGEST_DOCUMENT characters and a separator, cut after a line or a word.

    Only a word that is longer than that is cut in itself, and then not inside what is seen as one character.
    """
    pieces = []
    start = 0
    while len(text) - start > LONGEST_DOCUMENT:
        end = _cut_point(text, start, start + LONGEST_DOCUMENT)
        pieces.append(text[start:end])
        start = end
    pieces.append(text[start:])
    return pieces


def _cut_point(text: str, start: int, end: int) -> int:
    for separators in ("\n", _BLANKS):
        # The separator may be the character after the last one that fits, as it is stripped in the end.
        if (found := max(text.rfind(separator, start, end + 1) for separator in separators)) >= start:
            return found + 1
    for cut in range(end, max(start, end - _LONGEST_CLUSTER), -1):
        if not _belong_together(text[cut - 1], text[cut]):
            return cut
    return end


def _belong_together(before: str, after: str) -> bool:
    """Whether ``after`` is a combining mark, a later part of a Hangul syllable, or joined to ``before``."""
    return (
        unicodedata.category(after).startswith("M")
        or "\u1160" <= after <= "\u11ff"
        or "\U0001f3fb" <= after <= "\U0001f3ff"
        or _ZERO_WIDTH_JOINER in (before, after)
    )


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
        # What has no word, such as a formula or a row of emoji, is told apart by all that it is made of.
        found = _WORD.findall(paragraph.lower()) or paragraph.split()
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
    """A 64-bit number that depends on the words of ``text`` alone, not on the white space between them.

    Nor on how Unicode writes them: a tokenizer that normalises (NFKC) makes the same tokens of either form.
    """
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
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
    if val_fraction == 0:
        for document in documents:
            yield "train", document
        return
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
    side = "val" if "train" in seen and (smallest < limit or "val" not in seen) else "train"
    for document in waiting:
        yield side, document


def sample(documents: Iterable[Document], most_characters: int) -> list[Document]:
    """As many documents as ``most_characters`` hold, in order: those with the largest ``text_hash``.

    All of them where they fit, and one where not even it does. ``split_stream`` holds out those with the
    smallest hashes for validation, so none of them is in a sample that is smaller than what is left for
    training. Never holds more text than the sample's and one document's.
    """
    kept: list[tuple[int, int, Document]] = []
    characters = 0
    # What the largest that didn't fit compares by: nothing below it comes in any more, however short.
    floor = (-1, 0)
    for number, document in enumerate(documents):
        # Of equal ones the earlier stays.
        entry = (text_hash(document.text), -number, document)
        if entry[:2] < floor:
            continue
        heapq.heappush(kept, entry)
        characters += len(document.text)
        while characters > most_characters and len(kept) > 1:
            value, negative, dropped = heapq.heappop(kept)
            floor = value, negative
            characters -= len(dropped.text)
    return [document for _, _, document in sorted(kept, key=lambda entry: -entry[1])]


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
