"""The engine beside NumPy, torch and zstd doing the same work: medians of interleaved pairs.

usage: python benches/python/peers.py SHARD... [--tokens N] [--threads N] [--pairs N] [--clock wall|cpu]
                                      [--only counting|build|lookup|mixture]

Every pair runs ours and the peer's right after one another, so whatever else the machine does meets both.
Results are compared before anything is timed. The cpu clock is for one thread on a busy machine; it adds up
all threads' time, so it says nothing about scaling.
"""

import argparse
import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hybridlm import _core
from hybridlm.data.shards import read_stream
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_dense
from hybridlm.oracle.context_hash import context_buckets

V = 1024
ROWS = {1: 1, 2: V, 3: 4096, 4: 2048, 5: 1024, 6: 512, 7: 256, 8: 256}
STEP = 10.0 / 127.0


def numpy_counts(tokens: np.ndarray) -> dict[int, np.ndarray]:
    """All orders by one bincount each, a block at a time."""
    tables = {}
    block = 1 << 22
    for order, rows in ROWS.items():
        table = np.zeros(rows * V, np.int64)
        for start in range(order - 1, len(tokens), block):
            part = tokens[start - order + 1 : start + block]
            targets = part[order - 1 :].astype(np.int64)
            if order == 1:
                cells = targets
            elif order == 2:
                cells = part[:-1].astype(np.int64) * V + targets
            else:
                hashed = np.full(len(targets), 2166136261, np.uint32)
                for age in range(order - 1):
                    hashed ^= part[age : age + len(targets)]
                    hashed *= np.uint32(16777619)
                cells = (hashed & np.uint32(rows - 1)).astype(np.int64) * V + targets
            table += np.bincount(cells, minlength=len(table))
        tables[order] = table.reshape(rows, V)
    return tables


def numpy_build(path: Path) -> bytes:
    """Read, count, quantise and compress at level 22 with NumPy and zstd."""
    tokens = np.fromfile(path, np.uint16, offset=1024)
    content = struct.pack("<2I", 0x4E474F52, len(ROWS))
    for order, counts in numpy_counts(tokens).items():
        log_probs = np.log((counts + 1) / (counts.sum(axis=1, keepdims=True) + V))
        cells = np.round(np.clip(log_probs, -10, 0) / STEP).astype(np.int8)
        content += struct.pack("<3I", order, *counts.shape) + cells.tobytes()
    return _core.compress(content, 22)


