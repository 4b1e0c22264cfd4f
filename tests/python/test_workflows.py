"""CI's workflows and the shell scripts, by what checks such files without running them.

check-jsonschema has GitHub's schema of workflow files, zizmor knows expressions, permissions and what leaks
credentials, and shellcheck reads shell. None of them needs a network.
"""

import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def found(tool: str) -> str:
    scripts = sysconfig.get_path("scripts")
    path = shutil.which(tool, path=scripts) or shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} isn't installed; the dependency group lint has it")
    return path


def check(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for job, content in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items():
            for number, step in enumerate(content.get("steps", [])):
                yield f"{path.name}: {job}, step {number + 1}", step


def test_workflows_have_the_form_of_workflows() -> None:
    assert len(WORKFLOWS) == 3
    check(found("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))


def test_workflows_leak_nothing_and_expand_nothing_into_shell() -> None:
    # From the sdist there is no repository, and zizmor takes its settings from where it is told.
    config = str(ROOT / ".github" / "zizmor.yml")
    check(found("zizmor"), "--offline", "--no-progress", "--config", config, *map(str, WORKFLOWS))


@pytest.mark.parametrize(
    "run", [pytest.param(step["run"], id=name) for name, step in steps() if "run" in step]
)
def test_steps_are_sound_shell_and_name_scripts_that_exist(run: str) -> None:
    # As they are run.
    check(found("shellcheck"), "--shell=bash", "-", text=f"set -eo pipefail\n{run}")
    for script in re.findall(r"(?<![\w/])scripts/[\w-]+", run):
        assert (ROOT / script).exists(), script


def test_scripts_are_sound_shell() -> None:
    scripts = [
        path for path in (ROOT / "scripts").iterdir() if path.read_bytes().startswith(b"#!/usr/bin/env bash")
    ]
    assert len(scripts) > 4
    check(found("shellcheck"), *map(str, sorted(scripts)))


def test_shell_in_pages_is_sound(tmp_path: Path) -> None:
    """Scripts that a page shows whole."""
    shown = [
        block
        for page in sorted((ROOT / "docs").glob("*.md"))
        for block in re.findall(r"```\w*\n(#!.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        if block.startswith(("#!/bin/bash", "#!/usr/bin/env bash", "#!/bin/sh"))
    ]
    assert len(shown) >= 2
    for number, block in enumerate(shown):
        script = tmp_path / f"{number}.sh"
        script.write_text(block, encoding="utf-8")
        check(found("shellcheck"), str(script))


@pytest.mark.parametrize(
    ("sound", "fault"),
    [
        ("        with:\n          persist-credentials: false\n", ""),
        ("grep --fixed", 'echo "${{ github.event.head_commit.message }}"\n          grep --fixed'),
        ("contents: read", "contents: write"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, sound: str, fault: str) -> None:
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert sound in text
    (tmp_path / "publish.yml").write_text(text.replace(sound, fault), encoding="utf-8")
    command = [found("zizmor"), "--offline", "--no-progress", str(tmp_path / "publish.yml")]
    config = ["--config", str(ROOT / ".github" / "zizmor.yml")]
    assert subprocess.run([*command, *config], capture_output=True).returncode != 0
