"""The pictures of a report as single files for papers, by Matplotlib (the extra ``plots``)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hybridlm.errors import InputError
from hybridlm.extras import require_matplotlib
from hybridlm.files import atomic_write
from hybridlm.report.chart import COLOURS, Series
from hybridlm.report.page import along_lines, bytes_of_parts, loss_lines, names_of, score_bars, share_lines
from hybridlm.report.run_files import RunFiles

_STYLES = ("-", "--", ":", "-.", (0, (4, 4)), (0, (1, 3)))
_WIDTH, _HEIGHT = 5.5, 3.2
"""Inches: a column's width and a half of most papers."""


def write_figures(runs: Sequence[RunFiles], folder: Path, kind: str) -> list[Path]:
    """Writes scores, bytes, training, along and shares, as far as the runs have them; returns the files.

    ``kind`` is svg, png or pdf. The same runs give the same bytes with the same version of Matplotlib.
    Raises InputError without Matplotlib, OSError.
    """
    require_matplotlib("a figure")
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    # No date and no random identifiers, so that a figure that hasn't changed has the same bytes.
    with matplotlib.rc_context(
        {"svg.hashsalt": "hybridlm", "svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 9}
    ):
        for name, figure in _figures(runs):
            path = folder / f"{name}.{kind}"
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
            with atomic_write(path) as file:
                figure.savefig(file, format=kind, metadata=metadata, dpi=200, bbox_inches="tight")
            written.append(path)
    if not written:
        raise InputError(f"{runs[0].folder} has nothing to draw")
    return written


def _figures(runs: Sequence[RunFiles]) -> Iterator[tuple[str, Any]]:
    names = names_of(runs)
    if bars := score_bars(runs, names):
        yield "scores", _bars(bars, "bits per byte (shorter is better)")
    if parts := bytes_of_parts(runs, names):
        yield "bytes", _bars(parts, "bytes")
    for key, lines, x_label, y_label in (
        ("training", loss_lines(runs, names), "step", "loss, nats per token"),
        ("along", along_lines(runs, names), "target", "bits per byte"),
        (
            "weights",
            share_lines(runs[0].trace, "weights") if runs[0].trace else [],
            "target",
            "weight in the mixture",
        ),
        ("shares", share_lines(runs[0].trace) if runs[0].trace else [], "target", "share of the mixture"),
    ):
        if any(len(line.points) > 1 for line in lines):
            yield key, _lines(lines, x_label, y_label)


def _axes(rows: int = 0) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, max(_HEIGHT, 0.22 * rows)))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _lines(lines: Sequence[Series], x_label: str, y_label: str) -> Any:
    figure, axes = _axes()
    for index, line in enumerate(lines):
        style, colour = _STYLES[index % len(_STYLES)], COLOURS[index % len(COLOURS)]
        steps, values = zip(*line.points, strict=True)
        axes.plot(steps, values, label=line.name, color=colour, linestyle=style, linewidth=1.3)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25)
    _legend(axes)
    return figure


def _legend(axes: Any) -> None:
    """Above the lines, where it hides none."""
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def _bars(bars: dict[str, dict[str, float]], label: str) -> Any:
    """``bars`` is by run, then by what a bar is of."""
    from matplotlib.ticker import MaxNLocator

    rows = list(dict.fromkeys(name for of_run in bars.values() for name in of_run))
    figure, axes = _axes(len(rows) * len(bars))
    height = 0.8 / len(bars)
    for index, (run, values) in enumerate(bars.items()):
        places = [place + index * height for place, name in enumerate(rows) if name in values]
        shown = [values[name] for name in rows if name in values]
        drawn = axes.barh(places, shown, height, label=run, color=COLOURS[index])
        numbers = [f"{value:.3f}" if isinstance(value, float) else f"{value:,.0f}" for value in shown]
        axes.bar_label(drawn, numbers, padding=2)
    axes.set_yticks([place + (len(bars) - 1) * height / 2 for place in range(len(rows))], rows)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.margins(x=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter("{x:,.7g}")
    if len(bars) > 1:
        _legend(axes)
    return figure
