import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.data import documents
from hybridlm.data.documents import Document, clean, deduplicate, read, split, split_stream
from hybridlm.errors import FormatError, InputError

words = st.sampled_from(["the", "of", "a", "cat", "sat", "on", "mat", "and", "dog", "ran", "far", "away"])
sentences = st.lists(words, min_size=1, max_size=25).map(" ".join)
paragraphs = st.lists(sentences, min_size=1, max_size=4).map("\n\n".join)
corpora = st.lists(paragraphs, max_size=12)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(paths: list[Path], **options: bool) -> list[str]:
    return [document.text for document in read(paths, **options)]


def test_blank_lines_separate_documents(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "\ufeffone\ntwo  \n\n\n three\r\n \t\r\nfour\x00\x07\n\n   \n")
    assert texts([path]) == ["one\ntwo", "three", "four"]
    assert [document.source for document in read([path])] == [f"{path}#{number}" for number in (1, 2, 3)]


def test_one_document_a_file(tmp_path: Path) -> None:
    long = "line of text\n" * 3000 + "\n\n\nend"
    paths = [write(tmp_path, "a.txt", long), write(tmp_path, "b.txt", "x\n\ny")]
    assert texts(paths, one_per_file=True) == [clean(long), "x\n\ny"]


def test_json_lines(tmp_path: Path) -> None:
    lines = [{"text": "first\n\nstill first", "url": "x"}, {"text": "  "}, {"text": "第二"}]
    path = write(tmp_path, "a.jsonl", "\n\n".join(json.dumps(line) for line in lines))
    assert texts([path]) == ["first\n\nstill first", "第二"]


@pytest.mark.parametrize("ends", ["\n", " ", ""])
def test_a_text_without_blank_lines_is_cut(tmp_path: Path, ends: str) -> None:
    text = "".join(f"word{number}{ends}" for number in range(30_000))
    parts = texts([write(tmp_path, "a.txt", text)])
    assert len(parts) > 5
    assert all(len(part) <= documents.LONGEST_DOCUMENT for part in parts)
    assert all(len(part) > documents.LONGEST_DOCUMENT * 0.9 for part in parts[:-1])
    assert (ends or "").join(parts).strip() == text.strip()


@given(
    text=st.text(st.sampled_from("ab é中🎉\n\r \t"), max_size=200),
    chunk=st.integers(1, 40),
    longest=st.integers(3, 300),
)
def test_how_a_file_is_read_does_not_show(
    tmp_path_factory: pytest.TempPathFactory, text: str, chunk: int, longest: int
) -> None:
    """Any size of the parts that a file is read in gives the same words; and the same documents, too."""
    path = write(tmp_path_factory.getbasetemp(), "chunks.txt", text + "\n\nend")
    with pytest.MonkeyPatch.context() as patch:
        whole = texts([path])
        patch.setattr(documents, "_CHUNK_BYTES", chunk)
        assert texts([path]) == whole
        patch.setattr(documents, "LONGEST_DOCUMENT", longest)
        parts = texts([path])
    assert all(len(part) <= longest for part in parts)
    assert re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", text + "end")


@given(
    before=st.text(max_size=60), chunk=st.integers(1, 30), bad=st.sampled_from([b"\xff", b"\xc3(", b"\x80"])
)
def test_a_byte_that_is_not_utf8_is_named(
    tmp_path_factory: pytest.TempPathFactory, before: str, chunk: int, bad: bytes
) -> None:
    start = before.encode()
    path = write(tmp_path_factory.getbasetemp(), "bad.txt", start + bad + b" more\n\ntext")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_CHUNK_BYTES", chunk)
        with pytest.raises(FormatError, match=rf"bad\.txt: not UTF-8 text: .* at byte {len(start)}$"):
            texts([path])


def test_a_character_cut_off_at_the_end_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"at byte 3$"):
        texts([write(tmp_path, "cut.txt", b"abc\xe4\xb8")])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"body": "x"}', 'no "text" string'),
        (b'{"text": 3}', 'no "text" string'),
        (b'["text"]', 'no "text" string'),
        (b'{"text": "x"', "not a line of JSON"),
        (b"text", "not a line of JSON"),
        (b'{"text": "\xff"}', "not UTF-8 text: .* at byte 28"),
        (rb'{"text": "\ud800"}', "surrogate pair at character 0"),
        (b"[" * 100_000, "not a line of JSON"),
    ],
)
def test_bad_json_lines_are_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": "fine"}\n\n' + line)
    with pytest.raises(FormatError, match=rf"a\.jsonl:3: .*{message}"):
        texts([path])


