"""Runs a command again and again, each time with another system call made to fail. Started by test_faults.py.

Arguments: the stub that LD_PRELOAD names, the folder of inputs, that of outputs, the command. Prints a line
of JSON for each round.
"""

import contextlib
import ctypes
import errno
import io
import json
import os
import shutil
import sys
import traceback
from pathlib import Path

from hybridlm.cli.main import main

CALLS = {"write": 0, "fsync": 1, "rename": 2, "read": 3}
_NEVER = 1 << 40


def attempt(arguments: list[str]) -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    said = io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        Path(os.devnull).open("w") as silent,
        contextlib.redirect_stdout(silent),
    ):
        try:
            code = main(arguments)
        except BaseException:
            traceback.print_exc()
            code = -1
    return code, said.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def afresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def run(stub: ctypes.CDLL, inputs: Path, out: Path, arguments: list[str]) -> None:
    stub.fault_arm.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    stub.fault_seen.restype = ctypes.c_long
    afresh(out)
    code, said = attempt(arguments)
    assert code == 0, said
    good = contents(out)
    for call, number in CALLS.items():
        below = bytes(inputs if call == "read" else out)
        afresh(out)
        stub.fault_arm(number, below, _NEVER, 0, 0)
        code, said = attempt(arguments)
        assert code == 0, said
        calls = stub.fault_seen()
        stub.fault_arm(-1, b"", 0, 0, 0)
        # The first, the last, and some between; a disk that fails once, and one that stays full.
        places = sorted({0, 1, calls // 3, calls // 2, calls - 2, calls - 1} & set(range(calls)))
        for at in places:
            for name, goes_on in (("EIO", 0), ("ENOSPC", 1)) if call != "read" else (("EIO", 1),):
                afresh(out)
                stub.fault_arm(number, below, at, getattr(errno, name), goes_on)
                code, said = attempt(arguments)
                stub.fault_arm(-1, b"", 0, 0, 0)
                complaints = [line for line in said.splitlines() if line.startswith("hybridlm: error: ")]
                left = contents(out)
                wrong = []
                if code != 1 or len(complaints) != 1 or "Traceback" in said:
                    wrong.append(f"exit code {code}, {said}")
                elif not any(str(folder) in complaints[0] for folder in (inputs, out)):
                    wrong.append(f"names no file: {complaints[0]}")
                elif ".hybridlm-" in complaints[0]:
                    wrong.append(f"names a file that nobody knows: {complaints[0]}")
                # A result that is there is whole; what else there is, is for the same command to go on from.
                for path, data in left.items():
                    if (path in good and data != good[path]) or ".hybridlm-" in path:
                        wrong.append(f"left {path}")
                again, said_again = attempt(arguments)
                if again or contents(out) != good:
                    wrong.append(f"the second run: exit code {again}, {said_again}, {sorted(contents(out))}")
                print(json.dumps({"call": call, "at": at, "of": calls, "error": name, "wrong": wrong}))


if __name__ == "__main__":
    run(ctypes.CDLL(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
