"""`hybridlm artifact` and `hybridlm eval`, on real text, a real tokenizer and real shards."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybridlm import _core
from hybridlm.artifact import Artifact, pack
from hybridlm.cli.main import main
from hybridlm.data.shards import data_folder, read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.model import GPT, ModelConfig
from hybridlm.train.checkpoint import ModelMetadata, save_model


@dataclass(frozen=True)
class Files:
    run: Path
    oracle: Path
    both: Path
    oracle_only: Path
    val: str
    tokenizer: Path

    def scored_with(self, artifact: Path) -> list[str]:
        return ["eval", str(artifact), "--val", self.val, "--tokenizer", str(self.tokenizer)]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, shard_dir: Path, tokenizer: Tokenizer, tokenizer_path: Path
) -> Files:
    folder = tmp_path_factory.mktemp("artifacts")
    torch.manual_seed(0)
    config = ModelConfig(
        layers=2, width=32, heads=2, kv_heads=1, mlp_hidden=64, vocab_size=tokenizer.vocab_size,
        sequence_length=64, bigram_rows=64, bigram_width=32, zero_init_projections=False,
    )  # fmt: skip
    run = folder / "run"
    run.mkdir()
    save_model(run, GPT(config).state_dict(), ModelMetadata(config, tokenizer.fingerprint, 1))
    train, val = data_folder(shard_dir)
    counts = _core.NgramCounts(tokenizer.vocab_size, 3, {3: 256})
    counts.count_shards(train)
    oracle = folder / "oracle.ngor"
    oracle.write_bytes(counts.dense_oracle(level=3))
    files = Files(
        run,
        oracle,
        folder / "both.pgar",
        folder / "oracle.pgar",
        str(val[0].parent / "*_val_*.bin"),
        tokenizer_path,
    )
    common = ["--oracle", str(oracle), "--tokenizer", str(tokenizer_path)]
    assert main(["artifact", "pack", "--model", str(run), *common, "-o", str(files.both)]) == 0
    assert main(["artifact", "pack", *common, "-o", str(files.oracle_only)]) == 0
    return files


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command that succeeds; gives its standard output, parsed where --json asked for that."""

    def run(*arguments: str) -> Any:
        capsys.readouterr()
        assert main(list(arguments)) == 0, capsys.readouterr().err
        out = capsys.readouterr().out
        return json.loads(out) if "--json" in arguments else out

    return run


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that fails with that exit code and one line; gives the line."""

    def run(*arguments: str, code: int = 1) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == code
        out, err = capsys.readouterr()
        complaints = [line for line in err.splitlines() if line.startswith("hybridlm: error: ")]
        assert out == "" and len(complaints) == 1 and "Traceback" not in err
        return complaints[0]

    return run


def test_inspect_tells_what_was_packed(files: Files, output: Callable[..., Any]) -> None:
    told = output("artifact", "inspect", str(files.both), "--json")
    assert told["version"] == 2 and told["budget_bytes"] == 16_000_000
    assert told["oracle_bytes"] == files.oracle.stat().st_size
    assert told["total_bytes"] == files.both.stat().st_size
    assert told["total_bytes"] == 60 + told["neural_bytes"] + told["oracle_bytes"]
    assert told["orders"] == [1, 2, 3]
    model = Artifact.from_file(files.both).load_model()
    assert model is not None
    assert told["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    table = output("artifact", "inspect", str(files.both))
    assert "of 16,000,000 bytes" in table and f"{told['neural_bytes']:,} bytes" in table
    alone = output("artifact", "inspect", str(files.oracle_only), "--json")
    assert (alone["neural_bytes"], alone["parameters"], alone["orders"]) == (0, 0, [1, 2, 3])


def test_a_coarser_grid_makes_a_smaller_artifact(
    files: Files, tmp_path: Path, output: Callable[..., Any]
) -> None:
    sizes = [
        output(
            "artifact", "pack", "--model", str(files.run), "--tokenizer", str(files.tokenizer),
            "-o", str(tmp_path / "a.pgar"), "--quantise", *words, "--json",
        )["neural_bytes"]
        for words in (["absmax"], ["std:6"], ["std:6", "mlp=5:std:9"], ["std:16"])
    ]  # fmt: skip
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]


def test_calibration_is_on_training_shards_and_is_named_in_the_artifact(
    files: Files, tmp_path: Path, shard_dir: Path, output: Callable[..., Any], refusal: Callable[..., str]
) -> None:
    train, val = data_folder(shard_dir)
    command = ["artifact", "pack", "--model", str(files.run), "--tokenizer", str(files.tokenizer)]
    told = output(
        *command, "-o", str(tmp_path / "a.pgar"), "--calibration", *map(str, train), "--json",
        "--quantise", "5:std:4", "low-rank=2:1",
    )["quantisation"]  # fmt: skip
    assert told["rounding"] == "gptq" and len(told["calibration"]) == 64 and told["low_rank"] == "2:1"
    assert "--calibration" in refusal(
        "artifact", "pack", "--oracle", str(files.oracle), "--tokenizer", str(files.tokenizer),
        "-o", str(tmp_path / "b"), "--calibration", str(train[0]), code=2,
    )  # fmt: skip
    assert "validation shard" in refusal(*command, "-o", str(tmp_path / "b"), "--calibration", str(val[0]))
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_bytes_are_spent_where_the_mixture_gains_most(
    files: Files,
    tmp_path: Path,
    shard_dir: Path,
    output: Callable[..., Any],
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hybridlm.cli.budget.HOLDOUT_TOKENS", 1000)
    train, val = data_folder(shard_dir)
    command = ["artifact", "pack", "--model", str(files.run), "--tokenizer", str(files.tokenizer)]
    out, held = tmp_path / "a.pgar", str(train[0])
    command += ["-o", str(out), "--budget", "40000"]
    choosing = [*command, "--holdout", held, "--counts", str(train[-1]), "--dry-run"]
    told = output(*choosing, "--json")
    assert told["chosen"] in told["curve"] and len(told["curve"]) > 5
    assert told["chosen"]["bpb"] == min(point["bpb"] for point in told["curve"])
    assert told["total_bytes"] == told["chosen"]["total_bytes"] <= 40_000 and told["oracle_bytes"]
    assert not out.exists()

    assert "give --holdout" in refusal(*command, code=2)
    assert "both held out and counted" in refusal(*command, "--holdout", held, "--counts", held)
    assert "both held out and calibrated" in refusal(*command, "--holdout", held, "--calibration", held)
    assert "validation shard" in refusal(*command, "--holdout", str(val[0]))
    assert "--quantise" in refusal(*choosing, "--quantise", "std:9", code=2)
    assert "--oracle" in refusal(*choosing, "--oracle", str(files.oracle), code=2)
    assert "give --budget" in refusal(*command[:-2], "--holdout", held, code=2)
    assert not out.exists()


def test_a_score_has_the_documented_keys_and_adds_up(
    files: Files, tokenizer: Tokenizer, output: Callable[..., Any]
) -> None:
    result = output(*files.scored_with(files.both), "--max-tokens", "1500", "--chunk", "512", "--json")
    stream = read_stream(data_folder(Path(files.val).parent)[1])[:1501]
    assert result["tokens"] == 1500
    assert result["bytes"] == int(tokenizer.byte_table.lengths(stream).sum())
    assert result["bpb"] * result["bytes"] == pytest.approx(result["bits_per_token"] * 1500)
    assert list(result["experts"]) == [
        "neural", "unigram", "bigram", "trigram", "decay", "backoff", "match", "cache",
        "oracle_1", "oracle_2", "oracle_3",
    ]  # fmt: skip
    assert all(rate.keys() == {"bits_per_token", "bpb"} for rate in result["experts"].values())
    assert (result["mixer"], result["ttt"]) == ("stacked", "documents") and result["seconds"] > 0
    # An expert that knows nothing takes log2 V bits; all that were shown the language do better.
    assert result["experts"]["oracle_2"]["bits_per_token"] < np.log2(tokenizer.vocab_size)


def test_the_table_says_whose_bytes_are_counted(files: Files, output: Callable[..., Any]) -> None:
    table = output(*files.scored_with(files.oracle_only), "--max-tokens", "300")
    assert "bytes of decoded text" in table and "oracle_3" in table and "mixture: stacked" in table


def test_the_order_of_choices_is_flag_then_environment_then_default(
    files: Files, output: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [*files.scored_with(files.both), "--max-tokens", "100", "--chunk", "50", "--json"]
    assert output(*both)["ttt"] == "documents"
    monkeypatch.setenv("TTT_OPTIMIZER", "adamw")
    assert output(*both)["ttt"] == "adamw"
    assert output(*both, "--ttt", "off")["ttt"] == "off"
    assert output(*both, "--no-neural")["ttt"] == "off"


def test_experts_can_be_left_out(files: Files, output: Callable[..., Any]) -> None:
    common = [*files.scored_with(files.both), "--max-tokens", "200", "--json"]
    assert list(output(*common, "--no-oracle", "--ttt", "off")["experts"]) == [
        "neural", "unigram", "bigram", "trigram", "decay", "backoff", "match", "cache",
    ]  # fmt: skip
    without = output(*common, "--no-neural")
    alone = output(*files.scored_with(files.oracle_only), "--max-tokens", "200", "--json")
    assert (without["bpb"], without["experts"]) == (alone["bpb"], alone["experts"])


def process(*arguments: str) -> dict[str, Any]:
    # One thread each: torchrun gives its processes one, and another number rounds differently.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return {key: value for key, value in result.items() if key not in ("seconds", "stages")}


@pytest.mark.slow
def test_two_ranks_print_the_same_score_as_one_and_print_it_once(files: Files) -> None:
    command = [*files.scored_with(files.both), "--max-tokens", "1000", "--chunk", "300", "--json"]
    alone = process("hybridlm", *command)
    shared = process(
        "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "hybridlm", *command
    )
    assert alone == shared and alone["ttt"] == "documents"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("mistake", ["no artifact", "no folder for the bits", "no tokenizer", "interrupt"])
def test_of_two_ranks_one_says_what_is_wrong(files: Files, tmp_path: Path, mistake: str) -> None:
    """Before there is a group, on the first rank alone, on both, and from outside."""
    command = files.scored_with(files.both)
    wanted = {
        "no artifact": "none.pgar: no such file",
        "no folder for the bits": "there is no folder",
        "no tokenizer": "oracle.ngor",
        "interrupt": "the same command goes on from",
    }[mistake]
    if mistake == "no artifact":
        command[1] = str(tmp_path / "none.pgar")
    elif mistake == "no folder for the bits":
        command += ["--per-token", str(tmp_path / "none" / "bits.npy")]
    elif mistake == "no tokenizer":
        command[command.index("--tokenizer") + 1] = str(files.oracle)
    else:
        command += ["--chunk", "64", "--state", str(tmp_path / "state")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    process = subprocess.Popen(
        [*launcher, "-m", "hybridlm", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if mistake == "interrupt":
        deadline = time.monotonic() + 60
        scores = tmp_path / "state.scores"
        while not (scores.exists() and scores.stat().st_size):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode != 0 and out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("hybridlm: error: ")]
    assert wanted in line
    if mistake == "interrupt":
        assert (tmp_path / "state").exists()


def test_an_oracle_alone_is_packed_and_scored_without_torch(files: Files, tmp_path: Path) -> None:
    out = str(tmp_path / "o.pgar")
    pack_command = [
        "artifact",
        "pack",
        "--oracle",
        str(files.oracle),
        "--tokenizer",
        str(files.tokenizer),
        "-o",
        out,
    ]
    eval_command = [*files.scored_with(Path(out)), "--max-tokens", "500"]
    program = f"""
        import sys
        from hybridlm.cli.main import main
        assert main({pack_command!r}) == 0
        assert main(["artifact", "inspect", {out!r}]) == 0
        assert main({eval_command!r}) == 0
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True)


