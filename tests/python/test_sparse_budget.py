"""More bytes make a better sparse oracle, of real text."""

from pathlib import Path

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.data.shards import read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_sparse


def test_a_larger_budget_never_makes_a_worse_oracle(
    corpus: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    shard = tmp_path / "x.bin"
    _core.write_shard(shard, np.concatenate([tokenizer.encode(text) for text in corpus[:5]]))
    stream = read_stream([shard])
    counts = _core.SparseCounts.count([shard], tokenizer.vocab_size, 5, 1 << 30)
    kept, nats, sizes = 0, np.inf, set()
    for max_bytes in np.geomspace(800, 20_000, 24).astype(int):
        oracle = Oracle.from_bytes(counts.sparse_oracle(int(max_bytes), 1 << 32, 2))
        assert oracle.nbytes <= max_bytes
        before = kept, nats
        kept = sum(table["ngrams"] for table in oracle.info()["tables"])
        nats = -float(oracle.target_log_probs(stream, start=1)[-1].mean(dtype=np.float64))
        # n-grams kept, and what they are kept for: the training text.
        assert (kept, -nats) >= (before[0], -before[1])
        sizes.add(oracle.nbytes)
    assert len(sizes) > 15, "budgets should differ in what they give"


@pytest.mark.parametrize("order", [6, 8])
def test_regular_text_is_no_reason_to_refuse_it(order: int, tmp_path: Path) -> None:
    """Nearly every context of random text is continued in one way, which takes next to no bytes to say."""
    shard = tmp_path / "x.bin"
    tokens = np.random.default_rng(3).integers(0, 1024, 20_000, dtype=np.uint16)
    _core.write_shard(shard, tokens)
    oracle = Oracle.from_bytes(build_sparse([shard], 1024, max_bytes=4_000_000, order=order))
    assert oracle.orders == tuple(range(1, order + 1))
    assert oracle.info()["tables"][-1]["ngrams"] > 10_000
