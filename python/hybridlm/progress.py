"""Progress with rate and ETA on a terminal; nothing in a pipe."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def quantity(value: float) -> str:
    """12_345_678 as "12.3M"."""
    for scale, letter in _SCALES:
        if value >= scale:
            return f"{value / scale:.1f}{letter}"
    return f"{value:.0f}"


class Progress:
    """A progress line for one piece of work of ``total`` units; use as a context manager.

    A ``total`` of None isn't known.
    """

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self._bar = _bar(unit) if sys.stderr.isatty() else None
        if self._bar is not None:
            self._task = self._bar.add_task(label, total=total)

    def update(self, done: int) -> None:
        """``done`` units in all so far, not since the last call."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar(unit: str) -> "RichProgress":
    # Imported late: in a pipe, a short command would take longer to import it than for its work.
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            total = "" if task.total is None else f"/{quantity(task.total)}"
            done = f"{quantity(task.completed)}{total} {unit}"
            return Text(f"{done}, {quantity(task.speed)}/s" if task.speed else done)

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
