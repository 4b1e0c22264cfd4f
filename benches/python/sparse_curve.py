"""Bits per byte against bytes: sparse oracles of several sizes, and the dense reference.

    python benches/python/sparse_curve.py TRAIN... --val VAL --tokenizer MODEL --budgets 250000 1000000

prints one JSON object a line.
"""

import argparse
import json
import time
from pathlib import Path

from hybridlm.data.shards import expand, read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_dense, build_sparse
from hybridlm.oracle.evaluate import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", nargs="+", type=Path)
    parser.add_argument("--val", nargs="+", required=True, help="globs, each scored as one stream")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--budgets", nargs="*", type=int, default=[250_000, 1_000_000, 4_000_000])
    parser.add_argument("--order", type=int, default=6)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.tokenizer)
    streams = {glob: read_stream(expand(glob), tokenizer.vocab_size) for glob in options.val}

    def report(name: str, data: bytes, build_seconds: float) -> None:
        started = time.perf_counter()
        oracle = Oracle.from_bytes(data)
        load_seconds = time.perf_counter() - started
        row = {"oracle": name, "bytes": len(data), "build_s": build_seconds, "load_s": load_seconds}
        for glob, stream in streams.items():
            row[glob] = evaluate(oracle, stream, tokenizer.byte_table, threads=options.threads).bpb
        print(json.dumps(row), flush=True)

    started = time.perf_counter()
    dense = build_dense(options.train, tokenizer.vocab_size, threads=options.threads)
    report("dense", dense, time.perf_counter() - started)
    for budget in [*options.budgets, len(dense), len(dense) // 2, len(dense) // 10]:
        started = time.perf_counter()
        sparse = build_sparse(
            options.train,
            tokenizer.vocab_size,
            max_bytes=budget,
            order=options.order,
            threads=options.threads,
        )
        report("sparse", sparse, time.perf_counter() - started)


if __name__ == "__main__":
    main()
