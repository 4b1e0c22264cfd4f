"""scripts/gpu-check, as a machine without a GPU can run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_check_passes_on_a_cpu(tmp_path: Path) -> None:
    environment = {**os.environ, "HYBRIDLM_VENV": sys.prefix}
    found = subprocess.run(
        # An sdist doesn't keep that it may be executed.
        ["bash", ROOT / "scripts" / "gpu-check", "--device", "cpu", "--small", "--out", tmp_path],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] and report["device"] == "cpu" and report["small"]
    checks = {check["name"]: check["facts"] for check in report["checks"]}
    assert len(checks) == 8
    for preset in ("kaggle", "record"):
        facts = checks[f"{preset} trains"]
        assert facts["tokens_per_second"] > 0 and facts["last_loss"] < facts["first_loss"]
        assert f"{preset} trains" in found.stdout
    assert checks["first steps equal the CPU's"]["largest_difference_nats"] == 0
    assert checks["score with test-time training"]["updates"] > 0


@pytest.mark.slow
def test_a_device_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "benches" / "python" / "gpu_check.py", "--device", "nonsense"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert found.returncode == 2 and "'nonsense' is not a device" in found.stderr
    assert not list(tmp_path.iterdir())
