"""Where the process begins: what a signal or a closed stream means is settled before anything is imported."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType


def run(*first: str) -> None:
    """Runs the command that the process was started with, after the words ``first``, and ends the process."""
    for number in _SIGNALS:
        # What nohup, or a shell that starts a job in the background, has had ignored stays ignored.
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _leave)
    from hybridlm.cli.main import main

    global _code
    _code = main([*first, *sys.argv[1:]])
    sys.exit(_code)


_code: int | None = None
"""What the command ended with, once it has."""


_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def _leave(number: int, frame: FrameType | None) -> None:
    """Ends the process at once: for while there is nothing to clean up yet, or no longer."""
    if _code is not None:
        # The command has said how it ended; a signal that comes while Python takes its leave changes nothing.
        os._exit(_code)
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, b"hybridlm: error: interrupted\n")
    os._exit(130)
