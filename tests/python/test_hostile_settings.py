"""Settings, numbers and small files that would be a traceback, a hang or gigabytes if they were believed."""

import dataclasses
import json
import math
import struct
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from hybridlm import _core
from hybridlm.artifact import Artifact, pack
from hybridlm.cli.main import main
from hybridlm.config import load_preset, resolve
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import FormatError, InputError
from hybridlm.model.config import ModelConfig
from hybridlm.model.neural_blob import read
from hybridlm.scoring.config import ScoringConfig, TTTConfig
from hybridlm.train.config import (
    CheckpointConfig,
    ComplementaryConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    ValidationConfig,
)

CLASSES = [
    CheckpointConfig,
    ComplementaryConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    ScoringConfig,
    TTTConfig,
    TrainConfig,
    ValidationConfig,
]


def numbers(cls: type[Any]) -> list[tuple[str, bool]]:
    """The fields of ``cls`` that are numbers, and whether they are whole ones."""
    hints = typing.get_type_hints(cls)
    found = [
        (field.name, {hints[field.name], *typing.get_args(hints[field.name])})
        for field in dataclasses.fields(cls)
    ]
    return [(name, int in kinds) for name, kinds in found if kinds & {int, float}]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_number_has_a_range(cls: type[Any]) -> None:
    for name, whole in numbers(cls):
        impossible: list[Any] = [10**20, -(10**20), 2**62] if whole else [1e300, -1e300, math.inf, math.nan]
        for value in impossible:
            if "tuple" in str(typing.get_type_hints(cls)[name]):
                value = (value,)
            with pytest.raises(
                InputError, match=name.removesuffix("s").replace("learning_rate", "learning.rate")
            ):
                cls(**{name: value})


def test_settings_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for text in (
        "a = " + "[" * 5000,
        "seed = " + "9" * 5000,
        "max_seconds = " + "9" * 400,
        "[optimizer]\nmatrix_lr = 1e300",
        "[model]\nrope_base = 1e40",
        "[validation]\nevery = 4611686018427387904",
    ):
        path.write_text(text)
        with pytest.raises(InputError):
            resolve(TrainConfig, str(path))
    path.write_text('[ttt_options]\nlearning_rates = ["much"]')
    with pytest.raises(InputError, match="learning_rates"):
        resolve(ScoringConfig, str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="not a TOML file"):
        load_preset(str(path))


def test_a_configuration_nested_beyond_reading() -> None:
    for text in ("[" * 100_000, '{"layers": ' + "9" * 5000 + "}", '{"layers": 4611686018427387904}'):
        with pytest.raises(FormatError, match="a model"):
            ModelConfig.from_json(text, "a model")


@pytest.mark.parametrize(
    "options",
    [
        "--orders -1", "--orders 100000000000000000000", "--orders 9", "--max-bytes -1",
        "--max-bytes 100000000000000000000", "--threads 100000000000000000000", "--threads 2147483648",
        "--estimator dense --orders -1", "--estimator dense --level 2147483648",
        "--estimator dense --buckets 3=100000000000000000000", "--buckets 100000000000000000000=3",
        "--memory -1", "--memory 1", "--memory nan", "--orders 1", "--vocab-size -1",
        "--weight *=0", "--weight *=1001", "--weight *=1e300", "--checkpoint-seconds nan",
        "--bos-id 100000000000000000000",
    ],
)  # fmt: skip
def test_numbers_that_no_option_can_have(
    options: str, shard_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = next(shard_dir.glob("*_train_*.bin"))
    out = tmp_path / "out"
    assert main(["oracle", "build", str(shard), "-o", str(out), *options.split()]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def dense(rows: int, vocab: int) -> bytes:
    """A version 1 file of one table of zeros, of a few kilobytes however large the table."""
    header = struct.pack("<5I", 0x4E474F52, 1, 3, rows, vocab)
    return _core.compress(header + bytes(rows * vocab), 1)


def test_a_small_file_of_a_large_table(tmp_path: Path) -> None:
    small = dense(1 << 12, 1 << 10)
    assert _core.FrozenOracle.from_bytes(small).vocab_size == 1 << 10
    code = (
        "import sys; from pathlib import Path; from hybridlm.oracle import Oracle;"
        "Oracle.from_file(sys.argv[1])"
    )
    path = tmp_path / "x.ngor"
    path.write_bytes(small)
    for limit, refused in (("1000000", True), ("4194304", False), ("many", True)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            capture_output=True, text=True, env={"HYBRIDLM_MAX_UNPACKED_BYTES": limit},
        )  # fmt: skip
        assert (done.returncode != 0) == refused, done.stderr
        assert not refused or "HYBRIDLM_MAX_UNPACKED_BYTES" in done.stderr.splitlines()[-1]
    # Nothing is unpacked of what declares too much.
    declared = bytes([0x28, 0xB5, 0x2F, 0xFD, 0xE0]) + struct.pack("<Q", 2 << 30) + bytes(16)
    with pytest.raises(FormatError, match="declares 2147483648 bytes"):
        _core.FrozenOracle.from_bytes(declared)


@pytest.mark.parametrize("piece", [b"<0xZZ>", b"<0x4>>", b"<0x\xff\xff>"])
def test_a_tokenizer_whose_byte_pieces_are_no_bytes(tokenizer_path: Path, piece: bytes) -> None:
    model = tokenizer_path.read_bytes()
    assert model.count(b"<0x41>") == 1
    with pytest.raises(FormatError, match="damaged"):
        Tokenizer(model.replace(b"<0x41>", piece), name="x")


def test_more_tensors_than_anybody_has() -> None:
    names = {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(70_000)}
    header = json.dumps({**names, "__metadata__": {"hybridlm": "{}"}}).encode()
    header += b" " * (-len(header) % 8)
    with pytest.raises(FormatError, match="70,000 tensors"):
        read(_core.compress(struct.pack("<Q", len(header)) + header, 1), "x")


def test_a_window_of_more_than_anybody_has(
    neural_artifact: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    """A model that claims to have been trained on 2^20 tokens at once: scored, that would take gigabytes."""
    pytest.importorskip("torch")
    from hybridlm.model.neural_blob import encode, load_model
    from hybridlm.scoring.artifact_experts import experts_of

    artifact = Artifact.from_file(neural_artifact)
    assert artifact.neural_blob is not None
    model = load_model(artifact.neural_blob, "x")
    model.config = dataclasses.replace(model.config, sequence_length=1 << 20)
    tokenizer = Tokenizer.load(tokenizer_path)
    blob = encode(model, tokenizer=tokenizer.fingerprint)
    forged = Artifact.from_bytes(pack(blob, None, tokenizer.vocabulary), "forged")
    with pytest.raises(InputError, match="1,048,576"):
        experts_of(forged, tokenizer.vocab_size, ScoringConfig(ttt="off"), None)
    experts_of(forged, tokenizer.vocab_size, ScoringConfig(ttt="off", window=64), None)
