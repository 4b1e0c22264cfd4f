"""What some of training's switches are worth after packing, alone and in the mixture.

    python benches/python/switches.py --data DIR --tokenizer T --oracle O.ngsp --preset tiny --iterations 300

Complementary training gives up bits of the network alone for those of the mixture, and quantisation-aware
training bits of the float weights for those of the packed ones, so neither shows in a training run's own
validation. Each variant is trained with the same seeds and packed with the oracle, which is also the one that
complementary training asks. Columns, in bits per byte of the first ``--max-tokens`` targets of the validation
text, as means over the seeds:

- *floats*: the network's weights as trained, in windows without overlap, as all but the last column;
- *nearest*, *GPTQ*: what rounding to the default grid adds, to nearest and calibrated on the first shard;
- *packed*: the network as packed by GPTQ;
- *mixture*: of that network, the oracle and the online experts, with the default test-time training.

Below them is each variant's *packed* and *mixture* against the first, with the standard error of the paired
differences. A trained run stays in OUT and isn't trained again.
"""

import argparse
import dataclasses
import os
import statistics
from pathlib import Path
from typing import Any, NamedTuple

# As `hybridlm` itself does, before torch reads it: threads that spin while they wait take time from others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from training import changed, mean_and_error

from hybridlm.artifact import Artifact, bundle
from hybridlm.config import resolve
from hybridlm.data import shards
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.distributed import initialise
from hybridlm.model import GPT
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import evaluate
from hybridlm.train.checkpoint import MODEL_FILE, load_model
from hybridlm.train.config import TrainConfig
from hybridlm.train.loop import train
from hybridlm.train.validation import Validator


class Figures(NamedTuple):
    floats: float
    nearest: float
    gptq: float
    packed: float
    mixture: float


LATE_QAT = 0.15
"""The reference's learning-rate scale from which on it trains with rounded weights."""


def variants(oracle: Path) -> dict[str, dict[str, Any]]:
    """Settings of TrainConfig, by dotted name; all but the last two have the reference's late QAT."""
    return {
        "late QAT": {},
        "complementary, α = 0.3": {"oracle": oracle, "complementary.alpha": 0.3},
        "complementary, α = 0.5": {"oracle": oracle, "complementary.alpha": 0.5},
        "no QAT": {"late_qat_lr_scale": 0.0},
        "QAT from a scale of 0.5": {"late_qat_lr_scale": 0.5},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--oracle", type=Path, required=True)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=60_000)
    parser.add_argument("--out", type=Path, default=Path("switches-bench"))
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.tokenizer)
    training, validation = shards.data_folder(options.data)
    stream = shards.read_stream(validation, tokenizer.vocab_size, options.max_tokens + 1)
    oracle = options.oracle.read_bytes()
    dist = initialise("cpu")
    base = dataclasses.replace(
        resolve(TrainConfig, options.preset),
        iterations=options.iterations,
        max_seconds=0.0,
        late_qat_lr_scale=LATE_QAT,
    )
    validate = Validator(stream, tokenizer.byte_table, base.sequence_length, dist)

    def bpb(model: GPT) -> float:
        return validate(model, torch.float32).bpb

    def of(artifact: Artifact) -> float:
        model = artifact.load_model()
        assert model is not None
        return bpb(model)

    def figures(name: str, settings: dict[str, Any], seed: int) -> Figures:
        run = options.out / f"{name} {seed}"
        if not (run / MODEL_FILE).exists():
            config = changed(dataclasses.replace(base, seed=seed), settings)
            train(config, data=options.data, tokenizer=tokenizer, out=run, dist=dist)
        floats = bpb(load_model(run)[0])
        nearest = of(bundle(run, oracle, tokenizer))
        artifact = bundle(run, oracle, tokenizer, calibration=training[:1])
        packed = of(artifact)
        mixture = evaluate(artifact, stream, tokenizer.byte_table, ScoringConfig()).bpb
        return Figures(floats, nearest - floats, packed - floats, packed, mixture)

    seeds = [base.seed + offset for offset in range(options.seeds)]
    found: dict[str, list[Figures]] = {}
    print("| | floats | nearest | GPTQ | packed | mixture |\n|---|---|---|---|---|---|")
    for name, settings in variants(options.oracle).items():
        found[name] = [figures(name, settings, seed) for seed in seeds]
        floats, nearest, gptq, packed, mixture = map(statistics.mean, zip(*found[name], strict=True))
        print(
            f"| {name} | {floats:.4f} | {nearest:+.4f} | {gptq:+.4f} | {packed:.4f} | {mixture:.4f} |",
            flush=True,
        )
    print("\n| against late QAT | packed | mixture |\n|---|---|---|")
    first = found.pop("late QAT")
    for name, ones in found.items():
        packed_by = [one.packed - other.packed for one, other in zip(ones, first, strict=True)]
        mixture_by = [one.mixture - other.mixture for one, other in zip(ones, first, strict=True)]
        print(f"| {name} | {mean_and_error(packed_by)} | {mean_and_error(mixture_by)} |")


if __name__ == "__main__":
    main()
