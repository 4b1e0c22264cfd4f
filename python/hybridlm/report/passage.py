"""A passage token by token: coloured by bits, with each expert's share."""

from collections.abc import Mapping
from html import escape
from typing import Any

from hybridlm.report.html import details, note, row, table

FULL_COLOUR = 14.0
"""Bits from which on the colour grows no stronger."""
STRONGEST = 0.55
"""How much of the colour covers the page at most: text stays readable on it, on light and on dark."""
SHOWN_EXPERTS = 6


def passage(trace: Mapping[str, Any], name: str) -> str:
    """The passage of a trace; ``name`` begins its identifiers on the page. Raises what
    Python raises for a trace that isn't one."""
    tokens = trace["passage"]["tokens"]
    spans = [_token(f"{name}-{index}", token) for index, token in enumerate(tokens)]
    steps = (0, 2, 4, 8, 14)
    scale = "".join(f'<span style="--bits:{_strength(bits):.2f}">{bits}</span>' for bits in steps)
    total = sum(token["bits"] for token in tokens)
    rows = [row(_visible(token["text"]), f"{token['bits']:.2f}", _shares(token, ", ", 3)) for token in tokens]
    return "\n".join(
        [
            f'<p class="note">Bits per token: <span class="scale">{scale}</span> (more colour, more bits). '
            "Point at a token, tap it or step to it with the tab key: its bits, and the part that each "
            "expert has in the probability that the mixture gave it.</p>",
            f'<p><a class="skip" href="#{name}-end">Skip the passage</a></p>',
            f'<div class="passage">{"".join(spans)}</div>',
            f'<div id="{name}-end"></div>',
            details(
                "The same as a table",
                table(("token", "bits", "experts' shares"), rows, "each token's bits and shares"),
            ),
            note(
                f"{len(tokens)} tokens from target {trace['passage']['start']:,} of {trace['targets']:,} on, "
                f"{total / max(1, len(tokens)):.2f} bits each on average."
            ),
        ]
    )


def _token(name: str, token: Mapping[str, Any]) -> str:
    told = f"{token['bits']:.2f} bits\n{_shares(token, chr(10), SHOWN_EXPERTS)}"
    text = escape(token["text"]) if token["text"].strip() else escape(_visible(token["text"]))
    return (
        f'<span class="token" tabindex="0" aria-describedby="{name}" '
        f'style="--bits:{_strength(token["bits"]):.2f}">{text}'
        f'<span class="told" role="tooltip" id="{name}">{escape(told)}</span></span>'
    )


def _strength(bits: float) -> float:
    return STRONGEST * min(max(bits, 0.0), FULL_COLOUR) / FULL_COLOUR


def _shares(token: Mapping[str, Any], separator: str, most: int) -> str:
    shares = sorted(token["shares"].items(), key=lambda share: -share[1])[:most]
    return separator.join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)


def _visible(text: str) -> str:
    """Spaces as a mark where there would be nothing to see or point at."""
    return text.replace(" ", "␣") if not text.strip() else text
