"""The scripts that kill commands and alter files, for some seconds each."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

pytestmark = pytest.mark.slow


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize(
    "arguments",
    [
        ["torture", "all", "5"],
        ["mutate", "all", "100"],
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)  # fmt: skip
def test_nothing_is_broken(arguments: list[str]) -> None:
    pytest.importorskip("torch")
    script, *rest = arguments
    done = subprocess.run([sys.executable, SCRIPTS / script, *rest], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
