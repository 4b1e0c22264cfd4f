"""What the tilted network costs beside the network itself, in processor time.

    python benches/python/tilted_cost.py ORACLE.ngsp SHARD.bin [--targets 200000] [--repeat 5]

For the shard's first targets: how many tokens an oracle raises at each, what it takes once to make the
factors, and per target, medians, to list what the network is asked and to mix what it says. The network's
ln p are all the same here, which changes no cost.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from hybridlm import _core
from hybridlm.data.shards import read_stream
from hybridlm.oracle import Oracle


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("oracle", type=Path)
    parser.add_argument("shard", type=Path)
    parser.add_argument("--targets", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    tokens = read_stream([options.shard], max_tokens=options.targets + 1)
    tilt = _core.TiltedExpert(Oracle.from_file(options.oracle).native)
    log_probs = np.full(len(tokens) - 1, -7, np.float32)

    started = time.process_time()
    first, _ = tilt.raised_tokens(tokens[:2], 1)
    tilt.mix(tokens[:2], 1, log_probs[:1], np.full(len(first), -7, np.float32))
    once = time.process_time() - started
    seconds = []
    for _ in range(options.repeat):
        started = time.process_time()
        asked, _ = tilt.raised_tokens(tokens, 1)
        listed = time.process_time()
        of_raised = np.full(len(asked), -7, np.float32)
        ready = time.process_time()
        tilt.mix(tokens, 1, log_probs, of_raised)
        seconds.append((listed - started, time.process_time() - ready))
    to_list, to_mix = np.median(seconds, axis=0) / len(log_probs) * 1e6
    print(
        f"{len(asked) / len(log_probs):.0f} tokens raised; once {once:.1f} s; "
        f"a target {to_list:.2f} µs to list, {to_mix:.2f} µs to mix"
    )


if __name__ == "__main__":
    main()
