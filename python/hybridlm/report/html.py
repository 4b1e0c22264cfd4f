"""Pieces of a page: sections, tables with bars, figures. Everything that comes from a run is escaped."""

from collections.abc import Iterable
from html import escape

STYLE = """
:root { color-scheme: light dark; --blue: light-dark(#0072b2, #56b4e9); --line: #8885; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
a { color: var(--blue); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; list-style: none; }
.skip { position: absolute; left: -99rem; } .skip:focus { position: static; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; opacity: .8; font-size: .9em; padding-bottom: .3rem; }
td, th { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid var(--line); font-weight: inherit; }
thead th { font-weight: 600; vertical-align: bottom; }
td { overflow-wrap: anywhere; }
.number { text-align: right; } td.number { white-space: nowrap; }
.bar { width: 32%; min-width: 6rem; }
.bar span { display: block; background: var(--blue); height: .7rem; min-width: 1px; }
.bar span.second { background: light-dark(#d55e00, #e69f00); margin-top: 2px; }
.result { font-weight: 600; }
.note, footer { opacity: .8; font-size: .9em; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, .token:focus-visible { outline: 2px solid var(--blue); outline-offset: 1px; }
.side { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); }
.side > * { min-width: 0; }
figure { margin: .5rem 0; } figure svg { display: block; width: 100%; max-width: 42rem; }
figure .small { display: none; }
.passed, .failed { white-space: nowrap; }
.passed::before { content: "✓ "; } .failed::before { content: "✗ "; } .failed { font-weight: 600; }
.passage { line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere; padding-bottom: 1rem; }
.token { position: relative; border-radius: 2px; background: rgb(213 94 0 / var(--bits)); }
.token .told { display: none; position: absolute; left: 0; top: 1.7em; z-index: 1; width: max-content;
  max-width: 13rem; padding: .3rem .6rem; border: 1px solid var(--line); border-radius: 4px;
  background: Canvas; color: CanvasText; font-size: .85rem; line-height: 1.4; white-space: pre-line; }
.token:hover .told, .token:focus .told { display: block; }
/* Beside the page there may be no room for a box at its edge: then it stands at the window's foot. */
@media (max-width: 100rem) { .token .told { position: fixed; left: 1rem; right: 1rem; top: auto; bottom: 1rem;
  width: auto; max-width: 24rem; } }
.scale { display: inline-flex; vertical-align: middle; }
.scale span { padding: 0 .5rem; background: rgb(213 94 0 / var(--bits)); }
details > summary { cursor: pointer; }
@media (max-width: 34rem) { figure .large { display: none; } figure .small { display: block; }
  table:has(.second) .bar { display: none; } }
@media (max-width: 40rem) { table { font-size: .9rem; } td, th { padding: .2rem; }
  thead th { font-size: .8rem; } .bar { width: 18%; min-width: 2.5rem; } }
@media print { nav, .skip, .told { display: none; } body { max-width: none; } }
"""


def section(name: str, heading: str, *body: str) -> str:
    """A part of the page, to which the table of contents leads by ``name``."""
    return f'<section id="{name}"><h2>{escape(heading)}</h2>\n' + "\n".join(body) + "</section>"


def table(head: Iterable[str], rows: Iterable[str], caption: str = "") -> str:
    """``head`` names the columns, the first of which is text; a narrow screen scrolls it."""
    first, *others = head
    cells = f'<th scope="col">{_breakable(first)}</th>'
    cells += "".join(f'<th scope="col" class="{_kind(name)}">{_breakable(name)}</th>' for name in others)
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    label = escape(caption or f"table of {first}", quote=True)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>{named}'
        f"<thead><tr>{cells}</tr></thead><tbody>\n" + "\n".join(rows) + "</tbody></table></div>"
    )


def _breakable(heading: str) -> str:
    """Words stay whole, but for one that is longer than English ones, as names of runs and files can be."""
    return " ".join(
        "<wbr>".join(escape(word[at : at + 8]) for at in range(0, len(word), 8))
        if len(word) > 12
        else escape(word)
        for word in heading.split(" ")
    )


def _kind(heading: str) -> str:
    if heading == "what was tried":
        return "text"
    return "bar" if heading.endswith("better") or heading == "a full bar is the budget" else "number"


def row(name: str, *numbers: str, bars: Iterable[float] = (), result: bool = False) -> str:
    """``bars`` are parts of a whole bar's width, one below the other; None of the text repeats them."""
    cells = f'<th scope="row">{_breakable(name)}</th>'
    cells += "".join(f'<td class="number">{escape(number)}</td>' for number in numbers)
    drawn = "".join(
        f'<span{" class=second" if index else ""} style="width:{min(max(bar, 0), 1):.2%}"></span>'
        for index, bar in enumerate(bars)
    )
    if drawn:
        cells += f'<td class="bar" aria-hidden="true">{drawn}</td>'
    return f'<tr class="result">{cells}</tr>' if result else f"<tr>{cells}</tr>"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def figure(large: str, small: str, caption: str) -> str:
    """One picture, drawn for wide screens and for phones, of which one is shown; and words about it below."""
    return (
        f'<figure><div class="large">{large}</div><div class="small">{small}</div>'
        f"<figcaption class=note>{escape(caption)}</figcaption></figure>"
    )


def side_by_side(parts: Iterable[tuple[str, str]]) -> str:
    """Parts with a heading each, in columns where the page is wide; a single one needs no heading."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0][1]
    return (
        '<div class="side">'
        + "".join(f"<div><h3>{escape(title)}</h3>{body}</div>" for title, body in parts)
        + "</div>"
    )


def columns(parts: Iterable[str]) -> str:
    """Parts without headings, beside each other where the page is wide."""
    return '<div class="side">' + "".join(f"<div>{part}</div>" for part in parts) + "</div>"


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"
