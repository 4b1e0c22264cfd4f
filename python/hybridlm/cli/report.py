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
        out: The page's file; default: report.html in that folder. - is standard output.
    """
    from hybridlm.cli.output import check_output, is_standard, write_output
    from hybridlm.report.page import read_run, render

    out = run / "report.html" if out is None else out
    check_output(out)
    write_output(out, render(read_run(run)).encode())
    if not is_standard(out):
        print(out)
