"""A stream is what it is said to be: no shard is there twice, and token ids mean what they should."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlm import _core
from hybridlm.data.shards import (
    data_folder,
    expand,
    inspect_shards,
    known_vocabulary,
    open_stream,
    read_stream,
)
from hybridlm.data.sidecar import Sidecar, sidecar_path
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import FormatError, InputError


@pytest.fixture
def folder(shard_dir: Path, tmp_path: Path) -> Path:
    """A data folder of its own, sidecars included."""
    return Path(shutil.copytree(shard_dir, tmp_path / "data"))


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings reach ``caplog`` even after a command has set logging up."""
    monkeypatch.setattr(logging.getLogger("hybridlm"), "propagate", True)
    caplog.set_level(logging.WARNING, "hybridlm")


@pytest.mark.parametrize("copy", ["link", "copy"])
def test_a_shard_given_twice_is_refused_by_content(folder: Path, tokenizer: Tokenizer, copy: str) -> None:
    (val,) = folder.glob("*_val_*.bin")
    other = folder / "copy_val_000000.bin"
    if copy == "link":
        other.symlink_to(val.name)
    else:
        shutil.copy(val, other)
    message = f"{val.name}: has the same content as .*copy_val_000000.bin"
    with pytest.raises(InputError, match=message):
        open_stream(expand(folder / "*_val_*.bin"), tokenizer.vocabulary)
    with pytest.raises(InputError, match=message):
        read_stream(expand(folder / "*_val_*.bin"))
    with pytest.raises(InputError, match="same content"):
        read_stream([val, val], max_tokens=2)


def test_shards_without_tokens_may_be_alike(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        _core.write_shard(str(tmp_path / name), np.empty(0, np.uint16))
    _core.write_shard(str(tmp_path / "c.bin"), np.ones(3, np.uint16))
    assert read_stream(expand(tmp_path / "?.bin")).tolist() == [1, 1, 1]


def test_globs_do_not_follow_loops(folder: Path) -> None:
    (folder / "l").symlink_to(".")
    (folder / "m").symlink_to("..")
    (folder / "deep").mkdir()
    inner = folder / "deep" / "x_val_0.bin"
    _core.write_shard(str(inner), np.ones(3, np.uint16))
    (val,) = folder.glob("*_val_*.bin")
    assert expand(folder / "**" / "*_val_*.bin") == sorted([val, inner])


@pytest.mark.parametrize("pattern", ["**x/*.bin", "***/*.bin"])
def test_a_pattern_that_is_no_glob_is_one_line(folder: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"not a glob|no file matches"):
        expand(folder / pattern)


@pytest.mark.parametrize("bos", [-1, 512, 70_000])
def test_a_document_token_outside_the_vocabulary_is_refused(folder: Path, bos: int) -> None:
    with pytest.raises(InputError, match="outside the vocabulary"):
        known_vocabulary(inspect_shards([str(path) for path in data_folder(folder)[1]]), size=512, bos_id=bos)


def test_globs_match_neither_sidecars_nor_what_is_hidden(folder: Path) -> None:
    hidden = folder / ".text.part"
    hidden.mkdir()
    _core.write_shard(str(hidden / "text_val_000000.bin"), np.ones(3, np.uint16))
    (val,) = folder.glob("*_val_*.bin")
    assert expand(folder / "*_val_*") == [val]
    assert expand(folder / "**" / "*_val_*") == [val]
    assert expand(folder / ".text.part" / "*") == [hidden / "text_val_000000.bin"]


def test_the_stream_names_what_it_was_read_from(folder: Path, tokenizer: Tokenizer) -> None:
    train, _ = data_folder(folder)
    stream = open_stream(train, tokenizer.vocabulary, max_tokens=70_000)
    assert stream.tokens.tolist() == np.concatenate([read_stream([path]) for path in train])[:70_000].tolist()
    assert [record.path for record in stream.shards] == [str(path) for path in train]
    for record, path in zip(stream.shards, train, strict=True):
        sidecar = Sidecar.beside(path)
        assert sidecar is not None and sidecar.sha256 == record.sha256
        assert sidecar.tokens == record.tokens == _core.shard_tokens(str(path))
        assert sidecar.text_bytes == tokenizer.byte_table.lengths(read_stream([path]), 0).sum()


def test_the_shards_of_another_tokenizer_are_refused(
    folder: Path, corpus: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """It has as many pieces, so nothing else would tell."""
    other = Tokenizer.train(corpus[:40], tmp_path / "other.model", tokenizer.vocab_size)
    for paths in data_folder(folder):
        with pytest.raises(InputError, match=f"SHA-256 is {tokenizer.fingerprint}.* {other.fingerprint}"):
            open_stream(paths, other.vocabulary)
    # A link leads to the sidecar of what it links to.
    link = tmp_path / "link.bin"
    link.symlink_to(data_folder(folder)[1][0])
    with pytest.raises(InputError, match="another tokenizer"):
        open_stream([link], other.vocabulary)


def test_a_shard_without_a_sidecar_is_read_with_one_warning(
    folder: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    train, _ = data_folder(folder)
    open_stream(train, tokenizer.vocabulary)
    assert "sidecar says" not in warnings(caplog)
    for path in train:
        sidecar_path(path).unlink()
    open_stream(train, tokenizer.vocabulary)
    (told,) = [line for line in warnings(caplog).split("\n") if "sidecar says" in line]
    assert told.startswith(f"{train[0]} and {len(train) - 1} more: no sidecar says")


@pytest.mark.parametrize("change", ["tokens", "bytes"])
def test_a_shard_that_is_not_its_sidecars_is_refused(folder: Path, tokenizer: Tokenizer, change: str) -> None:
    _, (val,) = data_folder(folder)
    tokens = read_stream([val])
    if change == "tokens":
        _core.write_shard(str(val), tokens[:-1])
    else:
        tokens[5] ^= 1
        _core.write_shard(str(val), tokens)
    with pytest.raises(InputError, match=r"not the shard that topics_val_000000\.bin\.json describes"):
        open_stream([val], tokenizer.vocabulary)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"7", b"{}", b"\xff", b'{"format": 2}', b"[" * 100_000, b"1" * 5000,
        b'{"format": 1, "shard": {"tokens": -1}}',
    ],
)  # fmt: skip
def test_what_is_no_sidecar_is_one_line(folder: Path, tokenizer: Tokenizer, text: bytes) -> None:
    _, (val,) = data_folder(folder)
    sidecar_path(val).write_bytes(text)
    with pytest.raises(FormatError, match=r"topics_val_000000\.bin\.json: "):
        open_stream([val], tokenizer.vocabulary)


@given(
    key=st.sampled_from(["tokens", "documents", "text_bytes", "sha256", "vocab_size", "bos_id"]),
    value=st.none() | st.floats() | st.integers(max_value=-1) | st.text(max_size=70) | st.lists(st.none()),
)
def test_no_wrong_field_of_a_sidecar_is_believed(
    shard_dir: Path, tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    (source,) = shard_dir.glob("*_val_*.bin.json")
    content = json.loads(source.read_text())
    content["shard" if key in content["shard"] else "tokenizer"][key] = value
    path = tmp_path_factory.mktemp("sidecar") / "x.bin.json"
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"x\.bin\.json"):
        Sidecar.beside(path.with_suffix(""))


def write(folder: Path, documents: Sequence[Sequence[int]], bos: int, name: str = "x.bin") -> Path:
    path = folder / name
    _core.write_shard(str(path), np.array([token for d in documents for token in [bos, *d]], np.uint16))
    return path


def test_a_document_token_that_begins_nothing_draws_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, [[7, 8, 1], [9]], 50256)
    open_stream([path], Vocabulary(50257, 50256))
    assert not warnings(caplog)
    open_stream([path], Vocabulary(50257, 1))
    assert "begins with token 50256, but documents are said to begin with token 1" in warnings(caplog)
    caplog.clear()
    open_stream([path], Vocabulary(50257, 2))
    assert "token 2, which occurs nowhere" in warnings(caplog)


