import itertools
import json
import logging
import random
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hybridlm.data import documents
from hybridlm.data.documents import Document, clean, deduplicate, read, sample, split, split_stream, text_hash
from hybridlm.errors import FormatError, InputError

words = st.sampled_from(["the", "of", "a", "cat", "sat", "on", "mat", "and", "dog", "ran", "far", "away"])
sentences = st.lists(words, min_size=1, max_size=25).map(" ".join)
paragraphs = st.lists(sentences, min_size=1, max_size=4).map("\n\n".join)
corpora = st.lists(paragraphs, max_size=12)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Every character that Python or Unicode takes for white space, every control, and what might pass for either.
LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
BLANKS = " \t\x1f\xa0\u1680\u2000\u2003\u200a\u202f\u205f\u3000"
CONTROLS = "".join(map(chr, [*range(1, 9), *range(0x0E, 0x1C), 0x7F])) + "\ufeff"
HOSTILE = "ab\u0301\u200b\u200d\u2060\u00ad\u180e\x80\x92\x9f\u2581\u2585\ufffd\ufffe中🎉🏽\U0010ffff"
hostile_text = st.text(
    st.sampled_from(HOSTILE + 3 * LINE_ENDS + BLANKS + CONTROLS)
    | st.characters(exclude_characters="\0", exclude_categories=["Cs"])
)


def with_blanks(text: str) -> str:
    """``text`` with a blank for each control that ends no line; Python takes only one of them for a blank."""
    return text.translate(dict.fromkeys(map(ord, CONTROLS + "\0\x1f"), " "))


def slow_documents(text: str) -> list[str]:
    """What is between blank lines, by ``str.splitlines``, which knows Unicode's line ends."""
    lines = [line.rstrip() for line in with_blanks(text).splitlines()]
    groups = itertools.groupby(lines, key=bool)
    return ["\n".join(group).strip() for filled, group in groups if filled]


def texts(paths: list[Path], **options: bool) -> list[str]:
    return [document.text for document in read(paths, **options)]


def test_blank_lines_separate_documents(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "\ufeffone\ntwo  \n\n\n three\r\n \t\r\nfour\x07\n\n   \n")
    assert texts([path]) == ["one\ntwo", "three", "four"]
    assert [document.source for document in read([path])] == [f"{path}#{number}" for number in (1, 2, 3)]


