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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from kenlm_models import KenLM, kenlm_bits
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
        from kenlm import Model

        kenlm = KenLM(Path(folder), train, options.order, options.lmplz, options.build_binary)
        kenlm.estimate()
        events = len(val) - 1
        bits = kenlm_bits(Model(str(kenlm.arpa)), val)[0] / events
        report(f"KenLM, order {options.order}, unpruned", None, bits)
        for pruning in options.prune:
            kenlm.estimate(pruning)
            trie = kenlm.trie()
            bits = kenlm_bits(Model(str(trie)), val)[0] / events
            report(f"KenLM, order {options.order}, pruned {pruning}", trie.stat().st_size, bits, points)


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


if __name__ == "__main__":
    main()
