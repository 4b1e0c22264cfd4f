import json
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from hybridlm import _core
from hybridlm.artifact import BUDGET_BYTES, Artifact, pack
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import FormatError, InputError
from hybridlm.model import GPT, ModelConfig, neural_blob
from hybridlm.model.quantise import ClipRule, dequantise, quantise

FINGERPRINT = "ab" * 32
CONFIG = ModelConfig(
    layers=2, width=32, heads=2, kv_heads=2, mlp_hidden=32, vocab_size=40, sequence_length=16,
    rope_dims=4, bigram_rows=0, zero_init_projections=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(CONFIG)


@pytest.fixture(scope="module")
def neural(model: GPT) -> bytes:
    return neural_blob.encode(model, tokenizer=FINGERPRINT)


@pytest.fixture(scope="module")
def oracle() -> bytes:
    counts = _core.NgramCounts(40, 3, {3: 16})
    counts.count_tokens(np.random.default_rng(0).integers(0, 40, 2000).astype(np.uint16))
    return counts.dense_oracle(level=3)


@pytest.mark.parametrize("clip", [ClipRule("absmax"), ClipRule("std", 8.0)])
def test_a_model_comes_back_as_its_quantised_self(model: GPT, clip: ClipRule) -> None:
    artifact = Artifact.from_bytes(
        pack(neural_blob.encode(model, tokenizer=FINGERPRINT, clip=clip), None), "a"
    )
    loaded = artifact.load_model()
    assert loaded is not None and loaded.config == CONFIG and not loaded.training
    wanted = dequantise(quantise(model.state_dict(), clip))
    assert {name: value.shape for name, value in loaded.state_dict().items()} == {
        name: value.shape for name, value in wanted.items()
    }
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    header = artifact.neural_header()
    assert header is not None and header.tokenizer == FINGERPRINT and header.clip == str(clip)
    assert header.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert artifact.load_model() is not loaded


def test_the_same_model_gives_the_same_bytes(model: GPT, neural: bytes) -> None:
    # Several times: a map in random order would come out the same now and then.
    assert all(neural_blob.encode(model, tokenizer=FINGERPRINT) == neural for _ in range(8))


def test_layout_is_the_documented_one(neural: bytes, oracle: bytes) -> None:
    data = pack(neural, oracle)
    assert data[:8] == bytes.fromhex("52414750 01 000000")
    assert struct.unpack("<II", data[8:16]) == (len(neural), len(oracle))
    assert data[16:] == neural + oracle
    artifact = Artifact.from_bytes(data)
    assert (artifact.neural_blob, artifact.oracle_blob) == (neural, oracle)
    assert artifact.to_bytes() == data and artifact.total_bytes == len(data)


def test_either_part_may_be_missing(neural: bytes, oracle: bytes) -> None:
    assert Artifact.from_bytes(pack(neural, None)).load_oracle() is None
    assert Artifact.from_bytes(pack(None, oracle)).load_model() is None
    nothing = Artifact.from_bytes(pack(None, None))
    assert nothing.total_bytes == 16 and nothing.summary()["orders"] == []


def test_every_flipped_bit_of_a_header_is_found(oracle: bytes) -> None:
    data = pack(None, oracle)
    for position in range(16):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(FormatError):
                Artifact.from_bytes(bytes(damaged)).load_oracle()


@pytest.mark.parametrize("flip", [0xFF, 0x01, 0x80])
def test_a_flipped_byte_is_found_or_means_nothing(neural: bytes, oracle: bytes, flip: int) -> None:
    """zstd has a few bits that no decoder reads; all that is decoded is covered by its checksum."""
    tokens = np.random.default_rng(1).integers(0, 40, 100).astype(np.uint16)
    artifact = Artifact.from_bytes(pack(neural, oracle))
    loaded = artifact.load_oracle()
    assert loaded is not None
    header, scores = artifact.neural_header(), loaded.target_log_probs(tokens)
    found = 0
    for position in range(16, artifact.total_bytes):
        damaged = bytearray(artifact.to_bytes())
        damaged[position] ^= flip
        other = Artifact.from_bytes(bytes(damaged))
        try:
            if position < 16 + len(neural):
                assert other.neural_header() == header
            else:
                oracle_again = other.load_oracle()
                assert oracle_again is not None
                np.testing.assert_array_equal(oracle_again.target_log_probs(tokens), scores)
        except FormatError:
            found += 1
    assert found >= 0.99 * (len(neural) + len(oracle))


def test_every_truncation_and_any_trailing_byte_is_found(oracle: bytes) -> None:
    data = pack(None, oracle)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            Artifact.from_bytes(data[:length])
    with pytest.raises(FormatError, match="followed by other bytes"):
        Artifact.from_bytes(data + b"\0")


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"PGAS", r"magic .* at offset 0"),
        (0, b"NGSP", r"looks like an oracle; `hybridlm artifact pack --oracle`"),
        (4, b"\3", "version 3 at offset 4"),
        (5, b"\0\0\1", "offset 5"),
        (8, b"\xff\xff\xff\xff", "truncated"),
        (12, b"\0\0\0\0", "followed by other bytes"),
    ],
)
def test_a_wrong_header_is_refused_by_file_field_and_offset(
    tmp_path: Path, oracle: bytes, offset: int, value: bytes, message: str
) -> None:
    data = bytearray(pack(None, oracle))
    data[offset : offset + len(value)] = value
    path = tmp_path / "bad.pgar"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        Artifact.from_file(path)
    assert str(path) in str(caught.value)


