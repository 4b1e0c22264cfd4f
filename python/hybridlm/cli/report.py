"""`hybridlm report`."""

from pathlib import Path
from typing import Literal

import tyro

from hybridlm.cli.arguments import OptionalOut
from hybridlm.extras import require_matplotlib

FigureFormat = Literal["svg", "png", "pdf"]


def report(
    run: tyro.conf.Positional[Path],
    other: tyro.conf.Positional[Path | None] = None,
    out: OptionalOut = None,
    figures: Path | None = None,
    figure_format: FigureFormat = "svg",
) -> None:
    """Write a run, or two side by side, as one HTML page that loads nothing else.

    It shows scores of experts and mixtures, what happens along the text and token by token, bytes against the
    budget, the oracle's orders, training curves, the audit if there is an audit.json, time and settings.

    Args:
        run: A folder that `hybridlm run --out` or `hybridlm train --out` left.
        other: Another one, to be shown beside it.
        out: The page's file; unset: report.html in the (first) run's folder.
        figures: A folder for the page's pictures as single files, for papers; needs the extra plots.
        figure_format: Of these files.
    """
    from hybridlm.files import atomic_write_text
    from hybridlm.report.page import render
    from hybridlm.report.run_files import read_run

    if figures is not None:
        require_matplotlib("--figures")
    runs = [read_run(folder) for folder in (run, other) if folder is not None]
    page = render(*runs)
    out = run / "report.html" if out is None else out
    atomic_write_text(out, page)
    print(out)
    if figures is not None:
        from hybridlm.report.figures import write_figures

        for path in write_figures(runs, figures, figure_format):
            print(path)
