"""Arrays and a JSON value in safetensors form, read from bytes that may hold anything."""

import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from hybridlm.errors import FormatError
from hybridlm.files import parse_json

MOST_TENSORS = 1 << 16
"""In a safetensors file; each costs its readers far more than its bytes."""

# One key for all metadata: safetensors writes several keys in no particular order, and the same content must
# give the same bytes.
_KEY = "hybridlm"


def save_arrays(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> bytes:
    """A safetensors file of ``arrays`` and ``metadata`` (plain JSON values): same content, same bytes."""
    return safetensors.numpy.save(dict(arrays), {_KEY: json.dumps(metadata, sort_keys=True)})


def load_arrays(data: bytes, what: str) -> tuple[dict[str, NDArray[Any]], Any]:
    """The arrays of a safetensors file, read-only, and the metadata that `save_arrays` put beside them.

    The metadata may be any JSON value; it is None where there is none. Raises FormatError, whose message
    begins with ``what``.
    """
    check_tensor_count(data, what)
    try:
        arrays = safetensors.numpy.load(data)
    except KeyError as error:
        raise FormatError(f"{what}: a tensor of type {error.args[0]}, which NumPy lacks") from None
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise FormatError(f"{what}: not in safetensors form: {error}") from None
    header = json.loads(data[8 : 8 + _header_length(data)])
    text = (header.get("__metadata__") or {}).get(_KEY, "null")
    return arrays, parse_json(text, f"{what}: the metadata")


def check_tensor_count(data: bytes, what: str) -> None:
    """Raises FormatError for a safetensors file of more than `MOST_TENSORS` tensors.

    Bytes that are no safetensors file at all are left to the reader to refuse.
    """
    # Every tensor's description has this member, and no name can hold an unescaped quotation mark.
    count = data.count(b'"data_offsets"', 8, 8 + min(_header_length(data), len(data)))
    if count > MOST_TENSORS:
        raise FormatError(f"{what}: {count:,} tensors, more than the {MOST_TENSORS:,} allowed")


def _header_length(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")
