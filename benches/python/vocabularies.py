"""Sparse oracles, experts and the default mixture by vocabulary, on the same text.

    python benches/python/vocabularies.py TRAIN --val VAL --tokenizer MODEL --sizes 8192

decodes the shards TRAIN and VAL, of the tokenizer MODEL; trains a tokenizer of each of ``--sizes`` pieces on
the text of TRAIN; and prints, for each of these and for MODEL, a JSON object a line: for every budget the
bits per byte of the highest order on VAL, and what building, loading and looking up took; and what each stage
of a score with the default mixture takes a token. Times are processor time, of all threads together.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.data.shards import read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_sparse
from hybridlm.oracle.oracle_score import evaluate
from hybridlm.scoring.config import DEFAULT_MIXER
from hybridlm.scoring.experts import Expert, online_experts
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.mixing import LinearMixer, MixtureSpec

CHUNK = 32_768


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--sizes", nargs="*", type=int, default=[8192])
    parser.add_argument("--budgets", nargs="*", type=int, default=[1_000_000, 3_370_000])
    parser.add_argument("--targets", type=int, default=200_000, help="of VAL, that experts score")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    given = Tokenizer.load(options.tokenizer)
    texts = [list(decoded(given, path)) for path in (options.train, options.val)]
    with tempfile.TemporaryDirectory() as folder:
        for size in [*options.sizes, given.vocab_size]:
            tokenizer = given
            if size != given.vocab_size:
                tokenizer = Tokenizer.train(texts[0], Path(folder) / f"{size}.model", size)
            shard = Path(folder) / f"{size}.bin"
            _core.write_shard(shard, encoded(tokenizer, texts[0]))
            stream = encoded(tokenizer, texts[1])
            measure(tokenizer, shard, stream, options)


def decoded(tokenizer: Tokenizer, path: Path) -> Iterator[str]:
    stream = read_stream([path])
    starts = np.flatnonzero(stream == tokenizer.bos_id)
    for start, end in zip(starts, [*starts[1:], len(stream)], strict=True):
        yield tokenizer.decode(stream[start + 1 : end])


def encoded(tokenizer: Tokenizer, texts: list[str]) -> NDArray[np.uint16]:
    """All documents, each with its BOS."""
    bos = np.array([tokenizer.bos_id], np.uint16)
    return np.concatenate([part for tokens in tokenizer.encode_batch(texts) for part in (bos, tokens)])


def measure(
    tokenizer: Tokenizer, shard: Path, stream: NDArray[np.uint16], options: argparse.Namespace
) -> None:
    for budget in options.budgets:
        times: dict[str, float] = {}
        with clock(times, "build_s"):
            data = build_sparse(
                [shard], tokenizer.vocab_size, max_bytes=budget, memory=8 << 30, threads=options.threads
            )
        with clock(times, "load_s"):
            oracle = Oracle.from_bytes(data)
        with clock(times, "lookup_s"):
            oracle.target_log_probs(stream, start=1, threads=1)
        score = evaluate(oracle, stream, tokenizer.byte_table, threads=options.threads)
        row = {
            "pieces": tokenizer.vocab_size,
            "train_tokens": _core.shard_tokens(shard),
            "tokens": score.tokens,
            "bytes": len(data),
            "bpb": score.bpb,
            "ngrams": sum(table["ngrams"] for table in oracle.info()["tables"][1:]),
            "lookups_per_s": round(score.tokens / times.pop("lookup_s")),
            **{name: round(seconds, 2) for name, seconds in times.items()},
            "us_per_token": stages(oracle, stream[: options.targets + 1]),
        }
        print(json.dumps(row), flush=True)


def stages(oracle: Oracle, stream: NDArray[np.uint16]) -> dict[str, float]:
    """Microseconds a target of each family of experts, and of the default mixture."""
    experts: list[Expert] = [*online_experts(oracle.vocab_size), OracleExperts(oracle, 1)]
    mixer = LinearMixer(MixtureSpec(DEFAULT_MIXER), experts)
    times: dict[str, float] = {}
    for start in range(1, len(stream), CHUNK):
        seen = stream[: start + CHUNK]
        scored = []
        for expert in experts:
            with clock(times, expert.family):
                scored.append(expert.score(seen, start))
        with clock(times, "mixture"):
            mixer.mix(scored)
    return {name: round(1e6 * seconds / (len(stream) - 1), 2) for name, seconds in times.items()}


@contextmanager
def clock(times: dict[str, float], name: str) -> Iterator[None]:
    started = time.process_time()
    yield
    times[name] = times.get(name, 0.0) + time.process_time() - started


if __name__ == "__main__":
    main()
