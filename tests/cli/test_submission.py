"""`hybridlm submission`: records that hybridlm makes, and others."""

import json
import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridlm.cli.main import main
from hybridlm.errors import InputError
from hybridlm.score import score_artifact
from hybridlm.scoring.confidence import one_sample

ABOUT = ["--author", "A. Name", "--github-id", "aname", "--name", "oracle alone", "--date", "2026-01-31"]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, oracle_artifact: Path, shard_dir: Path, tokenizer_path: Path
) -> list[Path]:
    """Three folders as training and scoring leave them; the seeds differ, the artifact doesn't."""
    (shard,) = shard_dir.glob("*_val_*.bin")
    folders = []
    for index, seed in enumerate((1, 2, 3)):
        folder = tmp_path_factory.mktemp(f"run{seed}")
        artifact = folder / "artifact.pgar"
        artifact.write_bytes(oracle_artifact.read_bytes())
        score = score_artifact(artifact, [shard], tokenizer_path, max_tokens=500).as_dict()
        # What another seed would do, as far as these tests care.
        score["bpb"] += 0.001 * index
        (folder / "score.json").write_text(json.dumps(score))
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(json.dumps({"training": {"seed": seed}}))
        (folder / "model" / "metrics.jsonl").write_text('{"step": 1, "train_loss": 6.9, "seconds": 12.5}\n')
        folders.append(folder)
    return folders


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train_gpt.py"
    path.write_text("print('trains')\n")
    return path


@pytest.fixture
def pack(runs: list[Path], script: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*arguments: object, folders: list[Path] = runs) -> int:
        words = [*folders, "--code", script, *ABOUT, "-o", tmp_path / "record", *arguments]
        return main(["submission", "pack", *map(str, words)])

    return call


Error = Callable[[], str]


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Error:
    def line() -> str:
        err = capsys.readouterr().err
        (found,) = [line for line in err.splitlines() if line.startswith("hybridlm: error: ")]
        return found

    return line


