"""Tells bytes that aren't UTF-8 text, and says what they look like and how to convert them.

The guesses only ever become part of an error: nothing is converted on the strength of a guess.
"""

import codecs
import re
from shlex import quote

from hybridlm import _core
from hybridlm.data.origin import Origin
from hybridlm.errors import FormatError

_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)

# What ISO 2022 switches to a two-byte character set with; everything in such a text is ASCII.
_ISO_2022 = ((b"\x1b$B", "JP"), (b"\x1b$@", "JP"), (b"\x1b$)C", "KR"), (b"\x1b$)A", "CN"))

_COMPRESSED = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    (re.compile(rb"\xfd7zXZ\0"), "xz"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "bzip2"),
    (re.compile(rb"\x04\x22\x4d\x18"), "lz4"),
)

# POSIX's header block of a tar archive has it at this offset.
_TAR_MAGIC = (257, b"ustar")

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")

_TABLES = {".csv": ",", ".tsv": r"\t"}

_WHITE_SPACE = (0x09, 0x0A, 0x0C, 0x0D)
_PRINTABLE_ASCII = range(0x20, 0x7F)

_LOOKED_AT = 1 << 14


def check_beginning(file: Origin, head: bytes) -> None:
    """Raise FormatError for a file that begins like a known format or encoding that isn't UTF-8 text."""
    name = quote(str(file))
    for magic, kind in _COMPRESSED:
        if magic.match(head):
            raise FormatError(
                f"{file}: compressed with {kind}; decompress it: {file.converted_by(f'{kind} -dc', '')}"
            )
    # These programs want a file that they can seek in.
    if head.startswith(b"PK\x03\x04"):
        how = f": unzip {name}" if file.is_plain_file else " first"
        raise FormatError(f"{file}: a zip archive (as .docx and .epub are), not text; unpack it{how}")
    if head.startswith(_TAR_MAGIC[1], _TAR_MAGIC[0]):
        raise FormatError(f"{file}: a tar archive, not text; unpack it: {file.read_by('tar x')}")
    if head.startswith(b"%PDF-"):
        how = f": pdftotext {name}" if file.is_plain_file else " first (pdftotext)"
        raise FormatError(f"{file}: a PDF, not text; extract its text{how}")
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            raise FormatError(
                f"{file}: {encoding} (by its byte order mark), not UTF-8: {_iconv(file, encoding)}"
            )
    for escape, country in _ISO_2022:
        if escape in head:
            encoding = f"ISO-2022-{country}"
            raise FormatError(f"{file}: looks like {encoding}, not UTF-8: {_iconv(file, encoding)}")


def refuse_table(file: Origin) -> None:
    """Raise FormatError for a file that is named as a table of separated values.

    As prose, its other columns, quotation marks and separators would become text.
    """
    if (separator := _TABLES.get(file.suffix)) is None:
        return
    program = (
        "import csv, json, sys; csv.field_size_limit(2**31 - 1); "
        f"[print(json.dumps(row)) for row in csv.DictReader(sys.stdin, delimiter='{separator}')]"
    )
    lines = file.converted_by(f'python3 -c "{program}"', ".jsonl")
    raise FormatError(
        f"{file}: a table by its name; write its rows as lines of JSON and name the column of the text by "
        f"--text-field: {lines}; `data shard --plain` takes it for prose"
    )


