"""The neural part of an artifact: what its weights are, then the weights, like numbers compressed together.

The layout of version 2 is in docs/format.md. Whole numbers, the upper and the lower bytes of half-precision
numbers, and the header have nothing in common that a compressor could learn from, and cost it something
when they are in one stream. Whole numbers stay a byte each: packed into fewer bits *before* an entropy coder,
their structure is hidden from it and the result is larger.

Version 1, one frame around a safetensors file, is read and no longer written.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridlm._core import LIMIT_VARIABLE, compress, decompress, unpacked_limit
from hybridlm.calibration import Calibration
from hybridlm.errors import FormatError
from hybridlm.model.grid import DEFAULT_SCHEME, MAX_BITS, MIN_BITS, Scheme, kind_of
from hybridlm.model.quantised import (
    GROUP,
    Factor,
    LowRank,
    QuantisedMatrix,
    QuantisedState,
    dequantise,
)
from hybridlm.tensor_file import MOST_TENSORS, load_arrays

if TYPE_CHECKING:
    from hybridlm.model import GPT

FORMAT_VERSION = 2

_MAGIC = b"NEUR\x02\r\n\x1a"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # what version 1 begins with
_COUNT = struct.Struct("<I")
_SECTIONS = ("header", "low half bytes", "high half bytes", "floats", "factors")
"""Frames that are always there, in their order; those of whole numbers follow."""
_MAX_FRAMES = 1 << 16
_MAX_HEADER = 1 << 22
_LARGEST_SIDE = 1 << 24  # as a model's configuration may have
_LEVEL = 22


@dataclass(frozen=True)
class NeuralHeader:
    """What a neural blob says of itself.

    Attributes:
        version: of the blob's format.
        model: the fields of the model's configuration.
        tokenizer: SHA-256 (hex) of the tokenizer that the model was trained with.
        quantisation: how the weights were rounded, as `quantisation_of` has it.
        parameters: weights in the model; scales and low-rank factors are not counted.
    """

    version: int
    model: dict[str, Any]
    tokenizer: str
    quantisation: dict[str, Any]
    parameters: int


@dataclass(frozen=True)
class NeuralBlob:
    header: NeuralHeader
    state: QuantisedState


@dataclass(frozen=True)
class _Entry:
    """A tensor as the header describes it. bits: of a quantised matrix, or 16 or 32 of floats."""

    name: str
    shape: tuple[int, ...]
    bits: int
    rank: int = 0

    @property
    def quantised(self) -> bool:
        return self.bits <= MAX_BITS

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def factors(self) -> list[tuple[int, int]]:
        """The shapes of the low-rank factors' integers."""
        return [(self.rank, side) for side in self.shape] if self.rank else []

    def halves(self) -> list[tuple[int, ...]]:
        """The shapes of what it stores in half precision, in order."""
        if not self.quantised:
            return [self.shape] if self.bits == 16 else []
        return [self.shape[:1], *((rank, -(-side // GROUP)) for rank, side in self.factors())]

    def to_json(self) -> list[Any]:
        return [self.name, list(self.shape), self.bits, *([self.rank] if self.rank else [])]


def encode(
    model: "GPT",
    *,
    tokenizer: str,
    scheme: Scheme = DEFAULT_SCHEME,
    calibration: Calibration | None = None,
) -> bytes:
    """The blob of a model trained with the tokenizer of that fingerprint.

    It is rounded to nearest, or by GPTQ where there is text to calibrate on. Raises InputError for weights
    that are not finite.
    """
    from hybridlm.model.gptq import input_products
    from hybridlm.model.quantise import quantise

    products = None if calibration is None else input_products(model, calibration.batches())
    quantised = quantise(model.state_dict(), scheme, products)
    config = json.loads(model.config.to_json())
    how = quantisation_of(quantised, scheme, calibration)
    return write(quantised, model=config, tokenizer=tokenizer, quantisation=how)


def quantisation_of(
    quantised: QuantisedState, scheme: Scheme, calibration: Calibration | None = None
) -> dict[str, Any]:
    """What the header says of how weights were rounded, as plain JSON values.

    ``grids``: for each kind of matrix that there is, its bits and clip rule. ``rounding``: nearest or gptq.
    ``calibration``: `Calibration.shards`, null without. ``low_rank``: rank and number of corrected matrices.
    """
    kinds = (kind_of(name, matrix.integers.shape) for name, matrix in quantised.matrices.items())
    return {
        "grids": scheme.words(kind for kind in kinds if kind is not None),
        "rounding": "nearest" if calibration is None else "gptq",
        "calibration": None if calibration is None else calibration.shards,
        "low_rank": str(scheme.low_rank),
    }


def write(
    quantised: QuantisedState,
    *,
    model: Mapping[str, Any],
    tokenizer: str,
    quantisation: Mapping[str, Any],
) -> bytes:
    """The blob of a quantised state. ``model`` and ``quantisation`` must be plain JSON values.

    The same state gives the same bytes, in whatever order its tensors are.
    """
    groups, others = _stored_order(quantised)
    entries = [*(entry for group in groups for entry in group), *others]
    header = {
        "model": dict(model),
        "tokenizer": tokenizer,
        "quantisation": dict(quantisation),
        "tensors": [entry.to_json() for entry in entries],
        "frames": list(map(len, groups)),
    }
    factors: list[NDArray[np.int8]] = []
    halves: list[NDArray[np.float16]] = []
    floats: list[NDArray[np.float32]] = []
    for entry in entries:
        if not entry.quantised:
            (halves if entry.bits == 16 else floats).append(quantised.floats[entry.name])
            continue
        matrix = quantised.matrices[entry.name]
        halves.append(matrix.scales)
        if matrix.low_rank is not None:
            for factor in (matrix.low_rank.left, matrix.low_rank.right):
                factors.append(factor.integers)
                halves.append(factor.scales)
    planes = np.frombuffer(_joined(halves, "<f2"), np.uint8).reshape(-1, 2)
    contents = [
        json.dumps(header, sort_keys=True, separators=(",", ":")).encode(),
        planes[:, 0].tobytes(),
        planes[:, 1].tobytes(),
        _joined(floats, "<f4"),
        _joined(factors, "i1"),
        *(_joined([quantised.matrices[entry.name].integers for entry in group], "i1") for group in groups),
    ]
    frames = [compress(content, _LEVEL) if content else b"" for content in contents]
    lengths = [_COUNT.pack(len(frame)) for frame in frames]
    return b"".join([_MAGIC, _COUNT.pack(len(frames)), *lengths, *frames])


def _stored_order(quantised: QuantisedState) -> tuple[list[list[_Entry]], list[_Entry]]:
    """Matrices, those of a kind together because their numbers are alike, and the rest; all by name."""
    kinds: dict[str, list[_Entry]] = {}
    for name, matrix in sorted(quantised.matrices.items()):
        rank = 0 if matrix.low_rank is None else len(matrix.low_rank.left.integers)
        entry = _Entry(name, matrix.integers.shape, matrix.bits, rank)
        kinds.setdefault(str(kind_of(name, entry.shape)), []).append(entry)
    others = [
        _Entry(name, values.shape, 8 * values.dtype.itemsize)
        for name, values in sorted(quantised.floats.items())
    ]
    return [kinds[kind] for kind in sorted(kinds)], others


def _joined(arrays: list[Any], dtype: str) -> bytes:
    return b"".join(array.astype(dtype).tobytes() for array in arrays)


def read(blob: bytes, what: str) -> NeuralBlob:
    """A blob's content, checked for form, without torch. Raises FormatError; ``what`` leads its message.

    No more is decompressed than the tensors that the header lists need, and at most `unpacked_limit` bytes.
    """
    if blob[: len(_ZSTD_MAGIC)] == _ZSTD_MAGIC:
        return _read_version_1(blob, what)
    frames = _frames(blob, what)
    fields = _parsed(decompress(frames[0], _MAX_HEADER, f"{what}, header"), what)
    entries = _entries(fields["tensors"], what)
    groups = _groups(fields["frames"], [entry for entry in entries if entry.quantised], what)
    if len(frames) != len(_SECTIONS) + len(groups):
        raise FormatError(
            f"{what}: {len(frames)} frames, but its header lists {len(groups)} of whole numbers"
        )
    halves = [shape for entry in entries for shape in entry.halves()]
    floats = [entry.shape for entry in entries if entry.bits == 32]
    factors = [shape for entry in entries for shape in entry.factors()]
    # In the frames' order.
    sizes = [_numbers(halves), _numbers(halves), 4 * _numbers(floats), _numbers(factors)]
    sizes += [_numbers([entry.shape for entry in group]) for group in groups]
    if sum(sizes) > (most := unpacked_limit()):
        raise FormatError(
            f"{what}: the tensors in its header have more than {most:,} bytes; {LIMIT_VARIABLE} allows more"
        )
    contents = []
    for at, (frame, size) in enumerate(zip(frames[1:], sizes, strict=True), start=1):
        where = f"{what}, {_SECTIONS[at] if at < len(_SECTIONS) else 'whole numbers'}"
        content = decompress(frame, size, where) if frame else b""
        if len(content) != size:
            raise FormatError(f"{where}: {len(content)} bytes, but the tensors in the header have {size}")
        contents.append(content)
    low, high, *rest = contents
    planes = np.stack([np.frombuffer(low, np.uint8), np.frombuffer(high, np.uint8)], axis=1)
    parts = {
        "halves": _cut(planes.tobytes(), "<f2", halves),
        "floats": _cut(rest[0], "<f4", floats),
        "factors": _cut(rest[1], "i1", factors),
        "integers": _cut(b"".join(rest[2:]), "i1", [entry.shape for entry in entries if entry.quantised]),
    }
    parameters = sum(entry.size for entry in entries)
    header = NeuralHeader(
        FORMAT_VERSION, fields["model"], fields["tokenizer"], fields["quantisation"], parameters
    )
    return NeuralBlob(header, _assembled(entries, {name: iter(arrays) for name, arrays in parts.items()}))


def _numbers(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes))


def _frames(blob: bytes, what: str) -> list[bytes]:
    table = len(_MAGIC) + _COUNT.size
    if blob[:4] == _MAGIC[:4] and len(blob) > 4 and blob[4] != FORMAT_VERSION:
        raise FormatError(f"{what}: neural format {blob[4]}; this program reads 1 and {FORMAT_VERSION}")
    if blob[: len(_MAGIC)] != _MAGIC or len(blob) < table:
        raise FormatError(f"{what}: no neural part begins with {blob[: len(_MAGIC)].hex(' ')}")
    (count,) = _COUNT.unpack_from(blob, len(_MAGIC))
    start = table + _COUNT.size * count
    if not len(_SECTIONS) <= count <= _MAX_FRAMES or len(blob) < start:
        raise FormatError(f"{what}: {count} frames (offset {len(_MAGIC)}) in {len(blob)} bytes")
    lengths = struct.unpack_from(f"<{count}I", blob, table)
    if start + sum(lengths) != len(blob):
        raise FormatError(
            f"{what}: the lengths from offset {table} on make {start + sum(lengths)} bytes, but there are "
            f"{len(blob)}"
        )
    frames = []
    for length in lengths:
        frames.append(blob[start : start + length])
        start += length
    return frames


def _parsed(text: bytes, what: str) -> dict[str, Any]:
    kinds = {"model": dict, "tokenizer": str, "quantisation": dict, "tensors": list, "frames": list}
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}, header: not JSON: {error}") from None
    if not isinstance(fields, dict) or fields.keys() != kinds.keys():
        raise FormatError(f"{what}, header: doesn't have the fields {', '.join(kinds)}")
    for name, kind in kinds.items():
        if not isinstance(fields[name], kind):
            raise FormatError(f"{what}, header: {name} has the wrong type")
    return fields


def _entries(found: list[Any], what: str) -> list[_Entry]:
    if len(found) > MOST_TENSORS:
        raise FormatError(f"{what}, header: {len(found):,} tensors, more than the {MOST_TENSORS:,} allowed")
    entries = []
    for item in found:
        try:
            name, shape, bits, *rest = item
            (rank,) = rest or [0]
            numbers = [*shape, bits, rank]
            if type(name) is not str or len(shape) > 2:
                raise TypeError
            if any(type(number) is not int or not 0 <= number <= _LARGEST_SIDE for number in numbers):
                raise TypeError
            entry = _Entry(name, tuple(shape), bits, rank)
        except (TypeError, ValueError):
            raise FormatError(f"{what}, header: {item!r:.80} describes no tensor") from None
        if bits not in (16, 32) and not (MIN_BITS <= bits <= MAX_BITS and len(shape) == 2):
            raise FormatError(f"{what}, header: tensor {name} has {bits} bits and shape {shape}")
        if rest and not (entry.quantised and 0 < rank <= min(shape)):
            raise FormatError(f"{what}, header: tensor {name} of shape {shape} has rank {rank}")
        entries.append(entry)
    if len({entry.name for entry in entries}) < len(entries):
        raise FormatError(f"{what}, header: two tensors of one name")
    return entries


def _groups(counts: list[Any], matrices: list[_Entry], what: str) -> list[list[_Entry]]:
    """The matrices of each frame of whole numbers."""
    if any(type(count) is not int or not 0 < count <= len(matrices) for count in counts):
        raise FormatError(f"{what}, header: frames {counts!r:.80} are no numbers of matrices")
    if sum(counts) != len(matrices):
        raise FormatError(
            f"{what}, header: frames of {sum(counts)} matrices, of which it has {len(matrices)}"
        )
    left = iter(matrices)
    return [list(islice(left, count)) for count in counts]


def _cut(data: bytes, dtype: str, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[Any]]:
    """Arrays that own writable memory in the machine's byte order, from what lies one after the other."""
    values = np.frombuffer(data, dtype)
    ends = np.cumsum([math.prod(shape) for shape in shapes], dtype=np.int64)
    native = np.dtype(dtype).newbyteorder("=")
    return [
        values[end - math.prod(shape) : end].reshape(shape).astype(native)
        for shape, end in zip(shapes, ends.tolist(), strict=True)
    ]


def _assembled(entries: list[_Entry], parts: Mapping[str, Any]) -> QuantisedState:
    matrices: dict[str, QuantisedMatrix] = {}
    floats: dict[str, NDArray[Any]] = {}
    for entry in entries:
        if not entry.quantised:
            floats[entry.name] = next(parts["halves" if entry.bits == 16 else "floats"])
            continue
        integers, scales = next(parts["integers"]), next(parts["halves"])
        low_rank = None
        if entry.rank:
            left = Factor(next(parts["factors"]), next(parts["halves"]))
            low_rank = LowRank(left, Factor(next(parts["factors"]), next(parts["halves"])))
        matrices[entry.name] = QuantisedMatrix(entry.bits, integers, scales, low_rank)
    return QuantisedState(matrices, floats)


def _read_version_1(blob: bytes, what: str) -> NeuralBlob:
    suffix = ":scale"
    tensors, metadata = load_arrays(decompress(blob, unpacked_limit(), what), what)
    try:
        version, model = metadata["format"], metadata["model"]
        tokenizer, clip = metadata["tokenizer"], metadata["clip"]
    except (KeyError, TypeError):
        raise FormatError(f"{what}: the metadata lacks format, model, tokenizer or clip") from None
    if version != 1:
        raise FormatError(f"{what}: neural format {version} in the form of format 1")
    if not (isinstance(model, dict) and isinstance(tokenizer, str) and isinstance(clip, str)):
        raise FormatError(f"{what}: the metadata's model, tokenizer or clip has the wrong type")
    matrices: dict[str, QuantisedMatrix] = {}
    floats: dict[str, NDArray[Any]] = {}
    for name, array in tensors.items():
        if array.dtype == np.int8:
            scales = tensors.get(name + suffix)
            if scales is None or scales.dtype != np.float16:
                raise FormatError(f"{what}: tensor {name}: int6 without scales")
            matrices[name] = QuantisedMatrix(6, array.copy(), scales.copy())
        elif array.dtype in (np.float16, np.float32):
            if tensors.get(name.removesuffix(suffix), array).dtype != np.int8:
                floats[name] = array.copy()  # the loaded ones are read-only
        else:
            raise FormatError(f"{what}: tensor {name} has dtype {array.dtype}, which none of ours has")
    parameters = sum(matrix.integers.size for matrix in matrices.values())
    parameters += sum(values.size for values in floats.values())
    quantisation = {
        "grids": {"all": f"6:{clip}"},
        "rounding": "nearest",
        "calibration": None,
        "low_rank": "0:0",
    }
    header = NeuralHeader(1, model, tokenizer, quantisation, parameters)
    return NeuralBlob(header, QuantisedState(matrices, floats))


def load_model(blob: bytes, what: str) -> "GPT":
    """The model of a blob, float32 on the CPU, in evaluation mode. Raises FormatError."""
    import torch

    from hybridlm.model import GPT, ModelConfig

    content = read(blob, what)
    config = ModelConfig.from_json(json.dumps(content.header.model), what)
    shapes = {name: matrix.integers.shape for name, matrix in content.state.matrices.items()}
    shapes |= {name: values.shape for name, values in content.state.floats.items()}
    if config.layers > len(shapes) or not config.vocab_size:
        raise FormatError(f"{what}: {len(shapes)} tensors can't be {config.layers} layers")
    # Without memory at first: shapes are compared before a forged configuration can ask for any.
    with torch.device("meta"):
        model = GPT(config)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        if shapes.get(name) != wanted.get(name):
            raise FormatError(
                f"{what}: tensor {name} has shape {_shape(shapes.get(name))}, "
                f"but the model's configuration makes it {_shape(wanted.get(name))}"
            )
    try:
        state = dequantise(content.state)
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from None
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, assign=True)
    return model.eval()


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
