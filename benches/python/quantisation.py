"""What rounding a trained model costs: bits a weight against loss, by width, clip rule and way of rounding.

    python benches/python/quantisation.py --model RUN --data DIR --tokenizer T --out DIR

Packs the run's final weights by each scheme, to nearest and by GPTQ, and scores the weights that come back on
the first ``--max-tokens`` of the validation text, in windows without overlap. GPTQ is calibrated on the first
training shard. Leaves OUT/quantisation.md, a table, and OUT/quantisation.svg. Bits are those of the whole
neural part, scales and header with it, over its parameters. Last comes what the compressor gains when hidden
units, whose order means nothing to the network, are sorted by the size of their weights.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

# As `hybridlm` itself does, before torch reads it: threads that spin while they wait take time from others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import Tensor

from hybridlm.calibration import CALIBRATION_TOKENS, draw
from hybridlm.data import shards
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.distributed import initialise
from hybridlm.files import atomic_write_text
from hybridlm.model import neural_blob
from hybridlm.model.gptq import input_products
from hybridlm.model.grid import Scheme
from hybridlm.model.quantise import quantise
from hybridlm.report.chart import Series, line_chart, picture
from hybridlm.train.checkpoint import load_model
from hybridlm.train.validation import Validator

WIDTHS = (8, 7, 6, 5, 4)


def unclipped(bits: int) -> str:
    """Steps as those of ``bits``:std:6, but eight bits of them: what lies beyond six deviations stays."""
    if bits == 8:  # ends there itself
        return "8:absmax"
    return f"8:std:{6 * 127 / (2 ** (bits - 1) - 1):.4g} embedding=8:absmax"


FAMILIES: dict[str, Callable[[int], str]] = {
    "absmax": lambda bits: f"{bits}:absmax",
    "clipped at 6 deviations": lambda bits: f"{bits}:std:6",
    "the same steps without clipping, embedding 8:absmax": unclipped,
}
LOW_RANK = [f"{unclipped(bits)}{correction}" for bits in (5, 4) for correction in ("", " low-rank=4:3")]


@dataclass(frozen=True)
class Point:
    """family and rounding name a line of the picture. loss: bits per byte more than with float weights."""

    family: str
    rounding: str
    scheme: str
    total_bytes: int
    bits: float
    loss: float


def sorted_units(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the same function, with each MLP's hidden units in order of their rows' norms."""
    found = dict(state)
    for name in [name for name in state if name.endswith("mlp.up.weight")]:
        order = state[name].norm(dim=1).argsort()
        block = name.removesuffix("up.weight")
        found[name] = state[name][order]
        found[block + "down.weight"] = state[block + "down.weight"][:, order]
        for vector in (block + "hidden_scale", block + "hidden_bias"):
            if vector in state:
                found[vector] = state[vector][order]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-tokens", type=int, default=100_000)
    parser.add_argument("--calibration-tokens", type=int, default=CALIBRATION_TOKENS)
    options = parser.parse_args()

    tokenizer = Tokenizer.load(options.tokenizer)
    model, metadata = load_model(options.model)
    training, validation = shards.data_folder(options.data)
    length = model.config.sequence_length
    stream = shards.read_stream(validation, tokenizer.vocab_size, options.max_tokens + 1)
    validate = Validator(stream, tokenizer.byte_table, length, initialise("cpu"))
    floats = validate(model, torch.float32).bpb
    calibration = draw(training[:1], tokenizer.vocabulary, length=length, tokens=options.calibration_tokens)
    products = input_products(model, calibration.batches())
    parameters = sum(parameter.numel() for parameter in model.parameters())

    def packed(state: Mapping[str, Tensor], scheme: str, products: Mapping[str, Tensor] | None) -> bytes:
        parsed = Scheme.parse(scheme.split())
        rounded = quantise(state, parsed, products)
        return neural_blob.write(
            rounded,
            model=json.loads(model.config.to_json()),
            tokenizer=metadata.tokenizer,
            quantisation=neural_blob.quantisation_of(rounded, parsed),
        )

    def measured(family: str, scheme: str, rounding: str) -> Point:
        blob = packed(model.state_dict(), scheme, products if rounding == "gptq" else None)
        loss = validate(neural_blob.load_model(blob, scheme), torch.float32).bpb - floats
        point = Point(family, rounding, scheme, len(blob), 8 * len(blob) / parameters, loss)
        print(row(point, floats), flush=True)
        return point

    points = [
        measured(family, scheme(bits), rounding)
        for family, scheme in FAMILIES.items()
        for bits in WIDTHS
        for rounding in ("nearest", "gptq")
    ]
    corrected = [measured("", scheme, "gptq") for scheme in LOW_RANK]
    as_it_is, in_order = (
        len(packed(state, "", None)) for state in (model.state_dict(), sorted_units(model.state_dict()))
    )
    options.out.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{parameters:,} parameters, {floats:.4f} bits per byte in float32 on {len(stream) - 1:,} tokens\n",
        "| scheme | rounding | bytes | bits a weight | loss, bits per byte | loss |",
        "|---|---|---|---|---|---|",
        *(row(point, floats) for point in (*points, *corrected)),
        f"\nhidden units sorted, default grids, nearest: {in_order:,} bytes in place of {as_it_is:,}",
    ]
    print(lines[-1])
    atomic_write_text(options.out / "quantisation.md", "\n".join(lines) + "\n")
    drawn = [
        Series(
            f"{family}, {rounding}",
            sorted(
                (point.bits, 100 * point.loss / floats)
                for point in points
                # What loses a lot would flatten what is of interest.
                if (point.family, point.rounding) == (family, rounding) and point.loss < 0.03 * floats
            ),
        )
        for family in FAMILIES
        for rounding in ("nearest", "gptq")
    ]
    chart = line_chart(drawn, x_label="bits a weight", y_label="loss, % of bits per byte")
    atomic_write_text(options.out / "quantisation.svg", picture(chart))


def row(point: Point, floats: float) -> str:
    return (
        f"| `{point.scheme}` | {point.rounding} | {point.total_bytes:,} | {point.bits:.3f} "
        f"| {point.loss:+.4f} | {point.loss / floats:+.2%} |"
    )


if __name__ == "__main__":
    main()
