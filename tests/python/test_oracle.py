"""Oracles from counting to evaluation, against plain NumPy and Counter."""

import os
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.data.byte_table import ByteTable
from hybridlm.data.shards import read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.oracle import Oracle, context_hash
from hybridlm.oracle.build import build_dense
from hybridlm.oracle.oracle_score import evaluate
from hybridlm.oracle.static_weights import best_static_weights

V = 512
Tokens = NDArray[np.uint16]


@pytest.fixture(scope="module")
def train(shard_dir: Path) -> list[Path]:
    return sorted(shard_dir.glob("*_train_*.bin"))


@pytest.fixture(scope="module")
def validation(shard_dir: Path) -> Tokens:
    return read_stream(sorted(shard_dir.glob("*_val_*.bin")))


@pytest.fixture(scope="module")
def oracle(train: list[Path]) -> Oracle:
    return Oracle.from_bytes(build_dense(train, V, level=1))


def fnv1a(context: tuple[int, ...]) -> int:
    """The definition, in Python's integers."""
    hashed = 2166136261
    for token in context:
        hashed = (hashed ^ token) * 16777619 % 2**32
    return hashed


def row_of(context: tuple[int, ...], rows: int) -> int:
    return 0 if not context else context[0] if len(context) == 1 else fnv1a(context) % rows


def numpy_counts(shards: list[Tokens], order: int, rows: int) -> NDArray[np.int64]:
    """[rows, V]: the reference's way, one bincount per order."""
    counts = np.zeros(rows * V, np.int64)
    for tokens in shards:
        cells = context_hash.context_buckets(tokens, order, rows).astype(np.int64) * V + tokens
        counts += np.bincount(cells[order - 1 :], minlength=len(counts))
    return counts.reshape(rows, V)


def numpy_quantised(counts: NDArray[np.int64]) -> NDArray[np.int8]:
    log_probs = np.log((counts + 1) / (counts.sum(axis=1, keepdims=True) + V))
    return np.round(np.clip(log_probs, -10, 0) / (10.0 / 127.0)).astype(np.int8)


@pytest.mark.parametrize("threads", [1, 3])
def test_counts_and_int8_tables_equal_numpys(train: list[Path], threads: int) -> None:
    shards = [read_stream([path]) for path in train]
    counts = _core.NgramCounts(V, 8, {4: 1000})
    counts.count_shards(train, threads)
    assert counts.orders == tuple(range(1, 9))
    assert counts.buckets == {1: 1, 2: V, 3: 4096, 4: 1000, 5: 1024, 6: 512, 7: 256, 8: 256}
    assert counts.tokens == sum(map(len, shards))
    for order, rows in counts.buckets.items():
        expected = numpy_counts(shards, order, rows)
        np.testing.assert_array_equal(counts.table(order), expected)
        np.testing.assert_array_equal(counts.quantise(order, threads), numpy_quantised(expected))


def test_shards_counted_apart_and_merged_equal_the_whole(train: list[Path]) -> None:
    whole = _core.NgramCounts(V)
    whole.count_shards(train)
    merged = _core.NgramCounts(V)
    for path in reversed(train):
        part = _core.NgramCounts(V)
        part.count_tokens(read_stream([path]))
        merged.merge(part)
    for order in whole.orders:
        np.testing.assert_array_equal(whole.table(order), merged.table(order))
    assert whole.dense_oracle(1) == merged.dense_oracle(1)


