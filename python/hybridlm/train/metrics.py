"""RUN/metrics.jsonl: one JSON object a line, in order of steps."""

import json
from pathlib import Path
from typing import Any

from hybridlm.files import atomic_write_bytes

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends to the log of a run that has done ``step`` steps; later lines, of a lost past, are dropped."""

    def __init__(self, run: Path, step: int) -> None:
        path = run / METRICS_FILE
        kept = b""
        if step and path.is_file():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = b"".join(line for line in lines if _step_of(line) <= step)
        atomic_write_bytes(path, kept)
        self._path = path

    def write(self, **values: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut off in the middle of a write: belongs to no step
