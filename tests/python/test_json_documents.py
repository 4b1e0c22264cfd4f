import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.data import documents, json_documents
from hybridlm.data.documents import clean, read
from hybridlm.data.origin import Origin
from hybridlm.errors import FormatError

RECORDS = [{"text": "first\n\nstill first", "url": "x"}, {"text": "第二", "meta": {"a": [1, 2.5, None]}}]
TEXTS = ["first\n\nstill first", "第二"]
LINES = "\n".join(map(json.dumps, RECORDS))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(path: Path, **options: bool) -> list[str]:
    return [document.text for document in read([path], **options)]


def refusal(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        texts(path)
    message = str(caught.value)
    assert message.startswith(f"{path}") and "\n" not in message and len(message) < 1000
    return message


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.JSONL", "a.json", "a.txt", "a"])
@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES + "\n",
        "\n\n  " + LINES.replace("\n", "\n\n"),
        LINES.replace("\n", "\r\n"),
        LINES.replace("\n", "\r"),
        "\ufeff" + LINES.replace("\n", "\n\ufeff"),
        "\x1e" + LINES.replace("\n", "\n\x1e"),
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2, ensure_ascii=False),
        json.dumps(TEXTS),
        "\ufeff " + json.dumps(RECORDS) + "\n\n",
    ],
)
def test_json_is_recognised_by_its_content(tmp_path: Path, name: str, content: str) -> None:
    assert texts(write(tmp_path, name, content)) == TEXTS


