import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.cli.main import main
from hybridlm.cli.train import Train
from hybridlm.config import as_dict, resolve
from hybridlm.data import shards
from hybridlm.files import atomic_write_bytes
from hybridlm.oracle.build import build_dense
from hybridlm.train.checkpoint import complete_checkpoints, load_model
from hybridlm.train.config import TrainConfig

SETTINGS = """
iterations = 5
batch_tokens = 256
sequence_length = 32
log_every = 1

[model]
layers = 2
width = 32
heads = 2
kv_heads = 1
mlp_hidden = 48
bigram_rows = 64
bigram_width = 32
rope_dims = 8

[validation]
max_tokens = 2000
"""


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDLM_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for variable in ("NGRAM_ORACLE_PATH", "LEAKY_RELU_SLOPE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture
def arguments(shard_dir: Path, tokenizer_path: Path, preset: Path, tmp_path: Path) -> list[str]:
    return [
        *("--data", str(shard_dir), "--tokenizer", str(tokenizer_path)),
        *("--out", str(tmp_path / "run"), "--preset", str(preset)),
    ]


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_train_writes_a_run(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKY_RELU_SLOPE", "0.75")
    assert main(["train", *arguments, "--iterations", "3", "--model.mlp-hidden", "64", "--seed", "7"]) == 0
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {"config.json", "metrics.jsonl", "model.safetensors"}
    output = capsys.readouterr()
    assert "bits per byte" in output.out
    assert output.out.count("\n") == 1
    training = json.loads((run / "config.json").read_text())["training"]
    # From the command line, from the environment, from the preset, by default.
    assert (training["iterations"], training["seed"], training["model"]["mlp_hidden"]) == (3, 7, 64)
    assert training["model"]["leaky_relu_slope"] == 0.75
    assert (training["batch_tokens"], training["model"]["width"]) == (256, 32)
    assert training["optimizer"]["decoder_lr_factor"] == 2.0
    shown = " ".join(output.err.split())
    assert f"settings, which {run / 'config.json'} holds too: iterations 3, " in shown
    assert "mlp_hidden 64" in shown
    assert metrics_of(run)[-1]["step"] == 3
    assert load_model(run)[0].config.mlp_hidden == 64


@pytest.mark.parametrize("preset", ["tiny", "small", "kaggle", "full", "record"])
def test_presets_are_sound_and_say_what_they_take(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = resolve(TrainConfig, preset, {})
    assert config.micro_batch_tokens % config.sequence_length == 0
    assert main(["train", "--preset", preset, "--dry-run"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(said) == ["parameters", "operations", "memory", "activations", "packed", "pace"]
    pieces = "8192 pieces (as set)" if preset == "record" else "1024 pieces (assumed: give --tokenizer)"
    assert pieces in said["parameters"]
    assert f"{config.iterations / config.max_seconds:.2f} steps/s" in said["pace"]


def test_a_dry_run_knows_the_tokenizer_and_leaves_nothing(
    preset: Path, tokenizer_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--preset", str(preset), "--tokenizer", str(tokenizer_path), "--out", str(tmp_path / "run")]
    assert main(["train", *options, "--dry-run"]) == 0
    assert "512 pieces (the tokenizer's)" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main(["train", "--preset", "record", "--tokenizer", str(tokenizer_path), "--dry-run"]) == 1
    assert "model.vocab_size is 8192, but the tokenizer has 512 pieces" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"--data": "nowhere"}, "nowhere: no such folder"),
        ({"--tokenizer": "nowhere.model"}, "nowhere.model: no such file"),
        ({"--oracle": "nowhere.ngor"}, "nowhere.ngor: there is no such oracle"),
        ({"--model.vocab-size": "1024"}, "the tokenizer has 512 pieces"),
        ({"--sequence-length": "70000", "--batch-tokens": "70000"}, "too little text"),
        ({"--resume": None}, "no such file"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str | None],
    complaint: str,
) -> None:
    for name, value in changes.items():
        if name in arguments and value is not None:
            arguments[arguments.index(name) + 1] = value
        else:
            arguments += [name] if value is None else [name, value]
    assert main(["train", *arguments]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("hybridlm: error: ")
    assert complaint in line
    assert not (tmp_path / "run").exists()


def test_options_without_sense_are_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments, "--model.heads", "3"]) == 2
    assert "not a multiple of model.heads 3" in capsys.readouterr().err
    arguments[arguments.index("--preset") + 1] = "no-such-preset"
    assert main(["train", *arguments]) == 2
    assert "no preset is called 'no-such-preset'; there are full" in capsys.readouterr().err


def test_an_oracle_named_by_the_environment_must_be_there(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGRAM_ORACLE_PATH", "gone.ngor")
    assert main(["train", *arguments]) == 1
    assert "gone.ngor: there is no such oracle" in capsys.readouterr().err


def test_shards_of_another_vocabulary_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    for split in ("train", "val"):
        _core.write_shard(str(folder / f"x_{split}_0.bin"), np.full(500, 600, np.uint16))
    arguments[arguments.index("--data") + 1] = str(folder)
    assert main(["train", *arguments]) == 1
    assert "x_train_0.bin" in capsys.readouterr().err


def wait_for_steps(run: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < count:
        assert process.poll() is None and time.monotonic() < deadline, "the run didn't start"
        time.sleep(0.05)


def children_of(process: int) -> list[int]:
    """Process ids, in the order in which they were started."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return sorted(int(child) for file in tasks for child in file.read_text().split())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_two_ranks_train_as_one_and_end_when_one_is_killed(
    arguments: list[str], shard_dir: Path, tmp_path: Path
) -> None:
    """Weighted by an oracle, with a micro-batch that doesn't divide a rank's share, and a validation."""
    oracle = tmp_path / "topics.ngor"
    atomic_write_bytes(oracle, build_dense(shards.data_folder(shard_dir)[0], 512))
    arguments += ["--oracle", str(oracle), "--micro-batch-tokens", "96", "--schedule.warmup-steps", "1"]
    arguments += ["--validation.every", "5", "--checkpoint.every", "5", "--checkpoint.keep", "1000"]
    # By steps the schedule would know how many there are.
    arguments += ["--iterations", "1000000", "--schedule.warmdown", "0"]
    out = arguments.index("--out") + 1
    arguments[out] = str(tmp_path / "of2")
    command = [sys.executable, "-m", "hybridlm", "train", *arguments, "--processes", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_steps(tmp_path / "of2", 6, process)
    victim = children_of(process.pid)[-1]
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert process.returncode == 1
    assert "Traceback" not in errors
    complaints = [line for line in errors.splitlines() if "error" in line.lower()]
    assert len(complaints) == 1, errors
    assert re.search(r"rank [01] was killed by SIGKILL; .* --resume", complaints[0])
    assert complete_checkpoints(tmp_path / "of2")

    arguments[out] = str(tmp_path / "of1")
    arguments[arguments.index("--iterations", arguments.index("--oracle")) + 1] = "6"
    assert main(["train", *arguments]) == 0
    ones, twos = metrics_of(tmp_path / "of1")[:5], metrics_of(tmp_path / "of2")[:5]
    assert [line["step"] for line in ones] == [line["step"] for line in twos] == [1, 2, 3, 4, 5]
    for one, two in zip(ones, twos, strict=True):
        for key in ("train_loss", "train_bpb", "gradient_norm"):
            assert one[key] == pytest.approx(two[key], rel=1e-4)
    assert ones[-1]["val_bpb"] == pytest.approx(twos[-1]["val_bpb"], rel=1e-4)


def test_of_several_ranks_one_tells_of_a_mistake(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments[arguments.index("--data") + 1] = str(tmp_path / "nowhere")
    assert main(["train", *arguments, "--processes", "2"]) == 1
    output = capfd.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith(f"hybridlm: error: {tmp_path / 'nowhere'}: no such folder; `hybridlm data shard` ")
    assert not output.out


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_ranks_the_first_tells_of_wrong_usage(
    arguments: list[str], rank: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert main(["train", *arguments, "--model.heads", "3"]) == 2
    output = capsys.readouterr()
    assert ("not a multiple of model.heads 3" in output.err + output.out) == (rank == "0")


def test_an_interrupted_run_says_how_to_go_on_and_does(arguments: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "hybridlm", "train", *arguments]
    process = subprocess.Popen(
        [*command, "--iterations", "1000000"], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    wait_for_steps(run, 1, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    (folder,) = complete_checkpoints(run)
    step = int(folder.name.removeprefix("step-"))
    assert not (run / "model.safetensors").exists()

    # What it was started with is in its folder: the preset isn't given again.
    at = arguments.index("--preset")
    without = arguments[:at] + arguments[at + 2 :]
    assert main(["train", *without, "--resume", "--iterations", str(step + 2)]) == 0
    assert [line["step"] for line in metrics_of(run)] == list(range(1, step + 3))


def test_a_resumed_run_has_the_settings_of_its_folder(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run" / "config.json"
    config.parent.mkdir()
    at = arguments.index("--preset")
    without = arguments[:at] + arguments[at + 2 :]
    started = Train.with_defaults(arguments).config
    config.write_text(json.dumps({"training": as_dict(started)}))
    monkeypatch.setenv("LEAKY_RELU_SLOPE", "0.125")
    assert Train.with_defaults([*without, "--resume"]).config == started != TrainConfig()
    assert Train.with_defaults(without).config.model.leaky_relu_slope == 0.125
    for content, complaint in (
        ("[]", "not the configuration of a run"),
        ("{", "not JSON"),
        ('{"training": {"no_such": 1}}', "config.json: there is no setting no_such"),
    ):
        config.write_text(content)
        assert main(["train", *without, "--resume"]) == 1
        err = capsys.readouterr().err
        assert complaint in err and err.count("\n") == 1
