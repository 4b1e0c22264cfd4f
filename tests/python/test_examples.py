"""The scripts in examples/, each run as a reader would run it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# What each has to print, so that an example that does nothing is found out.
FINDINGS = {
    "oracle_from_text.py": "bits per byte",
    "compress_bytes.py": "xz makes",
    "hybrid_evaluation.py": "hybrid: ",
    "compare_mixtures.py": "mixtures:  stacked",
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(FINDINGS)


@pytest.mark.parametrize("name", FINDINGS)
def test_an_example_runs_anywhere_and_prints_what_it_found(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert FINDINGS[name] in done.stdout
    assert list(tmp_path.iterdir()) == []
