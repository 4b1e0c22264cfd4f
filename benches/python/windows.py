"""What a network's score costs and gains by its windows' stride, and by attention that rolls.

    python benches/python/windows.py --artifact A.pgar --val V.bin --tokenizer T.model [--tokens N]

For each stride, a part of the window, it shows bits per byte of the network alone on the same targets and the
processor time of one thread, against windows that don't overlap. Each way is run ``--repeats`` times, in
turns, and the median counts.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from hybridlm.artifact import Artifact
from hybridlm.data.shards import expand, open_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.scoring.artifact_experts import load_neural
from hybridlm.scoring.config import Attention, ScoringConfig

PARTS: list[tuple[Attention, int]] = [
    ("windows", 1), ("windows", 2), ("windows", 4), ("windows", 8), ("windows", 32),
    ("rolling", 1), ("rolling", 2), ("rolling", 4),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--val", required=True, nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    artifact = Artifact.from_file(options.artifact)
    tokenizer = Tokenizer.load(options.tokenizer)
    model = artifact.load_model()
    assert model is not None, "the artifact has no network"
    window = model.config.sequence_length
    for shards in options.val:
        stream = open_stream(expand(shards), tokenizer.vocabulary, max_tokens=options.tokens + 1).tokens
        counter = tokenizer.byte_table.counter()
        counter.lengths(stream[:1])
        text_bytes = int(counter.lengths(stream[1:]).sum())
        seconds: dict[tuple[Attention, int], list[float]] = {way: [] for way in PARTS}
        bits: dict[tuple[Attention, int], float] = {}
        for _ in range(options.repeats):
            for way in PARTS:
                attention, part = way
                config = ScoringConfig(ttt="off", attention=attention, stride=max(1, window // part))
                expert, _ = load_neural(artifact, config, None)
                began = time.process_time()
                found = expert.score(stream, 1).log_probs
                seconds[way].append(time.process_time() - began)
                bits[way] = -float(found.sum(dtype=np.float64)) / np.log(2) / text_bytes
        cheapest = statistics.median(seconds["windows", 1])
        print(f"\n{shards}: {len(stream) - 1:,} targets, a window of {window}")
        print("| attention | stride | bits per byte | | time |\n|---|---|---|---|---|")
        for way in PARTS:
            attention, part = way
            change = bits[way] / bits["windows", 1] - 1
            print(
                f"| {attention} | {window // part} | {bits[way]:.4f} | {change:+.2%} "
                f"| {statistics.median(seconds[way]) / cheapest:.2f} |"
            )


if __name__ == "__main__":
    main()
