"""Builds and loads of sparse oracles by another version of hybridlm and by this one, in one run.

    git worktree add ../before COMMIT && (cd ../before && scripts/setup)
    python benches/python/before_after.py ../before/python TRAIN.bin [--budgets 1000000 3370000] [--pairs 3]

The first argument is a folder that holds the other version's package with its native module in it, as its
own set-up leaves it. Each version builds each budget once, on two threads, and loads what it has built in
interleaved pairs, each in a process of its own. Shown are seconds by the clock and of processor time: of
builds, of the whole command; of loads, of reading the bytes alone, medians.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# An earlier version may have no argument for threads.
LOAD = """
import sys, time
from hybridlm import _core
data, threads = open(sys.argv[1], "rb").read(), int(sys.argv[2])
more = () if threads == 1 else ("oracle", threads)
began, cpu = time.perf_counter(), time.process_time()
_core.FrozenOracle.from_bytes(data, *more)
print(time.perf_counter() - began, time.process_time() - cpu)
"""


def run(package: Path, *arguments: str) -> tuple[str, float, float]:
    """Standard output, seconds by the clock and of processor time."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(package)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return done.stdout, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("train")
    parser.add_argument("--budgets", type=int, nargs="+", default=[1_000_000, 3_370_000])
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    packages = {"before": options.before, "now": Path(__file__).parents[2] / "python"}
    print("| | clock | processor |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for budget in options.budgets:
            files = {name: Path(folder) / f"{name}_{budget}.ngsp" for name in packages}
            for name, package in packages.items():
                words = ["oracle", "build", options.train, "-o", str(files[name]), "--estimator", "sparse"]
                words += ["--max-bytes", str(budget), "--vocab-size", "1024", "--threads", "2"]
                _, clock, cpu = run(package, "-m", "hybridlm", *words)
                size = files[name].stat().st_size
                print(f"| build, {name}: {size:,} bytes | {clock:.1f} s | {cpu:.1f} s |", flush=True)
            loads: dict[tuple[str, int], list[list[float]]] = {}
            for _ in range(options.pairs):
                for name, threads in (("before", 1), ("now", 1), ("now", 2)):
                    found = run(packages[name], "-c", LOAD, str(files[name]), str(threads))[0]
                    loads.setdefault((name, threads), []).append([float(word) for word in found.split()])
            for (name, threads), seconds in loads.items():
                clock, cpu = (statistics.median(column) for column in zip(*seconds, strict=True))
                of = "1 thread" if threads == 1 else f"{threads} threads"
                print(f"| load, {name}, {of} | {clock:.2f} s | {cpu:.2f} s |", flush=True)


if __name__ == "__main__":
    main()
