"""`hybridlm doctor`."""

from dataclasses import asdict

from hybridlm.cli.output import print_json
from hybridlm.doctor import examine


def doctor(*, json: bool = False) -> bool:
    """Check whether this installation can do its work: versions, native code, threads, devices.

    Exits with 1 if something is missing that hybridlm needs.

    Args:
        json: Print one JSON object.
    """
    checks = []
    for check in examine():
        checks.append(check)
        if not json:
            print(f"{check.outcome:8} {check.name:16} {check.found}", flush=True)
    failed = [check.name for check in checks if check.outcome == "failed"]
    if json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    return not failed
