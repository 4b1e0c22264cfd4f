"""Sparse partial counts: divided in any way they make the same oracle, in bounded memory and resumable."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.errors import FormatError, InputError
from hybridlm.oracle.build import build_sparse
from hybridlm.oracle.dense_counting import Tables, count
from hybridlm.oracle.sources import Sources
from hybridlm.oracle.sparse_counting import Ngrams, counted, merge

V = 60
NGRAMS = Ngrams(V, 4)
MAX_BYTES = 3000


def write(path: Path, tokens: np.ndarray) -> Path:
    _core.write_shard(path, tokens.astype(np.uint16))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for index in range(6):
        tokens = generator.integers(0, V, 3000 + index)
        tokens[generator.random(len(tokens)) < 0.5] = 7
        paths.append(write(tmp_path / f"{index}.bin", tokens))
    return paths


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, to see that none is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def counts_of(sources: list[Path] | Sources, **options: object) -> bytes:
    with counted(sources, NGRAMS, **options) as counts:  # type: ignore[arg-type]
        return counts.to_bytes()


def test_any_division_makes_the_same_counts_and_oracle(
    shards: list[Path], tmp_path: Path, temporary: Path
) -> None:
    whole = counts_of(shards, threads=1)
    assert counts_of(shards[::-1], threads=3, every_shard=True) == whole
    parts = []
    for index in range(3):
        parts.append(tmp_path / f"part{index}")
        parts[-1].write_bytes(counts_of(shards[2 * index : 2 * index + 2]))
    sources = Sources.of([parts[0], shards[0]])
    assert (sources.sparse_counts, sources.shards) == ((str(parts[0]),), (str(shards[0]),))
    two = tmp_path / "two"
    assert merge(parts[2:0:-1], two).tokens == sum(map(_core.shard_tokens, shards[2:]))
    assert counts_of([two, parts[0]]) == whole
    oracle = build_sparse(shards, V, max_bytes=MAX_BYTES, order=4)
    for sources in (parts, [parts[2], *shards[:2], parts[1]], [two, parts[0]]):
        # Vocabulary and order come from the parts.
        assert build_sparse(sources, max_bytes=MAX_BYTES, threads=1) == oracle
    assert not list(temporary.iterdir())


def test_many_files_are_merged_in_rounds(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridlm.oracle.sparse_counting._FAN_IN", 2)
    assert counts_of(shards, every_shard=True) == counts_of(shards)


def test_a_shard_larger_than_the_memory_goes_to_a_file(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    whole = counts_of(shards)
    monkeypatch.setattr("hybridlm.oracle.sparse_counting._GROUP_TOKENS", 2000)
    assert counts_of(shards) == whole
    assert not list(temporary.iterdir())


def test_an_interrupted_run_is_resumed(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = tmp_path / "o.unfinished"
    whole = counts_of(shards)
    # The fourth shard can't be counted, so three are when this ends.
    intact = shards[3].read_bytes()
    tokens = _core.read_shard(shards[3])
    tokens[500] = V
    write(shards[3], tokens)
    with pytest.raises(FormatError, match=r"3\.bin"):
        counts_of(shards, unfinished=unfinished, every_shard=True)
    assert len(list(unfinished.iterdir())) == 3
    with pytest.raises(InputError, match=r"another vocabulary, .* or order; remove .*unfinished"):
        counted(shards, Ngrams(V, 3), unfinished=unfinished).__enter__()
    with pytest.raises(InputError, match=r"has counted 0\.bin, which is not given now"):
        counts_of(shards[1:], unfinished=unfinished)
    assert len(list(unfinished.iterdir())) == 3

    shards[3].write_bytes(intact)
    monkeypatch.setattr(logging.getLogger("hybridlm"), "propagate", True)
    with caplog.at_level(logging.INFO, "hybridlm"):
        # A shard counted twice would be refused, so those are skipped.
        assert counts_of(shards[::-1], unfinished=unfinished) == whole
    assert "resuming, 3 of 6 shards are counted" in caplog.text
    assert not unfinished.exists()


def test_weights_are_the_same_however_the_work_is_divided(
    shards: list[Path], tmp_path: Path, temporary: Path
) -> None:
    weights = [(shards[0], 4), (shards[3], 2), (shards[4], 4)]
    weighted = Sources.of(shards).weighted(weights)
    whole = counts_of(weighted, threads=1)
    assert whole != counts_of(shards)
    assert counts_of(Sources.of(shards[::-1]).weighted(weights), threads=3, every_shard=True) == whole
    parts = [tmp_path / f"part{index}" for index in range(4)]
    # Weights that counts have, and weights that they are given.
    for part, sources in zip(
        parts,
        [
            Sources.of(shards[:1]).weighted(weights[:1]),
            Sources.of([shards[3]]),
            Sources.of([shards[1], shards[4]]).weighted([(shards[4], 2), (shards[1], 1)]),
            Sources.of([shards[2]]),
        ],
        strict=True,
    ):
        part.write_bytes(counts_of(sources))
    doubled = tmp_path / "doubled"
    merge([parts[1]], doubled, weights={str(parts[1]): 2})
    some = Sources.of([doubled, parts[0], *shards[1:3], *shards[4:]]).weighted([(shards[4], 4)])
    assert counts_of(some) == whole
    found = _core.SparseCounts.from_bytes(whole)
    sizes = list(map(_core.shard_tokens, shards))
    assert found.tokens == sum(sizes) + 3 * sizes[0] + sizes[3] + 3 * sizes[4]
    assert {name: weight for (name, _, _), weight in zip(found.shards, found.weights, strict=True)} == {
        "0.bin": 4, "1.bin": 1, "2.bin": 1, "3.bin": 2, "4.bin": 4, "5.bin": 1,
    }  # fmt: skip
    # Those of a part multiply with those of the shards in it.
    both = _core.SparseCounts.from_bytes(counts_of(Sources.of([parts[2]]).weighted([(parts[2], 3)])))
    assert sorted(both.weights) == [3, 6]
    singly = [_core.SparseCounts.count([shard], V, 4, 1 << 20) for shard in shards]
    for ngram in ([7], [7, 7], [7, 7, 7, 7], [3, 7, 7]):
        expected = sum(
            part.occurrences(ngram) * weight for part, weight in zip(singly, [4, 1, 1, 2, 4, 1], strict=True)
        )
        assert found.occurrences(ngram) == expected > 0
    oracle = build_sparse(weighted, V, max_bytes=MAX_BYTES, order=4)
    assert build_sparse(some, max_bytes=MAX_BYTES, threads=1) == oracle
    assert oracle != build_sparse(shards, V, max_bytes=MAX_BYTES, order=4)
    assert not list(temporary.iterdir())


def test_a_resumed_run_has_the_weights_that_it_is_given(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = tmp_path / "o.unfinished"
    monkeypatch.setattr("hybridlm.oracle.sparse_counting._GROUP_TOKENS", 5000)
    weighted = Sources.of(shards).weighted([(shards[0], 3), (shards[1], 3)])
    whole = counts_of(weighted)
    intact = shards[0].read_bytes()
    tokens = _core.read_shard(shards[0])
    tokens[500] = V
    write(shards[0], tokens)
    with pytest.raises(FormatError, match=r"0\.bin"), counted(weighted, NGRAMS, unfinished=unfinished):
        pass
    shards[0].write_bytes(intact)
    # The shards 2 and 3, and 4 and 5, have been counted together.
    parts = sorted(unfinished.iterdir())
    assert [len(_core.SparseCounts.open(part).shards) for part in parts] == [2, 2]
    apart = Sources.of(shards).weighted([(shards[2], 3)])
    with pytest.raises(InputError, match=r"has counted .*\.bin together, which have different weights now"):
        counts_of(apart, unfinished=unfinished)
    assert sorted(unfinished.iterdir()) == parts
    others = Sources.of(shards).weighted([(shards[2], 3), (shards[3], 3)])
    expected = counts_of(others)
    assert counts_of(others, unfinished=unfinished) == expected != whole


def test_weights_of_nothing_are_refused(shards: list[Path], tmp_path: Path) -> None:
    sources = Sources.of(shards[:2])
    cases = [
        ([(shards[0], 0)], "whole numbers from 1 to 1000, not 0"),
        ([(shards[0], 1001)], "whole numbers from 1 to 1000, not 1001"),
        ([(shards[2], 2)], r"2\.bin is given a weight, but is none of the files to count"),
        ([(tmp_path / "*.bin", 2), (shards[1], 3)], r"1\.bin: given two weights, 2 and 3"),
        ([(tmp_path / "none", 2)], "none: no such file"),
    ]
    for weights, message in cases:
        with pytest.raises(InputError, match=message):
            sources.weighted(weights)
    with pytest.raises(InputError, match="1 weights for 2 counts"):
        counts = _core.SparseCounts.count(shards[:1], V, 4, 1 << 20)
        _core.SparseCounts.add([counts, counts], 1, [1])


def test_nothing_is_left_of_a_build_that_fails(shards: list[Path], tmp_path: Path, temporary: Path) -> None:
    unfinished = tmp_path / "o.unfinished"
    for folder in (None, unfinished):
        with (
            pytest.raises(RuntimeError),
            counted(shards[:1], NGRAMS, unfinished=folder),
        ):
            raise RuntimeError
    parts = [tmp_path / "a", tmp_path / "b"]
    parts[0].write_bytes(counts_of(shards[:3]))
    parts[1].write_bytes(counts_of(shards[3:]))
    # Merged into the folder, which has nothing to resume from.
    with pytest.raises(RuntimeError), counted(parts, unfinished=unfinished):
        assert list(unfinished.iterdir())
        raise RuntimeError
    assert not unfinished.exists() and not list(temporary.iterdir())


def test_refusals(shards: list[Path], tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(counts_of(shards[:2]))
    dense = tmp_path / "dense"
    dense.write_bytes(count(shards[:1], Tables(V, 3)).to_bytes())
    cases = [
        ([], NGRAMS, "no shards"),
        ([dense], None, "dense: counts of the dense estimator"),
        ([part, shards[1]], NGRAMS, r"shard 1\.bin has been counted already"),
        ([part], Ngrams(V + 1), "part: counts of a vocabulary of 60, but 61 is asked for"),
        ([part], Ngrams(V, 5), "part: counts up to order 4, not 5"),
    ]
    for sources, ngrams, message in cases:
        with pytest.raises(InputError, match=message), counted(sources, ngrams):
            pass
    with pytest.raises(InputError, match="at least 512M"), counted(shards, NGRAMS, memory=1 << 20):
        pass
    with pytest.raises(InputError, match="part: counts of the sparse estimator"):
        count([part])
    with pytest.raises(InputError, match="no partial counts"):
        merge([], tmp_path / "out")
    with pytest.raises(FormatError, match="not how sparse partial counts begin"):
        merge([shards[0]], tmp_path / "out")
    other = tmp_path / "other"
    with counted(shards[2:], Ngrams(V, 3)) as counts:
        counts.save(other)
    with pytest.raises(InputError, match=r"other: counts of 60 tokens .* up to order 3 don't add up"):
        merge([part, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_candidates_must_fit_the_memory(shards: list[Path]) -> None:
    with counted(shards, NGRAMS) as counts, pytest.raises(InputError, match="more memory or fewer bytes"):
        counts.sparse_oracle(MAX_BYTES, 1 << 20)
