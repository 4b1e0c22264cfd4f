"""Counts and oracles say which tokenizer they are of, and are held to it."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import FormatError, InputError
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_dense, build_sparse, estimate_dense
from hybridlm.oracle.dense_counting import Checkpoint, Tables, count, merge
from hybridlm.oracle.sparse_counting import Ngrams, counted
from hybridlm.oracle.sparse_counting import merge as merge_sparse

V = 40
KNOWN = Vocabulary(V, 7, "0123456789abcdef" * 4)
UNKNOWN = Vocabulary(V, 7)
OTHER = Vocabulary(V, 7, "fedcba9876543210" * 4)
GOLDEN = Path(__file__).parents[1] / "golden" / "good"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Documents that begin with token 7, in two shards."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(5)
    paths = [folder / f"{index}.bin" for index in range(2)]
    for path in paths:
        tokens = (rng.zipf(1.4, 4000) % 6).astype(np.uint16)
        tokens[::50] = 7
        _core.write_shard(path, tokens)
    return paths


def sparse(paths: list[Path], vocabulary: Vocabulary | int) -> bytes:
    return build_sparse(paths, vocabulary, max_bytes=5000, order=4)


def dense(paths: list[Path], vocabulary: Vocabulary | int) -> bytes:
    return build_dense(paths, vocabulary, orders=3, layout="packed")


BUILDS = [sparse, dense]


@pytest.mark.parametrize("build", BUILDS)
def test_an_oracle_says_what_it_was_built_with(
    build: Callable[[list[Path], Vocabulary | int], bytes], shards: list[Path]
) -> None:
    for vocabulary in (KNOWN, UNKNOWN):
        oracle = Oracle.from_bytes(build(shards, vocabulary))
        assert oracle.vocabulary == vocabulary
        assert oracle.fingerprint == vocabulary.fingerprint
    assert Oracle.from_bytes(build(shards, V)).vocabulary == Vocabulary(V)


def test_the_document_token_decides_where_contexts_end(shards: list[Path]) -> None:
    ended, reaching = (Oracle.from_bytes(sparse(shards, vocabulary)) for vocabulary in (KNOWN, V))
    stream = np.array([2, 1, 3, 7, 1], np.uint16)
    for oracle, same in ((ended, True), (reaching, False)):
        # What was before a document says nothing about it.
        alone, after = (oracle.log_probs(s, np.array([len(s)])) for s in (stream[3:4], stream[:4]))
        assert np.array_equal(alone[1], after[1])
        assert np.array_equal(alone[2:], after[2:]) == same


def test_old_files_are_of_an_unknown_tokenizer() -> None:
    for name in ("dense_v1.ngor", "dense_v2.ngor", "sparse_v1.ngsp"):
        assert Oracle.from_file(GOLDEN / name).vocabulary == Vocabulary(16)
    for name in ("dense_v3.ngor", "sparse_v2.ngsp", "sparse_v3.ngsp"):
        vocabulary = Oracle.from_file(GOLDEN / name).vocabulary
        assert vocabulary.fingerprint == bytes(range(1, 33)).hex()
        assert vocabulary.bos_id == (3 if name.startswith("dense") else 7)


def test_another_tokenizer_is_refused_and_an_unknown_one_warned_of_once(
    shards: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "hybridlm")
    oracle = Oracle.from_bytes(sparse(shards, KNOWN))
    caplog.clear()
    oracle.check_tokenizer(KNOWN, "it")
    for given, message in (
        (OTHER, f"it: built with the tokenizer {KNOWN.fingerprint}, .* is {OTHER.fingerprint}"),
        (Vocabulary(V + 1, 7, KNOWN.fingerprint), "it: built for a vocabulary of 40 .* given has 41"),
        (Vocabulary(V, 8, KNOWN.fingerprint), "begin with token 7, .* begin with 8"),
    ):
        with pytest.raises(InputError, match=message):
            oracle.check_tokenizer(given, "it")
    assert not caplog.records
    unknown = Oracle.from_bytes(sparse(shards, UNKNOWN))
    caplog.clear()
    unknown.check_tokenizer(KNOWN, "it")
    unknown.check_tokenizer(OTHER, "it")
    (warning,) = caplog.records
    assert "it: doesn't say which tokenizer it was built with" in warning.message


def test_parts_of_two_tokenizers_are_not_added_and_of_an_unknown_one_make_an_unknown_whole(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = {}
    for name, vocabulary, shard in (
        ("known", KNOWN, shards[0]),
        ("same", KNOWN, shards[1]),
        ("unknown", UNKNOWN, shards[1]),
        ("other", OTHER, shards[1]),
    ):
        parts["dense", name] = tmp_path / f"{name}.dense"
        parts["dense", name].write_bytes(count([shard], Tables(vocabulary, 3)).to_bytes())
        parts["sparse", name] = tmp_path / f"{name}.sparse"
        with counted([shard], Ngrams(vocabulary, 4)) as counts:
            counts.save(parts["sparse", name])
    for estimator, add in (
        ("dense", merge),
        ("sparse", lambda paths: merge_sparse(paths, tmp_path / "sum")),
    ):
        known = parts[estimator, "known"]
        assert Vocabulary(*add([known, parts[estimator, "same"]]).vocabulary) == KNOWN
        for pair in ([known, parts[estimator, "unknown"]], [parts[estimator, "unknown"], known]):
            assert Vocabulary(*add(pair).vocabulary) == UNKNOWN
        with pytest.raises(InputError, match=r"fedcba987654….*0123456789ab…"):
            add([known, parts[estimator, "other"]])
    # What is asked for must be what parts are of.
    for asked, message in (
        (OTHER, "counts of tokenizer 0123456789ab…, but fedcba987654… is asked for"),
        (Vocabulary(V, 1), "counts with document token 7, but 1 is asked for"),
    ):
        with pytest.raises(InputError, match=message):
            count([parts["dense", "known"]], Tables(asked))
        with pytest.raises(InputError, match=message), counted([parts["sparse", "known"]], Ngrams(asked)):
            pass
    caplog.set_level(logging.WARNING, "hybridlm")
    whole = count([shards[0], parts["dense", "unknown"]], Tables(KNOWN, 3))
    assert Vocabulary(*whole.vocabulary) == UNKNOWN
    with counted([shards[0], parts["sparse", "unknown"]], Ngrams(KNOWN, 4)) as counts:
        assert Vocabulary(*counts.vocabulary) == UNKNOWN
    assert caplog.text.count("don't say which tokenizer") == 2


@pytest.mark.parametrize("build", BUILDS)
def test_a_document_token_that_begins_nothing_is_warned_of(
    build: Callable[[list[Path], Vocabulary | int], bytes],
    shards: list[Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "hybridlm")
    build(shards, KNOWN)
    assert "begins no document" not in caplog.text
    _core.write_shard(tmp_path / "x.bin", np.full(100, 3, np.uint16))
    build([tmp_path / "x.bin"], V)
    assert "token 1 begins no document in these shards" in caplog.text


def test_an_interrupted_run_of_another_tokenizer_is_not_resumed(shards: list[Path], tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "unfinished")
    checkpoint.save(count(shards[:1], Tables(UNKNOWN, 3)), 1)
    with pytest.raises(InputError, match="another vocabulary, document token, tokenizer, orders or rows"):
        count(shards, Tables(KNOWN, 3), checkpoint=checkpoint)
    folder = tmp_path / "folder"
    with (
        pytest.raises(RuntimeError),
        counted(shards[:1], Ngrams(UNKNOWN, 4), unfinished=folder, every_shard=True),
    ):
        raise RuntimeError
    with (
        pytest.raises(InputError, match="another vocabulary, document token, tokenizer or order"),
        counted(shards, Ngrams(KNOWN, 4), unfinished=folder),
    ):
        pass


def test_vocabularies_that_cannot_be_are_refused(shards: list[Path]) -> None:
    for vocabulary, message in (
        (Vocabulary(V, V), "document token 40 is outside the vocabulary of 40 tokens"),
        (Vocabulary(V, -1), "document token -1 is outside"),
        (Vocabulary(V, 1 << 16), "document token 65536 is outside"),
        (Vocabulary(V, 1, "12"), "64 hexadecimal digits"),
        (Vocabulary(V, 1, "é" * 32), "64 hexadecimal digits"),
    ):
        for build in BUILDS:
            with pytest.raises(InputError, match=message):
                build(shards, vocabulary)


def test_the_reference_layout_cannot_say(shards: list[Path]) -> None:
    oracle = Oracle.from_bytes(estimate_dense(count(shards, Tables(KNOWN, 3)), level=1))
    assert oracle.vocabulary == Vocabulary(V)
    with pytest.raises(FormatError):
        Oracle.from_bytes(b"NGOR\x04\r\n\x1a" + bytes(80))
