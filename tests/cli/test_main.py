import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridlm.cli import main as cli
from hybridlm.errors import FormatError, InputError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], None]:
    """Puts in place of `hybridlm run` a command that raises what it is given."""

    def install(error: BaseException | None) -> None:
        def body(count: int = 1) -> None:
            if error is not None:
                raise error
            print(count)

        monkeypatch.setattr(cli.Command, "load", lambda self: body)

    return install


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.bin: odd\n  length"), 1, "a.bin: odd length"),
        (FormatError("x"), 1, "x"),
        (FileNotFoundError(2, "No such file or directory", "a.bin"), 1, "a.bin: no such file or directory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("interrupted at step 3; resume with --resume"), 130, "resume with --resume"),
    ],
)
def test_a_users_mistake_is_one_line(
    command: Callable[[BaseException | None], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    command(error)
    assert cli.main(["run"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hybridlm: error: ")
    assert line in err
    assert err.count("\n") == 1


def test_our_own_bug_keeps_its_traceback(command: Callable[[BaseException | None], None]) -> None:
    command(ValueError("not the user's"))
    with pytest.raises(ValueError, match="not the user's"):
        cli.main(["run"])


def test_usage(command: Callable[[BaseException | None], None], capsys: pytest.CaptureFixture[str]) -> None:
    command(None)
    assert cli.main(["run", "--count", "3"]) == 0
    assert capsys.readouterr().out == "3\n"
    assert cli.main(["run", "--count", "many"]) == 2
    assert cli.main(["run", "--nonsense"]) == 2
    assert cli.main(["run", "--help"]) == 0
    assert cli.main(["ran"]) == 2
    assert cli.main([]) == 2
    assert cli.main(["oracle"]) == 2
    assert cli.main(["oracle", "--help"]) == 0


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_shows_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*name.split(), "--help"]) == 0
    assert f"usage: hybridlm {name}" in capsys.readouterr().out


def test_closed_pipe_is_a_quiet_success() -> None:
    script = f"{sys.executable} -m hybridlm --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=Path.cwd())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["oracle build", "train", "eval", "run"])
def test_help_does_not_wait_for_torch(name: str) -> None:
    code = (
        "import sys; from hybridlm.cli.main import main; "
        f"main({[*name.split(), '--help']!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize("arguments", [["oracle", "build", "-o", "x"], ["data", "tokenizer", "-o", "x"]])
def test_no_files_is_wrong_usage(arguments: list[str]) -> None:
    assert cli.main(arguments) == 2


def test_a_command_that_was_renamed_works_and_says_its_new_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"the same words and the same words again " * 20)
    options = ["--train", str(text), "--test", str(text), "--json"]
    assert cli.main(["baseline", "kn", *options]) == 0
    now = capsys.readouterr()
    assert cli.main(["baseline", "ppm", *options]) == 0
    before = capsys.readouterr()
    assert (now.err, before.err) == ("", "hybridlm: `baseline ppm` is now called `baseline kn`\n")
    assert json.loads(before.out)["bits"] == json.loads(now.out)["bits"]
    assert "ppm" not in cli.overview()