def test_another_tokenizer_is_refused_and_nothing_is_written(
    files: Files, corpus: list[str], tokenizer: Tokenizer, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    same_size = Tokenizer.train(corpus[:40], tmp_path / "same.model", tokenizer.vocab_size)
    smaller = Tokenizer.train(corpus, tmp_path / "smaller.model", tokenizer.vocab_size - 16)
    for model, other in [("same.model", same_size), ("smaller.model", smaller)]:
        arguments = ["--val", files.val, "--tokenizer", str(tmp_path / model)]
        line = refusal("eval", str(files.both), *arguments)
        assert tokenizer.fingerprint in line and other.fingerprint in line
    out = tmp_path / "out.pgar"
    line = refusal(
        "artifact",
        "pack",
        "--model",
        str(files.run),
        "--tokenizer",
        str(tmp_path / "same.model"),
        "-o",
        str(out),
    )
    assert tokenizer.fingerprint in line and same_size.fingerprint in line
    line = refusal("eval", str(files.oracle_only), *arguments)
    assert str(tokenizer.vocab_size) in line and str(smaller.vocab_size) in line
    assert not out.exists()


def test_bad_input_is_one_line_that_names_it(
    files: Files, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    data = files.oracle_only.read_bytes()
    for name, content, told in [
        ("magic", b"XXXX" + data[4:], "offset 0"),
        ("version", data[:4] + b"\x09" + data[5:], "version 9"),
        ("reserved", data[:6] + b"\x01" + data[7:], "offset 5"),
        ("truncated", data[:-1], "truncated"),
        ("longer", data + b"x", "followed by other bytes"),
        ("length", data[:12] + struct.pack("<I", 7) + data[16:], "oracle_len 7"),
        ("flipped", data[:200] + bytes([data[200] ^ 0xFF]) + data[201:], "oracle part"),
        ("empty", b"", "too few"),
    ]:
        path = tmp_path / f"{name}.pgar"
        path.write_bytes(content)
        for command in (["artifact", "inspect", str(path)], files.scored_with(path)):
            line = refusal(*command)
            assert str(path) in line and told in line, line
    common = ["--tokenizer", str(files.tokenizer)]
    assert "none_*.bin" in refusal(
        "eval", str(files.oracle_only), "--val", str(tmp_path / "none_*.bin"), *common
    )
    assert "no such file" in refusal("eval", str(tmp_path / "missing.pgar"), "--val", files.val, *common)
    assert "needs a neural model" in refusal(*files.scored_with(files.oracle_only), "--ttt", "sgd")
    assert "--model or --oracle" in refusal("artifact", "pack", *common, "-o", str(tmp_path / "x"), code=2)
    oracle = ["--oracle", str(files.oracle)]
    assert "--quantise" in refusal(
        "artifact", "pack", *oracle, *common, "-o", str(tmp_path / "x"), "--quantise", "absmax", code=2
    )
    assert "no kind of matrix" in refusal(
        "artifact", "pack", "--model", str(files.run), *common, "-o", str(tmp_path / "x"),
        "--quantise", "mpl=5:std:9", code=2,
    )  # fmt: skip
    line = refusal("artifact", "pack", *oracle, *common, "-o", str(tmp_path / "no" / "x"))
    assert "there is no folder" in line
    assert not (tmp_path / "x").exists()


def test_an_artifact_over_the_budget_is_refused_unless_told(
    tokenizer: Tokenizer,
    files: Files,
    tmp_path: Path,
    refusal: Callable[..., str],
    output: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hybridlm.artifact.BUDGET_BYTES", 1000)
    out = tmp_path / "big.pgar"
    command = [
        "artifact", "pack", "--oracle", str(files.oracle), "--tokenizer", str(files.tokenizer),
        "-o", str(out),
    ]  # fmt: skip
    line = refusal(*command)
    assert re.search(r"would have [\d,]+ bytes \(neural 0, oracle [\d,]+\), and the budget is 1,000", line)
    assert not out.exists()
    assert output(*command, "--allow-over-budget", "--json")["total_bytes"] > 1000
    assert out.read_bytes() == pack(None, files.oracle.read_bytes(), tokenizer.vocabulary)


def test_wrong_usage_exits_with_2(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(files.both)]) == 2
    assert main([*files.scored_with(files.both), "--ttt", "lamb"]) == 2
    capsys.readouterr()
    assert main([*files.scored_with(files.both), "--chunk", "0"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("hybridlm: error: the chunk must be at least 1") and err.count("\n") == 1
    assert main([*files.scored_with(files.both), "--mixer", "nope"]) == 2
    assert "there is no mixer 'nope'; there are bayes" in capsys.readouterr().err
    assert main(["artifact", "inspect"]) == 2
