"""The same documents, however their files are named, packed and compressed."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridlm import _core
from hybridlm.data import text_files
from hybridlm.data.documents import read
from hybridlm.errors import FormatError, InputError

RECORDS = [
    {"id": number, "text": f"record {number}: naïve café", "body": f"b{number}"} for number in range(40)
]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
TEXTS = [record["text"] for record in RECORDS]

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": _core.compress,
}


def texts(*paths: Path | str, **options: str | bool) -> list[str]:
    return [document.text for document in read(paths, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PACK)
def test_compressed_files_are_read_by_what_they_hold(tmp_path: Path, kind: str) -> None:
    pack = PACK[kind]
    for name, content in {
        "one.txt": pack(LINES),
        # Files put one after the other, as cat does.
        "several": pack(LINES[:100]) + pack(LINES[100:1000]) + pack(LINES[1000:]),
        "empty member.jsonl": pack(b"") + pack(LINES),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        read_bytes: list[int] = []
        assert [document.text for document in read([path], on_bytes=read_bytes.append)] == TEXTS
        assert sum(read_bytes) == len(content)


@pytest.mark.parametrize("kind", PACK)
def test_a_large_compressed_file_is_read_in_parts(tmp_path: Path, kind: str) -> None:
    words = random.Random(1).choices(["alpha", "beta", "gamma", "delta"], k=400_000)
    text = "\n\n".join(" ".join(words[at : at + 200]) for at in range(0, len(words), 200))
    path = tmp_path / "text"
    path.write_bytes(PACK[kind](text.encode()))
    assert "\n\n".join(texts(path)) == text


@pytest.mark.parametrize("kind", PACK)
def test_damaged_and_cut_off_files_are_named(tmp_path: Path, kind: str) -> None:
    packed = PACK[kind](os.urandom(1000).hex().encode())
    path = tmp_path / "t.jsonl"
    for cut in (len(packed) // 2, len(packed) - 1, 20):
        path.write_bytes(packed[:cut])
        with pytest.raises(FormatError, match=rf"t\.jsonl: the {kind} data is (cut off|damaged)"):
            texts(path)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0x5A
    path.write_bytes(flipped)
    with pytest.raises(FormatError, match=rf"t\.jsonl: the {kind} data is damaged"):
        texts(path)
    path.write_bytes(packed + b"what follows is no frame")
    if kind in ("gzip", "zstd"):
        with pytest.raises(FormatError, match=r"damaged"):
            texts(path)


def test_a_small_zstd_file_of_much_text_takes_little_memory(tmp_path: Path) -> None:
    decoder = _core.ZstdDecoder("bomb")
    packed = _core.compress(bytes(200_000_000))
    assert len(packed) < 100_000
    content = decoder.decode(packed, 1 << 16)
    total = 0
    while len(content) == 1 << 16:
        total += len(content)
        content = decoder.decode(b"", 1 << 16)
    assert total + len(content) == 200_000_000 and not decoder.inside_frame


def test_folders_globs_and_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "b" / "c"
    inner.mkdir(parents=True)
    (tmp_path / ".hidden").write_text("hidden")
    for path, text in ((inner / "z.txt", "z"), (tmp_path / "b" / "y.txt", "y"), (tmp_path / "a.txt", "a")):
        path.write_text(text)
    (tmp_path / "a[1].txt").write_text("bracket")
    assert texts(tmp_path) == ["a", "bracket", "z", "y"]
    assert texts(tmp_path / "b" / "*.txt") == ["y"]
    assert texts(f"{tmp_path}/**/[yz].txt") == ["z", "y"]
    assert texts(f"{tmp_path}/**") == ["a", "bracket", "z", "y"]
    assert texts(tmp_path / "a[1].txt") == ["bracket"]
    for content in (LINES, gzip.compress(LINES), _core.compress(LINES)):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)))  # type: ignore[arg-type]
        monkeypatch.setattr(sys, "stdin", stdin)
        assert texts("-", tmp_path / "a.txt") == [*TEXTS, "a"]
    assert text_files.total_bytes([text_files.STDIN]) is None
    assert text_files.total_bytes(text_files.find([tmp_path / "b"])) == 2
    with pytest.raises(InputError, match="- is named twice"):
        read(["-", "-"])
    with pytest.raises(InputError, match="is named twice"):
        read([tmp_path / "b", tmp_path / "b" / "y.txt"])
    with pytest.raises(InputError, match="no file matches"):
        read([f"{tmp_path}/*.zst"])


def test_another_field(tmp_path: Path) -> None:
    expected = [record["body"] for record in RECORDS]
    (tmp_path / "lines").write_bytes(LINES)
    (tmp_path / "array").write_text(json.dumps(RECORDS))
    assert texts(tmp_path / "lines", text_field="body") == expected
    assert texts(tmp_path / "array", text_field="body") == expected
    with pytest.raises(FormatError, match=r'lines:1: no "content" string here, only .*--text-field names'):
        texts(tmp_path / "lines", text_field="content")
    (tmp_path / "twice").write_text('{"body": "a", "text": "c", "body": "b"}')
    with pytest.raises(FormatError, match='two members named "body"'):
        texts(tmp_path / "twice", text_field="body")


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.jsonl"
    table = pyarrow.Table.from_pylist(RECORDS)
    for schema in (
        table,
        table.set_column(1, "text", table["text"].cast(pyarrow.large_string())),
        table.set_column(1, "text", table["text"].dictionary_encode()),
    ):
        parquet.write_table(schema, path, row_group_size=7)
        told: list[int] = []
        found = list(read([path], on_bytes=told.append))
        assert [document.text for document in found] == TEXTS
        assert found[3].source == f"{path}[3]"
        assert sum(told) == path.stat().st_size
    assert texts(path, text_field="body") == [record["body"] for record in RECORDS]
    with pytest.raises(FormatError, match=r"no column 'content': its columns are 'id', 'text', 'body'"):
        texts(path, text_field="content")
    with pytest.raises(FormatError, match=r"column 'id' holds int64, not text"):
        texts(path, text_field="id")

    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match=r"rows\.jsonl: the Parquet file is damaged"):
        texts(path)
    parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(FormatError, match=r'rows\.jsonl\[1\]: no "text" string'):
        texts(path)
    parquet.write_table(pyarrow.table({"text": ["a", "b\0c"]}), path)
    with pytest.raises(FormatError, match=r"rows\.jsonl\[1\]: .*NUL"):
        texts(path)
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(path.read_bytes())))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(InputError, match="stdin: a Parquet file"):
        texts("-")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"PAR1\x15\x04\x15\x10" + bytes(20) + b"PAR1")
    monkeypatch.setattr("hybridlm.extras.installed", lambda package: package != "pyarrow")
    with pytest.raises(InputError, match=r"rows: a Parquet file needs PyArrow.*hybridlm\[parquet\]"):
        texts(path)
