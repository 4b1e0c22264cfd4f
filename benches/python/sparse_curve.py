"""Bits per byte against bytes, and against training tokens: sparse oracles, and the dense reference.

    python benches/python/sparse_curve.py TRAIN... --val NAME=VAL... --tokenizer MODEL [--out docs/sparse]

prints one JSON object a line. With --out it also draws OUT_bytes.svg, all tokens at each budget, and, with
--tokens, OUT_tokens.svg, the first N tokens at --fixed-bytes. A line per text that is scored; what is
drawn can be drawn again from saved lines with --rows FILE. KenLM's line comes from those that sparse_peers.py
printed for the first text: --kenlm FILE.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybridlm import _core
from hybridlm.data.shards import expand, read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_dense, build_sparse
from hybridlm.oracle.oracle_score import evaluate
from hybridlm.report.chart import Series, line_chart, picture

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", nargs="*", type=Path)
    parser.add_argument("--val", nargs="*", default=[], help="NAME=GLOB, each scored as one stream")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument(
        "--budgets",
        nargs="*",
        type=int,
        default=[250_000, 500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 16_000_000],
    )
    parser.add_argument(
        "--tokens", nargs="*", type=int, metavar="N", default=[], help="also train on the first N, for each N"
    )
    parser.add_argument("--fixed-bytes", type=int, default=1_000_000, help="for --tokens")
    parser.add_argument(
        "--at-dense", action="store_true", help="also at the dense oracle's bytes, 1/2 and 1/10"
    )
    parser.add_argument("--order", type=int, default=6)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--rows", nargs="+", type=Path, default=[], help="JSON lines of earlier runs; trains nothing"
    )
    parser.add_argument("--kenlm", type=Path, help="JSON lines of sparse_peers.py")
    options = parser.parse_args()
    if options.rows:
        rows = [row for path in options.rows for row in json_lines(path)]
    elif options.train and options.val and options.tokenizer:
        rows = measure(options)
    else:
        parser.error("name training shards, --val and --tokenizer, or --rows")
    if options.out:
        draw(rows, json_lines(options.kenlm) if options.kenlm else [], options.out)


def measure(options: argparse.Namespace) -> list[Row]:
    """Builds and scores everything."""
    tokenizer = Tokenizer.load(options.tokenizer)
    named = [text.partition("=")[::2] if "=" in text else (text, text) for text in options.val]
    streams = {name: read_stream(expand(glob), tokenizer.vocab_size) for name, glob in named}
    rows = []

    def report(estimator: str, shards: Sequence[Path], tokens: int, budget: int | None = None) -> int:
        started = time.process_time()
        if budget is None:
            data = build_dense(shards, tokenizer.vocab_size, threads=options.threads)
        else:
            data = build_sparse(
                shards,
                tokenizer.vocab_size,
                max_bytes=budget,
                order=options.order,
                threads=options.threads,
            )
        built = time.process_time()
        oracle = Oracle.from_bytes(data)
        row = {"estimator": estimator, "tokens": tokens, "bytes": len(data), "budget": budget}
        row |= {"build_cpu_s": built - started, "load_cpu_s": time.process_time() - built}
        row["bpb"] = {
            name: evaluate(oracle, stream, tokenizer.byte_table, threads=options.threads).bpb
            for name, stream in streams.items()
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
        return len(data)

    total = sum(_core.shard_tokens(path) for path in options.train)
    dense = report("dense", options.train, total)
    at_dense = [dense // 10, dense // 2, dense] if options.at_dense else []
    for budget in [*options.budgets, *at_dense]:
        report("sparse", options.train, total, budget)
    with tempfile.TemporaryDirectory() as folder:
        for tokens in options.tokens:
            part = Path(folder) / "part.bin"
            _core.write_shard(part, read_stream(options.train, tokenizer.vocab_size, tokens))
            report("dense", [part], min(tokens, total))
            report("sparse", [part], min(tokens, total), options.fixed_bytes)
    return rows


def json_lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def draw(rows: Sequence[Row], kenlm: Sequence[Row], out: Path) -> None:
    """Writes the pictures for which there are rows."""
    total = max(row["tokens"] for row in rows)
    text = next(iter(rows[0]["bpb"]))
    tries = [
        {"estimator": "KenLM", "bytes": row["bytes"], "bpb": {text: row["bpb"]}}
        for row in kenlm
        if row["model"].startswith("KenLM") and row["bytes"]
    ]
    largest = [row for row in rows if row["tokens"] == total]
    save([*largest, *tries], "bytes", "megabytes", Path(f"{out}_bytes.svg"))
    budgets = {row["budget"] for row in rows if row["tokens"] < total}
    if budgets:
        same = [row for row in rows if row["budget"] in budgets]
        save(same, "tokens", "million training tokens", Path(f"{out}_tokens.svg"))


def save(rows: Sequence[Row], x: str, x_label: str, path: Path) -> None:
    series = []
    # What both pictures have comes first, so that it has the same colours in both.
    for estimator in ("sparse", "dense", "KenLM"):
        for text in rows[0]["bpb"]:
            chosen = [row for row in rows if row["estimator"] == estimator and text in row["bpb"]]
            if chosen:
                points = sorted((row[x] / 1e6, row["bpb"][text]) for row in chosen)
                series.append(Series(f"{estimator}, {text}", points))
    chart = line_chart(series, x_label=x_label, y_label="bits per byte", logarithmic_x=True)
    path.write_text(picture(chart))


if __name__ == "__main__":
    main()
