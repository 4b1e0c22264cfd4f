"""What `--json` prints, held against docs/json.schema.json."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hybridlm.cli import main as cli
from hybridlm.report.summary import Score, Summary
from hybridlm.score import score_artifact

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "json.schema.json").read_text(encoding="utf-8"))


def with_json() -> list[str]:
    """The commands that have the option."""
    found = []
    for name in cli.COMMANDS:
        command = cli.find(name.split())
        assert command is not None
        if "--json" in command.describe().by_name:
            found.append(name)
    return found


def validate(command: str, value: Any) -> None:
    jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], **SCHEMA["properties"][command]}).validate(
        value
    )


def test_the_schema_has_every_command_that_prints_json() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert sorted(SCHEMA["properties"]) == sorted(with_json())


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(command: str, *arguments: object) -> dict[str, Any]:
        """What ``command`` prints, which fits the schema and stands alone on stdout."""
        capsys.readouterr()
        assert cli.main([*command.split(), *map(str, arguments), "--json"]) in (0, 1)
        out = capsys.readouterr().out
        value: dict[str, Any] = json.loads(out)
        validate(command, value)
        return value

    return call


def test_what_commands_print_fits(
    run: Run,
    oracle_artifact: Path,
    neural_artifact: Path,
    tokenizer_path: Path,
    shard_dir: Path,
    corpus: list[str],
    example_folder: Path,
    tmp_path: Path,
) -> None:
    (shard,) = shard_dir.glob("*_val_*.bin")
    text = tmp_path / "text"
    text.write_text(corpus[0])
    options = ["--tokenizer", tokenizer_path]
    val = ["--val", shard, *options]
    run("data inspect", shard)
    assert run("data inspect", shard, *options)["bytes"] > 0
    run("oracle inspect", example_folder / "oracle.ngsp")
    run("oracle score", example_folder / "oracle.ngsp", text, *options)
    training = sorted(shard_dir.glob("*_train_*.bin"))
    assert cli.main(["oracle", "count", *map(str, training), "-o", str(tmp_path / "c"), "--orders", "3"]) == 0
    assert run("oracle ngrams", tmp_path / "c")["continuations"]
    run("oracle build", *training, "-o", tmp_path / "planned.ngsp", "--dry-run")
    run("data overlap", *training, "--val", shard, "--lengths", 3)
    run("oracle eval", example_folder / "oracle.ngsp", *val)
    both = [example_folder / "oracle.ngsp", example_folder / "oracle.ngsp"]
    assert run("oracle tune", *both, "--on", shard, *options)["val"] is None
    assert run("oracle tune", *both, "--on", training[0], *val)["val"]["bpb"] > 0
    oracle = ["--oracle", example_folder / "oracle.ngsp", *options]
    packed = run("artifact pack", *oracle, "-o", tmp_path / "a.pgar")
    assert run("artifact inspect", tmp_path / "a.pgar") == packed
    run("artifact inspect", oracle_artifact)
    assert run("artifact inspect", neural_artifact)["model"] is not None
    score = tmp_path / "score.json"
    found = run("eval", tmp_path / "a.pgar", *val)
    score.write_text(json.dumps(found))
    run("eval", neural_artifact, *val, "--max-tokens", 200, "--chunk", 64)
    run("mix", "--tokens", shard, *oracle)
    assert run("mix", "--tokens", shard, "--vocab-size", 512)["bpb"] is None
    run("verify", score)
    run("compare", score, score)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(found | {"bpb": found["bpb"] * (1 + 1e-8)}))
    run("compare", score, score, "--first-seeds", other, "--second-seeds", other)
    run("audit", tmp_path / "a.pgar", *val, "--max-tokens", 200, "--rows", 4, "--changes", 1)
    codec = ["--artifact", tmp_path / "a.pgar", *options]
    run("compress", text, *codec, "-o", tmp_path / "small")
    for method in ("ctw", "kn"):
        run(f"baseline {method}", "--train", text, "--test", text, "--max-train-bytes", 500)
    run("doctor")


def test_what_a_submission_prints_fits(
    run: Run, oracle_artifact: Path, shard_dir: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    (shard,) = shard_dir.glob("*_val_*.bin")
    folders = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        (folder / "model").mkdir(parents=True)
        artifact = folder / "artifact.pgar"
        artifact.write_bytes(oracle_artifact.read_bytes())
        score = score_artifact(artifact, [shard], tokenizer_path, max_tokens=300).as_dict()
        (folder / "score.json").write_text(json.dumps(score | {"bpb": score["bpb"] + 0.01 * seed}))
        (folder / "model" / "config.json").write_text(json.dumps({"training": {"seed": seed}}))
        (folder / "model" / "metrics.jsonl").write_text('{"step": 1, "train_loss": 6.9}\n')
        folders.append(folder)
    code = tmp_path / "train_gpt.py"
    code.write_text("pass\n")
    record = tmp_path / "record"
    about = ["--author", "a", "--github-id", "b", "--name", "n", "--date", "2026-01-31", "-o", record]
    run("submission pack", *folders, "--code", code, *about)
    run("submission check", record)
    run("submission compare", record, record)


def test_a_runs_summary_fits(oracle_artifact: Path, shard_dir: Path, tokenizer_path: Path) -> None:
    shards = sorted(shard_dir.glob("*_val_*.bin"))
    score = score_artifact(oracle_artifact, shards, tokenizer_path, max_tokens=300)
    one = Score("mixture", score.result.bits_per_token, score.result.bpb)
    summary = Summary(
        experts=[one],
        scores=[one],
        bpb_interval=score.result.bpb_interval,
        documents=asdict(score.result.documents),
        tokens=1,
        bytes=2,
        parts={"header": 60},
        budget_bytes=16_000_000,
        seconds={"text": 0.5},
        data={"train_tokens": 3},
        made_of=score.made_of.as_dict(),
    )
    validate("run", json.loads(json.dumps(summary.to_json())))
    assert asdict(one) == summary.to_json()["scores"][0]


def test_the_schema_tells_what_does_not_fit() -> None:
    for value in ({}, {"ok": 1, "checks": []}, {"ok": True, "checks": [{"name": "x"}]}):
        with pytest.raises(jsonschema.ValidationError):
            validate("doctor", value)
