"""What a run leaves on disk: the final model, and checkpoints to resume from. safetensors and JSON only.

A checkpoint is a folder ``checkpoints/step-NNNNNNNN`` with ``tensors.safetensors`` and, written last,
``state.json``, which names the other's SHA-256. A folder without ``state.json`` was interrupted and doesn't
count.
"""

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hybridlm.errors import FormatError, InputError
from hybridlm.files import (
    atomic_write_bytes,
    read_bytes,
    read_json,
    write_json,
)
from hybridlm.model.config import ModelConfig
from hybridlm.model.gpt import GPT
from hybridlm.tensor_file import check_tensor_count, load_arrays

MODEL_FILE = "model.safetensors"
CHECKPOINTS = "checkpoints"
_METADATA_KEY = "hybridlm"
_TENSORS = "tensors.safetensors"
_STATE = "state.json"


@dataclass(frozen=True)
class ModelMetadata:
    """What ``model.safetensors`` says of itself. tokenizer: SHA-256 (hex) of the tokenizer's file."""

    config: ModelConfig
    tokenizer: str
    step: int


def save_model(run: Path, weights: Mapping[str, Tensor], metadata: ModelMetadata) -> None:
    """Writes RUN/model.safetensors, float32, in one go. Raises OSError."""
    tensors = {name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()}
    header = {
        "model": dataclasses.asdict(metadata.config),
        "tokenizer": metadata.tokenizer,
        "step": metadata.step,
        "sha256": _weights_hash(tensors),
    }
    # One key for all: safetensors writes several in no particular order, and a run's bytes shall not vary.
    data = safetensors.torch.save(tensors, {_METADATA_KEY: json.dumps(header)})
    atomic_write_bytes(run / MODEL_FILE, data)


def _weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of float32 tensors' bytes, one after the other by name."""
    hasher = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        hasher.update(tensor.numpy().astype("<f4", copy=False).data)
    return hasher.hexdigest()


def load_model(run: Path) -> tuple[GPT, ModelMetadata]:
    """The model of a finished run, float32 on the CPU, in evaluation mode.

    Raises InputError when the run has none yet, FormatError for a file that isn't one of ours.
    """
    path = run / MODEL_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; has the training run finished?")
    # From bytes: the library opens no path that isn't UTF-8.
    arrays, header = load_arrays(read_bytes(path), str(path))
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    try:
        model_json, fingerprint, step = json.dumps(header["model"]), header["tokenizer"], header["step"]
        if type(fingerprint) is not str or type(step) is not int or not 0 <= step < 2**53:
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError(f"{path}: the metadata lacks model, tokenizer or step") from None
    config = ModelConfig.from_json(model_json, str(path))
    if config.layers > len(tensors):
        raise FormatError(f"{path}: {len(tensors)} tensors can't be {config.layers} layers")
    # Without memory at first: shapes are compared before a configuration can ask for any.
    with torch.device("meta"):
        model = GPT(config)
    check_shapes(tensors, {name: weight.shape for name, weight in model.state_dict().items()}, str(path))
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise FormatError(f"{path}: tensor {name} holds a value that is not finite: the run diverged")
    # Files of version 0.1 have none.
    if header.get("sha256", found := _weights_hash(tensors)) != found:
        raise FormatError(f"{path}: damaged: the SHA-256 of its weights is not the one in its metadata")
    model.load_state_dict(tensors, assign=True)
    return model.eval(), ModelMetadata(config, fingerprint, step)


def check_shapes(tensors: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], where: str) -> None:
    """Raises FormatError, naming the tensor, unless ``tensors`` are exactly those wanted, in float32."""
    for name in sorted(tensors.keys() | wanted.keys()):
        if name not in tensors or name not in wanted:
            raise FormatError(f"{where}: tensor {name} is {'missing' if name in wanted else 'unknown'}")
        if tensors[name].shape != wanted[name]:
            raise FormatError(
                f"{where}: tensor {name} has shape {list(tensors[name].shape)}, "
                f"the configuration makes it {list(wanted[name])}"
            )
        if tensors[name].dtype != torch.float32:
            raise FormatError(f"{where}: tensor {name} is {tensors[name].dtype}, not float32")


@dataclass(frozen=True)
class Checkpoint:
    """step: optimiser steps done. seconds: spent on them. tensors: all that a step changes, by name."""

    step: int
    seconds: float
    tensors: dict[str, Tensor]


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes a checkpoint, then removes all but the latest ``keep``. Raises OSError."""
    folder = run / CHECKPOINTS / f"step-{checkpoint.step:08d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    )
    atomic_write_bytes(folder / _TENSORS, data)
    state = {
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_json(folder / _STATE, state, indent=None)
    complete = complete_checkpoints(run)
    for stale in sorted((run / CHECKPOINTS).glob("step-*")):
        if stale not in complete[-keep:]:
            # Its mark of completeness goes first, so that half a removal leaves nothing that counts.
            (stale / _STATE).unlink(missing_ok=True)
            shutil.rmtree(stale)
    return folder


def complete_checkpoints(run: Path) -> list[Path]:
    """The folders of checkpoints that count, oldest first."""
    return sorted(path.parent for path in (run / CHECKPOINTS).glob(f"step-*/{_STATE}"))


def load_checkpoint(folder: Path) -> Checkpoint:
    """Raises FormatError for a checkpoint that is damaged."""
    try:
        state: Any = read_json(folder / _STATE, 1 << 16)
        step, seconds, digest = state["step"], float(state["seconds"]), state["sha256"]
        if type(step) is not int or not 0 <= step < 2**53 or not 0 <= seconds < math.inf:
            raise TypeError
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError):
        raise FormatError(f"{folder / _STATE}: not the state of a checkpoint") from None
    data = read_bytes(folder / _TENSORS)
    if hashlib.sha256(data).hexdigest() != digest:
        raise FormatError(
            f"{folder / _TENSORS}: damaged: its SHA-256 is not the one in {_STATE}; remove {folder} to "
            "resume from an earlier checkpoint"
        )
    try:
        check_tensor_count(data, str(folder / _TENSORS))
        tensors = safetensors.torch.load(data)
    except FormatError:
        raise
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a dtype that torch lacks
        raise FormatError(f"{folder / _TENSORS}: not in safetensors form: {error}") from None
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise FormatError(
                f"{folder / _TENSORS}: {name} holds a value that is not finite; remove {folder} to resume "
                "from an earlier checkpoint"
            )
    return Checkpoint(step, seconds, tensors)
