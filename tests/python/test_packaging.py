"""What the package says of itself, and what it costs to start."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hybridlm import doctor

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def packages(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements}


def test_the_doctor_looks_at_every_package_that_is_asked_for() -> None:
    assert set(doctor.REQUIRED) == packages(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    assert set(doctor.OPTIONAL) == packages(extras["train"] + extras["ray"])
    assert "hybridlm[train]" in doctor.OPTIONAL["torch"] and "hybridlm[ray]" in doctor.OPTIONAL["ray"]


@pytest.mark.parametrize("code", ["import hybridlm", "from hybridlm.cli.main import main; main(['--help'])"])
def test_starting_imports_no_other_package(code: str) -> None:
    """Which is why it takes no longer than Python itself: any of these would be most of the time."""
    code += "; import sys; print({'numpy', 'tyro', 'rich', 'torch', 'sentencepiece'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
