"""Tells bytes that aren't UTF-8 text, and says what they look like and how to convert them.

The guesses only ever become part of an error: nothing is converted on the strength of a guess.
"""

import codecs
import re
from pathlib import Path
from shlex import quote

from hybridlm import _core
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

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")

_LOOKED_AT = 1 << 14


def check_beginning(file: Path, head: bytes) -> None:
    """Raise FormatError for a file that begins like a known format or encoding that isn't UTF-8 text."""
    name = quote(str(file))
    for magic, kind in _COMPRESSED:
        if magic.match(head):
            plain = quote(str(file.with_suffix("") if file.suffix else file.with_name(f"{file.name}.txt")))
            raise FormatError(f"{file}: compressed with {kind}; decompress it: {kind} -dc {name} > {plain}")
    if head.startswith(b"PK\x03\x04"):
        raise FormatError(
            f"{file}: a zip archive (as .docx and .epub are), not text; unpack it: unzip {name}"
        )
    if head.startswith(b"%PDF-"):
        raise FormatError(f"{file}: a PDF, not text; extract its text: pdftotext {name}")
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            raise FormatError(
                f"{file}: {encoding} (by its byte order mark), not UTF-8: {_iconv(file, encoding)}"
            )
    for escape, country in _ISO_2022:
        if escape in head:
            encoding = f"ISO-2022-{country}"
            raise FormatError(f"{file}: looks like {encoding}, not UTF-8: {_iconv(file, encoding)}")


def check_nul(file: Path, part: bytes, position: int) -> None:
    """Raise FormatError where ``part``, which begins at byte ``position`` of the file, holds a NUL."""
    if (found := part.find(b"\0")) < 0:
        return
    if position == 0 and (kind := _core.looks_like(part)) is not None:
        raise FormatError(f"{file}: {kind}, not text")
    # UTF-16 and UTF-32 are read in units of four bytes, counted from the file's start.
    aligned = part[-position % 4 :][:_LOOKED_AT]
    encoding = _unmarked_encoding(aligned[: len(aligned) // 4 * 4 or len(aligned) // 2 * 2])
    if encoding:
        advice = f"looks like {encoding}: {_iconv(file, encoding)}"
    elif part.count(b"\0") * 10 < len(part) and _decodes(part.replace(b"\0", b"")[:_LOOKED_AT], "utf-8"):
        advice = f"if it is text all the same: tr '\\000' ' ' < {quote(str(file))} > {_converted(file)}"
    else:
        advice = "it is no text file"
    raise FormatError(f"{file}: not UTF-8 text: a NUL at byte {position + found}; {advice}")


def not_utf8(file: Path, where: str, reason: str, at: int, part: bytes) -> FormatError:
    """The error for the byte ``at`` of ``file``, which stands in or just before ``part``."""
    return FormatError(f"{where}: not UTF-8 text: {reason} at byte {at}; {_advice(file, reason, part)}")


def _advice(file: Path, reason: str, part: bytes) -> str:
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
    return f"find out its encoding (uchardet {quote(str(file))}): {_iconv(file, 'ENCODING')}"


def _unmarked_encoding(sample: bytes) -> str | None:
    """Which of UTF-16 and UTF-32, in either byte order, ``sample`` is most plausibly text in, if in any."""
    plausible = {
        encoding: _plausibility(sample.decode(encoding, errors="replace"))
        for encoding in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
    }
    best = max(plausible, key=plausible.__getitem__)
    return best if plausible[best] >= 0.9 else None


def _plausibility(text: str) -> float:
    """The share of characters that text is likely to be made of.

    ASCII in the wrong byte order gives characters, too, U+4100, U+4200, ...: of those whose low byte is 0,
    only the ideographic space counts.
    """
    likely = 0
    for code in map(ord, text):
        if code & 0xFF == 0:
            likely += code == 0x3000
        else:
            likely += (
                code in (0x09, 0x0A, 0x0D, 0xFEFF)
                or 0x20 <= code < 0x7F
                or 0xA0 <= code < 0x2000
                or 0x2010 <= code < 0x2100
                or 0x3000 <= code < 0xD7A4
                or 0xFF00 <= code < 0xFFF0
                or 0x1F000 <= code < 0x32000
            )
    return likely / max(1, len(text))


def _decodes(part: bytes, encoding: str) -> bool:
    """Whether ``part`` is text in ``encoding`` up to its end, where a character may be cut off."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(part)
    except UnicodeDecodeError:
        return False
    return True


def _iconv(file: Path, encoding: str, options: str = "") -> str:
    return f"iconv {options}-f {encoding} -t UTF-8 {quote(str(file))} > {_converted(file)}"


def _converted(file: Path) -> str:
    return quote(str(file.with_name(f"{file.stem}.utf8{file.suffix}")))
