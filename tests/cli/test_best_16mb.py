"""scripts/best-16mb: once with a training run of a few steps, and its order of work with a stand-in."""

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


def made(*arguments: str, program: Path | None = None, stop: str = "") -> subprocess.CompletedProcess[str]:
    program = program or Path(sys.executable).with_name("hybridlm")
    return subprocess.run(
        [str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HYBRIDLM": str(program), "STOP": stop},
    )


@pytest.mark.slow
def test_makes_an_artifact_from_text_and_goes_on_from_what_is_there(
    tmp_path: Path, corpus: list[str]
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in corpus))
    out = tmp_path / "out"
    arguments = [str(out), str(text), "--", *QUICK]
    first = made(*arguments)
    assert first.returncode == 0, first.stderr
    artifact = Artifact.from_file(out / "best.pgar")
    assert artifact.neural_bytes > 0
    assert artifact.oracle_bytes == (out / "oracle.ngsp").stat().st_size > 0
    config = json.loads((out / "model" / "config.json").read_text())["training"]
    assert (config["iterations"], config["seed"], config["checkpoint"]["every"]) == (3, 1, 250)

    best = (out / "best.pgar").read_bytes()
    (out / "best.pgar").unlink()
    again = made(*arguments)
    assert again.returncode == 0, again.stderr
    assert steps(again) == ["artifact pack", "artifact inspect"]
    assert (out / "best.pgar").read_bytes() == best


@pytest.mark.parametrize("arguments", [(), ("out",), ("out", "--", "--seed=2")])
def test_says_what_it_takes(arguments: tuple[str, ...]) -> None:
    done = made(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: scripts/best-16mb OUT TEXT...")


def steps(done: subprocess.CompletedProcess[str]) -> list[str]:
    lines = [line.split() for line in done.stderr.splitlines() if line.startswith("== ")]
    return [" ".join(line[2 : 3 if line[2] == "train" else 4]) for line in lines]


# Leaves what hybridlm leaves; killed at the step that STOP names, only what that leaves by then.
STAND_IN = """#!/usr/bin/env bash
set -eu
out=$(printf '%s\\n' "$@" | grep -A1 -xe --out -e -o | tail -n 1)
case "$*" in
"data shard "*) first=$out/text_val_000000.bin last=$out/text_train_000000.bin ;;
"train "*--resume) first=$out/checkpoints/step-00000250/state.json last=$out/model.safetensors
    [ -e "$first" ] ;;
"train "*) first=$out/checkpoints/step-00000250/tensors.safetensors last=$out/model.safetensors ;;
"artifact inspect "*) exit ;;
*) first="" last=$out ;;
esac
[ -z "$first" ] || { mkdir -p "${first%/*}"; touch "$first"; }
case "$*" in "${STOP:-none} "*) kill -9 $$ ;; esac
[ ! -e "$last" ]
touch "$last"
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    path = tmp_path / "a stand-in"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return path


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """With names that a shell would take apart."""
    names = ["some *.txt", "a $folder"]
    (tmp_path / names[0]).write_text("text")
    (tmp_path / names[1]).mkdir()
    return [str(tmp_path / name) for name in ["out of it", *names]]


ALL = [
    "data tokenizer",
    "data shard",
    "train",
    "artifact pack",
    "oracle build",
    "artifact pack",
    "artifact inspect",
]


@pytest.mark.parametrize("stop", ALL[:5])
def test_killed_at_any_step_it_goes_on_with_that_step(
    stand_in: Path, arguments: list[str], stop: str
) -> None:
    first = made(*arguments, program=stand_in, stop=stop)
    assert first.returncode == 128 + 9
    assert steps(first) == ALL[: ALL.index(stop) + 1]
    second = made(*arguments, program=stand_in)
    assert second.returncode == 0, second.stderr
    assert steps(second) == ALL[ALL.index(stop) :]
    out = Path(arguments[0])
    left = {path.name for path in out.iterdir()}
    assert left == {"arguments", "tok.model", "data", "model", "network.pgar", "oracle.ngsp", "best.pgar"}
    assert len(list((out / "data").iterdir())) == 2
    assert steps(made(*arguments, program=stand_in)) == ["artifact inspect"]


def test_a_checkpoint_is_gone_on_from(stand_in: Path, arguments: list[str]) -> None:
    assert made(*arguments, program=stand_in, stop="train").returncode == 128 + 9
    (Path(arguments[0]) / "model/checkpoints/step-00000250/state.json").touch()
    done = made(*arguments, program=stand_in)
    assert done.returncode == 0 and "--resume" in done.stderr


def test_a_folder_of_other_text_is_refused(stand_in: Path, arguments: list[str]) -> None:
    assert made(*arguments, program=stand_in).returncode == 0
    for other in (arguments[:2], [*arguments, "--", "--seed=2"]):
        done = made(*other, program=stand_in)
        assert done.returncode == 2
        assert "was begun with other arguments" in done.stderr and len(done.stderr.splitlines()) == 1


def test_what_it_cannot_read_twice_or_at_all_is_refused_before_anything_is_made(
    stand_in: Path, arguments: list[str]
) -> None:
    out, text, _ = arguments
    for wrong in ("-", "--force", str(Path(out) / "nothing"), ""):
        for given in ((out, wrong), (out, text, wrong)):
            done = made(*given, program=stand_in)
            assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
            assert done.stderr.startswith("best-16mb: ")
    done = made(out, text, program=stand_in.with_name("missing"))
    assert done.returncode == 2 and "scripts/setup" in done.stderr
    assert not Path(out).exists()
