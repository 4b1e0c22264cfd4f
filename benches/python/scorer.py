"""What `hybridlm.Scorer` costs: microseconds of processor time a token, on one thread.

    python benches/python/scorer.py SHARD --tokenizer T [--oracle O] [--tokens N] [--piece N] [--rounds N]

The first N tokens of the shard are scored in pieces with log-probabilities of the targets from one model,
which are all alike: what they are doesn't matter for time. Prints each round.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import hybridlm


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shard", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--oracle", type=Path)
    parser.add_argument("--mixer", default="stacked")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--piece", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    vocabulary = hybridlm.Tokenizer.load(options.tokenizer).vocabulary
    tokens = hybridlm.open_stream([options.shard], vocabulary).tokens[: options.tokens + 1]
    oracle = None if options.oracle is None else hybridlm.Oracle.from_file(options.oracle)
    log_probs = np.full(len(tokens) - 1, -4.0, np.float32)
    for _ in range(options.rounds):
        scorer = hybridlm.Scorer(
            vocabulary.size, first=int(tokens[0]), oracle=oracle, mixer=options.mixer, threads=1
        )
        started = time.process_time()
        for at in range(0, len(log_probs), options.piece):
            scorer.score(tokens[1:][at : at + options.piece], log_probs[at : at + options.piece])
        print(f"{(time.process_time() - started) / len(log_probs) * 1e6:.3f} µs a token")


if __name__ == "__main__":
    main()
