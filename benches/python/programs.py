"""Other programs, as the benchmarks here run them."""

import os
import shlex
import subprocess
import tempfile
import time
from pathlib import Path


class Program:
    """A command in which INPUT and OUTPUT stand for files, as a function of bytes.

    ``peak_mb`` is the largest memory that it has taken. Raises SystemExit where it fails.
    """

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)
        self.peak_mb = 0.0

    def __call__(self, data: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            files = {"INPUT": Path(folder) / "input", "OUTPUT": Path(folder) / "output"}
            files["INPUT"].write_bytes(data)
            words = [str(files.get(word, word)) for word in self._command]
            with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"{shlex.join(words)} ended with {process.returncode}")
            self.peak_mb = max(self.peak_mb, usage.ru_maxrss / 1e3)
            return files["OUTPUT"].read_bytes()


def processor_time() -> float:
    """Of this process and the programs that it has run, user and system, in seconds."""
    programs = os.times()
    return time.process_time() + programs.children_user + programs.children_system