def check_nul(file: Origin, part: bytes, position: int) -> None:
    """Raise FormatError where ``part``, which begins at byte ``position`` of the file, holds a NUL."""
    if (found := part.find(b"\0")) < 0:
        return
    if position == 0 and (kind := _core.looks_like(part)) is not None:
        raise FormatError(f"{file}: {kind}, not text")
    # UTF-16 and UTF-32 are read in units of four bytes, counted from the file's start.
    aligned = part[-position % 4 :][:_LOOKED_AT]
    encoding = _unmarked_encoding(aligned[: len(aligned) // 4 * 4 or len(aligned) // 2 * 2])
    if part.count(b"\0") * 10 < len(part) and _is_utf8_text(part.replace(b"\0", b"")[:_LOOKED_AT]):
        without = file.converted_by(r"tr '\000' ' '", ".utf8{}")
        advice = f"if it is text all the same: {without}"
    elif encoding:
        advice = f"looks like {encoding}: {_iconv(file, encoding)}"
    else:
        advice = "it is no text file"
    raise FormatError(f"{file}: not UTF-8 text: a NUL at byte {position + found}; {advice}")


def not_utf8(file: Origin, where: str, reason: str, at: int, part: bytes) -> FormatError:
    """The error for the byte ``at`` of ``file``, which stands in or just before ``part``."""
    return FormatError(f"{where}: not UTF-8 text: {reason} at byte {at}; {_advice(file, reason, part)}")


def _advice(file: Origin, reason: str, part: bytes) -> str:
    text = part.decode(errors="replace")
    damaged = text.count("\ufffd")
    sound = len(_NOT_ASCII.findall(text)) - damaged
    if sound > 10 * damaged:
        return f"most of it is UTF-8; to leave out what isn't: {_iconv(file, 'UTF-8', '-c ')}"
    if reason == "unexpected end of data":
        return "is the file cut off?"
    high = sum(byte >= 0x80 for byte in part[:_LOOKED_AT])
    if sound * 10 <= damaged and high * 3 <= len(part[:_LOOKED_AT]) and _decodes(part, "cp1252"):
        return f"looks like Windows-1252 or Latin-1: {_iconv(file, 'WINDOWS-1252')}"
    return f"find out its encoding ({file.read_by('uchardet')}): {_iconv(file, 'ENCODING')}"


def _unmarked_encoding(sample: bytes) -> str | None:
    """Which of UTF-16 and UTF-32, in either byte order, ``sample`` is most plausibly text in, if in any."""
    if sum(byte in _PRINTABLE_ASCII for byte in sample) * 10 > len(sample) * 9:
        # In pairs, letters of ASCII are Chinese characters of UTF-16.
        return None
    plausible = {
        encoding: _plausibility(sample.decode(encoding, errors="replace"))
        for encoding in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
    }
    best = max(plausible, key=plausible.__getitem__)
    return best if plausible[best] >= 0.9 else None


def _plausibility(text: str) -> float:
    """The share of characters that text is likely to be made of.

    ASCII in the wrong byte order gives characters, too, U+4100, U+4200, ...: of those whose low byte is 0,
    only the ideographic space counts. Small numbers of 16 bits, such as tokens, are characters as well, but
    for those that would be control characters.
    """
    if _has_controls(text):
        return 0.0
    likely = 0
    for code in map(ord, text):
        if code & 0xFF == 0:
            likely += code == 0x3000
        else:
            likely += (
                code in _WHITE_SPACE
                or code == 0xFEFF
                or 0x20 <= code < 0x7F
                or 0xA0 <= code < 0x2000
                or 0x2010 <= code < 0x2100
                or 0x3000 <= code < 0xD7A4
                or 0xFF00 <= code < 0xFFF0
                or 0x1F000 <= code < 0x32000
            )
    return likely / max(1, len(text))


def _is_utf8_text(part: bytes) -> bool:
    """Whether ``part`` is UTF-8 and text: UTF-16 of Cyrillic is UTF-8, but full of control characters."""
    return _decodes(part, "utf-8") and not _has_controls(part.decode(errors="ignore"))


def _has_controls(text: str) -> bool:
    """Whether more than one character in a hundred is a control character of ASCII."""
    return sum(code < 0x20 and code not in _WHITE_SPACE for code in map(ord, text)) * 100 > len(text)


def _decodes(part: bytes, encoding: str) -> bool:
    """Whether ``part`` is text in ``encoding`` up to its end, where a character may be cut off."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(part)
    except UnicodeDecodeError:
        return False
    return True


def _iconv(file: Origin, encoding: str, options: str = "") -> str:
    return file.converted_by(f"iconv {options}-f {encoding} -t UTF-8", ".utf8{}")
