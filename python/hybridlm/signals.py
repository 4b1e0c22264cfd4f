"""SIGINT, SIGTERM and SIGHUP alike: a command cleans up and ends with exit code 130."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Within the block each of them raises KeyboardInterrupt in the main thread.

    One that is ignored (nohup, background jobs) stays so. While the first is being cleaned up after, only
    another SIGINT breaks that off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen and number != signal.SIGINT:
            return
        seen = True
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in termination_signals()}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def termination_signals() -> list[signal.Signals]:
    """Those of SIGINT, SIGTERM and SIGHUP that the system has and that aren't ignored."""
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    # None: set by something other than Python, which couldn't be put back.
    return [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
