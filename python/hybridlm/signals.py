"""SIGINT, SIGTERM and SIGHUP alike: a command cleans up and ends with exit code 130."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Within the block each of them raises KeyboardInterrupt.

    While the command cleans up after the first one, only another SIGINT breaks that off.
    """
    seen = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen and number != signal.SIGINT:
            return
        seen = True
        raise KeyboardInterrupt

    with handled_by(interrupt):
        yield


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Within the block ``handler`` takes SIGINT, SIGTERM and SIGHUP; afterwards they do what they did before.

    A signal that is ignored (nohup, background jobs) stays ignored. Only the main thread can set handlers:
    in any other one the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.getsignal(number) for number in numbers}
    # None: set by something other than Python, which couldn't be put back.
    before = {number: own for number, own in before.items() if own not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)