def pairs(
    name: str,
    unit: str,
    work: float,
    ours: Callable[[], object],
    peer: Callable[[], object],
    options: argparse.Namespace,
) -> None:
    """Times both alternately and prints medians in units of work a second, and the median ratio."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    rounds: list[tuple[float, float]] = []
    for _ in range(options.pairs):
        begin = clock()
        ours()
        middle = clock()
        peer()
        rounds.append((middle - begin, clock() - middle))
    first, second = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in rounds)
    print(f"{name:58} {work / first:10.2f} {work / second:10.2f} {unit:9} {ratio:7.1f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shards", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", choices=("counting", "build", "lookup", "mixture"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    stream = read_stream(options.shards, V)
    # As many tokens as asked for, the shards being repeated if need be.
    tokens = np.resize(stream, options.tokens)
    print(f"{len(tokens):,} tokens, {options.pairs} pairs, {options.clock} clock")
    print(f"{'':58} {'ours':>10} {'peer':>10} {'':9} {'ratio':>8}")

    def selected(section: str) -> bool:
        return options.only in (None, section)

    thread_counts = sorted({1, options.threads})
    if selected("counting"):
        counting(tokens, thread_counts, options)
    if selected("build"):
        building(options.shards[0], options)
    if selected("lookup") or selected("mixture"):
        oracle = Oracle.from_bytes(build_dense(options.shards[:1], V, layout="packed"))
        if selected("lookup"):
            lookups(oracle, stream, thread_counts, options)
        if selected("mixture"):
            mixtures(oracle, stream, thread_counts, options)


def counting(tokens: np.ndarray, thread_counts: list[int], options: argparse.Namespace) -> None:
    def ours(threads: int) -> _core.NgramCounts:
        counts = _core.NgramCounts(V)
        counts.count_tokens(tokens, threads)
        return counts

    counts = ours(max(thread_counts))
    for order, table in numpy_counts(tokens).items():
        np.testing.assert_array_equal(counts.table(order), table)
    for threads in thread_counts:
        name = f"counting orders 1-8, {threads} thread(s), against NumPy bincount"
        pairs(
            name,
            "Mtok/s",
            len(tokens) / 1e6,
            lambda t=threads: ours(t),
            lambda: numpy_counts(tokens),
            options,
        )


def building(shard: Path, options: argparse.Namespace) -> None:
    work = _core.shard_tokens(shard) / 1e6
    reference = numpy_build(shard)
    for layout in ("reference", "packed"):
        data = build_dense([shard], V, layout=layout, threads=options.threads)
        level = f"{layout}, {len(data):,} bytes against {len(reference):,}"
        pairs(
            f"build, {level}",
            "Mtok/s",
            work,
            lambda layout=layout: build_dense([shard], V, layout=layout, threads=options.threads),
            lambda: numpy_build(shard),
            options,
        )


def lookups(
    oracle: Oracle, stream: np.ndarray, thread_counts: list[int], options: argparse.Namespace
) -> None:
    """Target log-probabilities of 65,536 positions, 8 orders."""
    tokens = stream[: 1 << 16]
    values = 8 * len(tokens) / 1e6
    tables = oracle._core.dense_tables()
    assert tables is not None
    torch_tables = oracle.tables()
    on_torch = torch.from_numpy(tokens.astype(np.int64))

    def numpy_lookup() -> np.ndarray:
        out = np.empty((len(tables), len(tokens)), np.float32)
        for k, (order, cells, log_sums) in enumerate(tables):
            rows = context_buckets(tokens, order, len(cells))
            out[k] = cells[rows, tokens] * np.float32(STEP) - log_sums[rows]
        return out

    # What is left to NumPy and torch when the rows are known already: indexing alone.
    known = [context_buckets(tokens, order, len(cells)).astype(np.int64) for order, cells, _ in tables]
    known_torch = [torch.from_numpy(rows) for rows in known]
    cells_torch = [(torch.from_numpy(cells), torch.from_numpy(sums)) for _, cells, sums in tables]

    def numpy_index() -> list[np.ndarray]:
        columns = tokens.astype(np.int64)
        return [
            cells[rows, columns] * np.float32(STEP) - sums[rows]
            for rows, (_, cells, sums) in zip(known, tables, strict=True)
        ]

    def torch_index() -> list[torch.Tensor]:
        return [
            cells[rows, on_torch].float() * STEP - sums[rows]
            for rows, (cells, sums) in zip(known_torch, cells_torch, strict=True)
        ]

    ours = oracle.target_log_probs(tokens, threads=1)
    np.testing.assert_allclose(ours, numpy_lookup(), atol=2e-6)
    np.testing.assert_allclose(ours, torch_tables.target_log_probs(on_torch).numpy(), atol=2e-6)
    for threads in thread_counts:

        def native(threads: int = threads) -> np.ndarray:
            return oracle.target_log_probs(tokens, threads=threads)

        peers: dict[str, Callable[[], object]] = {
            "NumPy": numpy_lookup,
            "NumPy indexing, rows known": numpy_index,
            "torch": lambda: torch_tables.target_log_probs(on_torch),
            "torch indexing, rows known": torch_index,
        }
        for name, work in peers.items():
            label = f"targets, {threads} thread(s), against {name}"
            pairs(label, "Mval/s", values, native, work, options)


def mixtures(
    oracle: Oracle, stream: np.ndarray, thread_counts: list[int], options: argparse.Namespace
) -> None:
    """The mixture's full distribution at 4,096 positions."""
    tokens = stream[:8192]
    positions = np.arange(4096, 8192)
    weights = np.array([0.05, 0.2, 0.3, 0.15, 0.1, 0.1, 0.05, 0.05], np.float32)
    torch_tables = oracle.tables()
    on_torch, where, shares = (torch.from_numpy(x) for x in (tokens.astype(np.int64), positions, weights))
    tables = oracle._core.dense_tables()
    assert tables is not None
    rows = [
        torch.from_numpy(context_buckets(tokens, o, len(c)).astype(np.int64)[positions]) for o, c, _ in tables
    ]
    # torch at its best: probabilities worked out beforehand in float32 (38 MB), rows known, one fused
    # multiply-add per order and no array of all K rows.
    likely = [
        (torch.from_numpy(cells).float() * STEP - torch.from_numpy(sums)[:, None]).exp()
        for _, cells, sums in tables
    ]

    def materialised() -> torch.Tensor:
        return torch.einsum("k,kmv->mv", shares, torch_tables.log_probs(on_torch, where).exp_())

    def prepared() -> torch.Tensor:
        total = torch.zeros(len(positions), V)
        for weight, rows_of_order, table in zip(weights.tolist(), rows, likely, strict=True):
            total.add_(table[rows_of_order], alpha=weight)
        return total

    ours = oracle.mixture(tokens, positions, weights, threads=1)
    for peer in (materialised, prepared):
        np.testing.assert_allclose(ours, peer().numpy(), atol=1e-6)
    work = len(positions) / 1e6
    for threads in thread_counts:

        def native(threads: int = threads) -> np.ndarray:
            return oracle.mixture(tokens, positions, weights, threads=threads)

        pairs(f"mixture, {threads} thread(s), against torch", "Mpos/s", work, native, materialised, options)
        name = f"mixture, {threads} thread(s), against torch with float32 tables"
        pairs(name, "Mpos/s", work, native, prepared, options)


if __name__ == "__main__":
    main()
