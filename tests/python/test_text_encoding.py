import bz2
import csv
import gzip
import lzma
import pickle
import shutil
import subprocess
import zipfile
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest

from hybridlm.data.documents import read
from hybridlm.errors import FormatError

TEXTS = {
    "English": "The quick brown fox jumps over the lazy dog, once more.\nAnd again.\n\n",
    "German": "Größe und Übel: schöne Flüsse ziehen über die weiten Äcker dahin.\n",
    "Russian": "Быстрая лиса прыгает через ленивую собаку.\n",
    "Greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία\n",
    "Arabic": "نص حكيم له سر قاطع وذو شأن عظيم\n",
    "Hindi": "ऋषियों को सताने वाले दुष्ट राक्षसों\n",
    "Chinese": "　　我们的目标是让每个人都能读到这本书。\n",
    "Japanese": "これは日本語の文章です。カタカナもあります。\n",
    "Korean": "다람쥐 헌 쳇바퀴에 타고파.\n",
    "emoji": "so 🎉🎊😀 nice 👍🏽 a text\n",
}


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        list(read([path]))
    message = str(caught.value)
    assert message.startswith(f"{path}") and "\n" not in message
    return message


def follow(message: str, command: str) -> None:
    """Do what the message says, from ``command`` on."""
    if (program := command.split()[0]) and shutil.which(program) is None:
        pytest.skip(f"there is no {program} here")
    subprocess.run(message[message.index(f"{command} ") :], shell=True, check=True)


def words(path: Path) -> list[str]:
    return " ".join(document.text for document in read([path])).split()


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("width", [16, 32])
def test_utf_16_and_32_are_named_and_converted_by_the_advice(
    tmp_path: Path, language: str, width: int
) -> None:
    path, converted = tmp_path / "a text.txt", tmp_path / "a text.utf8.txt"
    text = TEXTS[language] * 3
    for encoding in (f"utf-{width}", f"utf-{width}-le", f"utf-{width}-be"):
        message = refusal(path, text.encode(encoding))
        name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
        assert name in message and f"-f {name} -t UTF-8" in message
        follow(message, "iconv")
        assert words(converted) == text.split()


def test_the_byte_order_is_that_of_the_file_even_behind_its_first_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridlm.data.documents._HEAD_BYTES", 31)
    text = "\u0101" * 16 + "plain from here on"
    for encoding, name, nul in (("utf-16-le", "UTF-16LE", 33), ("utf-16-be", "UTF-16BE", 32)):
        message = refusal(tmp_path / "late.txt", text.encode(encoding))
        assert f"a NUL at byte {nul}; looks like {name}" in message


def test_a_utf8_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "marked.txt"
    path.write_bytes("one\n\ntwo".encode("utf-8-sig"))
    assert [document.text for document in read([path])] == ["one", "two"]
    path.write_bytes('{"text": "one"}\n'.encode("utf-8-sig"))
    assert [document.text for document in read([path])] == ["one"]


