"""Signals and streams that a process is started with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybridlm.cli.main import main
from hybridlm.data.sidecar import Sidecar
from hybridlm.signals import as_interrupts

# Sends itself a signal when the module argv[2] is looked for, then runs the command that follows.
SIGNALLED = """
import os, sys
number, module, sys.argv[1:] = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Hook())
from hybridlm.cli.entry import run
run()
"""


@pytest.mark.parametrize(
    ("number", "module"),
    [
        (signal.SIGINT, "hybridlm.cli.main"),
        (signal.SIGTERM, "hybridlm.cli.oracle"),
        (signal.SIGHUP, "tyro"),
        (signal.SIGINT, "numpy"),
        (signal.SIGTERM, "hybridlm.oracle.oracle"),
    ],
)
def test_a_signal_at_any_moment_is_one_line(number: signal.Signals, module: str, tmp_path: Path) -> None:
    command = ["oracle", "inspect", str(tmp_path / "none")]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number)), module, *command], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "hybridlm: error: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_was_ignored_stays_so(number: signal.Signals, oracle_artifact: Path) -> None:
    command = [str(int(number)), "numpy", "artifact", "inspect", str(oracle_artifact)]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, *command],
        capture_output=True, text=True, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def shell(line: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a line of bash in which "$@" is hybridlm with ``arguments``."""
    words = [sys.executable, "-m", "hybridlm", *map(str, arguments)]
    return subprocess.run(
        ["bash", "-c", line, "bash", *words], capture_output=True, env={**os.environ, **environment}
    )


def test_closed_streams_are_as_good_as_dev_null(oracle_artifact: Path) -> None:
    assert shell('"$@" >&-', "artifact", "inspect", oracle_artifact).stderr == b""
    silent = shell('"$@" 2>&-', "artifact", "inspect", oracle_artifact)
    assert silent.returncode == 0
    assert silent.stdout.startswith(b"artifact")
    for line in ('"$@" 2>&- >&- <&-', '"$@" 2>/dev/full'):
        assert shell(line, "artifact", "inspect", oracle_artifact).returncode == 0
        assert shell(line, "artifact", "inspect", "none").returncode == 1


def test_output_that_does_not_fit_the_disk_is_named(oracle_artifact: Path) -> None:
    full = shell('"$@" >/dev/full', "artifact", "inspect", oracle_artifact)
    assert full.stderr == b"hybridlm: error: standard output: no space left on device\n"
    assert full.returncode == 1


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-16"])
def test_any_encoding_can_be_printed_in(encoding: str, oracle_artifact: Path, tmp_path: Path) -> None:
    from hybridlm.artifact import Artifact

    oracle = tmp_path / "an oracle"
    blob = Artifact.from_file(oracle_artifact).oracle_blob
    assert blob is not None
    oracle.write_bytes(blob)
    done = shell('"$@"', "oracle", "inspect", oracle, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "order" in done.stdout.decode(encoding)


def test_a_file_name_that_is_not_text(oracle_artifact: Path, shard_dir: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/o\xff"
    name = os.fsdecode(odd)
    Path(f"{name}.pgar").symlink_to(oracle_artifact)
    Path(f"{name}.bin").symlink_to(next(shard_dir.glob("*_train_*.bin")).resolve())
    for command in (
        ["artifact", "inspect", f"{name}.pgar", "--json"],
        ["data", "inspect", f"{name}.bin", "--json"],
        ["oracle", "count", f"{name}.bin", "-o", f"{name}.counts", "--orders", "2"],
        ["oracle", "build", f"{name}.counts", "-o", f"{name}.ngsp", "--max-bytes", "20000"],
        ["oracle", "count", f"{name}.bin", "-o", f"{name}.dense", "--orders", "2", "--estimator", "dense"],
        ["oracle", "merge", f"{name}.dense", "-o", f"{name}.merged"],
        ["oracle", "inspect", f"{name}.ngsp"],
    ):
        done = shell('"$@"', *command)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    refused = shell('"$@"', "oracle", "inspect", f"{name}.bin")
    assert refused.returncode == 1
    assert refused.stderr.count(b"\n") == 1


def test_a_sidecar_names_a_text_whose_name_is_none(tokenizer_path: Path, tmp_path: Path) -> None:
    text, data = tmp_path / os.fsdecode(b"t\xff.txt"), tmp_path / "data"
    text.write_text("The sequence is iterated over.\n\n" * 20)
    assert main(["data", "shard", str(text), "--tokenizer", str(tokenizer_path), "--out", str(data)]) == 0
    sidecar = Sidecar.beside(next(data.glob("*.bin")))
    assert sidecar is not None
    assert sidecar.source["text"] == [text.name]


def test_what_is_read_twice_must_be_a_regular_file(
    shard_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for command in (
        ["data", "inspect", str(fifo)],
        ["oracle", "count", str(fifo), "-o", str(tmp_path / "x")],
        ["oracle", "merge", str(fifo), "-o", str(tmp_path / "x")],
    ):
        assert main(command) == 1
        assert "not a regular file" in capsys.readouterr().err


def test_what_is_read_once_may_come_through_a_fifo(oracle_artifact: Path) -> None:
    plain = shell('"$@"', "artifact", "inspect", oracle_artifact, "--json")
    piped = shell(f'"$@" <(cat "{oracle_artifact}") --json', "artifact", "inspect")
    dashed = shell(f'"$@" - --json < "{oracle_artifact}"', "artifact", "inspect")
    assert json.loads(plain.stdout) == json.loads(piped.stdout) == json.loads(dashed.stdout)


def test_a_panic_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class PanicException(BaseException):  # as pyo3 calls its own
        pass

    def body() -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("hybridlm.cli.main.Command.load", lambda self: body)
    assert main(["run"]) == 1
    assert "internal error" in capsys.readouterr().err


def test_memory_that_torch_does_not_get_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("hybridlm.cli.main.Command.load", lambda self: lambda: torch.empty(1 << 50) and None)
    assert main(["run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hybridlm: error: there is not enough memory: ")


AFTER = """
import atexit, os, signal, sys, time
sys.argv = ["hybridlm", *sys.argv[2:]]
atexit.register(lambda: (os.kill(os.getpid(), int(number)), time.sleep(5)))
number = {number}
from hybridlm.cli.entry import run
run()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_end_changes_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """As where a rank that has failed, and said so or left it to another, is ended by its agent."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            AFTER.format(number=int(number)),
            "",
            "oracle",
            "inspect",
            str(tmp_path / "none"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "none: no such file" in done.stderr


IMPORTED = """
import os, signal, time
os.kill(os.getpid(), signal.SIGTERM)
try:
    {work}
except BaseException:
    pass  # as libraries do that import others from C
done = True
"""


def test_a_signal_during_an_import_waits_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "imported_slowly.py").write_text(IMPORTED.format(work="time.sleep(0.1)"))
    with pytest.raises(KeyboardInterrupt), as_interrupts():
        import imported_slowly  # type: ignore[import-not-found]

        time.sleep(60)
    assert imported_slowly.done
    (tmp_path / "imported_last.py").write_text(IMPORTED.format(work="pass"))
    with pytest.raises(KeyboardInterrupt), as_interrupts():
        import imported_last  # type: ignore[import-not-found] # noqa: F401


def test_an_import_that_never_ends_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("hybridlm.signals._PATIENCE", 0.1)
    code = "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n"
    (tmp_path / "imported_for_ever.py").write_text(code)
    with pytest.raises(KeyboardInterrupt), as_interrupts():
        import imported_for_ever  # type: ignore[import-not-found] # noqa: F401
