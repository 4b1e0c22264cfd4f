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
    for name, texts in (("holdout", corpus[:4]), ("text", corpus[4:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    out = tmp_path / "out"
    arguments = [str(out), str(tmp_path / "holdout.jsonl"), str(tmp_path / "text.jsonl"), "--", *QUICK]
    first = made(*arguments)
    assert first.returncode == 0, first.stderr
    artifact = Artifact.from_file(out / "best.pgar")
    assert artifact.neural_bytes and artifact.oracle_bytes
    config = json.loads((out / "model" / "config.json").read_text())["training"]
    assert (config["iterations"], config["seed"], config["checkpoint"]["every"]) == (3, 1, 250)

    (out / "holdout").rename(tmp_path / "elsewhere")
    again = made(*arguments)
    assert again.returncode == 0, again.stderr
    steps = [line.split()[2:4] for line in again.stderr.splitlines() if line.startswith("== ")]
    assert steps == [["data", "shard"], ["artifact", "inspect"]]
    for path in (tmp_path / "elsewhere").glob("*.bin"):
        assert (out / "holdout" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "arguments", [(), ("out",), ("out", "holdout"), ("out", "holdout", "--", "--seed=2")]
)
def test_says_what_it_takes(arguments: tuple[str, ...]) -> None:
    done = made(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: scripts/best-16mb OUT HOLDOUT TEXT...")
