"""Arrays and metadata in safetensors form, and bytes that only look like it."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from hybridlm.errors import FormatError
from hybridlm.tensor_file import load_arrays, save_arrays

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.uint16)}


def test_what_is_saved_is_loaded() -> None:
    metadata = {"format": 1, "names": ["x"]}
    arrays, found = load_arrays(save_arrays(ARRAYS, metadata), "it")
    assert found == metadata and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_the_order_of_names_does_not_matter() -> None:
    backwards = dict(reversed(ARRAYS.items()))
    assert save_arrays(ARRAYS, {"a": 1, "b": 2}) == save_arrays(backwards, {"b": 2, "a": 1})


def test_without_metadata_there_is_none() -> None:
    for metadata in (None, {"other": "1"}):
        assert load_arrays(safetensors.numpy.save(ARRAYS, metadata), "it")[1] is None
    plain = safetensors.numpy.save(ARRAYS)
    length = int.from_bytes(plain[:8], "little")
    header = json.dumps({**json.loads(plain[8 : 8 + length]), "__metadata__": None}).encode()
    assert load_arrays(len(header).to_bytes(8, "little") + header + plain[8 + length :], "it")[1] is None


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000, '{"a": 1, "a": 2}'])
def test_metadata_that_is_not_json_is_refused(text: str) -> None:
    data = safetensors.numpy.save(ARRAYS, {"hybridlm": text})
    with pytest.raises(FormatError, match=r"^it: the metadata: not JSON"):
        load_arrays(data, "it")


def test_bytes_of_another_form_are_refused() -> None:
    data = save_arrays(ARRAYS, {})
    for damaged in (b"", b"x" * 50, data[:-1], data + b"x", data.replace(b"U16", b"X16")):
        with pytest.raises(FormatError, match=r"^it: not in safetensors form"):
            load_arrays(damaged, "it")


def test_a_type_that_numpy_lacks_is_named() -> None:
    header = json.dumps({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    with pytest.raises(FormatError, match=r"^it: a tensor of type BF16, which NumPy lacks"):
        load_arrays(len(header).to_bytes(8, "little") + header + b"\0\0", "it")


def test_more_tensors_than_anybody_has_are_refused() -> None:
    empty: dict[str, Any] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{number}": empty for number in range(70_000)}).encode()
    with pytest.raises(FormatError, match=r"^it: 70,000 tensors"):
        load_arrays(len(header).to_bytes(8, "little") + header, "it")
