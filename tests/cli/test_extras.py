"""What an installation without PyTorch, or without another extra, can do, and what it says where it can't."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Runs the commands that stdin lists, one after the other, and prints what each returned and wrote. An import
# of the package that the argument names fails as it does where it isn't installed.
PROGRAM = """
import contextlib, io, json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
from hybridlm.cli.main import main

results = []
for command in json.load(sys.stdin):
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    out.seek(0)
    results.append((code, out.read(), err.getvalue()))
json.dump(results, sys.stdout)
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Run = Callable[..., list[Done]]


@pytest.fixture
def run() -> Run:
    def commands(*commands: list[object], without: str = "torch") -> list[Done]:
        words = json.dumps([[str(word) for word in command] for command in commands])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, without], input=words, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return [Done(*result) for result in json.loads(done.stdout)]

    return commands


def test_what_needs_no_network_works(
    run: Run,
    corpus: list[str],
    tokenizer_path: Path,
    shard_dir: Path,
    oracle_artifact: Path,
    neural_artifact: Path,
    tmp_path: Path,
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(corpus[:20]))
    val = ["--val", shard_dir / "*_val_*.bin", "--tokenizer", tokenizer_path]
    codec = ["--artifact", oracle_artifact, "--tokenizer", tokenizer_path]
    oracle, score = tmp_path / "oracle.ngsp", tmp_path / "score.json"
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "metrics.jsonl").write_text('{"step": 1, "train_loss": 6.9}\n')
    commands: list[list[object]] = [
        ["data", "tokenizer", text, "-o", tmp_path / "tok.model", "--vocab-size", "400"],
        ["data", "shard", text, "--tokenizer", tokenizer_path, "--out", tmp_path / "data"],
        ["data", "inspect", tmp_path / "data" / "text_train_000000.bin", "--tokenizer", tokenizer_path],
        ["oracle", "build", *shard_dir.glob("*_train_*.bin"), "-o", oracle, "--max-bytes", "20000",
         "--vocab-size", "512"],
        ["oracle", "inspect", oracle],
        ["oracle", "eval", oracle, *val],
        ["artifact", "pack", "--oracle", oracle, "--tokenizer", tokenizer_path, "-o", tmp_path / "a.pgar"],
        ["artifact", "inspect", neural_artifact],
        ["eval", neural_artifact, *val, "--no-neural", "--max-tokens", "500"],
        ["audit", oracle_artifact, *val, "--max-tokens", "500"],
        ["compress", text, *codec, "-o", tmp_path / "small"],
        ["decompress", tmp_path / "small", *codec, "-o", tmp_path / "again.txt"],
        ["generate", *codec, "--tokens", "5"],
        ["baseline", "ctw", "--train", text, "--test", text, "--max-train-bytes", "999"],
        ["report", run_folder],
        ["eval", oracle_artifact, *val, "--max-tokens", "500", "--json"],
    ]  # fmt: skip
    done = run(*commands)
    for command, result in zip(commands, done, strict=True):
        assert result.code == 0, (command, result.err)
    assert (tmp_path / "again.txt").read_text() == text.read_text()
    score.write_text(done[-1].out)
    assert run(["verify", score])[0].code == 0


def test_what_needs_one_says_what_to_install_before_anything_else(
    run: Run, tokenizer_path: Path, shard_dir: Path, neural_artifact: Path, tmp_path: Path
) -> None:
    """None of these gets as far as missing the files that aren't there."""
    missing, out = tmp_path / "missing", tmp_path / "out"
    val = ["--val", shard_dir / "*_val_*.bin", "--tokenizer", tokenizer_path]
    codec = ["--artifact", neural_artifact, "--tokenizer", tokenizer_path]
    commands: list[list[object]] = [
        ["run", "--text", missing, "--out", out],
        ["train", "--data", missing, "--tokenizer", missing, "--out", out],
        ["artifact", "pack", "--model", missing, "--tokenizer", missing, "--clip", "std:6", "-o", out],
        ["eval", neural_artifact, *val],
        ["audit", neural_artifact, *val],
        ["compress", missing, *codec, "-o", out],
        ["decompress", missing, *codec, "-o", out],
        ["generate", *codec],
    ]
    for command, result in zip(commands, run(*commands), strict=True):
        assert (result.code, result.out) == (1, ""), command
        assert result.err.startswith("hybridlm: error: ") and result.err.count("\n") == 1, command
        assert "PyTorch, which is not installed: pip install 'hybridlm[train]'" in result.err, command
    assert not out.exists()


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        (
            "tensorboard",
            "tensorboard",
            ["train", "--data", "missing", "--out", "out", "--tokenizer", "missing", "--tensorboard"],
        ),
        (
            "tensorboard",
            "tensorboard",
            ["run", "--text", "missing", "--out", "out", "--training.tensorboard"],
        ),
        ("matplotlib", "plots", ["report", "run", "--figures", "out"]),
        ("ray", "ray", ["oracle", "build", "SHARD", "-o", "out", "--vocab-size", "512", "--engine", "ray"]),
    ],
)
def test_other_extras_are_asked_for_by_name(
    run: Run,
    package: str,
    extra: str,
    command: list[str],
    shard_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shard = next(shard_dir.glob("*_train_*.bin"))
    monkeypatch.chdir(tmp_path)
    (result,) = run([str(shard) if word == "SHARD" else word for word in command], without=package)
    assert result.code == 1 and result.err.count("\n") == 1
    assert f"not installed: pip install 'hybridlm[{extra}]'" in result.err
    assert not (tmp_path / "out").exists()


def test_a_neural_score_is_not_verified_without_the_network(
    run: Run, tokenizer_path: Path, shard_dir: Path, neural_artifact: Path, tmp_path: Path
) -> None:
    from hybridlm.score import score_artifact
    from hybridlm.scoring.config import ScoringConfig

    (shard,) = shard_dir.glob("*_val_*.bin")
    settings = ScoringConfig(ttt="off")
    score = score_artifact(neural_artifact, [shard], tokenizer_path, settings, max_tokens=100)
    path = tmp_path / "score.json"
    path.write_text(json.dumps(score.as_dict()))
    (result,) = run(["verify", path])
    assert result.code == 1 and "pip install 'hybridlm[train]'" in result.err


def test_the_doctor_has_one_line_for_it_and_finds_the_rest_well(run: Run) -> None:
    (result,) = run(["doctor", "--json"])
    report = json.loads(result.out)
    assert result.code == 0 and report["ok"]
    outcomes = {check["name"]: check["outcome"] for check in report["checks"]}
    # Ray is another extra, which may be missing as well.
    assert {name for name, outcome in outcomes.items() if outcome != "ok"} - {"ray"} == {"torch"}
    assert outcomes["hashes"] == "ok"
    assert not {"devices", "torchrun", "torch.compile"} & outcomes.keys()