def test_files_that_cannot_be_read_are_refused_before_any_is_read(tmp_path: Path) -> None:
    good = write(tmp_path, "a.txt", "text")
    with pytest.raises(FileNotFoundError):
        read([good, tmp_path / "none.txt"])
    with pytest.raises(IsADirectoryError):
        read([good, tmp_path])


def test_no_text_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no text in .*a\.txt, .*b\.jsonl"):
        texts([write(tmp_path, "a.txt", " \n\n\t\n"), write(tmp_path, "b.jsonl", '{"text": ""}\n')])


def test_progress_adds_up_to_the_files(tmp_path: Path) -> None:
    paths = [write(tmp_path, "a.txt", "é" * 5000 + "\n\nb"), write(tmp_path, "b.jsonl", '{"text": "x"}\n')]
    counts: list[int] = []
    list(read(paths, on_bytes=counts.append))
    assert sum(counts) == sum(path.stat().st_size for path in paths)


def slow_deduplicate(given_documents: list[Document]) -> list[Document]:
    seen: set[tuple[str, ...]] = set()
    kept = []
    for document in given_documents:
        fresh = []
        for paragraph in document.text.split("\n\n"):
            found = re.findall(r"\w+", paragraph.lower())
            shingles = [tuple(found[at : at + 8]) for at in range(max(1, len(found) - 7))]
            if sum(shingle in seen for shingle in shingles) < 0.5 * len(shingles):
                fresh.append(paragraph)
            seen.update(shingles)
        if fresh:
            kept.append(Document(document.source, "\n\n".join(fresh)))
    return kept


@given(corpus=corpora)
def test_deduplication_equals_the_obvious_one(corpus: list[str]) -> None:
    """Few words make many repetitions; the reference compares tuples of words, not hashes."""
    given_documents = [Document(str(number), text) for number, text in enumerate(corpus)]
    assert deduplicate(given_documents) == slow_deduplicate(given_documents)


def test_deduplication_of_real_text(corpus: list[str]) -> None:
    originals = [Document(f"original {number}", text) for number, text in enumerate(corpus)]
    copies = [Document("copy", document.text.replace("object", "OBJECT")) for document in originals]
    once = deduplicate(originals)
    assert deduplicate([*originals, *copies]) == once == slow_deduplicate(originals)
    assert deduplicate(once) == once
    assert deduplicate([]) == []


@given(corpus=corpora, fraction=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_split(corpus: list[str], fraction: float, seed: int) -> None:
    given_documents = [Document(str(number), text) for number, text in enumerate(corpus)]
    train, val = split(given_documents, fraction)
    assert sorted([*train, *val], key=given_documents.index) == given_documents
    sides_are_sound(train, val, fraction)
    if val:
        total = sum(len(text) for text in corpus)
        largest = max(sum(len(d.text) for d in val if d.text == document.text) for document in val)
        assert sum(len(document.text) for document in val) <= fraction * total + largest

    shuffled = list(given_documents)
    random.Random(seed).shuffle(shuffled)
    assert set(split(shuffled, fraction)[1]) == set(val)


@given(corpus=corpora, fraction=st.floats(0, 0.99))
def test_split_as_documents_come(corpus: list[str], fraction: float) -> None:
    given_documents = [Document(str(number), text) for number, text in enumerate(corpus)]
    sides = list(split_stream(given_documents, fraction))
    assert {document for _, document in sides} == set(given_documents)
    assert len(sides) == len(given_documents)
    train = [document for side, document in sides if side == "train"]
    sides_are_sound(train, [document for side, document in sides if side == "val"], fraction)


def sides_are_sound(train: list[Document], val: list[Document], fraction: float) -> None:
    def distinct(some: list[Document]) -> set[str]:
        return {" ".join(document.text.split()) for document in some}

    assert not distinct(train) & distinct(val), "equal documents are never parted"
    if len(distinct([*train, *val])) > 1 and fraction > 0:
        assert train and val
    if fraction == 0 or len(distinct(train) | distinct(val)) <= 1:
        assert not val


def test_a_documents_side_does_not_depend_on_the_others(corpus: list[str]) -> None:
    every = [Document("", text) for text in corpus]
    side = {document.text: name for name, document in split_stream(every, 0.3)}
    some = {document.text: name for name, document in split_stream(every[::-3], 0.3)}
    assert len(set(some.values())) == 2
    assert all(side[text] == name for text, name in some.items())


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fractions_that_cannot_be(fraction: float) -> None:
    with pytest.raises(InputError, match="validation fraction"):
        split([Document("", "x")], fraction)
    with pytest.raises(InputError, match="validation fraction"):
        list(split_stream([], fraction))