@given(text=hostile_text)
def test_cleaning_keeps_every_word(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.split() == with_blanks(text).split()
    assert clean(cleaned) == cleaned
    assert not set(cleaned) & set(LINE_ENDS[1:] + CONTROLS + "\x1f")
    assert "\n\n\n" not in cleaned
    assert all(line == line.rstrip() for line in cleaned.split("\n"))


@given(text=hostile_text, chunk=st.integers(1, 9))
def test_documents_are_what_is_between_blank_lines(
    tmp_path_factory: pytest.TempPathFactory, text: str, chunk: int
) -> None:
    path = write(tmp_path_factory.getbasetemp(), "hostile.txt", text + "\n\nend")
    with pytest.MonkeyPatch.context() as patch:
        for size in (1 << 20, chunk):
            patch.setattr(documents, "_CHUNK_BYTES", size)
            patch.setattr(documents, "_HEAD_BYTES", size)
            assert texts([path], plain=True) == slow_documents(text + "\n\nend")
            one = [clean(text + "\n\nend")]
            assert texts([path], plain=True, one_per_file=True) == one


@pytest.mark.parametrize("end", [*LINE_ENDS, "\r\n"])
def test_every_line_end_ends_a_line(tmp_path: Path, end: str) -> None:
    content = f"alpha beta{end}gamma{end}{end}delta{end} {end}epsilon{end}"
    assert texts([write(tmp_path, "a.txt", content)]) == ["alpha beta\ngamma", "delta", "epsilon"]
    record = json.dumps({"text": content})
    assert texts([write(tmp_path, "a.jsonl", record)]) == ["alpha beta\ngamma\n\ndelta\n\nepsilon"]


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_line_ends_across_parts_of_a_file(tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [f"document {number}\nof two lines" for number in range(60)]
    path = write(tmp_path, "a.txt", "\n\n".join(expected).replace("\n", end))
    for size in range(1, 40):
        monkeypatch.setattr(documents, "_HEAD_BYTES", size)
        monkeypatch.setattr(documents, "_CHUNK_BYTES", size)
        assert texts([path]) == expected


@given(
    text=st.text(st.sampled_from("abcd\u0301\u200d🎉 \t\u3000\n\r"), max_size=150),
    chunk=st.integers(1, 40),
    longest=st.integers(3, 12),
)
@example(text="aa\u200d a", chunk=1, longest=3)
@example(text="ab  cde", chunk=1, longest=3)
@example(text="ab\tcd\u3000e", chunk=1, longest=4)
def test_only_a_word_longer_than_a_document_is_cut(
    tmp_path_factory: pytest.TempPathFactory, text: str, chunk: int, longest: int
) -> None:
    path = write(tmp_path_factory.getbasetemp(), "cut.txt", text + "\n\nend")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "LONGEST_DOCUMENT", longest)
        parts = texts([path])
        patch.setattr(documents, "_CHUNK_BYTES", chunk)
        patch.setattr(documents, "_HEAD_BYTES", chunk)
        assert texts([path]) == parts
    assert all(len(part) <= longest for part in parts)
    pieces = " ".join(parts).split()
    for word in [*text.split(), "end"]:
        if len(word) <= longest:
            assert pieces.pop(0) == word
        else:
            while word:
                piece = pieces.pop(0)
                assert word.startswith(piece)
                word = word.removeprefix(piece)
    assert not pieces


@pytest.mark.parametrize(
    "cluster", ["e\u0301\u0323", "षि", "\u1112\u1161\u11ab", "👩🏽\u200d🚀", "葛\U000e0100", "❤\ufe0f"]
)
def test_no_document_ends_inside_a_character(tmp_path: Path, cluster: str) -> None:
    for offset in range(len(cluster)):
        text = "x" * offset + cluster * 10_000
        parts = texts([write(tmp_path, "a.txt", text)])
        assert len(parts) > 1 and "".join(parts) == text
        assert all(len(part) <= documents.LONGEST_DOCUMENT for part in parts)
        assert all(part.endswith(cluster) for part in parts)


def test_a_word_of_marks_alone_is_cut_all_the_same(tmp_path: Path) -> None:
    text = "e" + "\u0301" * 40_000
    assert "".join(texts([write(tmp_path, "a.txt", text)])) == text


def test_endless_white_space_takes_no_time(tmp_path: Path) -> None:
    """Quadratic time would be minutes; one part and nothing more is held in memory."""
    blank = " " * 1_000_000
    content = f"{blank}one{blank}two{blank}\n{blank}\nthree" + "\n" * 1_000_000 + "\t\r\n" * 300_000 + "four"
    expected = ["one" + " " * documents.MOST_BLANKS + "two", "three", "four"]
    assert texts([write(tmp_path, "a.txt", content)]) == expected
    assert clean(content) == "\n\n".join(expected)


def test_control_characters_are_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [write(tmp_path, "a.txt", "\ufeffman\x08\x08 a\x1bb"), write(tmp_path, "b.txt", "c\x1f\x0c d")]
    with caplog.at_level(logging.WARNING, "hybridlm"):
        assert texts(paths) == ["man   a b", "c\n d"]
    assert caplog.messages == ["3 control characters, mostly U+0008, were read as blanks"]


def test_a_file_given_twice_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "text")
    other = write(tmp_path, "b.txt", "other")
    (tmp_path / "link.txt").symlink_to(path)
    (tmp_path / "hard.txt").hardlink_to(path)
    with pytest.raises(InputError, match=r"a\.txt is named twice"):
        read([path, other, path])
    for name in ("link.txt", "hard.txt"):
        with pytest.raises(InputError, match=rf"{name} is the same file as .*a\.txt"):
            read([path, other, tmp_path / name])
    with pytest.raises(InputError, match="is the same file as"):
        read([path, tmp_path / "." / ".." / tmp_path.name / "a.txt"])


