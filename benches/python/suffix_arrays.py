"""The sparse oracle beside tokengrams and infini-gram: the same tokens, counted, looked up, and scored.

    pip install --no-deps tokengrams infini-gram
    python benches/python/suffix_arrays.py TRAIN... --val VAL.bin --tokenizer T --out DIR \\
        [--max-bytes 1500000] [--targets 20000] [--rows 500] [--tokens N]

Each program gets the training tokens in the form that it takes, and builds what it looks things up in
(ours: a sparse oracle of ``--max-bytes``). Then, over the first ``--targets`` tokens of VAL with what
precedes them in it: how many probabilities of targets and (over the first ``--rows``) how many whole rows a
second each gives, and the bits per byte of what it says. tokengrams' are its Kneser-Ney probabilities with 5
tokens of context, as an order-6 oracle has them; infini-gram's are counts after the longest suffix that
occurs, which gives some targets nothing. Their share is shown, and the bits are those of 0.999 of that and
0.001 of an even distribution. One thread; processor time. Building is timed in a process of its own, with
its children, which also says what memory it took at most. Prints one JSON object a line.
"""

import argparse
import json
import math
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.data.shards import read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_sparse

CONTEXT = 5
EVEN = 0.001
SEPARATOR = b"\xff\xff"
"""What infini-gram puts before each document."""


def build_ours(train: list[Path], out: Path, options: argparse.Namespace) -> None:
    made_with = Tokenizer.load(options.tokenizer).vocabulary
    data = build_sparse(train, made_with, max_bytes=options.max_bytes, threads=1)
    (out / "oracle.ngsp").write_bytes(data)


def build_tokengrams(train: list[Path], out: Path, options: argparse.Namespace) -> None:
    from tokengrams import MemmapIndex

    read_stream(train)[: options.tokens].tofile(out / "tokens.bin")
    MemmapIndex.build(str(out / "tokens.bin"), str(out / "tokens.idx"), vocab=options.vocab_size)


def build_infini_gram(train: list[Path], out: Path, options: argparse.Namespace) -> None:
    from infini_gram import indexing

    tokens = read_stream(train)[: options.tokens]
    starts = np.flatnonzero(tokens == options.bos_id)
    offset, offsets = 0, []
    with (out / "tokenized.0").open("wb") as file:
        for document in np.split(tokens, starts[1:]):
            offsets.append(offset)
            offset += file.write(SEPARATOR + document.tobytes())
    np.array(offsets, np.uint64).tofile(out / "offset.0")
    folder = str(out.resolve())
    indexing.build_sa(
        argparse.Namespace(
            save_dir=folder, temp_dir=folder, shards=1, workers=1, worker_id=0, cpus=1, mem=4, token_width=2
        )
    )


Target = Callable[[NDArray[np.uint16], int], float]
Row = Callable[[NDArray[np.uint16]], Any]


def tokengrams_look_ups(out: Path, vocab_size: int) -> tuple[Target, Row]:
    from tokengrams import MemmapIndex

    index = MemmapIndex(str(out / "tokens.bin"), str(out / "tokens.idx"), vocab=vocab_size)

    def row(context: NDArray[np.uint16]) -> Any:
        return index.get_smoothed_probs(context[-CONTEXT:].tolist())

    # It has no probability of one token: the row is what there is.
    return (lambda context, target: row(context)[target]), row


def infini_gram_look_ups(out: Path, vocab_size: int) -> tuple[Target, Row]:
    from infini_gram.engine import InfiniGramEngine

    engine = InfiniGramEngine(index_dir=str(out.resolve()), eos_token_id=0, vocab_size=vocab_size)

    def target(context: NDArray[np.uint16], token: int) -> float:
        return engine.infgram_prob(context[-64:].tolist(), token)["prob"]

    # Exact, however many continuations there are.
    return target, lambda context: engine.infgram_ntd(context[-64:].tolist(), max_support=1 << 30)


def built(
    build: Callable[[list[Path], Path, argparse.Namespace], None],
    train: list[Path],
    out: Path,
    options: argparse.Namespace,
) -> dict[str, float]:
    """What building takes, and the bytes that it leaves."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = multiprocessing.get_context("fork").Process(target=_build, args=(build, train, out, options))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"building into {out} failed")
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "build_cpu_seconds": cpu,
        "build_wall_seconds": wall,
        "build_memory_bytes": json.loads((out / "memory.json").read_text()),
        "bytes": sum(path.stat().st_size for path in out.iterdir() if path.name != "memory.json"),
    }


def _build(build: Any, train: list[Path], out: Path, options: argparse.Namespace) -> None:
    build(train, out, options)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    (out / "memory.json").write_text(json.dumps(max(own, children) * 1024))


def measured(target: Target, row: Row, stream: NDArray[np.uint16], options: argparse.Namespace) -> Any:
    started = time.process_time()
    found = np.array([target(stream[:at], int(stream[at])) for at in range(1, options.targets + 1)])
    by_target = time.process_time() - started
    started = time.process_time()
    for at in range(1, options.rows + 1):
        row(stream[:at])
    by_row = time.process_time() - started
    smoothed = found if (found > 0).all() else (1 - EVEN) * found + EVEN / options.vocab_size
    return {
        "targets_per_second": options.targets / by_target,
        "rows_per_second": options.rows / by_row,
        "nothing": float((found <= 0).mean()),
        "bits": -float(np.log2(smoothed).sum()),
    }


def measured_ours(oracle: Oracle, stream: NDArray[np.uint16], options: argparse.Namespace) -> Any:
    stream = stream[: options.targets + 1]
    started = time.process_time()
    found = oracle.target_log_probs(stream, threads=1)[-1, 1:]
    by_target = time.process_time() - started
    positions = np.arange(1, len(stream))[: 20 * options.rows]
    started = time.process_time()
    oracle.log_probs(stream, positions, threads=1)
    by_row = time.process_time() - started
    return {
        "targets_per_second": options.targets / by_target,
        "rows_per_second": len(positions) / by_row,
        "nothing": 0.0,
        "bits": -float(found.sum(dtype=np.float64)) / math.log(2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", nargs="+", type=Path)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-bytes", type=int, default=1_500_000)
    parser.add_argument("--targets", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument(
        "--tokens", type=int, help="of the training shards, for the other two; all by default"
    )
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.tokenizer)
    options.vocab_size, options.bos_id = tokenizer.vocab_size, tokenizer.bos_id
    stream = read_stream([options.val])
    text_bytes = int(tokenizer.byte_table.lengths(stream[: options.targets + 1], start=1).sum())
    ways = {
        "hybridlm": (build_ours, None),
        "tokengrams": (build_tokengrams, tokengrams_look_ups),
        "infini-gram": (build_infini_gram, infini_gram_look_ups),
    }
    for name, (build, look_ups) in ways.items():
        out = options.out / name
        made = built(build, options.train, out, options)
        if look_ups is None:
            found = measured_ours(Oracle.from_file(out / "oracle.ngsp"), stream, options)
        else:
            found = measured(*look_ups(out, options.vocab_size), stream, options)
        found["bpb"] = found.pop("bits") / text_bytes
        print(json.dumps({"name": name, **made, **found}), flush=True)


if __name__ == "__main__":
    main()
