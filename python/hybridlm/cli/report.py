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
        output: The page's file; default: report.html in that folder. - is standard output.
    """
    from hybridlm.cli.output import check_output, is_standard, write_output
    from hybridlm.report.page import read_run, render

    output = run / "report.html" if output is None else output
    check_output(output)
    write_output(output, render(read_run(run)).encode())
    if not is_standard(output):
        print(output)
