"""The container of a model's weights: what is written comes back, and what was tampered with is refused."""

import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from hybridlm import _core
from hybridlm.errors import FormatError
from hybridlm.model import GPT, ModelConfig, neural_blob
from hybridlm.model.grid import Scheme
from hybridlm.model.quantise import quantise
from hybridlm.model.quantised import (
    LEFT_BITS,
    RIGHT_BITS,
    Factor,
    LowRank,
    QuantisedMatrix,
    QuantisedState,
    dequantise,
    range_of,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "good"
FINGERPRINT = "ab" * 32
# Of the golden files.
CONFIG = ModelConfig(
    layers=1, width=32, heads=2, kv_heads=2, mlp_hidden=32, vocab_size=40, sequence_length=16,
    rope_dims=4, bigram_rows=33, bigram_width=32,
)  # fmt: skip
CORRECTED = "blocks.0.mlp.up.weight"


@pytest.fixture(scope="module")
def model() -> GPT:
    """With the weights of the golden files: (7 + n) i modulo 13 less 6, in 64ths, for the n-th tensor."""
    model = GPT(CONFIG)
    with torch.no_grad():
        for at, weight in enumerate(model.state_dict().values()):
            weight.copy_((((torch.arange(weight.numel()) * (7 + at)) % 13 - 6) / 64).view(weight.shape))
    return model


def factor(rank: int, size: int, bits: int) -> Factor:
    low, high = range_of(bits)
    integers = (np.arange(rank * size) * 5 % (high - low + 1) + low).reshape(rank, size).astype(np.int8)
    scales = np.linspace(0.001, 0.002, rank * -(-size // 64)).reshape(rank, -1).astype(np.float16)
    return Factor(integers, scales)


@pytest.fixture(scope="module")
def state(model: GPT) -> QuantisedState:
    """Rounded by several grids, with a low-rank correction and a number beyond half precision."""
    scheme = Scheme.parse(["std:6", "mlp=5:std:3", "bigram=8:absmax", "embedding=4:absmax"])
    rounded = quantise(model.state_dict(), scheme)
    corrected = rounded.matrices[CORRECTED]
    low_rank = LowRank(factor(2, 32, LEFT_BITS), factor(2, 32, RIGHT_BITS))
    matrix = QuantisedMatrix(corrected.bits, corrected.integers, corrected.scales, low_rank)
    large = {"smear_gate.gate": np.full(32, 1e6, np.float32)}
    return QuantisedState({**rounded.matrices, CORRECTED: matrix}, {**rounded.floats, **large})


def written(state: QuantisedState) -> bytes:
    config = json.loads(CONFIG.to_json())
    return neural_blob.write(
        state, model=config, tokenizer=FINGERPRINT, quantisation={"grids": {"mlp": "5:std:3"}}
    )


@pytest.fixture(scope="module")
def blob(state: QuantisedState) -> bytes:
    return written(state)


def assert_same(found: QuantisedState, wanted: QuantisedState) -> None:
    assert found.matrices.keys() == wanted.matrices.keys() and found.floats.keys() == wanted.floats.keys()
    for name, values in wanted.floats.items():
        assert found.floats[name].dtype == values.dtype
        np.testing.assert_array_equal(found.floats[name], values, name)
    for name, matrix in wanted.matrices.items():
        other = found.matrices[name]
        assert other.bits == matrix.bits and (other.low_rank is None) == (matrix.low_rank is None)
        np.testing.assert_array_equal(other.integers, matrix.integers, name)
        np.testing.assert_array_equal(other.scales, matrix.scales, name)
        if matrix.low_rank is not None and other.low_rank is not None:
            for one, two in (
                (other.low_rank.left, matrix.low_rank.left),
                (other.low_rank.right, matrix.low_rank.right),
            ):
                np.testing.assert_array_equal(one.integers, two.integers)
                np.testing.assert_array_equal(one.scales, two.scales)


def test_what_is_written_comes_back(blob: bytes, state: QuantisedState) -> None:
    content = neural_blob.read(blob, "it")
    assert_same(content.state, state)
    assert content.header.version == 2 and content.header.quantisation == {"grids": {"mlp": "5:std:3"}}
    loaded = neural_blob.load_model(blob, "it")
    for name, values in dequantise(state).items():
        np.testing.assert_array_equal(loaded.state_dict()[name].numpy(), values, name)


def test_the_bytes_do_not_depend_on_the_order_of_the_tensors(blob: bytes, state: QuantisedState) -> None:
    turned = QuantisedState(
        dict(reversed(list(state.matrices.items()))), dict(reversed(list(state.floats.items())))
    )
    assert written(turned) == blob


def test_golden_files_are_read(model: GPT, state: QuantisedState) -> None:
    old = neural_blob.read((GOLDEN / "neural_v1.bin").read_bytes(), "v1")
    wanted = quantise(model.state_dict(), Scheme.parse(["std:6"]))
    assert old.header.version == 1 and old.header.tokenizer == FINGERPRINT
    assert old.header.quantisation["grids"] == {"all": "6:std:6"}
    assert old.header.model == json.loads(CONFIG.to_json())
    # Version 1 keeps gates in half precision.
    gates = {name for name in wanted.matrices if name.endswith("gate_weight")}
    floats = {name: model.state_dict()[name].half().numpy() for name in gates}
    matrices = {name: matrix for name, matrix in wanted.matrices.items() if name not in gates}
    assert gates
    assert_same(old.state, QuantisedState(matrices, {**wanted.floats, **floats}))
    neural_blob.load_model((GOLDEN / "neural_v1.bin").read_bytes(), "v1")
    assert_same(neural_blob.read((GOLDEN / "neural_v2.bin").read_bytes(), "v2").state, state)


def test_version_2_takes_fewer_bytes_than_version_1() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(layers=2, width=64, mlp_hidden=128, heads=2, vocab_size=512, bigram_rows=512))
    rounded = quantise(model.state_dict())
    tensors: dict[str, Any] = dict(rounded.floats)
    for name, matrix in rounded.matrices.items():
        tensors |= {name: matrix.integers, f"{name}:scale": matrix.scales}
    old = _core.compress(safetensors.numpy.save(tensors), 22)
    assert len(neural_blob.encode(model, tokenizer=FINGERPRINT)) < 0.97 * len(old)


def test_every_truncation_and_any_trailing_byte_is_found(blob: bytes) -> None:
    for length in range(0, len(blob), 7):
        with pytest.raises(FormatError, match="it"):
            neural_blob.read(blob[:length], "it")
    with pytest.raises(FormatError, match="lengths"):
        neural_blob.read(blob + b"\0", "it")


def frames_of(blob: bytes) -> list[bytes]:
    (count,) = struct.unpack_from("<I", blob, 8)
    lengths = struct.unpack_from(f"<{count}I", blob, 12)
    ends = np.cumsum([12 + 4 * count, *lengths])
    return [blob[start:end] for start, end in itertools.pairwise(ends)]


def joined(frames: list[bytes]) -> bytes:
    return struct.pack(f"<8sI{len(frames)}I", b"NEUR\x02\r\n\x1a", len(frames), *map(len, frames)) + b"".join(
        frames
    )


Change = Callable[[dict[str, Any]], object]

HEADERS: list[tuple[str, Change, str]] = [
    ("a tensor less", lambda h: h["tensors"].pop(), "floats: the zstd frame declares 128 bytes"),
    ("a tensor more", lambda h: h["tensors"].append(["other", [3], 32]), "floats"),
    ("two of a name", lambda h: h["tensors"].append(h["tensors"][-1]), "two tensors of one name"),
    ("another name", lambda h: h["tensors"][0].__setitem__(0, "other"), "key.weight has shape absent"),
    ("a shape that was turned", lambda h: h["tensors"][4].__setitem__(1, [16, 64]), "half bytes"),
    ("too large for a side", lambda h: h["tensors"][0].__setitem__(1, [1 << 40, 1]), "no tensor"),
    ("too large together", lambda h: h["tensors"][0].__setitem__(1, [1 << 24, 1 << 24]), "268,435,456"),
    ("a negative side", lambda h: h["tensors"][0].__setitem__(1, [-32, -32]), "no tensor"),
    ("three dimensions", lambda h: h["tensors"][-1].__setitem__(1, [1, 1, 32]), "no tensor"),
    ("a side that is true", lambda h: h["tensors"][-1].__setitem__(1, [True]), "no tensor"),
    ("one bit", lambda h: h["tensors"][0].__setitem__(2, 1), "1 bits"),
    ("nine bits", lambda h: h["tensors"][0].__setitem__(2, 9), "9 bits"),
    ("a vector of six bits", lambda h: h["tensors"][-1].__setitem__(2, 6), "6 bits"),
    ("too few bits for its numbers", lambda h: h["tensors"][0].__setitem__(2, 2), r"outside -2\.\.1"),
    ("rank zero", lambda h: h["tensors"][0].append(0), "rank 0"),
    ("rank beyond the sides", lambda h: h["tensors"][0].append(33), "rank 33"),
    ("floats with a rank", lambda h: h["tensors"][-1].append(1), "rank 1"),
    ("a word too many", lambda h: h["tensors"][0].extend([1, 1]), "no tensor"),
    ("no list", lambda h: h["tensors"].append(7), "no tensor"),
    ("frames of too many", lambda h: h["frames"].__setitem__(0, 1 << 70), "no numbers"),
    ("a frame less", lambda h: h["frames"].__setitem__(slice(0, 2), [sum(h["frames"][:2])]), "frames"),
    ("frames of others", lambda h: h["frames"].__setitem__(0, h["frames"][0] - 1), "frames"),
    ("no tokenizer", lambda h: h.pop("tokenizer"), "fields"),
    ("another field", lambda h: h.update(more=1), "fields"),
    ("a type", lambda h: h.update(tokenizer=7), "tokenizer has the wrong type"),
    ("another model", lambda h: h["model"].update(mlp_hidden=48), "mlp"),
    ("many layers", lambda h: h["model"].update(layers=10**9), "layers"),
    ("a huge vocabulary", lambda h: h["model"].update(vocab_size=2**16), "token_embedding"),
    ("layers in words", lambda h: h["model"].update(layers="two"), "layers"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in HEADERS], ids=[c[0] for c in HEADERS])
def test_a_header_that_says_something_else_is_refused(blob: bytes, change: Change, message: str) -> None:
    first, *others = frames_of(blob)
    header = json.loads(_core.decompress(first, 1 << 20, "header"))
    change(header)
    forged = joined([_core.compress(json.dumps(header).encode()), *others])
    with pytest.raises(FormatError, match=message) as caught:
        neural_blob.load_model(forged, "forged.pgar (neural part)")
    assert str(caught.value).startswith("forged.pgar (neural part)")


@pytest.mark.parametrize(
    ("at", "content", "message"),
    [
        (0, b"\xff", "not JSON"),
        (0, b"[" * 100_000, "not JSON"),
        (0, b"[1]", "fields"),
        (1, b"\0" * 7, "low half bytes: 7 bytes"),
        (2, b"\x7c" * (1 << 20), "high half bytes"),
        (3, b"", "floats: 0 bytes"),
        (4, b"\x7f" * 128, r"outside -2\.\.1"),
        (-1, b"\x7f" * (1 << 30), "whole numbers"),
    ],
)
def test_a_frame_that_holds_something_else_is_refused(
    blob: bytes, at: int, content: bytes, message: str
) -> None:
    frames = frames_of(blob)
    frames[at] = _core.compress(content, 1) if content else b""
    with pytest.raises(FormatError, match=message):
        neural_blob.load_model(joined(frames), "it")


def test_scales_and_floats_that_are_no_numbers_are_refused(blob: bytes, state: QuantisedState) -> None:
    name, matrix = next(iter(state.matrices.items()))
    for bad in (np.nan, -1.0, 0.0):
        scales = np.full_like(matrix.scales, bad)
        broken = {**state.matrices, name: QuantisedMatrix(matrix.bits, matrix.integers, scales)}
        with pytest.raises(FormatError, match=f"{name}: a scale"):
            neural_blob.load_model(written(QuantisedState(broken, state.floats)), "it")
    floats = {**state.floats, "smear_gate.gate": np.full(32, np.inf, np.float16)}
    with pytest.raises(FormatError, match=r"smear_gate.gate: a value"):
        neural_blob.load_model(written(QuantisedState(state.matrices, floats)), "it")


def test_other_versions_and_files_are_refused(blob: bytes) -> None:
    with pytest.raises(FormatError, match="neural format 3; this program reads 1 and 2"):
        neural_blob.read(blob[:4] + b"\3" + blob[5:], "it")
    with pytest.raises(FormatError, match="begins with 4e 47"):
        neural_blob.read(b"NGSP" + blob[4:], "it")
    with pytest.raises(FormatError, match="frames"):
        neural_blob.read(blob[:8] + b"\xff" * 4 + blob[12:], "it")


def version_1(change: str) -> bytes:
    """The golden file of version 1, in a sound frame and with other content."""
    plain = _core.decompress((GOLDEN / "neural_v1.bin").read_bytes(), 1 << 20, "v1")
    tensors: dict[str, Any] = safetensors.numpy.load(plain)
    metadata: dict[str, Any] = {"format": 1, "model": json.loads(CONFIG.to_json()), "tokenizer": FINGERPRINT}
    metadata["clip"] = "absmax"
    key, name = "hybridlm", "token_embedding.weight"
    match change:
        case "missing tensor":
            del tensors[name]
        case "no scales":
            del tensors[name + ":scale"]
        case "scales without a matrix":
            tensors["other:scale"] = np.ones(3, np.float16)
        case "dtype":
            tensors[name] = tensors[name].astype(np.int64)
        case "range":
            tensors[name] = np.full_like(tensors[name], 100)
        case "scale":
            tensors[name + ":scale"] = tensors[name + ":scale"] * np.float16("nan")
        case "version":
            metadata["format"] = 3
        case "metadata":
            key = "other"
        case "not safetensors":
            return _core.compress(b"\xff" * 100)
    return _core.compress(safetensors.numpy.save(tensors, {key: json.dumps(metadata)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing tensor", "token_embedding.weight"),
        ("no scales", "without scales"),
        ("scales without a matrix", "tensor other:scale"),
        ("dtype", "dtype"),
        ("range", "outside"),
        ("scale", "scale"),
        ("version", "format 3"),
        ("metadata", "metadata"),
        ("not safetensors", "safetensors"),
    ],
)
def test_forged_blobs_of_version_1_are_refused(change: str, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        neural_blob.load_model(version_1(change), "forged.pgar (neural part)")
    assert "forged.pgar (neural part)" in str(caught.value)
