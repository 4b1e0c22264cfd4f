"""Capitals as marks of their own, without loss: "Hello from NASA" becomes "⇧hello from⇪ nasa".

A small vocabulary spends pieces on "The", "the" and "THE". With capitals written as marks before lower-case
words, all three share theirs. The idea is CaseOps, of parameter-golf PR 1729. The marks are

===== ======= =====================================================================================
mark  code    meaning
===== ======= =====================================================================================
SHIFT U+E000  the next letter is a capital
CAPS  U+E001  all letters of the next run of letters are
QUOTE U+E002  the next character, U+E010 to U+E012, stands for one of the three marks, which the text
              itself has
===== ======= =====================================================================================

A mark stands before the space in front of its word, so that the space stays with the word. The letters are
those of the Latin, Greek, Cyrillic and Armenian blocks below U+0590 whose lower-case form is a single
character of as many bytes in UTF-8, with no other capital, and neither of which NFKC changes. One that a
combining diacritical mark follows is left as it is, because its lower-case form might be composed with that.
So the marks count no bytes and every other character counts what it always has: bits per byte are those of
the text as it was.
"""

import re
import unicodedata

SHIFT, CAPS, QUOTE = MARKS = "\ue000", "\ue001", "\ue002"
_QUOTED = "\ue010\ue011\ue012"

_END = 0x590
"""Cased letters beyond it are newer, and what Python knows of them depends on its version."""


def _folded_letters() -> dict[str, str]:
    """The capitals that are folded, and their lower-case forms."""
    letters = {}
    for capital in map(chr, range(_END)):
        small = capital.lower()
        if (
            len(small) == 1
            and small != capital
            and small.upper() == capital
            and len(small.encode()) == len(capital.encode())
            and unicodedata.is_normalized("NFKC", capital)
            and unicodedata.is_normalized("NFKC", small)
        ):
            letters[capital] = small
    return letters


_SMALL = _folded_letters()
_TO_SMALL = str.maketrans(_SMALL)
_TO_CAPITAL = str.maketrans({small: capital for capital, small in _SMALL.items()})

_ALONE = "(?![\u0300-\u036f])"
_UPPER = f"(?:[{''.join(_SMALL)}]{_ALONE})"
_LOWER = f"(?:[{''.join(_SMALL.values())}]{_ALONE})"
_LETTER = f"(?:[{''.join(_SMALL)}{''.join(_SMALL.values())}]{_ALONE})"
# A run is looked at from its beginning alone, and without going back, so the time is linear.
_FOLD = re.compile(f"([{''.join(MARKS)}])|( ?)(?<!{_LETTER})({_LOWER}*+{_UPPER}{_LETTER}*+)")
_UNFOLD = re.compile(f"{QUOTE}([{_QUOTED}]?)|{CAPS}( ?)({_LOWER}*+)|{SHIFT}( ?)({_LOWER}?)")
_CAPITAL = re.compile(_UPPER)
# A space that belongs to no mark: nothing on one side of it decides what becomes of the other side.
_BREAK = re.compile(f"(?<![{''.join(MARKS)}]) ")


def fold(text: str) -> str:
    """``text`` with capitals as marks; `unfold` gives it back, whatever it is."""
    return _FOLD.sub(_fold, text)


def _fold(match: re.Match[str]) -> str:
    mark, space, run = match.groups()
    if mark:
        return QUOTE + _QUOTED[MARKS.index(mark)]
    small = run.translate(_TO_SMALL)
    if len(run) > 1 and not any(letter == other for letter, other in zip(run, small, strict=True)):
        return CAPS + space + small
    if run[0] == small[0]:
        return space + _CAPITAL.sub(_shifted, run)
    return SHIFT + space + small[0] + _CAPITAL.sub(_shifted, run[1:])


def _shifted(match: re.Match[str]) -> str:
    return SHIFT + match[0].translate(_TO_SMALL)


def unfold(text: str) -> str:
    """The text that ``text`` is the folded form of. Marks that stand before nothing they could change are
    dropped, so there is one for any text; its length in UTF-8 is that of ``text`` without its marks."""
    return _UNFOLD.sub(_unfold, text)


class Unfolder:
    """`unfold` of a text that comes in parts. What later parts could still change is held back."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, part: str) -> str:
        text = self._held + part
        end = max((found.start() for found in _BREAK.finditer(text)), default=0)
        self._held = text[end:]
        return unfold(text[:end])

    def finish(self) -> str:
        """The rest of the text."""
        held, self._held = self._held, ""
        return unfold(held)


def _unfold(match: re.Match[str]) -> str:
    quoted, caps_space, caps, shift_space, shift = match.groups()
    if quoted is not None:
        return MARKS[_QUOTED.index(quoted)] if quoted else ""
    if caps_space is not None:
        return caps_space + str(caps.translate(_TO_CAPITAL))
    return shift_space + str(shift.translate(_TO_CAPITAL))
