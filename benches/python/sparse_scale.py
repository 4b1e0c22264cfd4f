"""What a sparse build of many tokens costs: the figures behind docs/scaling.md.

    python benches/python/sparse_scale.py TRAIN... --tokens 100000000 --memory 4G --max-bytes 4000000

There is seldom so much text at hand, so the shards given are followed by copies of them in which every tenth
token, on average, is another one drawn from the text: half of a copy's n-grams of order 6 are then new, as in
new text. Costs are like those of real text; the oracle's quality means nothing. Each step runs in a process
of its own. Prints one JSON object a line: processor seconds of all threads, the most resident memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hybridlm import _core

VOCAB_SIZE = 1024


def grow(shards: list[str], tokens: int, folder: Path) -> list[str]:
    """``shards``, and as many altered copies as it takes."""
    made = list(shards)
    held = sum(_core.shard_tokens(shard) for shard in shards)
    while held < tokens:
        source = _core.read_shard(shards[len(made) % len(shards)])
        generator = np.random.default_rng(len(made))
        altered = generator.random(len(source)) < 0.1
        altered &= source != 1  # the documents stay what they are
        drawn = source[generator.integers(0, len(source), int(altered.sum()))]
        source[altered] = np.where(drawn == 1, 0, drawn)
        made.append(str(folder / f"altered_{len(made):06d}.bin"))
        _core.write_shard(made[-1], source[: tokens - held])
        held += len(source)
    return made


def measured(name: str, *arguments: str) -> None:
    """Run `hybridlm oracle` and tell what it took."""
    command = [sys.executable, "-m", "hybridlm", "oracle", *arguments]
    started = time.monotonic()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    row = {
        "step": name,
        "exit": os.waitstatus_to_exitcode(status),
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "system_s": round(usage.ru_stime, 1),
        "peak_mb": usage.ru_maxrss // 1000,
    }
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", nargs="+")
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--memory", default="4G")
    parser.add_argument("--max-bytes", default="4000000")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--folder", type=Path, help="for the shards and files that are made; kept")
    parser.add_argument("--only-shards", action="store_true", help="build from shards, and do nothing else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        shards = grow(options.train, options.tokens, folder)
        tokens = sum(_core.shard_tokens(shard) for shard in shards)
        part, oracle = str(folder / "all.part"), str(folder / "oracle.ngsp")
        limits = ["--memory", options.memory, "--threads", options.threads, "--estimator", "sparse"]
        print(json.dumps({"tokens": tokens}), flush=True)
        if not options.only_shards:
            measured("count", "count", *shards, "-o", part, *limits)
            print(json.dumps({"counts_bytes": _core.SparseCounts.open(part).nbytes}), flush=True)
            measured(
                "build from counts", "build", part, "-o", oracle, "--max-bytes", options.max_bytes, *limits
            )
        measured(
            "build from shards", "build", *shards, "-o", oracle, "--max-bytes", options.max_bytes, *limits
        )


if __name__ == "__main__":
    main()
