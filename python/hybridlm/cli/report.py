"""`hybridlm report`."""

import sys
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
        run: A folder that `hybridlm run --out` or `hybridlm train --out` left, or one with a score.json of
            `hybridlm eval --json`.
        other: Another one, to be shown beside it.
        out: The page's file; unset: report.html in the (first) run's folder. - is standard output.
        figures: A folder for the page's pictures as single files, for papers; needs the extra plots.
        figure_format: Of these files.
    """
    from hybridlm.cli.output import check_output, is_standard, write_output
    from hybridlm.files import utf8
    from hybridlm.report.page import render
    from hybridlm.report.run_files import read_run

    if figures is not None:
        require_matplotlib("--figures")
    out = run / "report.html" if out is None else out
    if run.is_dir():  # or read_run says so
        check_output(out)
    runs = [read_run(folder) for folder in (run, other) if folder is not None]
    write_output(out, utf8(render(*runs)))
    written = [] if is_standard(out) else [out]
    if figures is not None:
        from hybridlm.report.figures import write_figures

        written += write_figures(runs, figures, figure_format)
    # What is on standard output is the page alone.
    for path in written:
        print(path, file=sys.stderr if is_standard(out) else sys.stdout)
