"""The neural part of an artifact: six-bit weights in safetensors form, inside one zstd frame.

A quantised matrix ``NAME`` is an int8 tensor of that name and a float16 tensor ``NAME:scale``; every other
tensor is a float16 or float32 tensor of its own name. All metadata is one JSON text under one key, because
safetensors writes several keys in no particular order and the same weights must give the same bytes.

Integers stay in int8: packing six bits into bytes *before* an entropy coder hides their structure from it
and makes the result larger.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from hybridlm._core import compress, decompress
from hybridlm.errors import FormatError

if TYPE_CHECKING:
    from hybridlm.model import GPT
    from hybridlm.model.quantise import ClipRule, QuantisedState

FORMAT_VERSION = 1
MAX_BYTES = 1 << 30
"""The largest decompressed size that is believed: twenty-odd times what a 16 MB artifact can need."""

_METADATA_KEY = "hybridlm"
_SCALE_SUFFIX = ":scale"
_DTYPES = (np.int8, np.float16, np.float32)


@dataclass(frozen=True)
class NeuralHeader:
    """What a neural blob says of itself.

    Attributes:
        model: the fields of the model's configuration.
        tokenizer: SHA-256 (hex) of the tokenizer that the model was trained with.
        clip: the clip rule that the weights were quantised with.
        parameters: weights in the model, scales not counted.
    """

    model: dict[str, Any]
    tokenizer: str
    clip: str
    parameters: int


@dataclass(frozen=True)
class NeuralBlob:
    header: NeuralHeader
    tensors: dict[str, NDArray[Any]]


def encode(model: "GPT", *, tokenizer: str, clip: "ClipRule | None" = None) -> bytes:
    """The blob of a model trained with the tokenizer of that fingerprint; ``clip`` None: the default rule.

    Raises InputError for weights that are not finite.
    """
    from hybridlm.model.quantise import DEFAULT_CLIP, quantise

    clip = clip or DEFAULT_CLIP
    config = json.loads(model.config.to_json())
    return write(quantise(model.state_dict(), clip), model=config, tokenizer=tokenizer, clip=str(clip))


def write(quantised: "QuantisedState", *, model: Mapping[str, Any], tokenizer: str, clip: str) -> bytes:
    """The blob of a quantised state. ``model`` must be plain JSON values."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, integers in quantised.integers.items():
        tensors[name] = integers.numpy()
        tensors[name + _SCALE_SUFFIX] = quantised.scales[name].numpy()
    for name, values in quantised.floats.items():
        tensors[name] = values.numpy()
    metadata = {"format": FORMAT_VERSION, "model": dict(model), "tokenizer": tokenizer, "clip": clip}
    plain = safetensors.numpy.save(tensors, {_METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    return compress(plain, 22)


def read(blob: bytes, what: str) -> NeuralBlob:
    """A blob's content, checked for form, without torch. Raises FormatError; ``what`` leads its message."""
    plain = decompress(blob, MAX_BYTES, what)
    try:
        tensors = safetensors.numpy.load(plain)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a dtype that NumPy lacks
        raise FormatError(f"{what}: not in safetensors form: {error}") from None
    for name, array in tensors.items():
        if array.dtype not in _DTYPES:
            raise FormatError(f"{what}: tensor {name} has dtype {array.dtype}, which none of ours has")
    header_len = int.from_bytes(plain[:8], "little")  # load() has checked it
    return NeuralBlob(_header(json.loads(plain[8 : 8 + header_len]), tensors, what), tensors)


def _header(file_header: dict[str, Any], tensors: Mapping[str, NDArray[Any]], what: str) -> NeuralHeader:
    try:
        metadata = json.loads(file_header["__metadata__"][_METADATA_KEY])
        version, model = metadata["format"], metadata["model"]
        tokenizer, clip = metadata["tokenizer"], metadata["clip"]
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"{what}: the metadata lacks format, model, tokenizer or clip") from None
    if version != FORMAT_VERSION:
        raise FormatError(f"{what}: neural format {version}; this program reads {FORMAT_VERSION}")
    if not (isinstance(model, dict) and isinstance(tokenizer, str) and isinstance(clip, str)):
        raise FormatError(f"{what}: the metadata's model, tokenizer or clip has the wrong type")
    parameters = sum(array.size for name, array in tensors.items() if not name.endswith(_SCALE_SUFFIX))
    return NeuralHeader(model, tokenizer, clip, parameters)


def load_model(blob: bytes, what: str) -> "GPT":
    """The model of a blob, float32 on the CPU, in evaluation mode. Raises FormatError."""
    import torch

    from hybridlm.model import GPT, ModelConfig
    from hybridlm.model.quantise import QuantisedState, dequantise

    content = read(blob, what)
    quantised = QuantisedState({}, {}, {})
    for name, array in content.tensors.items():
        tensor = torch.from_numpy(array.copy())  # frombuffer gave read-only memory
        if name.endswith(_SCALE_SUFFIX):
            quantised.scales[name.removesuffix(_SCALE_SUFFIX)] = tensor
        elif array.dtype == np.int8:
            quantised.integers[name] = tensor
        else:
            quantised.floats[name] = tensor
    try:
        state = dequantise(quantised)
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from None
    config = ModelConfig.from_json(json.dumps(content.header.model), what)
    if config.layers > len(state) or not config.vocab_size:
        raise FormatError(f"{what}: {len(state)} tensors can't be {config.layers} layers")
    # Without memory at first: shapes are compared before a forged configuration can ask for any.
    with torch.device("meta"):
        model = GPT(config)
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state or name not in wanted or wanted[name] != state[name].shape:
            raise FormatError(
                f"{what}: tensor {name} has shape {_shape(state.get(name))}, "
                f"but the model's configuration makes it {_shape(wanted.get(name))}"
            )
    model.load_state_dict(state, assign=True)
    return model.eval()


def _shape(tensor: Any) -> str:
    if tensor is None:
        return "absent"
    return str(list(getattr(tensor, "shape", tensor)))
