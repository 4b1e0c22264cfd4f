"""Totals per document, bits per token, and experts that work ahead."""

import csv
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.artifact import Artifact, pack
from hybridlm.data.byte_table import ByteTable
from hybridlm.errors import InputError
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.documents import DocumentTotals
from hybridlm.scoring.evaluate import ScoreFiles, evaluate, score_chunks
from hybridlm.scoring.experts import Expert, Scored
from hybridlm.scoring.experts.counts import AdaptiveCounts
from hybridlm.scoring.mixing import MixtureSpec

V = 20
STREAM = np.random.default_rng(0).integers(2, V, 300).astype(np.uint16)
STREAM[[0, 1, 40, 41, 90, 200, 299]] = 1
BEGINS = np.arange(V) == 1
TABLE = ByteTable((np.arange(V, dtype=np.int32) + 1) * (~BEGINS), np.zeros(V, np.bool_), BEGINS)


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_documents_add_up_however_the_stream_is_cut(chunk: int) -> None:
    costs = np.random.default_rng(1).integers(0, 1000, (2, len(STREAM) - 1))
    lengths = TABLE.lengths(STREAM)
    totals, one = DocumentTotals(["a", "b"], BEGINS), DocumentTotals(["a", "b"], BEGINS, kept=["b"])
    for start in range(1, len(STREAM), chunk):
        end = min(start + chunk, len(STREAM))
        part = slice(start - 1, end - 1)
        totals.add(STREAM[part], start, lengths[part], costs[:, part])
        one.add(STREAM[part], start, lengths[part], costs[:, part])
    begins = [*np.flatnonzero(STREAM[:-1] == 1).tolist(), len(STREAM) - 1]
    slow = [
        [begin + 1, end - begin, lengths[begin:end].sum(), *costs[:, begin:end].sum(axis=1)]
        for begin, end in itertools.pairwise(begins)
    ]
    np.testing.assert_array_equal(totals.table(), slow)
    np.testing.assert_array_equal(one.table(), np.delete(slow, 3, axis=1))
    assert totals.totals == one.totals == {"a": costs[0].sum(), "b": costs[1].sum()}


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    counts = _core.NgramCounts(V, 2)
    counts.count_tokens(STREAM[::-1].copy())
    return Artifact.from_bytes(pack(None, counts.dense_oracle(level=1)))


def test_files_say_where_the_bits_went(artifact: Artifact, tmp_path: Path) -> None:
    files = ScoreFiles(per_document=tmp_path / "d.csv", per_token=tmp_path / "t.npy")
    result = evaluate(artifact, STREAM, TABLE, ScoringConfig(chunk=64), files=files)
    with (tmp_path / "d.csv").open() as file:
        rows = list(csv.DictReader(file))
    bits = np.load(tmp_path / "t.npy", allow_pickle=False)
    assert bits.dtype == np.float32 and bits.shape == (len(STREAM) - 1,)
    assert len(rows) == len(result.documents.bits) == 6
    assert [int(row["tokens"]) for row in rows] == result.documents.tokens
    assert sum(result.documents.bytes) == result.bytes and sum(result.documents.tokens) == result.tokens
    for row, total in zip(rows, result.documents.bits, strict=True):
        first = int(row["start"]) - 1
        assert float(row["mixture_stacked"]) == pytest.approx(total, abs=1e-4)
        assert total == pytest.approx(bits[first : first + int(row["tokens"])].sum(), abs=2e-4)
    for name, rate in result.experts.items():
        assert sum(float(row[name]) for row in rows) == pytest.approx(
            rate.bits_per_token * result.tokens, abs=1e-3
        )
    assert result.bpb_interval is not None and result.bpb_interval[0] < result.bpb < result.bpb_interval[1]


@pytest.mark.parametrize("wrong", [{"per_document": Path("a.txt")}, {"per_token": Path("a.csv")}])
def test_files_that_can_not_be_written_are_refused_first(artifact: Artifact, wrong: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="a\\."):
        evaluate(artifact, STREAM, TABLE, files=ScoreFiles(**wrong))


def test_a_table_in_parquet_says_what_to_install(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridlm.extras.installed", lambda package: package != "pyarrow")
    path = tmp_path / "d.parquet"
    with pytest.raises(InputError, match=r"d\.parquet: .*pip install 'hybridlm\[parquet\]'"):
        evaluate(artifact, STREAM, TABLE, files=ScoreFiles(per_document=path))
    assert not path.exists()


class Network(Expert):
    """A stand-in that isn't done with a chunk before the next one's counts are."""

    family = "neural"
    names = ("neural",)
    vocab_size = V

    def __init__(self, counts: "Watched") -> None:
        self.counts = counts

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        if len(stream) < len(STREAM):
            assert self.counts.scored(len(stream)).wait(60), "nothing was scored meanwhile"
        return Scored(np.full((1, len(stream) - start), -np.log(V), np.float32))

    def fingerprint(self) -> bytes:
        return b""


class Watched(AdaptiveCounts):
    """Notes which pieces it scores, and in which thread."""

    def __init__(self) -> None:
        super().__init__(V)
        self.pieces: list[tuple[int, bool]] = []
        self._scored: dict[int, threading.Event] = {}

    def scored(self, start: int) -> threading.Event:
        return self._scored.setdefault(start, threading.Event())

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        found = super().score(stream, start)
        self.pieces.append((start, threading.current_thread() is threading.main_thread()))
        self.scored(start).set()
        return found


SPECS = {"": MixtureSpec("stacked")}


def test_native_experts_score_the_next_chunk_while_the_network_scores_this_one() -> None:
    counts = Watched()
    experts = [Network(counts), counts]
    found = [scored.nll[""] for scored in score_chunks(STREAM, experts, SPECS, chunk=100)]
    assert counts.pieces == [(1, False), (101, False), (201, False)]
    # In their own time they score the same.
    whole = Watched()
    alone = score_chunks(STREAM, [Network(whole), whole], SPECS, chunk=len(STREAM))
    np.testing.assert_array_equal(np.concatenate(found), next(alone).nll[""])


def test_without_a_network_nothing_runs_ahead() -> None:
    counts = Watched()
    list(score_chunks(STREAM, [counts], SPECS, chunk=100))
    assert counts.pieces == [(1, True), (101, True), (201, True)]
