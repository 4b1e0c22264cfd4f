"""Every size of vocabulary that there may be, through counting, look-ups, experts, mixtures and the codec."""

import itertools
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.errors import InputError
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_dense, build_sparse
from hybridlm.scoring.artifact_experts import ExpertSet
from hybridlm.scoring.audit_subject import MixtureSubject
from hybridlm.scoring.experts import online_experts
from hybridlm.scoring.experts.oracle import OracleExperts

SIZES = [256, 1024, 8192, 32_768, 65_535]
Tokens = NDArray[np.uint16]


def text(vocab_size: int, length: int, seed: int) -> Tokens:
    """Tokens from all over the vocabulary, its last one too, of which some often follow one another."""
    generator = np.random.default_rng(seed)
    known = np.unique([2, 3, 255, vocab_size - 1, *generator.integers(2, vocab_size, 60)]).astype(np.uint16)
    tokens = generator.choice(known, length)
    for at in range(2, length):
        if generator.random() < 0.7:
            tokens[at] = known[(int(tokens[at - 1]) * 7 + int(tokens[at - 2])) % len(known)]
    tokens[generator.random(length) < 0.01] = 1
    tokens[0] = 1
    return np.asarray(tokens, np.uint16)


@pytest.fixture(params=SIZES)
def vocab_size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def shard(vocab_size: int, tmp_path: Path) -> Path:
    path = tmp_path / "x.bin"
    _core.write_shard(path, text(vocab_size, 6000, 1))
    return path


def test_a_sparse_oracle_is_right(vocab_size: int, shard: Path) -> None:
    data = build_sparse([shard], vocab_size, max_bytes=100_000, order=4)
    # Threads, and memory for so few tokens at once that the text is read several times.
    counts = _core.SparseCounts.count([shard], vocab_size, 4, 1, None, 3)
    assert counts.sparse_oracle(100_000, 1 << 32, 3) == data
    oracle = Oracle.from_bytes(data)
    stream = text(vocab_size, 400, 2)
    positions = np.array([1, 2, 17, 399])
    rows = np.exp(oracle.log_probs(stream, positions).astype(np.float64))
    assert rows.shape == (4, 4, vocab_size)
    np.testing.assert_allclose(rows.sum(axis=2), 1, atol=1e-5)
    found = oracle.target_log_probs(stream, start=1)
    np.testing.assert_allclose(
        np.exp(found[:, positions - 1]), rows[:, np.arange(4), stream[positions]], rtol=1e-5
    )


def test_a_sparse_bigram_has_the_share_of_its_counts(vocab_size: int, shard: Path) -> None:
    oracle = Oracle.from_bytes(build_sparse([shard], vocab_size, max_bytes=100_000, order=2))
    trained = text(vocab_size, 6000, 1)
    bigrams = Counter(itertools.pairwise(trained.tolist()))
    document = np.cumsum(trained == 1)[:-1].tolist()
    documents = Counter(
        pair for pair, _ in {*zip(itertools.pairwise(trained.tolist()), document, strict=True)}
    )
    # Repetition within a document counts a fifth (docs/sparse.md).
    masses = {pair: documents[pair] + 0.2 * (count - documents[pair]) for pair, count in bigrams.items()}
    totals: Counter[int] = Counter()
    for (before, _), mass in masses.items():
        totals[before] += mass  # type: ignore[assignment]
    for (before, after), mass in sorted(masses.items(), key=lambda item: -item[1])[:20]:
        row = np.exp(oracle.log_probs(np.array([before], np.uint16), np.array([1]))[1, 0])
        # Discounted, and rounded to a step of √2.
        assert row[after] == pytest.approx(mass / totals[before], rel=0.35)


def test_a_dense_oracle_is_right_or_refused_at_once(vocab_size: int, shard: Path) -> None:
    if vocab_size > 8192:
        with pytest.raises(InputError, match=r"order 2 has a row for each .* or the sparse estimator"):
            build_dense([shard], vocab_size)
        orders, buckets = 1, {}
    elif vocab_size == 8192:
        # Order 2 alone has 67 million cells, which take a minute in a test.
        orders, buckets = 1, {}
    else:
        orders, buckets = 3, {3: 64}
    oracle = Oracle.from_bytes(build_dense([shard], vocab_size, orders=orders, buckets=buckets, level=1))
    stream = text(vocab_size, 300, 3)
    rows = np.exp(oracle.log_probs(stream, np.array([1, 299])).astype(np.float64))
    np.testing.assert_allclose(rows.sum(axis=2), 1, atol=1e-4)
    counts = np.bincount(text(vocab_size, 6000, 1), minlength=vocab_size)
    # Above the lowest of the 255 levels, which all unseen tokens of a large vocabulary share.
    common = counts > 20
    found, expected = rows[0, 0, common], counts[common] + 1
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), rtol=0.15)


def test_dense_tables_that_are_too_large_for_the_budget_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = tmp_path / "x.bin"
    _core.write_shard(shard, text(5000, 300, 1))
    with caplog.at_level(logging.WARNING):
        build_dense([shard], 5000, orders=2, layout="packed")
    assert "25,005,000 cells" in caplog.text and "--estimator sparse" in caplog.text


@pytest.mark.parametrize("mixer", ["stacked", "eg", "hedge", "geometric", "best"])
def test_experts_and_mixtures_are_distributions(mixer: str, vocab_size: int, shard: Path) -> None:
    oracle = Oracle.from_bytes(build_sparse([shard], vocab_size, max_bytes=20_000, order=3))

    def parts() -> ExpertSet:
        return ExpertSet([*online_experts(vocab_size), OracleExperts(oracle)])

    stream = text(vocab_size, 12 if mixer in ("geometric", "best") else 500, 4)
    scorer = MixtureSubject(parts, mixer).scorer()
    scorer.score(stream[:-1], 1)
    row = scorer.row(stream[:-1])
    assert row.shape == (vocab_size,)
    assert np.exp(row).sum() == pytest.approx(1, abs=1e-5)
    assert scorer.score(stream, len(stream) - 1)[0] == pytest.approx(-row[stream[-1]], rel=1e-4)
    for expert in parts().experts:
        expert.score(stream[:-1], 1)
        found = expert.predict(stream[:-1]).log_probs.astype(np.float64)
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-4)
        last = expert.score(stream, len(stream) - 1).log_probs[:, 0]
        np.testing.assert_allclose(last, found[:, stream[-1]], atol=1e-4)


def test_any_bytes_come_back_from_the_codec(vocab_size: int, shard: Path) -> None:
    oracle = Oracle.from_bytes(build_sparse([shard], vocab_size, max_bytes=20_000, order=3))
    words = [
        "".join(letters) for n in (2, 3, 4) for letters in itertools.product("abcdefghijklmnop", repeat=n)
    ]
    # Four special pieces as tokenizers have them, where there is room for any.
    special = [(b"", 0.0, False)] * (4 if vocab_size > 260 else 0)
    single = [(bytes([byte]), 0.0, True) for byte in range(256)]
    spare = max(0, vocab_size - len(special) - 256)
    pieces = special + single + [(word.encode(), -float(at), False) for at, word in enumerate(words[:spare])]
    segmenter = _core.Segmenter(pieces)
    data = b"abba cabbage\x00\xff\x80 " + b"abcabcabc" * 5

    def predictor() -> _core.Predictor:
        return _core.Predictor(vocab_size, oracle=oracle.native, first=1)

    assert len(pieces) == vocab_size
    payload, checks, bits, _ = segmenter.compress(data, predictor())
    assert len(payload) <= bits / 8 + 16
    assert segmenter.decompress(payload, len(data), checks, predictor()) == data
