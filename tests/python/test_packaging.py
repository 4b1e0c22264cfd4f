"""What the package says of itself, and what it costs to start."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import hybridlm
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


def test_the_version_is_the_same_everywhere() -> None:
    crate = tomllib.loads((ROOT / "rust" / "Cargo.toml").read_text())["package"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == crate
    assert re.search(rf"^## \[{re.escape(crate)}\] - ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_what_is_not_published_yet_is_said_to_be_installed_from_a_clone() -> None:
    version = re.escape(hybridlm.__version__)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased = re.search(rf"^## \[{version}\] - unreleased$", changes, re.MULTILINE)
    for page in ("README.md", "docs/start.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        said = re.search(rf"Until {version} is on the package index,[^.]* `(pip install )?./hybridlm`", text)
        assert (said is None) == (unreleased is None), page


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path: Path) -> None:
    """Its jobs wait for jobs that exist, end some time, and their scripts parse. actionlint, where it is
    installed, says more."""
    workflow = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key "on" as true.
    assert workflow.keys() >= {"name", True, "permissions", "jobs"}
    for job in workflow["jobs"].values():
        needed = job.get("needs", [])
        needed = {needed} if isinstance(needed, str) else set(needed)
        assert needed <= workflow["jobs"].keys()
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()
            continue
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            script = re.sub(r"\$\{\{.*?\}\}", "expression", step.get("run", ""))
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)
            for script_path in re.findall(r"^\s*scripts/[\w-]+", script, re.MULTILINE):
                assert (ROOT / script_path.strip()).is_file()
    if linter := shutil.which("actionlint"):
        subprocess.run([linter, path], check=True)


def test_there_are_workflows_that_test_build_and_publish() -> None:
    assert [path.stem for path in WORKFLOWS] == ["publish", "test", "wheels"]


def test_hooks_before_a_commit_run_what_the_tests_run() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for hook in config["repos"][0]["hooks"]]
    assert {" ".join(entry.split()[:2]) for entry in entries} == {
        "ruff check",
        "ruff format",
        "cargo fmt",
        "cargo clippy",
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other platforms need some other crates")
def test_the_licences_of_what_is_in_the_native_module_are_listed() -> None:
    if shutil.which("cargo") is None:
        pytest.skip("cargo isn't installed")
    command = ["cargo", "tree", "--locked", "--package", "hybridlm-core", "--features", "python"]
    command += ["--edges", "normal", "--prefix", "none", "--format", "{p}|{l}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    wanted: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        crate, licence = line.removesuffix(" (*)").split("|")
        if not crate.startswith("hybridlm-core "):
            # "A/B" is an old way to write "A OR B".
            choices = sorted(re.split(r" ?/ ?| OR ", licence)) if " AND " not in licence else [licence]
            wanted.setdefault(" OR ".join(choices), set()).add(crate.split()[0])
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = page.split("| licence | crates |\n|---|---|\n")[1].split("\n\n")[0]
    listed = {
        row.split("|")[1].strip(): set(row.split("|")[2].strip().split(", ")) for row in table.splitlines()
    }
    assert listed == wanted