def test_the_document_token_is_asked_for_and_not_assumed(tmp_path: Path) -> None:
    gpt2 = inspect_shards([str(write(tmp_path, [[7, 8, 1], [9]], 50256))])
    with pytest.raises(
        InputError, match=r"begins with token 50256, not with 1, as GPT-2 shards do: .* --bos-id 50256"
    ):
        known_vocabulary(gpt2, size=50257)
    assert known_vocabulary(gpt2, size=50257, bos_id=50256) == Vocabulary(50257, 50256)
    usual = inspect_shards([str(write(tmp_path, [[7, 8]], 1))])
    assert known_vocabulary(usual, size=50257) == Vocabulary(50257, 1)


def test_sidecars_say_what_nobody_has_given(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    train, _ = data_folder(folder)
    records = inspect_shards([str(path) for path in train])
    assert known_vocabulary(records) == tokenizer.vocabulary
    with pytest.raises(InputError, match="vocabulary's size is 512, but by what is given it is 1024"):
        known_vocabulary(records, size=1024)
    with pytest.raises(InputError, match="document token is 1, but by what is given it is 2"):
        known_vocabulary(records, bos_id=2)
    other = sidecar_path(train[1])
    other.write_text(other.read_text().replace(tokenizer.fingerprint, "ab" * 32))
    with pytest.raises(
        InputError, match=f"{train[1]}: made with another tokenizer: .*{sidecar_path(train[0]).name}"
    ):
        known_vocabulary(records)


@given(
    documents=st.lists(st.lists(st.integers(2, 5), max_size=3), min_size=1, max_size=12),
)
def test_repeated_documents_are_counted(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]]
) -> None:
    path = write(tmp_path_factory.mktemp("repeats"), documents, 1)
    repeated = sum(1 + len(d) for index, d in enumerate(documents) if d in documents[:index])
    assert open_stream([path], Vocabulary(6)).repeated_tokens == repeated


def test_a_text_that_repeats_itself_draws_a_warning(
    shard_dir: Path, tmp_path: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = read_stream(data_folder(shard_dir)[1])
    path = tmp_path / "twice_val_0.bin"
    _core.write_shard(str(path), np.concatenate([tokens, tokens]))
    stream = open_stream([path], tokenizer.vocabulary)
    assert stream.repeated_tokens == len(tokens)
    assert "50% of the tokens are in documents that are exact copies of earlier ones" in warnings(caplog)
