"""README.md, docs/start.md and docs/tutorial.md, followed to the letter: every command that they show."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hybridlm.data.documents import Document, split_stream

ROOT = Path(__file__).parents[2]

# What is installed already; what goes on for minutes, and has its own tests; torchrun with eight GPUs.
LEFT_OUT = re.compile(r"pip install |scripts/|hybridlm run |hybridlm report run$|torchrun ")

# Training stops after a few steps, and the network scores little text, so that all of it takes seconds.
SHELL = """
set -euo pipefail
hybridlm() {
    if [ "$1" = train ]; then set -- "$@" --iterations 3 --validation.max-tokens 2000; fi
    if [ "$1" = eval ]; then set -- "$@" --max-tokens 600; fi
    if [ "$1" = audit ]; then set -- "$@" --max-tokens 300 --rows 4 --changes 1 --skip-world-sizes; fi
    "$WALKS_WITH" -m hybridlm "$@"
}
python() { "$WALKS_WITH" "$@"; }
"""


# What the reader is said to have from before: a score of another artifact, and those of other seeds.
OTHERS = """
import json
score = json.load(open("score.json"))
bits = score["documents"]["bits"]
for name, more in {"before": 1.1, "b2": 1.11, "b3": 1.12, "s2": 1.01, "s3": 0.99}.items():
    score["documents"]["bits"] = [more * one for one in bits]
    json.dump({**score, "bpb": more * score["bpb"]}, open(f"{name}.json", "w"))
"""


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    found = []
    for block in blocks:
        lines = block.replace("\\\n", " ").splitlines()
        # A string in quotes may go on over the next line.
        while lines:
            line = lines.pop(0)
            while line.count('"') % 2:
                line += "\n" + lines.pop(0)
            if line.strip() and not LEFT_OUT.match(line):
                found.append(line)
    return found


def walk(page: str, folder: Path, after: str = "\0", then: str = "") -> str:
    """Standard output of the page's commands, with ``then`` run after the one that ends with ``after``."""
    script: list[str] = []
    for command in commands(page):
        script += [command, then] if command.endswith(after) else [command]
    environment = {**os.environ, "WALKS_WITH": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-x", "-c", SHELL + "\n".join(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def text(corpus: list[str]) -> str:
    """Few documents, so that coding with a network doesn't take long, some of which are held out."""
    chosen = [Document("pydoc", text) for text in sorted(set(corpus), key=len)[:50]]
    sides = [side for side, _ in split_stream(chosen, 0.01)]
    assert {"train", "val"} == set(sides)
    return "\n".join(json.dumps({"text": document.text}) for document in chosen)


pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")]


def test_start(tmp_path: Path) -> None:
    out = walk("docs/start.md", tmp_path)
    assert "mixture: stacked" in out
    assert (tmp_path / "text.hlm").stat().st_size < (tmp_path / "text.jsonl").stat().st_size / 2


def test_tutorial(tmp_path: Path, text: str) -> None:
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "others.py").write_text(OTHERS)
    walk("docs/tutorial.md", tmp_path, "> score.json", "python others.py")
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "held-out.txt").read_bytes()
    assert (tmp_path / "model" / "report.html").is_file()


def test_readme(tmp_path: Path, text: str) -> None:
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "FILE").write_text(text[:2000])
    walk("README.md", tmp_path)
    assert (tmp_path / "FILE.hlm").is_file()
