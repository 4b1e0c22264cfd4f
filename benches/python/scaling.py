"""What each step of a distributed oracle build costs on this machine: the figures behind docs/scaling.md.

usage: python benches/python/scaling.py SHARD...

Processor time, not wall time: it hardly changes when other programs take the cores. The least of five runs.
"""

import os
import sys
import time
from collections.abc import Callable

from hybridlm import _core
from hybridlm.oracle.build import estimate_dense
from hybridlm.oracle.dense_counting import Tables


def cost(work: Callable[[], object], runs: int = 5) -> float:
    """Processor seconds of all this process's threads."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main(shards: list[str]) -> None:
    counts = Tables().empty()
    counts.count_shards(shards)
    tokens, size = counts.tokens, sum(os.path.getsize(shard) for shard in shards)  # noqa: PTH202
    part = counts.to_bytes()
    empty = cost(lambda: Tables().empty().count_tokens(_core.read_shard(shards[0], 0, 2)))
    counted = cost(lambda: Tables().empty().count_shards(shards)) - empty
    hashed = cost(lambda: _core.identify_shards(shards))
    cells = sum(rows * counts.vocab_size for rows in counts.buckets.values())
    print(f"{tokens:,} tokens in {size:,} bytes, {cells:,} cells, partial counts of {len(part):,} bytes")
    print(
        f"count and hash    {1e9 * counted / tokens:8.2f} ns per token  {tokens / counted / 1e6:8.0f} Mtok/s"
    )
    print(f"of which hash     {1e9 * hashed / tokens:8.2f} ns per token  {size / hashed / 1e9:8.2f} GB/s")
    print(f"write partial     {1e3 * cost(counts.to_bytes):8.0f} ms")
    print(f"read and add one  {1e3 * cost(lambda: _core.NgramCounts.from_bytes(part)):8.0f} ms")
    for layout, runs in (("packed", 5), ("reference", 1)):
        took = cost(lambda layout=layout: estimate_dense(counts, layout=layout, threads=1), runs)  # type: ignore[misc]
        print(f"estimate, compress and pack, {layout:9} {took:8.2f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