def test_a_text_with_a_nul_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    message = refusal(path, "Fluß\0 und Meer\n".encode())
    assert "a NUL at byte 5; if it is text all the same: tr" in message
    follow(message, "tr")
    assert words(tmp_path / "t.utf8.txt") == ["Fluß", "und", "Meer"]
    for binary in (bytes(range(256)) * 20, bytes(100_000)):
        assert "no text file" in refusal(path, binary)
    late = b"a word " * 300_000
    assert f"a NUL at byte {len(late)};" in refusal(path, late + b"\0")
    assert "a NUL at byte 13;" in refusal(path, b'{"text": "one\0"}\n')


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_latin_1_is_named_and_converted_by_the_advice(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.txt"
    message = refusal(path, TEXTS["German"].encode(encoding))
    assert "not UTF-8 text: invalid start byte at byte 2; looks like Windows-1252 or Latin-1" in message
    follow(message, "iconv")
    assert words(tmp_path / "t.utf8.txt") == TEXTS["German"].split()


@pytest.mark.parametrize(
    ("encoding", "language"),
    [("koi8-r", "Russian"), ("cp1251", "Russian"), ("shift_jis", "Japanese"), ("gb18030", "Chinese")],
)
def test_other_old_encodings_are_not_called_latin_1(tmp_path: Path, encoding: str, language: str) -> None:
    message = refusal(tmp_path / "t.txt", TEXTS[language].encode(encoding))
    assert "find out its encoding" in message and "1252" not in message


def test_an_encoding_that_is_valid_ascii_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    message = refusal(path, TEXTS["Japanese"].encode("iso2022_jp"))
    assert "ISO-2022-JP" in message
    follow(message, "iconv")
    assert words(tmp_path / "t.utf8.txt") == TEXTS["Japanese"].split()


def test_damaged_utf8_is_told_from_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    message = refusal(path, TEXTS["Russian"].encode() + b"\xff and" + TEXTS["Russian"].encode())
    assert "most of it is UTF-8" in message and "iconv -c -f UTF-8" in message


@pytest.mark.parametrize(
    ("content", "kind", "advice"),
    [
        (
            gzip.compress(gzip.compress(b"text", mtime=0), mtime=0),
            "compressed with gzip",
            "gzip -dc {path} | gzip -dc > {folder}/t",
        ),
        (
            bz2.compress(lzma.compress(b"text")),
            "compressed with xz",
            "bzip2 -dc {path} | xz -dc > {folder}/t",
        ),
        (b"\x04\x22\x4d\x18\x64\x40\xa7", "compressed with lz4", "lz4 -dc < {path} > {folder}/t"),
        (bytes(257) + b"ustar\x0000", "a tar archive", "tar x < {path}"),
        (gzip.compress(bytes(257) + b"ustar  \0", mtime=0), "a tar archive", "gzip -dc {path} | tar x"),
        (b"%PDF-1.7\n% text", "a PDF", "pdftotext {path}"),
    ],
)
def test_other_formats_are_named_whatever_the_files_name(
    tmp_path: Path, content: bytes, kind: str, advice: str
) -> None:
    for name in ("t.txt", "t.jsonl"):
        path = tmp_path / name
        message = refusal(path, content)
        assert kind in message and advice.format(path=path, folder=tmp_path) in message


@pytest.mark.parametrize("packing", ["gzip", "bzip2", "xz"])
def test_the_advice_for_compressed_text_decompresses_it(tmp_path: Path, packing: str) -> None:
    compress = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}[packing]
    suffix = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz"}[packing]
    german = TEXTS["German"]
    for content in (german.encode("utf-16-le"), german.encode("latin-1"), german.encode() + b"\0"):
        follow(refusal(tmp_path / f"t.txt{suffix}", compress(content)), f"{packing} -dc")
        assert words(tmp_path / "t.utf8.txt") == german.split()


def test_the_advice_for_stdin_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content, advice in (
        (TEXTS["German"].encode("utf-16-le"), "… | iconv -f UTF-16LE -t UTF-8 | hybridlm …"),
        (gzip.compress(TEXTS["German"].encode("latin-1")), "… | gzip -dc | iconv -f WINDOWS-1252"),
        (b"one word\0 and two", r"… | tr '\000' ' ' | hybridlm …"),
        (b'{"a": [}', "… | jq -c . | hybridlm …"),
        (b"PK\x03\x04", "unpack it first"),
    ):
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(content)))
        with pytest.raises(FormatError) as caught:
            list(read(["-"]))
        assert str(caught.value).startswith("stdin: ") and advice in str(caught.value)


def test_no_program_s_data_are_called_utf_16(tmp_path: Path) -> None:
    for content in (
        pickle.dumps(["a sentence of some words"] * 3 + [TEXTS["English"]]),
        np.arange(2000, dtype="<u2").tobytes(),
    ):
        assert "it is no text file" in refusal(tmp_path / "data.bin", content)


@pytest.mark.parametrize("name", ["a table.csv", "a table.tsv.gz"])
def test_a_table_is_refused_and_converted_by_the_advice(tmp_path: Path, name: str) -> None:
    rows = [["id", "text"], ["1", 'one, "two"'], ["2", "three\nfour"]]
    content = StringIO()
    csv.writer(content, "excel-tab" if ".tsv" in name else "excel").writerows(rows)
    packed = content.getvalue().encode()
    message = refusal(tmp_path / name, gzip.compress(packed) if name.endswith(".gz") else packed)
    assert "a table by its name" in message and "--text-field" in message
    advice = message.removesuffix("; `data shard --plain` takes it for prose")
    follow(advice, "gzip -dc" if name.endswith(".gz") else "python3")
    assert [document.text for document in read([tmp_path / "a table.jsonl"])] == ['one, "two"', "three\nfour"]
    (tmp_path / "prose.csv").write_text("id and text")
    assert [document.text for document in read([tmp_path / "prose.csv"], plain=True)] == ["id and text"]


def test_an_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    assert "a zip archive" in refusal(tmp_path / "t.docx", (tmp_path / "made.zip").read_bytes())


def test_what_only_begins_like_another_format_is_text(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    for text in ("PAR1 is a receptor", "PK is a knockout", "BZh9 is no word", "%PD"):
        path.write_text(text)
        assert words(path) == text.split()