@given(
    shards=st.lists(st.lists(st.integers(0, 6), max_size=40), max_size=4),
    orders=st.integers(1, 8),
    rows=st.integers(1, 20),
    threads=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_counts_equal_a_counter_of_ngrams(
    shards: list[list[int]], orders: int, rows: int, threads: int
) -> None:
    counts = _core.NgramCounts(7, orders, dict.fromkeys(range(3, orders + 1), rows))
    for shard in shards:
        counts.count_tokens(np.array(shard, np.uint16), threads)
    for order in range(1, orders + 1):
        grams = Counter(
            (row_of(tuple(shard[end - order : end - 1]), rows), shard[end - 1])
            for shard in shards
            for end in range(order, len(shard) + 1)
        )
        table = counts.table(order)
        assert table.sum() == grams.total()
        assert all(table[cell] == count for cell, count in grams.items())


@given(
    tokens=st.lists(st.integers(0, 65535), max_size=50), order=st.integers(3, 8), rows=st.integers(1, 2**20)
)
@settings(deadline=None)
def test_the_hash_has_four_equal_implementations(tokens: list[int], order: int, rows: int) -> None:
    import torch

    stream = np.array(tokens, np.uint16)
    padded = (0,) * (order - 1) + tuple(tokens)
    expected = [fnv1a(padded[i : i + order - 1]) % rows for i in range(len(tokens))]
    assert _core.context_buckets(stream, order, rows).tolist() == expected
    assert context_hash.context_buckets(stream, order, rows).tolist() == expected
    assert (
        context_hash.torch_context_buckets(torch.tensor(tokens, dtype=torch.int32), order, rows).tolist()
        == expected
    )


@pytest.mark.parametrize("name", ["context_buckets", "torch_context_buckets"])
def test_a_build_refuses_to_start_when_the_hashes_disagree(
    name: str, train: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch  # noqa: F401 - once imported, its twin is checked as well

    context_hash.verify_hash_twins()
    right: Callable[..., NDArray[np.uint32]] = getattr(context_hash, name)
    monkeypatch.setattr(
        context_hash, name, lambda tokens, order, rows: right(tokens, order, rows) ^ (order == 7)
    )
    with pytest.raises(RuntimeError, match=r"twin disagree \(order 7, 256 rows"):
        build_dense(train, V)


def test_bytes_depend_neither_on_threads_nor_on_the_shards_order(train: list[Path]) -> None:
    assert len(train) > 1
    reference = build_dense(train, V, level=3, threads=1)
    assert build_dense(train[::-1], V, level=3, threads=3) == reference


def test_the_file_is_the_documented_one(train: list[Path]) -> None:
    data = build_dense(train, V, orders=3, buckets={3: 100}, level=1)
    content = _core.decompress(data, 1 << 20, "oracle")
    shards = [read_stream([path]) for path in train]
    expected = struct.pack("<2I", 0x4E474F52, 3)
    for order, rows in ((1, 1), (2, V), (3, 100)):
        expected += struct.pack("<3I", order, rows, V)
        expected += numpy_quantised(numpy_counts(shards, order, rows)).tobytes()
    assert content == expected


def test_lookups_equal_a_slow_loop(oracle: Oracle, train: list[Path], validation: Tokens) -> None:
    shards = [read_stream([path]) for path in train]
    tables = {
        order: numpy_quantised(numpy_counts(shards, order, rows)) for order, rows in DEFAULT_ROWS.items()
    }
    tokens = validation[:300]
    padded = (0,) * 7 + tuple(tokens.tolist())
    targets = oracle.target_log_probs(tokens)
    positions = np.array([0, 1, 2, 7, 8, 150, 299, 300])
    rows = oracle.log_probs(tokens, positions)
    assert targets.shape == (8, 300) and targets.dtype == np.float32
    assert rows.shape == (8, 8, V) and rows.dtype == np.float32

    def slow(order: int, position: int) -> NDArray[np.float64]:
        row = row_of(padded[7 + position - order + 1 : 7 + position], DEFAULT_ROWS[order])
        levels = tables[order][row].astype(np.float64) * (10 / 127)
        return levels - np.log(np.exp(levels).sum())

    for k, order in enumerate(oracle.orders):
        for m, position in enumerate(positions):
            np.testing.assert_allclose(rows[k, m], slow(order, int(position)), atol=2e-6)
        expected = [slow(order, i)[token] for i, token in enumerate(tokens)]
        np.testing.assert_allclose(targets[k], expected, atol=2e-6)
    np.testing.assert_array_equal(oracle.target_log_probs(tokens, start=9), targets[:, 9:])


DEFAULT_ROWS = {1: 1, 2: V, 3: 4096, 4: 2048, 5: 1024, 6: 512, 7: 256, 8: 256}


def test_the_packed_layout_is_the_same_oracle_in_fewer_bytes(train: list[Path], validation: Tokens) -> None:
    reference = build_dense(train, V, level=3)
    packed = build_dense(train, V, layout="packed", threads=1)
    assert build_dense(train[::-1], V, layout="packed", threads=3) == packed
    assert len(packed) < len(reference)
    one, two = Oracle.from_bytes(reference), Oracle.from_bytes(packed)
    np.testing.assert_array_equal(one.target_log_probs(validation), two.target_log_probs(validation))
    assert two.info()["tokens"] == sum(_core.shard_tokens(path) for path in train)


def test_mixtures_are_those_of_the_rows(oracle: Oracle, validation: Tokens) -> None:
    random = np.random.default_rng(2)
    tokens, positions = validation[:200], np.array([0, 1, 50, 199, 200])
    rows = np.exp(oracle.log_probs(tokens, positions).astype(np.float64))
    fixed = random.dirichlet(np.ones(8)).astype(np.float32)
    moving = random.dirichlet(np.ones(8), len(positions)).T.astype(np.float32)
    for weights, formula in ((fixed, "k,kmv->mv"), (moving, "km,kmv->mv")):
        mixed = oracle.mixture(tokens, positions, weights)
        assert mixed.dtype == np.float32
        np.testing.assert_allclose(mixed, np.einsum(formula, weights, rows), rtol=1e-5)
        np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-5)
    for wrong in (fixed[:7], moving[:, :2]):
        with pytest.raises(TypeError, match=r"\[8\] or \[8, 5\]"):
            oracle.mixture(tokens, positions, wrong)
    with pytest.raises(InputError, match="no weight"):
        oracle.mixture(tokens, positions, -fixed)


def test_torch_tables_are_the_same_oracle(oracle: Oracle, validation: Tokens) -> None:
    import torch

    tokens = validation[:500]
    tables = oracle.tables("cpu")
    stream = torch.from_numpy(tokens.astype(np.int64))
    np.testing.assert_allclose(
        tables.target_log_probs(stream, start=1).numpy(), oracle.target_log_probs(tokens, start=1), atol=2e-6
    )
    positions = np.array([0, 3, 499, 500])
    np.testing.assert_allclose(
        tables.log_probs(stream, torch.from_numpy(positions)).numpy(),
        oracle.log_probs(tokens, positions),
        atol=2e-6,
    )


def test_a_later_token_changes_no_earlier_prediction(oracle: Oracle, validation: Tokens) -> None:
    changed = validation[:400].copy()
    changed[200] ^= 1
    before, after = (oracle.target_log_probs(tokens) for tokens in (validation[:400], changed))
    np.testing.assert_array_equal(before[:, :200], after[:, :200])


def test_refusals(oracle: Oracle, tmp_path: Path, train: list[Path]) -> None:
    with pytest.raises(InputError, match="token 512 at position 1 is outside the vocabulary of 512"):
        oracle.target_log_probs(np.array([1, 512], np.uint16))
    with pytest.raises(InputError, match="position 3 lies beyond"):
        oracle.log_probs(np.array([1, 5], np.uint16), np.array([3]))
    with pytest.raises(FileNotFoundError):
        Oracle.from_file(tmp_path / "none.ngor")
    with pytest.raises(InputError, match="no shards"):
        build_dense([], V)
    with pytest.raises(InputError, match="vocabulary's size is 512, but by what is given it is 100"):
        build_dense(train, 100)
    _core.write_shard(tmp_path / "empty.bin", np.zeros(0, np.uint16))
    with pytest.raises(InputError, match="no tokens"):
        build_dense([tmp_path / "empty.bin"], V)


def test_evaluation_adds_up(oracle: Oracle, validation: Tokens, tokenizer: Tokenizer) -> None:
    result = evaluate(oracle, validation, tokenizer.byte_table)
    assert result.tokens == len(validation) - 1
    assert result.bytes == tokenizer.byte_table.lengths(validation, 1).sum()
    found = oracle.target_log_probs(validation, start=1).astype(np.float64) / np.log(2)
    for k, bits in enumerate(result.orders.values()):
        assert bits.bits_per_token == pytest.approx(-found[k].mean(), rel=1e-5)
        assert bits.bpb == pytest.approx(-found[k].sum() / result.bytes, rel=1e-5)
    weights = np.array(list(result.best_static_weights.values()))
    assert weights.sum() == pytest.approx(1)
    mixed = -np.log2(weights @ np.exp2(found)).mean()
    assert result.best_static_mix.bits_per_token == pytest.approx(mixed, rel=1e-4)
    assert result.bits_per_token == result.best_static_mix.bits_per_token
    assert mixed <= min(bits.bits_per_token for bits in result.orders.values()) + 1e-6
    assert 0 <= result.max_row_sum_error < 1e-5


def test_evaluation_refuses_what_it_cannot_score(
    oracle: Oracle, tokenizer: Tokenizer, validation: Tokens
) -> None:
    with pytest.raises(InputError, match="at least 2"):
        evaluate(oracle, validation[:1], tokenizer.byte_table)
    with pytest.raises(InputError, match="no bytes"):
        evaluate(oracle, np.ones(5, np.uint16), tokenizer.byte_table)
    other = ByteTable(np.zeros(7, np.int32), np.zeros(7, np.bool_), np.zeros(7, np.bool_))
    with pytest.raises(InputError, match="7 pieces"):
        evaluate(oracle, validation, other)


def test_no_fixed_weights_beat_the_best_ones() -> None:
    random = np.random.default_rng(1)
    log_probs = np.log(random.dirichlet(np.ones(4), 3000)).T[:3].astype(np.float32)
    best = best_static_weights(log_probs)

    def nats(weights: NDArray[np.float64]) -> float:
        return float(-np.log(weights @ np.exp(log_probs.astype(np.float64))).mean())

    for other in random.dirichlet(np.ones(3), 200):
        assert nats(best) <= nats(other) + 1e-5
    assert best_static_weights(log_probs[:, :0]).tolist() == [1 / 3] * 3


def test_online_experts_carry_their_state(validation: Tokens) -> None:
    whole, parts = _core.OnlineExperts(V), _core.OnlineExperts(V)
    tokens = validation[:3000]
    expected = whole.score(tokens)
    np.testing.assert_array_equal(
        np.hstack([parts.score(tokens[:1000]), parts.score(tokens[1000:])]), expected
    )
    assert _core.OnlineExperts.names == ("unigram", "bigram", "trigram", "decay")
    fresh = _core.OnlineExperts(V)
    fresh.observe(tokens[:500])
    rows = fresh.next_log_probs().astype(np.float64)
    np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(fresh.next_log_probs()[:, tokens[500]], expected[:, 500])


def test_paths_may_be_strings_or_path_objects(train: list[Path]) -> None:
    data = build_dense([os.fspath(path) for path in train[:1]], V, orders=2, level=1)
    assert Oracle.from_bytes(data).orders == (1, 2)
