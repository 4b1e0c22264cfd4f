"""`hybridlm baseline ctw` and `hybridlm baseline kn`: what plain byte models reach, to compare with."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hybridlm._core import ByteModel
from hybridlm.cli.arguments import Count, OptionalOut
from hybridlm.cli.options import Range
from hybridlm.cli.output import print_json
from hybridlm.errors import InputError, UsageError
from hybridlm.files import atomic_write_bytes, check_output, open_to_read, read_bytes
from hybridlm.progress import Progress

Method = Literal["ctw", "kn"]


@dataclass(frozen=True)
class Options:
    """What both baselines are told."""

    test: Path
    """The text to measure on."""
    train: Path | None = None
    """The text to learn first."""
    model: Path | None = None
    """A stored model to start from, instead of --train."""
    out: OptionalOut = None
    """Where to store the trained model."""
    depth: Annotated[int, Range(1, 8)] | None = None
    """Bytes of context, 1 to 8; unset: 6 for ctw, 8 for kn."""
    max_train_bytes: Count | None = None
    """How many bytes to learn, from the first; unset: all."""
    max_test_bytes: Count | None = None
    """How many bytes to measure, from the first; unset: all."""
    json: bool = False
    """Print one JSON object."""


Unprefixed = Annotated[Options, tyro.conf.arg(name="")]


def ctw(options: Unprefixed) -> None:
    """Context-tree weighting over bytes: bits per byte of a text after learning another.

    The model goes on learning while it is measured: each byte is predicted, then learned.
    """
    _measure("ctw", options)


def kn(options: Unprefixed) -> None:
    """Interpolated Kneser–Ney over bytes: bits per byte of a text after learning another.

    The model goes on learning while it is measured: each byte is predicted, then learned.
    """
    _measure("kn", options)


def _measure(method: Method, options: Options) -> None:
    if options.out is not None:
        check_output(options.out)
    test = _read(options.test, options.max_test_bytes)
    if not test:
        raise InputError(f"{options.test}: empty, so there is nothing to measure")
    started = time.perf_counter()
    baseline = _trained(method, options)
    train_seconds = time.perf_counter() - started
    stored = baseline.to_bytes()
    if options.out is not None:
        atomic_write_bytes(options.out, stored)
    started = time.perf_counter()
    with Progress("measure", len(test), "bytes") as progress:
        bits = baseline.code(test, progress.update)
    seconds = time.perf_counter() - started
    result = {
        "method": method,
        "depth": baseline.depth,
        "bpb": bits / len(test),
        "bits": bits,
        "bytes": len(test),
        "seconds": seconds,
        "bytes_per_second": len(test) / seconds,
        "train_seconds": train_seconds,
        "model_bytes": len(stored),
    }
    _show(result, options.json)


def _trained(method: Method, options: Options) -> ByteModel:
    if options.model is not None and options.train is None:
        if options.depth is not None:
            raise UsageError("the depth of a stored model is in its file: leave --depth out")
        baseline = ByteModel.from_bytes(read_bytes(options.model), str(options.model))
        if baseline.method != method:
            raise InputError(f"{options.model}: a stored model of another method than {method}")
        return baseline
    if options.train is None or options.model is not None:
        raise UsageError("what is learned first comes from --train or from --model: give one of them")
    text = _read(options.train, options.max_train_bytes)
    baseline = ByteModel(method, options.depth)
    with Progress("train", len(text), "bytes") as progress:
        baseline.code(text, progress.update)
    return baseline


def _read(path: Path, limit: int | None) -> bytes:
    with open_to_read(path) as file:
        return file.read(-1 if limit is None else limit)


def _show(result: dict[str, Any], json: bool) -> None:
    if json:
        print_json(result)
        return
    print(f"{result['method']}, {result['depth']} bytes of context")
    print(f"{result['bpb']:.4f} bits per byte over {result['bytes']:,} bytes")
    print(f"{result['bytes_per_second'] / 1000:,.0f} KB/s, each byte predicted and learned")
    print(f"{result['model_bytes']:,} bytes of stored model")
