"""`hybridlm report`."""

from pathlib import Path

import tyro

from hybridlm.cli.arguments import OptionalOut


def report(
    run: tyro.conf.Positional[Path],
    out: OptionalOut = None,
) -> None:
    """Write a run as one HTML page that loads nothing else: scores, bytes, time, training curve, settings.

    Args:
        run: A folder that `hybridlm run --out` or `hybridlm train --out` left.
        out: The page's file; default: report.html in that folder.
    """
    from hybridlm.files import atomic_write_text
    from hybridlm.report.page import read_run, render

    page = render(read_run(run))
    out = run / "report.html" if out is None else out
    atomic_write_text(out, page)
    print(out)