@pytest.mark.parametrize(
    "prose",
    [
        "[1] Smith et al. say so.\n\n[2] Jones doesn't.",
        "[1] [2] and [3] are references",
        "[Chorus]\nla la la",
        "{x | x > 0} is a set",
        "{} is an empty dictionary, [] an empty list",
        '{"a": 1} is a dictionary in Python',
        "{'a': 1}\n\nis another",
        '["Well," he said, "I don\'t know."]',
        "[[wiki link]] and {{template}}",
        "{",
        "[",
        "{{{{",
        '"quoted"\n"and again"',
        "3\n4",
        'The server answers\n{"error": "not found"}\nto that.',
        '{"error": 404}\nis what it says, and never\n{"error": 500}\nunless it burns.',
        "[0]\nand then a text",
    ],
)
def test_prose_that_begins_like_json_is_prose(tmp_path: Path, prose: str) -> None:
    for ending in ("", " and more of it" * 10_000):
        path = write(tmp_path, "a.txt", prose + ending)
        assert " ".join(texts(path)).split() == (prose + ending).split()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(RECORDS[0], indent=2), "neither JSON Lines nor an array"),
        ("\n".join(json.dumps(record, indent=2) for record in RECORDS), "neither JSON Lines nor an array"),
        (json.dumps({"data": RECORDS}), r'a\.txt:1: no "text" string here, only .data.'),
        ('{"text": "one"}{"text": "two"}', "neither JSON Lines nor an array"),
        ('{"text": "one"} {"text": "two"}', "neither JSON Lines nor an array"),
        ('{"text": "one"},\n{"text": "two"}\n', "begins like JSON, but isn't"),
        ('{\n  "text": "one",\n}', "begins like JSON, but isn't: expecting property name .* character"),
        ('[{"text": "one"},]', "begins like JSON, but isn't"),
        ('[{"text": "one"}', "begins like JSON, but isn't"),
        ('["a"]\n["b"]', "neither JSON Lines nor an array"),
        ("[1, 2]", r'a\.txt\[0\]: no "text" string'),
        ("{}", r'a\.txt:1: no "text" string'),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('[{"text": "one"}, {"body": "two"}]', r'a\.txt\[1\]: no "text" string here, only .body.'),
        ('{"text": "one"}\nbroken', r"a\.txt:2: not a line of JSON: expecting value at character 0"),
        ('{"text": "one"}\n{"text": "two}\n', r"a\.txt:2: not a line of JSON: unterminated string"),
        ('{"text": "one\n{"text": "two"}\n{"text": "three"}', r"a\.txt:1: not a line of JSON"),
        ('# made by hand\n{"text": "one"}\n{"text": "two"}', r"a\.txt:1: not a line of JSON"),
        ('{"a": "one"}\n{"a": "two"}', r'a\.txt:1: no "text" string'),
        ('{"text": "one", "text": "two"}', r'a\.txt:1: .*two members named "text"'),
        (r'{"text": "one\u0000two"}', r'"text" has a NUL \(U\+0000\) at character 3'),
        (r'["\ud800"]', r"a\.txt\[0\]: .*half of a surrogate pair"),
        (b'["one", "\xff"]', "not UTF-8 text: .* at byte 9"),
    ],
)
def test_json_that_is_not_lines_or_an_array_of_texts_is_refused(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = write(tmp_path, "a.txt", content)
    with pytest.raises(FormatError, match=message) as caught:
        texts(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_large_json_is_recognised_by_its_beginning(tmp_path: Path) -> None:
    long = "word " * 40_000
    assert texts(write(tmp_path, "a.txt", f'{{"text": "{long}"}}\n' + LINES))[1:] == TEXTS
    assert texts(write(tmp_path, "a.txt", json.dumps([long, long]))) == [long.strip()] * 2
    assert "neither" in refusal(write(tmp_path, "a.txt", json.dumps([{"a": long}])[1:-1].replace("{", "{\n")))
    assert "neither" in refusal(write(tmp_path, "a.txt", json.dumps(RECORDS[0], indent=1) * 1000))


@given(cut=st.integers(1, 400), ascii_only=st.booleans())
def test_where_the_beginning_ends_does_not_show(cut: int, ascii_only: bool) -> None:
    """A beginning that ends anywhere, inside of a token or a character too, is recognised all the same."""
    record = {"a\\": ["é🎉\n", -1.5e3, True, None, {}], "text": "x"}
    lines = "\n".join(json.dumps(record, ensure_ascii=ascii_only) for _ in range(9)).encode()
    array = json.dumps([record] * 9, ensure_ascii=ascii_only).encode()
    pretty = json.dumps(record, ensure_ascii=ascii_only, indent=1).encode() * 9
    path = Path("a.txt")
    assert json_documents.recognise(Origin(path), lines[:cut], whole=False) == "lines"
    assert json_documents.recognise(Origin(path), array[:cut], whole=False) == "array"
    if cut > 3:
        with pytest.raises(FormatError, match="neither JSON Lines nor an array"):
            json_documents.recognise(Origin(path), pretty[:cut], whole=False)


@given(
    given_texts=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
    ),
    chunk=st.integers(1, 60),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    ascii_only=st.booleans(),
)
def test_every_text_comes_back_whole(
    tmp_path_factory: pytest.TempPathFactory, given_texts: list[str], chunk: int, end: str, ascii_only: bool
) -> None:
    kept = [cleaned for text in given_texts if (cleaned := clean(text))]
    kept.append("the end")
    records = [json.dumps({"text": text}, ensure_ascii=ascii_only) for text in [*given_texts, "the end"]]
    folder = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        for content in (end.join(records), f"[{', '.join(records)}]"):
            path = write(folder, "whole.json", content)
            patch.setattr(documents, "_HEAD_BYTES", 1 << 16)
            assert texts(path) == kept
            patch.setattr(documents, "_CHUNK_BYTES", chunk)
            patch.setattr(documents, "_HEAD_BYTES", chunk)
            assert texts(path) == kept


def test_lines_are_numbered_whatever_ends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for end in ("\n", "\r\n", "\r"):
        path = write(tmp_path, "a.jsonl", end.join(['{"text": "one"}', "", '{"text": "two"}', "broken"]))
        for size in range(1, 40):
            monkeypatch.setattr(documents, "_HEAD_BYTES", size)
            monkeypatch.setattr(documents, "_CHUNK_BYTES", size)
            with pytest.raises(FormatError, match=r"a\.jsonl:4: not a line of JSON"):
                texts(path)


def test_numbers_are_skipped_however_long(tmp_path: Path) -> None:
    digits = "9" * 10_000
    path = write(tmp_path, "a.jsonl", f'{{"text": "one", "id": {digits}, "x": {digits}.{digits}e{digits}}}')
    assert texts(path) == ["one"]


def test_an_array_that_is_too_large_to_be_parsed_at_once_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "a.json", json.dumps(["word " * 40] * 1000))
    assert len(texts(path)) == 1000
    monkeypatch.setattr(json_documents, "LONGEST_ARRAY", 1 << 17)
    message = refusal(path)
    assert "too large" in message and f"jq -c '.[]' < {path} > {path.with_suffix('.jsonl')}" in message


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.NDJSON"])
def test_a_file_named_as_json_is_never_prose(tmp_path: Path, name: str) -> None:
    assert ":1: not a line of JSON" in refusal(write(tmp_path, name, "Just some prose.\n\nAnd more."))
    assert "begins like an array of JSON, but isn't one" in refusal(write(tmp_path, name, "[1] Smith"))
    assert ":1: not a line of JSON" in refusal(write(tmp_path, name, "{'text': 'one'}"))


def test_plain_is_prose_whatever_it_looks_like(tmp_path: Path) -> None:
    for content in (LINES, json.dumps(RECORDS, indent=1), '{"text": "one",}', "[" * 10_000):
        assert texts(write(tmp_path, "a.json", content), plain=True) == [content]


def test_json_lines_are_documents_with_one_per_file_too(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "a.txt", LINES), one_per_file=True) == TEXTS
