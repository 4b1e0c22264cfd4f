"""What test-time training is worth and what it takes: the table of docs/ttt.md.

    python benches/python/ttt.py --artifact A1.pgar A2.pgar A3.pgar --val in=V.bin off=W.bin \\
        --control TRAIN.bin --tokenizer T.model [--tokens N] [--kinds sgd lora documents] [--json OUT]

One artifact per seed. For each text and each way of training it shows bits per byte of the network alone and
of the default mixture, how they differ from no training (means over seeds, in percent; below 0 is better),
the worst seed, what the control gains, and the time of the clock against that of scoring without training.
Options of training are given as ``name=value`` after a colon: ``lora:learning_rates=0,0.003:epochs=1``.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm import config as layers
from hybridlm.artifact import Artifact
from hybridlm.data.shards import expand, open_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import EvaluationResult, evaluate

DEFAULT_KINDS = ("sgd", "adamw", "lora", "documents")


def scoring(kind: str, chunk: int) -> ScoringConfig:
    name, *options = kind.split(":")
    chosen: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        parsed = [json.loads(part) for part in value.split(",")]
        chosen[key] = [float(rate) for rate in parsed] if key == "learning_rates" else parsed[0]
    values = {"ttt": name, "chunk": chunk, "ttt_options": chosen}
    return layers.from_values(ScoringConfig, values, kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--artifact", nargs="+", required=True)
    parser.add_argument("--val", nargs="+", required=True, help="name=shards")
    parser.add_argument("--control")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, default=32_768)
    parser.add_argument("--kinds", nargs="+", default=DEFAULT_KINDS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.tokenizer)
    artifacts = [Artifact.from_file(path) for path in options.artifact]

    def read(shards: str) -> NDArray[np.uint16]:
        return open_stream(expand(shards), tokenizer.vocabulary, max_tokens=options.tokens + 1).tokens

    control = read(options.control) if options.control else None
    found: list[dict[str, Any]] = []
    for text in options.val:
        label, _, shards = text.partition("=")
        stream = read(shards)

        def score(
            artifact: Artifact, chosen: ScoringConfig, stream: NDArray[np.uint16] = stream
        ) -> EvaluationResult:
            lessons = None if chosen.ttt == "off" else control
            # A control takes time of its own, so time is measured without it.
            result = evaluate(artifact, stream, tokenizer.byte_table, chosen)
            if lessons is None:
                return result
            held = evaluate(artifact, stream, tokenizer.byte_table, chosen, control=lessons)
            return replace(result, control=held.control)

        plain = [score(artifact, scoring("off", options.chunk)) for artifact in artifacts]
        print(f"\n{label}: {len(stream) - 1:,} targets, {len(artifacts)} seeds")
        print("| training | alone | | worst | mixed | | worst | control | time | undone |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        alone = statistics.mean(one.experts["neural"].bpb for one in plain)
        mixed = statistics.mean(one.bpb for one in plain)
        print(f"| off | {alone:.4f} | | | {mixed:.4f} | | | | 1.0 | |")
        for kind in options.kinds:
            learned = [score(artifact, scoring(kind, options.chunk)) for artifact in artifacts]
            row = summary(plain, learned)
            found.append({"text": label, "kind": kind, **row})
            held = "" if row["control"] is None else f"{row['control']:+.2f}%"
            print(
                f"| {kind} | {row['alone']:.4f} | {row['alone_change']:+.2f}% | {row['alone_worst']:+.2f}% "
                f"| {row['mixed']:.4f} | {row['mixed_change']:+.2f}% | {row['mixed_worst']:+.2f}% "
                f"| {held} | {row['time']:.1f} | {row['undone']} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def summary(plain: list[EvaluationResult], learned: list[EvaluationResult]) -> dict[str, Any]:
    pairs = list(zip(plain, learned, strict=True))
    alone = [100 * (b.experts["neural"].bpb / a.experts["neural"].bpb - 1) for a, b in pairs]
    mixed = [100 * (b.bpb / a.bpb - 1) for a, b in pairs]
    controls = [
        100 * (b.control.bpb / a.experts["neural"].bpb - 1) for a, b in pairs if b.control is not None
    ]
    return {
        "alone": statistics.mean(b.experts["neural"].bpb for b in learned),
        "alone_change": statistics.mean(alone),
        "alone_worst": max(alone),
        "mixed": statistics.mean(b.bpb for b in learned),
        "mixed_change": statistics.mean(mixed),
        "mixed_worst": max(mixed),
        "control": statistics.mean(controls) if controls else None,
        "time": statistics.mean(neural_seconds(b) / neural_seconds(a) for a, b in pairs),
        "undone": sum(b.ttt_undone for b in learned),
        "rates": [[(one.learning_rate, one.bpb) for one in b.ttt_rates] for b in learned],
    }


def neural_seconds(result: EvaluationResult) -> float:
    return result.stages["neural"] + result.stages.get("ttt", 0.0)


if __name__ == "__main__":
    main()
