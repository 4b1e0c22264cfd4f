import dataclasses
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlm import _core
from hybridlm.data import shard_writer, shards
from hybridlm.data.documents import Document
from hybridlm.data.pieces import Kind
from hybridlm.data.shard_writer import DataFolderWriter, write_shard, write_shards
from hybridlm.data.shards import (
    data_folder,
    examine,
    expand,
    inspect_shards,
    known_vocabulary,
    open_stream,
    read_stream,
)
from hybridlm.data.sidecar import sidecar_path
from hybridlm.data.tokenizer import BOS, Tokenizer
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import FormatError, InputError


def shard_bytes(tokens: list[int]) -> bytes:
    """The format, spelled out."""
    return struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253) + struct.pack(
        f"<{len(tokens)}H", *tokens
    )


def as_documents(texts: list[str]) -> list[Document]:
    return [Document(str(number), text) for number, text in enumerate(texts)]


def split_at_bos(tokens: np.ndarray) -> list[list[int]]:
    starts = np.flatnonzero(tokens == BOS).tolist()
    return [tokens[start:end].tolist() for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True)]


def test_a_shard_is_the_format(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (summary,) = write_shards(as_documents(["first", "second one"]), [], tokenizer, tmp_path, name="t")
    tokens = [BOS, *tokenizer.encode("first").tolist(), BOS, *tokenizer.encode("second one").tolist()]
    assert summary.path == tmp_path / "t_train_000000.bin"
    assert (summary.split, summary.tokens, summary.documents) == ("train", len(tokens), 2)
    assert summary.path.read_bytes() == shard_bytes(tokens)


@pytest.mark.parametrize("shard_tokens", [1, 100, 5_000, 10**9])
def test_shards_hold_all_documents_and_are_cut_between_them(
    tmp_path: Path, corpus: list[str], tokenizer: Tokenizer, shard_tokens: int
) -> None:
    texts = corpus[:30]
    summaries = write_shards(as_documents(texts), [], tokenizer, tmp_path, shard_tokens=shard_tokens)
    expected = [[BOS, *tokenizer.encode(text).tolist()] for text in texts]
    parts = [split_at_bos(read_stream([summary.path])) for summary in summaries]
    assert [document for part in parts for document in part] == expected
    assert [summary.path.name for summary in summaries] == [
        f"text_train_{index:06d}.bin" for index in range(len(parts))
    ]
    sizes = [sum(map(len, part)) for part in parts]
    assert [(summary.tokens, summary.documents) for summary in summaries] == [
        (size, len(part)) for size, part in zip(sizes, parts, strict=True)
    ]
    for size, part, following in zip(sizes, parts, parts[1:], strict=False):
        assert size <= shard_tokens or len(part) == 1
        assert size + len(following[0]) > shard_tokens, "no shard is cut early"


def test_neither_batches_nor_threads_show(
    tmp_path: Path, corpus: list[str], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for batch, threads in ((4_000_000, 1), (1, 1), (30_000, 3)):
        monkeypatch.setattr(shard_writer, "_BATCH_CHARACTERS", batch)
        folder = tmp_path / f"{batch} {threads}"
        documents = as_documents(corpus[:20])
        written = write_shards(
            documents[3:], documents[:3], tokenizer, folder, shard_tokens=9_000, threads=threads
        )
        made.append([(summary.path.name, summary.path.read_bytes()) for summary in written])
    assert made[0] == made[1] == made[2]


def test_processes_do_not_show(
    tmp_path: Path, corpus: list[str], model_without_fallback: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer, "_BATCH_CHARACTERS", 10_000)
    loaded = Tokenizer.load(model_without_fallback)
    made = []
    for processes in (1, 3):
        folder = tmp_path / str(processes)
        with DataFolderWriter(
            folder, loaded, shard_tokens=9_000, processes=processes, allow_unknown=True
        ) as writer:
            for number, text in enumerate(corpus[:20]):
                writer.add("val" if number % 5 == 3 else "train", f"{text} 世界")
        assert len(writer.summaries) > 2
        files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
        made.append((files, str(writer.unknown), writer.unknown.total))
    assert made[0] == made[1]


def test_a_process_that_is_killed_leaves_one_error_and_no_files(
    tmp_path: Path, corpus: list[str], tokenizer: Tokenizer
) -> None:
    with (
        pytest.raises(InputError, match="use fewer --processes"),
        DataFolderWriter(tmp_path / "data", tokenizer, processes=2) as writer,
    ):
        writer.add("train", corpus[0])
        writer._encode()
        list(writer._encoder.finish())  # a process has started
        for process in writer._encoder._processes:
            process.kill()
        for text in corpus[:3]:
            writer.add("train", text)
            writer._encode()
    assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match="--processes is 0"):
        DataFolderWriter(tmp_path / "data", tokenizer, processes=0)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, InputError])