def forge(neural: bytes, change: str) -> bytes:
    """A neural blob whose frame is sound and whose content is not."""
    content = neural_blob.read(neural, "it")
    tensors = dict(content.tensors)
    metadata = {"format": 1, "model": content.header.model, "tokenizer": FINGERPRINT, "clip": "absmax"}
    key, name = "hybridlm", "token_embedding.weight"
    match change:
        case "missing tensor":
            del tensors[name]
        case "unknown tensor":
            tensors["other"] = np.ones(3, np.float32)
        case "shape":
            metadata["model"] = {**content.header.model, "mlp_hidden": 48}
        case "many layers":
            metadata["model"] = {**content.header.model, "layers": 10**9}
        case "huge":
            metadata["model"] = {**content.header.model, "vocab_size": 2**24}
        case "type":
            metadata["model"] = {**content.header.model, "layers": "two"}
        case "dtype":
            tensors[name] = tensors[name].astype(np.int64)
        case "range":
            tensors[name] = np.full_like(tensors[name], 100)
        case "scale":
            tensors[name + ":scale"] = tensors[name + ":scale"] * np.float16("nan")
        case "version":
            metadata["format"] = 2
        case "metadata":
            key = "other"
        case "not safetensors":
            return _core.compress(b"\xff" * 100)
    return _core.compress(safetensors.numpy.save(tensors, {key: json.dumps(metadata)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing tensor", "token_embedding.weight:? .*without|token_embedding.weight"),
        ("unknown tensor", "tensor other"),
        ("shape", "mlp"),
        ("many layers", "layers"),
        ("huge", "token_embedding"),
        ("type", "layers"),
        ("dtype", "dtype"),
        ("range", "outside"),
        ("scale", "scale"),
        ("version", "format 2"),
        ("metadata", "metadata"),
        ("not safetensors", "safetensors"),
    ],
)
def test_forged_neural_blobs_are_refused(neural: bytes, change: str, message: str) -> None:
    artifact = Artifact.from_bytes(pack(forge(neural, change), None), "forged.pgar")
    with pytest.raises(FormatError, match=message) as caught:
        artifact.load_model()
    assert "forged.pgar (neural part)" in str(caught.value)


def test_another_tokenizer_is_refused_by_both_names(neural: bytes, oracle: bytes) -> None:
    artifact = Artifact.from_bytes(pack(neural, oracle))
    artifact.check_tokenizer(Vocabulary(40, 1, FINGERPRINT))
    with pytest.raises(InputError, match=f"{FINGERPRINT}.*{'cd' * 32}"):
        artifact.check_tokenizer(Vocabulary(40, 1, "cd" * 32))
    with pytest.raises(InputError, match=r"of 40 pieces.* has 41"):
        Artifact.from_bytes(pack(None, oracle)).check_tokenizer(Vocabulary(41, 1, "cd" * 32))


def test_the_budget_is_in_decimal_bytes(oracle: bytes) -> None:
    def of_size(total: int) -> Artifact:
        return Artifact("big.pgar", None, bytes(total - 16))

    of_size(BUDGET_BYTES).check_budget()
    with pytest.raises(InputError, match=r"big.pgar .*16,000,001 bytes"):
        of_size(BUDGET_BYTES + 1).check_budget()


def test_an_oracle_alone_needs_no_torch(tmp_path: Path, oracle: bytes) -> None:
    path = tmp_path / "oracle.pgar"
    path.write_bytes(pack(None, oracle))
    program = f"""
        import sys
        from hybridlm.artifact import Artifact
        artifact = Artifact.from_file({str(path)!r})
        assert artifact.summary()["orders"] == [1, 2, 3]
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
