"""scripts/best-16mb, with a training run of a few steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybridlm.artifact import Artifact

SCRIPT = Path(__file__).parents[2] / "scripts" / "best-16mb"
QUICK = [
    "--iterations=3",
    "--batch-tokens=512",
    "--micro-batch-tokens=512",
    "--sequence-length=64",
    "--model.layers=2",
    "--model.width=32",
    "--model.heads=2",
    "--model.kv-heads=1",
    "--model.mlp-hidden=64",
    "--model.bigram-rows=64",
    "--model.bigram-width=16",
]


def made(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HYBRIDLM": str(Path(sys.executable).with_name("hybridlm"))},
    )


@pytest.mark.slow
def test_makes_an_artifact_from_text_and_goes_on_from_what_is_there(
    tmp_path: Path, corpus: list[str]
) -> None:
    text = tmp_path / "a text.jsonl"
    text.write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus))
    out = tmp_path / "out"
    first = made(str(out), str(text), "--", *QUICK)
    assert first.returncode == 0, first.stderr
    artifact = Artifact.from_file(out / "best.pgar")
    assert artifact.neural_bytes > 0
    assert artifact.oracle_bytes == (out / "oracle.ngsp").stat().st_size > 0
    config = json.loads((out / "model" / "config.json").read_text())["training"]
    assert (config["iterations"], config["seed"], config["checkpoint"]["every"]) == (3, 1, 250)

    best = (out / "best.pgar").read_bytes()
    (out / "best.pgar").unlink()
    again = made(str(out), str(text), "--", *QUICK)
    assert again.returncode == 0, again.stderr
    steps = [line.split()[2:4] for line in again.stderr.splitlines() if line.startswith("== ")]
    assert steps == [["artifact", "pack"], ["artifact", "inspect"]]
    assert (out / "best.pgar").read_bytes() == best


@pytest.mark.parametrize("arguments", [(), ("out",), ("out", "--", "--seed=2")])
def test_says_what_it_takes(arguments: tuple[str, ...]) -> None:
    done = made(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: scripts/best-16mb OUT TEXT...")