def test_files_with_the_same_bytes_draw_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [write(tmp_path, name, "same\n\ntext") for name in ("a.txt", "b.txt", "c.md")]
    paths += [write(tmp_path, name, "") for name in ("empty.txt", "empty too.txt")]
    with caplog.at_level(logging.WARNING, "hybridlm"):
        assert texts(paths) == ["same", "text"] * 3
    (message,) = caplog.messages
    assert re.fullmatch(
        r".*b\.txt has the same bytes as .*a\.txt and 1 more such: their text .* twice", message
    )


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
    before=st.text(st.characters(exclude_characters="\0\x1b", exclude_categories=["Cs"]), max_size=60),
    chunk=st.integers(1, 30),
    bad=st.sampled_from([b"\xff", b"\xc3(", b"\x80"]),
)
def test_a_byte_that_is_not_utf8_is_named(
    tmp_path_factory: pytest.TempPathFactory, before: str, chunk: int, bad: bytes
) -> None:
    start = before.encode()
    path = write(tmp_path_factory.getbasetemp(), "bad.txt", start + bad + b" more\n\ntext")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_CHUNK_BYTES", chunk)
        patch.setattr(documents, "_HEAD_BYTES", chunk)
        with pytest.raises(FormatError, match=rf"bad\.txt: not UTF-8 text: .* at byte {len(start)};"):
            texts([path], plain=True)


def test_a_character_cut_off_at_the_end_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"at byte 3; is the file cut off"):
        texts([write(tmp_path, "cut.txt", b"abc\xe4\xb8")])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"body": "x"}', 'no "text" string'),
        (b'{"text": 3}', 'no "text" string here: "text" is a number'),
        (b'{"text": null}', 'no "text" string here: "text" is null'),
        (b'{"text": ["x"]}', 'no "text" string here: "text" is an array'),
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
    with pytest.raises(InputError, match="is named twice"):
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
            found = re.findall(r"\w+", paragraph.lower()) or paragraph.split()
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


def test_paragraphs_without_words_are_told_apart() -> None:
    given_documents = [Document(str(number), text) for number, text in enumerate(["🎉 🎊", "+ −", "🎉 🎊"])]
    assert deduplicate(given_documents) == given_documents[:2] == slow_deduplicate(given_documents)


@given(corpus=corpora, most=st.integers(1, 2000))
def test_a_sample_is_of_the_largest_hashes(corpus: list[str], most: int) -> None:
    given_documents = [Document(str(number), text) for number, text in enumerate(corpus)]
    ranked = sorted(given_documents, key=lambda document: (-text_hash(document.text), int(document.source)))
    sizes = itertools.accumulate(len(document.text) for document in ranked)
    fitting = ranked[: max(1, sum(size <= most for size in sizes))]
    expected = sorted(fitting, key=lambda document: int(document.source))
    assert sample(given_documents, most) == expected


def test_a_sample_has_nothing_that_is_held_out(corpus: list[str]) -> None:
    pieces = [Document("", paragraph) for text in corpus for paragraph in text.split("\n\n")]
    held_out = {document.text for side, document in split_stream(pieces, 0.3) if side == "val"}
    assert len(held_out) > 100
    characters = sum(len(piece.text) for piece in pieces)
    assert not held_out & {document.text for document in sample(pieces, characters * 6 // 10)}


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
    if fraction == 0:
        assert [document for _, document in sides] == given_documents
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


def test_one_text_is_one_text_however_unicode_writes_it() -> None:
    """Tokenizers normalise, so a copy in another form must not end up on the other side of the split."""
    text = "Caf\u00e9 na\u00efve \ufb01ne " * 5
    forms = [unicodedata.normalize("NFD", text), text.replace("f", "\u200bf"), text + "\u200b"]
    assert {text_hash(form) for form in forms} == {text_hash(text)}
    assert text_hash("Cafe") != text_hash("Caf\u00e9")
