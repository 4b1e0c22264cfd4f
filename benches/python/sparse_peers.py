"""The sparse oracle beside KenLM: how well each estimates, and what each needs bytes for.

    python benches/python/sparse_peers.py TRAIN... --val VAL --tokenizer MODEL

Both see the same tokens, written as words for KenLM, one document a line. The same events are scored: every
token of every document, and its end, which is ``</s>`` there and the next document's beginning here. First
comes estimation alone, without pruning or rounding: KenLM's modified Kneser-Ney and what our estimator knows
(built with cargo). Then KenLM's tries, pruned by count and quantised (-q 8 -b 8 -a 22), each with the bytes
that a sparse oracle takes for the same bits a token.

lmplz and build_binary are taken from PATH if not named. Their source is in the package index's ``kenlm``
(``pip download --no-deps --no-binary kenlm kenlm``) and builds with CMake and Boost; ``pip install
ufal-kenlm`` has the module that queries. Prints one JSON object a line, which sparse_curve.py can draw.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.data.shards import expand, read_stream
from hybridlm.data.tokenizer import BOS, Tokenizer
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_sparse

REPOSITORY = Path(__file__).parents[2]

# Counts up to which n-grams are left out, by order.
PRUNINGS = ("0 0 0 1", "0 0 1 2", "0 0 2 4", "0 1 4 8", "0 4 16 32")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", nargs="+", type=Path)
    parser.add_argument("--val", required=True, help="glob, scored as one stream")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--tokens", type=int, help="of the training shards together; default: all")
    parser.add_argument("--order", type=int, default=6)
    parser.add_argument("--budgets", nargs="*", type=int, default=[250_000, 500_000, 1_000_000, 2_000_000])
    parser.add_argument("--prune", nargs="*", default=PRUNINGS, help="as lmplz takes it, each in quotes")
    parser.add_argument("--lmplz", default=shutil.which("lmplz"))
    parser.add_argument("--build-binary", default=shutil.which("build_binary"))
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.tokenizer)
    vocab_size = tokenizer.vocab_size
    train = np.concatenate([read_stream([path], vocab_size) for path in options.train])[: options.tokens]
    # The last document's end is an event too.
    val = np.append(read_stream(expand(options.val), vocab_size), np.uint16(BOS))
    if train[0] != BOS or val[0] != BOS:
        parser.error("the shards must begin with a document")
    bytes_per_token = float(tokenizer.byte_table.lengths(val).mean())

    def report(
        model: str, size: int | None, bits: float, ours: Sequence[tuple[float, int]] | None = None
    ) -> None:
        row: dict[str, object] = {"model": model, "bytes": size, "bits_per_token": bits}
        row |= {"bpb": bits / bytes_per_token, "perplexity": 2**bits}
        if ours is not None and size is not None:
            # Between our points the logarithm of bytes is as good as linear in bits.
            ours = sorted(ours)
            if ours[0][0] <= bits <= ours[-1][0]:
                needed = math.exp(np.interp(bits, [o[0] for o in ours], [math.log(o[1]) for o in ours]))
                row |= {"sparse_bytes_for_these_bits": round(needed), "share": needed / size}
        print(json.dumps(row), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "train.bin"
        _core.write_shard(shard, train)
        report(f"sparse, order {options.order}, unpruned", None, unpruned(shard, val, vocab_size, options))
        points = []
        for budget in options.budgets:
            data = build_sparse(
                [shard], vocab_size, max_bytes=budget, order=options.order, threads=options.threads
            )
            scores = Oracle.from_bytes(data).target_log_probs(val, start=1, threads=options.threads)[-1]
            bits = -float(scores.mean(dtype=np.float64)) / math.log(2)
            report(f"sparse, order {options.order}", len(data), bits)
            points.append((bits, len(data)))
        if not options.lmplz or not options.build_binary:
            print("KenLM's lmplz and build_binary are not on PATH: nothing to compare with", file=sys.stderr)
            return
        kenlm = KenLM(Path(folder), train, val, options)
        report(f"KenLM, order {options.order}, unpruned", None, kenlm.arpa_bits(""))
        for pruning in options.prune:
            bits = kenlm.arpa_bits(pruning)
            size, bits = kenlm.trie()
            report(f"KenLM, order {options.order}, pruned {pruning}", size, bits, points)


def unpruned(shard: Path, val: NDArray[np.uint16], vocab_size: int, options: argparse.Namespace) -> float:
    """Bits per token of our estimate before pruning and rounding."""
    val_shard = shard.with_name("val.bin")
    _core.write_shard(val_shard, val)
    command = ["cargo", "run", "--release", "--quiet", "--example", "unpruned", "--"]
    arguments = [str(options.order), str(vocab_size), str(shard), "--", str(val_shard)]
    done = subprocess.run(
        [*command, *arguments], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(np.mean([float(line) for line in done.stdout.split()]))


def documents(stream: NDArray[np.uint16]) -> list[str]:
    """Each document's tokens as words."""
    parts = np.split(stream, np.flatnonzero(stream == BOS))
    return [" ".join(map(str, part[1:])) for part in parts if len(part)]


class KenLM:
    """KenLM's models of one text."""

    def __init__(
        self,
        folder: Path,
        train: NDArray[np.uint16],
        val: NDArray[np.uint16],
        options: argparse.Namespace,
    ) -> None:
        self._folder = folder
        self._options = options
        self._events = len(val) - 1
        # What follows the last BOS is no document.
        self._val = documents(val)[:-1]
        with (folder / "train.txt").open("w") as file:
            file.writelines(line + "\n" for line in documents(train))

    def arpa_bits(self, pruning: str) -> float:
        """Estimates modified Kneser-Ney; bits per event."""
        command = [self._options.lmplz, "-o", str(self._options.order), "-S", "1G", "-T", str(self._folder)]
        prune = ["--prune", *pruning.split()] if pruning else []
        started = time.perf_counter()
        with (self._folder / "train.txt").open() as text, (self._folder / "arpa").open("w") as arpa:
            subprocess.run([*command, *prune], stdin=text, stdout=arpa, stderr=subprocess.DEVNULL, check=True)
        print(f"lmplz {pruning}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
        return self._bits(self._folder / "arpa") if not pruning else math.nan

    def trie(self) -> tuple[int, float]:
        """Of the last estimate: bytes of its quantised trie, and bits per event."""
        path = self._folder / "trie"
        quantised = ["-q", "8", "-b", "8", "-a", "22", "-T", str(self._folder)]
        subprocess.run(
            [self._options.build_binary, *quantised, "trie", str(self._folder / "arpa"), str(path)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return path.stat().st_size, self._bits(path)

    def _bits(self, path: Path) -> float:
        import kenlm

        model = kenlm.Model(str(path))
        total, events = 0.0, 0
        for line in self._val:
            for log10, _length, _unknown in model.full_scores(line):
                total -= log10
                events += 1
        if events != self._events:
            raise ValueError(f"KenLM scored {events} events, not the same {self._events}")
        return total * math.log2(10) / events


if __name__ == "__main__":
    main()
