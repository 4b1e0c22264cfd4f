"""What weights are worth: a small domain beside a large one, counted more often than once.

    python benches/python/weights.py TRAIN.bin --text TEXT --val VAL.bin --tokenizer MODEL

The first of TRAIN's tokens are the large domain, TEXT is the small one; its last quarter is held out. For
each weight of the small domain prints one JSON object: the oracle's bytes, and the bits per byte of its
highest order on what is held out of TEXT and on the beginning of VAL.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_sparse
from hybridlm.oracle.oracle_score import evaluate
from hybridlm.oracle.sources import Sources


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="of the large domain")
    parser.add_argument("--val-tokens", type=int, default=100_000, help="of the large domain, held out")
    parser.add_argument("--max-bytes", type=int, default=500_000)
    parser.add_argument("--weights", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.tokenizer)
    large = _core.read_shard(options.train, 0, options.tokens)
    small = np.array([tokenizer.bos_id, *tokenizer.encode(options.text.read_text())], np.uint16)
    small, small_val = np.split(small, [len(small) * 3 // 4])
    held_out = {"small": small_val, "large": _core.read_shard(options.val, 0, options.val_tokens)}
    with tempfile.TemporaryDirectory() as name:
        paths = [write(Path(name) / "large.bin", large), write(Path(name) / "small.bin", small)]
        for weight in options.weights:
            sources = Sources.of(paths).weighted([(paths[1], weight)])
            data = build_sparse(
                sources, tokenizer.vocabulary, max_bytes=options.max_bytes, threads=options.threads
            )
            oracle = Oracle.from_bytes(data)
            bits = {
                domain: round(evaluate(oracle, tokens, tokenizer.byte_table).bpb, 4)
                for domain, tokens in held_out.items()
            }
            found = {"tokens": [len(large), len(small)], "weight": weight, "bytes": len(data), "bpb": bits}
            print(json.dumps(found), flush=True)


def write(path: Path, tokens: NDArray[np.uint16]) -> Path:
    _core.write_shard(path, tokens)
    return path


if __name__ == "__main__":
    main()
