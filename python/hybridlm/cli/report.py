"""`hybridlm report`."""

from pathlib import Path
from typing import Annotated

import tyro


def report(
    run: tyro.conf.Positional[Path],
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
) -> None:
    """Write a run as one HTML page that loads nothing else: scores, bytes, time, training curve, settings.

    Args:
        run: A folder that `hybridlm run --out` or `hybridlm train --out` left.
        output: The page's file; default: report.html in that folder.
    """
    from hybridlm.files import atomic_write_text
    from hybridlm.report.page import read_run, render

    page = render(read_run(run))
    output = run / "report.html" if output is None else output
    atomic_write_text(output, page)
    print(output)
