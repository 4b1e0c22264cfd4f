"""Calibration text: training shards only, spread evenly, named by hash in the artifact."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hybridlm import _core
from hybridlm.calibration import draw
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import FormatError, InputError
from hybridlm.model import GPT, ModelConfig, neural_blob
from hybridlm.model.gptq import input_products
from hybridlm.model.grid import Scheme
from hybridlm.model.quantise import quantise
from hybridlm.model.quantised import dequantise

VOCABULARY = Vocabulary(64, 1, "ab" * 32)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Of 1000 and of 300 tokens, each the number of its position modulo 60."""
    paths = []
    for index, size in enumerate((1000, 300)):
        path = tmp_path / f"text_train_{index:06d}.bin"
        _core.write_shard(str(path), ((np.arange(size) + 1) % 60).astype(np.uint16))
        paths.append(path)
    return paths


def test_windows_are_spread_evenly_and_whole(shards: list[Path]) -> None:
    windows = draw(shards, VOCABULARY, length=50, tokens=800).windows
    assert windows.shape == (14, 50)  # eight of the first shard, and all that the second has
    starts = [int(np.flatnonzero((np.arange(1000) + 1) % 60 == row[0])[0]) for row in windows]
    for row in windows:
        np.testing.assert_array_equal(row, (np.arange(50) + row[0]) % 60)
    assert len(set(starts)) > 5


def test_the_hash_is_that_of_the_shards_in_any_order(shards: list[Path]) -> None:
    found = draw(shards, VOCABULARY, length=50).shards
    assert found == draw(shards[::-1], VOCABULARY, length=50).shards
    digests = sorted(hashlib.sha256(path.read_bytes()).digest() for path in shards)
    assert found == hashlib.sha256(b"".join(digests)).hexdigest()
    assert found != draw(shards[:1], VOCABULARY, length=50).shards


def test_other_text_is_refused(
    shards: list[Path], tmp_path: Path, tokenizer: Tokenizer, shard_dir: Path
) -> None:
    validation = tmp_path / "text_val_000000.bin"
    shutil.copy(shards[0], validation)
    with pytest.raises(InputError, match=r"text_val_000000\.bin: a validation shard"):
        draw([validation], VOCABULARY, length=50)
    with pytest.raises(InputError, match="no window of 2000 tokens"):
        draw(shards, VOCABULARY, length=2000)
    with pytest.raises(InputError, match="train_000000"):
        draw([shards[0], shards[0]], VOCABULARY, length=50)
    with pytest.raises(FormatError, match="train_000000"):
        draw(shards, Vocabulary(59, 1, "ab" * 32), length=50)
    with pytest.raises(InputError, match="another tokenizer"):
        draw([next(shard_dir.glob("*_train_*.bin"))], Vocabulary(512, 1, "cd" * 32), length=50)


def test_an_artifact_names_its_calibration_and_is_rounded_by_it(
    shards: list[Path], recipe: ModelConfig
) -> None:
    torch.manual_seed(0)
    model = GPT(recipe).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    scheme = Scheme.parse(["4:absmax", "low-rank=2:3"])
    calibration = draw(shards, VOCABULARY, length=32)
    blob = neural_blob.encode(model, tokenizer="ab" * 32, scheme=scheme, calibration=calibration)
    assert blob == neural_blob.encode(model, tokenizer="ab" * 32, scheme=scheme, calibration=calibration)
    said = neural_blob.read(blob, "it").header.quantisation
    assert said["rounding"] == "gptq" and said["calibration"] == calibration.shards
    assert said["low_rank"] == "2:3"
    products = input_products(model, calibration.batches())
    wanted = dequantise(quantise(model.state_dict(), scheme, products))
    for name, value in neural_blob.load_model(blob, "it").state_dict().items():
        np.testing.assert_array_equal(value.numpy(), wanted[name], name)


def test_calibrated_outputs_are_nearer_to_the_float_model(shards: list[Path], recipe: ModelConfig) -> None:
    torch.manual_seed(0)
    model = GPT(recipe).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    calibration = draw(shards, VOCABULARY, length=32)
    tokens = torch.from_numpy(calibration.windows)
    changes = []
    for text in (None, calibration):
        blob = neural_blob.encode(
            model, tokenizer="ab" * 32, scheme=Scheme.parse(["4:absmax"]), calibration=text
        )
        with torch.no_grad():
            changed = neural_blob.load_model(blob, "it")(tokens) - model(tokens)
        changes.append(float(changed.square().mean()))
    assert changes[1] < 0.95 * changes[0]
