import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybridlm.cli.main import main


def test_finds_this_installation_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    outcomes = {check["name"]: check["outcome"] for check in report["checks"]}
    for name in ("python", "torch", "native code", "hashes", "threads"):
        assert outcomes[name] == "ok"


def test_shows_a_broken_installation(tmp_path: Path) -> None:
    """Native code that can't be loaded is a line of the report, not a traceback."""
    # A package found before the real one, which has all of its files but an extension that is no library.
    import hybridlm

    package = tmp_path / "hybridlm"
    package.mkdir()
    for entry in Path(hybridlm.__file__).parent.iterdir():
        if not entry.name.startswith("_core"):
            (package / entry.name).symlink_to(entry)
    (package / "_core.abi3.so").write_bytes(b"\x7fELF, cut off")
    command = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from hybridlm.cli.main import main; "
    done = subprocess.run(
        [sys.executable, "-c", command + "sys.exit(main(['doctor']))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("failed")]
    assert "native" in failed