def test_a_record_is_complete_and_its_numbers_are_those_of_the_runs(
    pack: Callable[..., int],
    runs: list[Path],
    script: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert pack("--json") == 0
    fields = json.loads(capsys.readouterr().out)
    record = tmp_path / "record"
    assert json.loads((record / "submission.json").read_text()) == fields
    scores = [json.loads((run / "score.json").read_text()) for run in runs]
    bpbs = [score["bpb"] for score in scores]
    assert fields["val_bpb"] == pytest.approx(sum(bpbs) / 3, abs=1e-8)
    assert fields["val_bpb_std"] == pytest.approx(statistics.stdev(bpbs), abs=1e-8)
    assert fields["val_loss"] == pytest.approx(scores[0]["bits_per_token"] * math.log(2), abs=1e-8)
    assert fields["bytes_code"] == script.stat().st_size
    assert fields["bytes_total"] == script.stat().st_size + (runs[0] / "artifact.pgar").stat().st_size
    assert fields["compliance"] == {
        "artifact_under_16mb": True,
        "train_under_600s": True,
        "three_seeds": True,
        "eval_under_600s": True,
    }
    assert {path.name for path in record.iterdir()} == {
        *("README.md", "submission.json", "requirements.txt", "train_gpt.py"),
        *(f"train_seed{seed}.log" for seed in (1, 2, 3)),
        *(f"artifact_seed{seed}.pgar" for seed in (1, 2, 3)),
        *(f"score_seed{seed}.json" for seed in (1, 2, 3)),
    }
    assert main(["submission", "check", str(record)]) == 0
    assert "failed" not in capsys.readouterr().out


def test_only_what_was_audited_is_claimed(
    pack: Callable[..., int], runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audited = []
    for run in runs:
        folder = tmp_path / f"audited {run.name}"
        shutil.copytree(run, folder)
        (folder / "audit.json").write_text(
            json.dumps(
                {"passed": False, "causal": {"passed": True}, "normalised": {"passed": run != runs[1]}}
            )
        )
        audited.append(folder)
    assert pack("--json", folders=audited) == 0
    compliance = json.loads(capsys.readouterr().out)["compliance"]
    assert (compliance["causal"], compliance["normalised"]) == (True, False)
    assert "score_first" not in compliance
    assert main(["submission", "check", str(tmp_path / "record")]) == 0
    assert "these don't hold: normalised" in capsys.readouterr().out


@pytest.mark.parametrize("audit", [[], 3, {"causal": {}}, {"causal": {"passed": "yes"}}])
def test_an_audit_that_is_none_is_one_line(
    audit: Any, pack: Callable[..., int], runs: list[Path], tmp_path: Path, error: Error
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    (folder / "audit.json").write_text(json.dumps(audit))
    assert pack(folders=[folder]) == 1
    assert "audit.json: not what `hybridlm audit --json` prints" in error()


@pytest.mark.parametrize("scores", [[], {}, 3, [1.0], [{}]])
def test_a_summary_without_a_score_is_one_line(
    scores: Any, pack: Callable[..., int], runs: list[Path], tmp_path: Path, error: Error
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    summary = {**json.loads((folder / "score.json").read_text()), "scores": scores}
    (folder / "score.json").rename(folder / "summary.json")
    (folder / "summary.json").write_text(json.dumps(summary))
    assert pack(folders=[folder]) == 1
    assert "summary.json: no score: it has no bits_per_token" in error()


def test_what_cannot_be_a_record_is_refused(
    pack: Callable[..., int], runs: list[Path], script: Path, tmp_path: Path, error: Error
) -> None:
    assert pack(folders=[runs[0], runs[0]]) == 1
    assert "same seed" in error()
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    artifact = other / "artifact.pgar"
    artifact.write_bytes(artifact.read_bytes() + b"x")
    assert pack(folders=[other]) == 1
    assert "not the artifact that" in error()
    (other / "score.json").unlink()
    assert pack(folders=[other]) == 1
    assert "neither score.json" in error()
    assert pack("--date", "yesterday") == 1
    assert "--date" in error()
    (tmp_path / "model.bin").write_bytes(b"x")
    assert pack("--code", tmp_path / "model.bin") == 1
    assert "not code" in error()
    script.write_text("#" * 16_000_000)
    assert pack() == 1
    assert "16,000,000" in error()
    assert not (tmp_path / "record").exists()
    assert list(tmp_path.glob(".hybridlm*")) == []
    script.write_text("pass\n")
    assert pack() == 0
    assert pack() == 1
    assert "there already" in error()


# In the shape of public records: of one run; by seed, in objects; a list; numbers alone.
SINGLE = {
    "author": "Baseline", "github_id": "openai", "name": "Naive Baseline", "blurb": "", "date": "2026-03-18",
    "val_loss": 2.06035852, "val_bpb": 1.21687994, "bytes_total": 15863068, "bytes_code": 16,
}  # fmt: skip
BY_SEED = {
    "author": "b", "github_id": "b", "name": "n", "date": "2026-04-09", "track": "10min_16mb",
    "val_bpb": 1.08100, "val_bpb_std": 0.00020, "seeds": [42, 314, 999],
    "seed_results": {
        "42": {"val_bpb": 1.08079, "artifact_bytes": 15991930},
        "314": {"val_bpb": 1.08103, "artifact_bytes": 15992919},
        "999": {"val_bpb": 1.08118, "artifact_bytes": 15992919},
    },
    "compliance": {"train_under_600s": True, "three_seeds": True},
}  # fmt: skip


def write_record(folder: Path, fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "submission.json").write_text(json.dumps(fields))
    (folder / "README.md").write_text("# n")
    (folder / "train_gpt.py").write_text("print('trains')\n")
    for seed in (42, 314, 999):
        (folder / f"train_seed{seed}.log").write_text("log")
    return folder


@pytest.mark.parametrize(
    ("change", "outcomes"),
    [
        ({}, {}),
        ({"val_bpb": 1.0815}, {"score": "failed"}),
        ({"val_bpb_std": 0.003}, {"spread": "failed"}),
        ({"author": ""}, {"fields": "failed"}),
        ({"bytes_total": 16_000_001}, {"bytes": "failed"}),
        ({"bytes_total": 16_000_000}, {}),
        ({"bytes_code": 7}, {"code": "warning"}),
        ({"compliance": {"three_seeds": False}}, {"compliance": "warning"}),
        ({"seed_results": [1.0808, 1.0810, 1.0812]}, {"bytes": "failed"}),
        ({"seed_results": [{"seed": 1, "val_bpb": 1.081}]}, {"bytes": "failed", "seeds": "warning"}),
    ],
)
def test_other_peoples_records_are_checked(
    change: dict[str, Any],
    outcomes: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = write_record(tmp_path / "record", BY_SEED | change)
    code = main(["submission", "check", str(record), "--json"])
    report = json.loads(capsys.readouterr().out)
    found = {one["name"]: one["outcome"] for one in report["findings"] if one["outcome"] != "ok"}
    assert found == outcomes | {"requirements": "warning"}
    assert code == (1 if "failed" in found.values() else 0) and report["ok"] == (code == 0)


def test_a_record_of_one_run_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = write_record(tmp_path / "record", SINGLE)
    assert main(["submission", "check", str(record / "submission.json")]) == 0
    out = capsys.readouterr().out
    assert "15,863,068 of 16,000,000" in out and "three or more" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "no JSON object"),
        ("{", "not JSON"),
        ("{}", "claims no score"),
        ('{"val_bpb": NaN}', "claims no score"),
        ('{"val_bpb": "1.08"}', "claims no score"),
        ('{"val_bpb": 1, "seed_results": 3}', "neither an object nor a list"),
        ('{"val_bpb": 1, "seed_results": {"1": {}}}', "seed 1 has no number"),
        ('{"val_bpb": 1, "seed_results": [{"seed": 1, "val_bpb": 1}, {"seed": 1, "val_bpb": 1}]}', "twice"),
    ],
)
def test_what_is_no_record_is_one_line(text: str, message: str, tmp_path: Path, error: Error) -> None:
    (tmp_path / "submission.json").write_text(text)
    assert main(["submission", "check", str(tmp_path)]) == 1
    line = error()
    assert message in line and "submission.json" in line


def test_a_claim_stands_or_falls_by_the_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def record(name: str, *bpbs: float, **more: Any) -> str:
        fields = SINGLE | {"val_bpb": statistics.fmean(bpbs), **more}
        if len(bpbs) > 1:
            fields["seed_results"] = dict(zip("abcdef", bpbs, strict=False))
        return str(write_record(tmp_path / name, fields))

    def compare(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = main(["submission", "compare", *arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    old = record("old", 1.0810, 1.0812, 1.0808, val_loss=2.7918)
    better = record("better", 1.0770, 1.0771, 1.0772, val_loss=2.7810)
    slightly = record("slightly", 1.0800, 1.0801, 1.0799, val_loss=2.7890)
    noisy = record("noisy", 1.0600, 1.0771, 1.0942, val_loss=2.7810)
    code, found = compare(better, old)
    assert (code, found["passed"], found["test"]) == (0, True, "Welch")
    # 0.005 nats per token, by the candidate's own ratio.
    assert found["margin"] == pytest.approx(0.005 * 1.0771 / 2.7810, rel=1e-9)
    assert compare(slightly, old)[0] == 1
    assert compare(slightly, old, "--margin-bpb", "0")[0] == 0
    assert compare(noisy, old)[0] == 1
    code, found = compare(better, record("single", 1.081))
    assert (code, found["test"]) == (0, "one-sample")


def test_a_comparison_that_cannot_be_made_says_why(tmp_path: Path, error: Error) -> None:
    without = {key: value for key, value in BY_SEED.items() if key != "val_loss"}
    one, other = write_record(tmp_path / "one", without), write_record(tmp_path / "other", without)
    assert main(["submission", "compare", str(one), str(other)]) == 1
    assert "--margin-bpb" in error()
    single = write_record(tmp_path / "single", SINGLE)
    assert main(["submission", "compare", str(single), str(other)]) == 1
    assert "at least two seeds" in error()


def test_the_one_sample_test_is_students() -> None:
    """Tables of Student's t, 3 degrees of freedom: 4.541 is the one-sided 1% point, 2.353 the 5% point."""
    scores = [1.02, 0.98, 1.01, 0.97]
    mean, error = statistics.fmean(scores), statistics.stdev(scores) / 2
    for t, p in ((-4.541, 0.01), (-2.353, 0.05), (0.0, 0.5)):
        found = one_sample(mean - t * error, scores)
        assert found.t == pytest.approx(t, abs=1e-9) and found.degrees == 3
        assert found.p_value == pytest.approx(p, rel=1e-3)
        margin = 0.01
        assert one_sample(mean - t * error + margin, scores, margin).p_value == pytest.approx(p, rel=1e-3)
    for scores in ([1.0], [1.0, 1.0]):
        with pytest.raises(InputError):
            one_sample(1.05, scores)