def test_an_interrupted_run_leaves_nothing(
    tmp_path: Path, corpus: list[str], tokenizer: Tokenizer, failure: type[BaseException]
) -> None:
    for folder in (tmp_path / "new", tmp_path):
        with pytest.raises(failure), DataFolderWriter(folder, tokenizer, shard_tokens=1) as writer:
            for text in corpus[:5]:
                writer.add("train", text)
            writer._encode()
            raise failure
        assert not any(tmp_path.iterdir())


def test_shards_that_are_there_are_replaced_only_on_request(
    tmp_path: Path, corpus: list[str], tokenizer: Tokenizer
) -> None:
    documents = as_documents(corpus[:6])
    first = write_shards(documents, documents[:1], tokenizer, tmp_path, shard_tokens=1)
    other = write_shards(documents[:1], [], tokenizer, tmp_path, name="other")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 2 * (len(first) + len(other)) == 16

    with pytest.raises(InputError, match=r"text_train_000000\.bin is there already; --force"):
        write_shards(documents, [], tokenizer, tmp_path)
    with (
        pytest.raises(KeyboardInterrupt),
        DataFolderWriter(tmp_path, tokenizer, replace=True) as writer,
    ):
        writer.add("train", "x")
        raise KeyboardInterrupt
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    (only,) = write_shards(documents, [], tokenizer, tmp_path, replace=True)
    left = [path for shard in (only.path, other[0].path) for path in (shard, sidecar_path(shard))]
    assert sorted(tmp_path.iterdir()) == sorted(left), "no stale shards stay"


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a_train_b", "x_val", ".hidden", "a*", "-o"])
def test_names_that_shards_cannot_have(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    with pytest.raises(InputError, match="can't name shards"):
        DataFolderWriter(tmp_path, tokenizer, name=name)


def test_a_shard_that_cannot_be_written_is_called_by_the_name_it_would_have(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    name = "n" * 250
    with (
        pytest.raises(OSError, match="too long") as caught,
        DataFolderWriter(tmp_path / "data", tokenizer, name=name) as writer,
    ):
        writer.add("train", "a text")
    assert caught.value.filename == str(tmp_path / "data" / f"{name}_train_000000.bin")
    assert not any(tmp_path.iterdir())


def test_sizes_and_folders_that_cannot_be(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for size in (0, -1, 2**31):
        with pytest.raises(InputError, match="a shard must have"):
            DataFolderWriter(tmp_path, tokenizer, shard_tokens=size)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="not a folder"):
        DataFolderWriter(tmp_path / "file", tokenizer)


def test_a_glob_is_sorted_and_must_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.bin", "a.bin", "c.txt", "[odd].bin"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in expand(f"{tmp_path}/?.bin")] == ["a.bin", "b.bin"]
    assert expand(tmp_path / "[odd].bin") == [tmp_path / "[odd].bin"]
    with pytest.raises(InputError, match=r"none_\*\.bin: no file matches"):
        expand(tmp_path / "none_*.bin")
    with pytest.raises(InputError, match=r"none\.bin: no such file"):
        expand(tmp_path / "none.bin")
    monkeypatch.chdir(tmp_path)
    assert expand("b*") == [Path("b.bin")]


def test_a_data_folders_shards(tmp_path: Path, shard_dir: Path) -> None:
    train, val = data_folder(shard_dir)
    assert len(train) > 1 and len(val) == 1
    assert train == sorted(train) and all("_train_" in path.name for path in train)

    for name in ("a_train_val_000.bin", "b_val_train_0.bin", "c_val_1.txt", "train_1.bin"):
        (tmp_path / name).write_bytes(b"")
    train, val = data_folder(tmp_path)
    assert [path.name for path in train] == ["b_val_train_0.bin"]
    assert [path.name for path in val] == ["a_train_val_000.bin"]


def test_data_folders_that_lack_something(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such folder"):
        data_folder(tmp_path / "none")
    with pytest.raises(InputError, match=r"no shards named \*_train_\*\.bin"):
        data_folder(tmp_path)
    (tmp_path / "a_train_0.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"no shards named \*_val_\*\.bin"):
        data_folder(tmp_path)


@given(
    contents=st.lists(st.lists(st.integers(0, 511), max_size=40), min_size=1, max_size=4, unique_by=tuple),
    max_tokens=st.none() | st.integers(1, 100),
)
def test_shards_are_read_as_one_stream(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[int]], max_tokens: int | None
) -> None:
    folder = tmp_path_factory.mktemp("stream")
    paths = []
    for index, tokens in enumerate(contents):
        paths.append(folder / f"{index}.bin")
        paths[-1].write_bytes(shard_bytes(tokens))
    expected = [token for tokens in contents for token in tokens][:max_tokens]
    if not expected:
        with pytest.raises(InputError, match="no tokens in"):
            read_stream(paths, 512, max_tokens)
        return
    stream = read_stream(paths, 512, max_tokens)
    assert stream.dtype == np.uint16
    assert stream.tolist() == expected


def test_foreign_and_damaged_shards_are_refused_by_name(tmp_path: Path) -> None:
    good = shard_bytes([1, 5, 700, 9])
    path = tmp_path / "some.bin"
    for damaged in (b"", good[:-1], good + b"\0", b"\0" + good[1:], good[:1000], b"text" * 500):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"some\.bin"):
            read_stream([path])
    path.write_bytes(good)
    assert read_stream([path], 701).tolist() == [1, 5, 700, 9]
    with pytest.raises(FormatError, match=r"some\.bin.*700"):
        read_stream([path], 700)
    with pytest.raises(InputError, match="no shards"):
        read_stream([])
    with pytest.raises(FileNotFoundError):
        read_stream([tmp_path / "none.bin"])


def test_what_is_in_a_shard(shard_dir: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data_folder(shard_dir)[0][0]
    tokens = read_stream([path])
    for part in (1 << 22, 1000, 1):
        if part == 1:
            tokens = tokens[:500]
            path = path.with_name("short.bin")
            _core.write_shard(os.fspath(path), tokens)
        monkeypatch.setattr(shards, "_PART_TOKENS", part)
        contents = examine(path, tokenizer)
        assert contents.tokens == len(tokens)
        assert contents.documents == (tokens == BOS).sum()
        assert contents.distinct_ids == len(set(tokens.tolist()))
        assert contents.max_id == tokens.max()
        assert contents.text_bytes == sum(
            len(tokenizer.decode(document).encode()) for document in split_at_bos(tokens)
        )
        assert examine(path).text_bytes is None
    path.unlink()


def test_how_documents_begin(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = ["one", "two words", "three whole words", "four"]
    (summary,) = write_shards(as_documents(texts), [], tokenizer, tmp_path)
    assert shards.beginnings(summary.path, tokenizer) == texts[:3]
    assert shards.beginnings(summary.path, tokenizer, documents=9) == texts
    _core.write_shard(os.fspath(tmp_path / "empty.bin"), np.empty(0, np.uint16))
    assert shards.beginnings(tmp_path / "empty.bin", tokenizer) == []


def test_gpt2_shards_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "fineweb_val_000000.bin"
    write_shard(path, np.array([50256, 464, 2068, 7586], np.uint16))
    with pytest.raises(InputError, match=r"fineweb_val_000000\.bin: .*GPT-2's tokens .*tokenizer\.json"):
        open_stream([path], tokenizer.vocabulary)
    assert len(open_stream([path], Vocabulary(50257, bos_id=50256))) == 4
    with pytest.raises(InputError, match=r"as GPT-2 shards do.*--bos-id 50256"):
        known_vocabulary(inspect_shards([str(path)]))


def test_what_is_doubtful_about_a_shard(
    tmp_path: Path, tokenizer: Tokenizer, sentencepiece_model: Callable[..., bytes]
) -> None:
    path = tmp_path / "t_val_000000.bin"
    text = tokenizer.encode("The value of the expression")

    def doubts(tokens: list[int], given: Tokenizer | None = tokenizer) -> str:
        write_shard(path, np.array(tokens, np.uint16))
        return " | ".join(examine(path, given).warnings)

    assert doubts([BOS, *text]) == doubts([BOS, *text], None) == ""
    assert "document token 1 occurs nowhere" in doubts([*text])
    assert "begins with token 7, not with the document token 1" in doubts([7, BOS, *text], None)
    assert "2 tokens are control or unused pieces (0, 2)" in doubts([BOS, 0, *text, 2])
    assert "only 2 of the tokenizer's 512 pieces occur" in doubts([BOS] + [300] * 600_000)
    bare = Tokenizer(
        sentencepiece_model(byte_fallback=False, vocab_size=200, treat_whitespace_as_suffix=False)
    )
    has_space = any(piece.whole == b" " for piece in bare.pieces)
    assert has_space == ("no piece for a space alone" not in doubts([BOS, 5], bare))
    unspaced = Tokenizer(tokenizer.model.serialized_model_proto())
    unspaced.pieces = [
        dataclasses.replace(piece, kind=Kind.UNUSED) if piece.whole == b" " else piece
        for piece in unspaced.pieces
    ]
    assert "no piece for a space alone" in doubts([BOS, 5], unspaced)
