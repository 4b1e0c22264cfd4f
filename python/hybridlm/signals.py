"""SIGINT, SIGTERM and SIGHUP alike: a command cleans up and ends with exit code 130."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_MOMENT = 0.02
"""Seconds until a signal that came during an import is looked at again."""

_PATIENCE = 5.0
"""Seconds that an import is waited for."""


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Within the block each of them raises KeyboardInterrupt.

    While the command cleans up after the first one, only another SIGINT breaks that off. One that comes
    during an import is put off to its end: libraries that import others from C, as PyTorch does NumPy, drop
    what is raised there, and would go on with half of a module.
    """
    seen = False
    since: float | None = None
    timer: threading.Timer | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal seen, since, timer
        if seen and number != signal.SIGINT:
            return
        since = time.monotonic() if since is None else since
        if _is_importing(frame) and time.monotonic() - since < _PATIENCE:
            if timer is None or not timer.is_alive():
                timer = threading.Timer(_MOMENT, _send_main_thread, (number,))
                timer.daemon = True
                timer.start()
            return
        seen = True
        raise KeyboardInterrupt

    with handled_by(interrupt):
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
                # One that is at work already must not send its signal once the handlers are those of before,
                # of which SIGTERM's would end the process.
                timer.join()
            if since is not None and not seen:
                seen = True
                raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _send_main_thread(number: int) -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)  # which ends a call that waits, too
    else:
        signal.raise_signal(number)


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
