"""Does a record's folder hold together, and keep the rules that can be seen from outside?"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hybridlm.artifact import BUDGET_BYTES, Artifact
from hybridlm.submission.code_bytes import code_bytes, code_files
from hybridlm.submission.record import Record

ROUNDING = 5e-5
"""Bits per byte within which a mean and its parts must agree: they are given to four decimals or more."""

Outcome = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """A warning is something that a reader would ask about; a failure breaks a rule or contradicts itself."""

    name: str
    outcome: Outcome
    found: str


def check(record: Record) -> Iterator[Finding]:
    """Every finding about ``record``, in order. Raises FormatError for a damaged artifact in it, OSError."""
    yield _fields(record)
    yield _claim(record)
    if (spread := _spread(record)) is not None:
        yield spread
    yield _seed_count(record)
    yield _code(record)
    yield from _bytes(record)
    yield from _files(record)
    yield from _compliance(record)


def _fields(record: Record) -> Finding:
    wanted = ("author", "github_id", "name", "date", "val_bpb")
    lacking = [name for name in wanted if record.fields.get(name) in (None, "")]
    if lacking:
        return Finding("fields", "failed", f"submission.json lacks {', '.join(lacking)}")
    return Finding("fields", "ok", ", ".join(wanted))


def _claim(record: Record) -> Finding:
    if not record.seeds:
        return Finding("score", "ok", f"{record.val_bpb:.5f} bits per byte, of a single run")
    mean = statistics.fmean(record.bpbs)
    if abs(mean - record.val_bpb) > ROUNDING:
        return Finding(
            "score", "failed", f"val_bpb is {record.val_bpb:.5f}, but its seeds' mean is {mean:.5f}"
        )
    return Finding(
        "score", "ok", f"{record.val_bpb:.5f} bits per byte, the mean of {len(record.seeds)} seeds"
    )


def _spread(record: Record) -> Finding | None:
    stated = record.fields.get("val_bpb_std")
    if not isinstance(stated, int | float) or len(record.seeds) < 2:
        return None
    # Records use either: of the sample, or of the population.
    found = statistics.stdev(record.bpbs), statistics.pstdev(record.bpbs)
    if min(abs(stated - one) for one in found) > ROUNDING:
        return Finding("spread", "failed", f"val_bpb_std is {stated:.5f}, but its seeds' is {found[0]:.5f}")
    return Finding("spread", "ok", f"standard deviation {stated:.5f}")


def _seed_count(record: Record) -> Finding:
    count = len(record.seeds)
    if count < 3:
        return Finding("seeds", "warning", f"{max(count, 1)}: three or more show how much seeds vary")
    return Finding("seeds", "ok", ", ".join(record.seeds))


def _code(record: Record) -> Finding:
    counted, stated = code_bytes(record.folder), record.fields.get("bytes_code")
    names = ", ".join(str(path.relative_to(record.folder)) for path in code_files(record.folder))
    if not counted:
        return Finding("code", "failed", "there is no code in the folder: a record must run from it")
    if type(stated) is int and stated != counted:
        # A script that unpacks itself may lie beside its readable form, which doesn't count.
        sizes = {path.stat().st_size for path in code_files(record.folder)}
        outcome: Outcome = "ok" if stated in sizes else "warning"
        return Finding("code", outcome, f"bytes_code is {stated:,}; the folder has {counted:,} ({names})")
    return Finding("code", "ok", f"{counted:,} bytes: {names}")


def _bytes(record: Record) -> Iterator[Finding]:
    artifacts = sorted(record.folder.glob("*.pgar"))
    total = record.total_bytes
    if artifacts:
        largest = max(Artifact.from_file(path).total_bytes for path in artifacts)
        counted = largest + code_bytes(record.folder)
        outcome: Outcome = "ok" if counted <= BUDGET_BYTES else "failed"
        yield Finding(
            "bytes", outcome, f"{counted:,} of {BUDGET_BYTES:,}: the largest artifact and the code, counted"
        )
        if total is not None and total != counted:
            yield Finding("stated bytes", "failed", f"it says {total:,} in all, and has {counted:,}")
        return
    if total is None:
        yield Finding("bytes", "failed", "neither a total of bytes nor an artifact says that it fits")
        return
    outcome = "ok" if total <= BUDGET_BYTES else "failed"
    yield Finding("bytes", outcome, f"{total:,} of {BUDGET_BYTES:,}, as it says")


def _files(record: Record) -> Iterator[Finding]:
    names = {path.name.lower() for path in record.folder.iterdir()}
    readme = any(name.startswith("readme") for name in names)
    yield Finding("README", "ok" if readme else "failed", "there" if readme else "there is none")
    logs = sorted(path.name for path in record.folder.rglob("*") if path.suffix in (".log", ".txt", ".jsonl"))
    logs = [name for name in logs if not name.startswith("requirements")]
    runs = max(1, len(record.seeds))
    if len(logs) < runs:
        outcome: Outcome = "warning" if logs else "failed"
        yield Finding("logs", outcome, f"{len(logs)} logs for {runs} runs")
    else:
        yield Finding("logs", "ok", ", ".join(logs))
    if "requirements.txt" not in names:
        yield Finding("requirements", "warning", "there is no requirements.txt")


def _compliance(record: Record) -> Iterator[Finding]:
    stated = record.fields.get("compliance")
    if not isinstance(stated, dict) or not stated:
        yield Finding("compliance", "warning", "it doesn't say which rules it keeps")
        return
    broken = [name for name, kept in stated.items() if kept is False]
    if broken:
        yield Finding("compliance", "warning", f"it says that these don't hold: {', '.join(broken)}")
    else:
        yield Finding(
            "compliance", "ok", f"it says that {len(stated)} rules hold; `hybridlm audit` tries them"
        )
