"""Files of partial counts, and counting with a file to resume from."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridlm import _core
from hybridlm.errors import FormatError, InputError
from hybridlm.oracle import context_hash
from hybridlm.oracle.build import build_dense
from hybridlm.oracle.dense_counting import Checkpoint, Tables, count, merge, read_partial
from hybridlm.oracle.sources import Sources

V = 20
TABLES = Tables(V, 4, {3: 11, 4: 64})


def write(path: Path, tokens: list[int]) -> Path:
    _core.write_shard(path, np.array(tokens, np.uint16))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    return [
        write(tmp_path / f"{index}.bin", generator.integers(0, V, 1000 + index).tolist())
        for index in range(5)
    ]


def save(counts: _core.NgramCounts, path: Path) -> Path:
    path.write_bytes(counts.to_bytes())
    return path


@given(
    streams=st.lists(st.lists(st.integers(0, V - 1), max_size=60), min_size=1, max_size=4, unique_by=tuple),
    split=st.integers(0, 4),
    threads=st.integers(1, 3),
)
@settings(max_examples=30)
def test_merged_counts_equal_naive_ones(
    tmp_path_factory: pytest.TempPathFactory, streams: list[list[int]], split: int, threads: int
) -> None:
    folder = tmp_path_factory.mktemp("streams")
    paths = [write(folder / f"{index}.bin", stream) for index, stream in enumerate(streams)]
    left, right = TABLES.empty(), TABLES.empty()
    left.count_shards(paths[:split], threads)
    right.count_shards(paths[split:], threads)
    merged = _core.NgramCounts.from_bytes(right.to_bytes(threads), threads=threads)
    merged.merge_bytes(left.to_bytes())
    for order in merged.orders:
        naive: Counter[tuple[int, int]] = Counter()
        for stream in streams:
            rows = context_hash.context_buckets(np.array(stream, np.uint16), order, merged.buckets[order])
            naive.update(zip(rows[order - 1 :].tolist(), stream[order - 1 :], strict=True))
        table = merged.table(order)
        found = {(row, token): int(table[row, token]) for row, token in np.argwhere(table).tolist()}
        assert found == naive


def test_bytes_are_those_of_the_set_of_shards(shards: list[Path], tmp_path: Path) -> None:
    whole = count(shards, TABLES, threads=1).to_bytes()
    assert count(shards[::-1], TABLES, threads=3).to_bytes(3) == whole
    parts = [save(count([shard], TABLES), tmp_path / f"part{shard.stem}") for shard in shards]
    pair = save(merge(parts[3:1:-1]), tmp_path / "pair")
    assert merge([parts[4], pair, parts[0], parts[1]]).to_bytes() == whole
    assert count([parts[1], shards[0], pair, shards[4]], TABLES).to_bytes() == whole
    # Nothing of where the shards lay is in it.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = [shard.rename(elsewhere / shard.name) for shard in shards]
    assert count(moved, TABLES).to_bytes() == whole


def test_a_file_says_what_it_is_of(shards: list[Path], tmp_path: Path) -> None:
    path = save(count(shards[:2], TABLES), tmp_path / "part")
    counts = read_partial(path)
    assert (counts.vocab_size, counts.orders, counts.buckets) == (V, (1, 2, 3, 4), {1: 1, 2: V, 3: 11, 4: 64})
    assert counts.tokens == 2001
    assert {(name, tokens) for name, tokens, _ in counts.shards} == {("0.bin", 1000), ("1.bin", 1001)}
    assert counts.shards == sorted(_core.identify_shards(shards[:2]), key=lambda shard: shard[2])
    sources = Sources.of([path, shards[0]])
    assert (sources.dense_counts, sources.shards) == ((str(path),), (str(shards[0]),))


def test_tables_are_taken_from_partial_counts_unless_others_are_asked_for(
    shards: list[Path], tmp_path: Path
) -> None:
    part = save(count(shards[:2], TABLES), tmp_path / "part")
    assert count([shards[2], part]).to_bytes() == count(shards[:3], TABLES).to_bytes()
    assert build_dense([part], V, orders=4, buckets={3: 11}) == build_dense(
        shards[:2], V, orders=4, buckets={3: 11, 4: 64}
    )
    for tables, message in [
        (Tables(V + 1), "part: counts of a vocabulary of 20, but 21 is asked for"),
        (Tables(orders=3), "part: counts of orders 1 to 4, not 1 to 3"),
        (Tables(buckets={4: 63}), "part: counts with 64 rows for order 4, not 63"),
        (Tables(buckets={5: 63}), "part: counts with no rows for order 5"),
    ]:
        with pytest.raises(InputError, match=message):
            count([part], tables)


def test_refusals(shards: list[Path], tmp_path: Path) -> None:
    part = save(count(shards[:2], TABLES), tmp_path / "part")
    copy = write(tmp_path / "copy.bin", _core.read_shard(shards[1]).tolist())
    with pytest.raises(InputError, match=r"copy\.bin: shard copy\.bin .* as 1\.bin from .*1\.bin; give each"):
        count([*shards, copy], TABLES)
    with pytest.raises(InputError, match=r"part: shard .\.bin has been counted already"):
        count([copy, part])
    with pytest.raises(InputError, match="don't add up"):
        merge([part, save(count(shards[2:], Tables(V, 3)), tmp_path / "other")])
    with pytest.raises(FormatError, match=r"0\.bin: .* is not how partial counts begin"):
        merge([shards[0]])
    with pytest.raises(FormatError, match="make it again"):
        cut = tmp_path / "cut"
        cut.write_bytes(part.read_bytes()[:-1])
        merge([cut])
    for empty in (count, merge):
        with pytest.raises(InputError, match="no "):
            empty([])
    counts = TABLES.empty()
    counts.count_tokens(np.zeros(9, np.uint16))
    with pytest.raises(InputError, match="came from no shard"):
        counts.to_bytes()


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        _core.NgramCounts.from_bytes(data)
    with pytest.raises(FormatError):
        _core.NgramCounts.from_bytes(_core.PARTIAL_COUNTS_MAGIC + data)


def test_counting_resumes_where_it_was_interrupted(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "unfinished", seconds=0)
    whole = count(shards, TABLES).to_bytes()
    # The fourth shard can't be counted, so three are when this ends.
    intact = shards[3].read_bytes()
    bad = np.frombuffer(intact[1024:], np.uint16).copy()
    bad[500] = V
    _core.write_shard(shards[3], bad)
    with pytest.raises(FormatError, match=r"3\.bin"):
        count(shards, TABLES, checkpoint=checkpoint)
    assert {name for name, _, _ in read_partial(checkpoint.path).shards} == {"0.bin", "1.bin", "2.bin"}

    shards[3].write_bytes(intact)
    monkeypatch.setattr(logging.getLogger("hybridlm"), "propagate", True)
    with caplog.at_level(logging.INFO, "hybridlm"):
        # A shard counted twice would be refused, so those are skipped.
        assert count(shards[::-1], TABLES, checkpoint=checkpoint).to_bytes() == whole
    assert "resuming, 3 of 5 shards are counted" in caplog.text
    with checkpoint.held():
        assert checkpoint.path.exists()
    assert not checkpoint.path.exists()


def test_only_what_has_been_counted_is_skipped(shards: list[Path], tmp_path: Path) -> None:
    checkpoint = Checkpoint(save(count(shards[:3], TABLES), tmp_path / "unfinished"))
    with pytest.raises(InputError, match=r"unfinished: .* another vocabulary.*; remove .*unfinished"):
        count(shards, Tables(V, 3), checkpoint=checkpoint)
    with pytest.raises(InputError, match=r"has counted 2\.bin, which is not given"):
        count([*shards[:2], shards[4]], TABLES, checkpoint=checkpoint)
    # Changed, with the same name and size and the time it had.
    tokens = _core.read_shard(shards[1])
    write(shards[1], tokens[::-1].tolist())
    with pytest.raises(InputError, match=r"has counted 1\.bin, which is not given"):
        count(shards, TABLES, checkpoint=checkpoint)
    # Files of counts given beside shards are not the checkpoint's business.
    write(shards[1], tokens.tolist())
    part = save(count(shards[3:], TABLES), tmp_path / "part")
    resumed = count([part, *shards[:3]], TABLES, checkpoint=checkpoint)
    assert resumed.to_bytes() == count(shards, TABLES).to_bytes()


def test_small_shards_are_counted_together(shards: list[Path], tmp_path: Path) -> None:
    """Without a need to write a checkpoint none is written."""
    checkpoint = Checkpoint(tmp_path / "unfinished")
    count(shards, TABLES, checkpoint=checkpoint)
    assert not checkpoint.path.exists()
