"""RUN/metrics.jsonl: one JSON object a line, in order of steps."""

import json
from pathlib import Path
from typing import Any

from hybridlm.errors import FormatError
from hybridlm.files import atomic_write_bytes, naming, read_bytes

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class MetricsLog:
    """Appends to the log of a run that has done ``step`` steps; later lines, of a lost past, are dropped.

    With ``tensorboard``, every number also becomes a scalar in RUN/tensorboard.
    """

    def __init__(self, run: Path, step: int, *, tensorboard: bool = False) -> None:
        path = run / METRICS_FILE
        kept = b""
        if step and path.is_file():
            lines = read_bytes(path).splitlines(keepends=True)
            kept = b"".join(line for line in lines if _step_of(line) <= step)
        atomic_write_bytes(path, kept)
        self._path = path
        self._tensorboard: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(run / TENSORBOARD_FOLDER), purge_step=step + 1)

    def write(self, **values: Any) -> None:
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, values["step"])
            self._tensorboard.flush()


def read_metrics(run: Path) -> list[dict[str, float]]:
    """What the run in the folder ``run`` has logged so far; a line that is still being written is left out.

    Raises OSError where there is no log, FormatError for a line that can't be one.
    """
    path = run / METRICS_FILE
    lines = []
    for number, text in enumerate(read_bytes(path).splitlines(keepends=True), 1):
        if not text.endswith(b"\n"):
            break
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict) or not all(isinstance(value, int | float) for value in line.values()):
            raise FormatError(f"{path}: line {number} is not a JSON object of numbers; remove it")
        lines.append(line)
    return lines


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")  # cut off in the middle of a write: belongs to no step
