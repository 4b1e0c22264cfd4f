"""The bytes of a document's tokens sum to the UTF-8 length of its decoded text, whatever the tokenizer."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridlm.data import byte_table
from hybridlm.data.case_folding import MARKS, SHIFT
from hybridlm.data.pieces import Kind, Piece, mark_tokens
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import FormatError, InputError

Models = Callable[..., bytes]

TRICKY = [
    "plain words",
    "  leading and   inner \t spaces \n",
    "café, naïve, Straße, 中文, Ελληνικά",
    "emoji 🎉🧑‍🚀 and a replacement � character, twice ��",
    "a lower one eighth block ▁ looks like a space, and ▅ like nothing else",
    "<s> </s> <pad> <unk> <0x41> are text here",
    "ﬁ ½ ™ Ａ change under NFKC",
    "control \x00\x07\x1b characters\u200b\ufeff",
    "12345 67",
    "CAPS, McCaps and A B; ÉTÉ, Ωμέγα, H\u0331 and İ; the marks \ue000x \ue001\ue002\ue010 themselves",
]

KEPT = {"remove_extra_whitespaces": False, "normalization_rule_name": "identity"}
NO_BYTES = {"byte_fallback": False, "vocab_size": 120}
SPACED_SYMBOLS = ["▁▁▁▁", "▁▁", "q r", "▁the", "n▁i", " v", "e "]

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no dummy prefix": {"add_dummy_prefix": False},
    "spaces kept": {**KEPT, "add_dummy_prefix": False},
    "spaces kept, with a dummy prefix": KEPT,
    "pieces of spaces": {**KEPT, "add_dummy_prefix": False, "allow_whitespace_only_pieces": True},
    "pieces of spaces, with a dummy prefix": {**KEPT, "allow_whitespace_only_pieces": True},
    "suffixes": {"treat_whitespace_as_suffix": True},
    "suffixes, spaces kept": {**KEPT, "treat_whitespace_as_suffix": True},
    "no splits at spaces": {**NO_BYTES, **KEPT, "split_by_whitespace": False, "model_type": "unigram"},
    "unigram": {"model_type": "unigram"},
    "characters": {"model_type": "char", **KEPT},
    "words": {"model_type": "word", **NO_BYTES},
    "words, spaces kept": {"model_type": "word", **NO_BYTES, **KEPT, "add_dummy_prefix": False},
    "no byte fallback": NO_BYTES,
    "an unknown piece without a mark": {**NO_BYTES, "unk_surface": ""},
    "an unknown piece with a space for a mark": {**NO_BYTES, **KEPT, "unk_surface": " "},
    "folded case": {"normalization_rule_name": "nfkc_cf", "add_dummy_prefix": False},
    "marks for capitals": {"add_dummy_prefix": False, "user_defined_symbols": list(MARKS)},
    "marks for capitals, spaces kept": {
        **KEPT,
        "add_dummy_prefix": False,
        "user_defined_symbols": list(MARKS),
    },
    "symbols with spaces": {"user_defined_symbols": SPACED_SYMBOLS},
    "symbols with spaces, spaces kept": {**KEPT, "user_defined_symbols": [*SPACED_SYMBOLS, "▁"]},
    "a symbol that looks like a byte": {**NO_BYTES, "user_defined_symbols": ["<0x41>", "<0xZZ>"]},
    "control symbols with spaces": {**KEPT, "control_symbols": ["<sep>", "c d", "▁e"]},
    "documents begin with piece 7": {"bos_id": 7},
}

# Fields of a ModelProto, which come on top of those of the model before them.
NORMALISER = {"dummy prefix": b"\x1a\x02\x18", "extra spaces": b"\x1a\x02\x20", "escapes": b"\x1a\x02\x28"}


def extra_piece(text: str, kind: int) -> bytes:
    piece = (
        b"\x0a" + bytes([len(text.encode())]) + text.encode() + b"\x15\x00\x00\x00\x00\x18" + bytes([kind])
    )
    return b"\x0a" + bytes([len(piece)]) + piece


USER_DEFINED, UNUSED = 4, 5

PATCHES = {
    "unescaped spaces": NORMALISER["escapes"] + b"\x00",
    "unescaped spaces, kept": NORMALISER["escapes"] + b"\x00" + NORMALISER["extra spaces"] + b"\x00",
    "unused pieces": extra_piece("▁not used", UNUSED) + extra_piece("nor this", UNUSED),
    "a group that nobody knows": b"\x63\x08\x01\x64",
}

NAMES = [*SETTINGS, *PATCHES]


@pytest.fixture(scope="module")
def tokenizers(sentencepiece_model: Models) -> dict[str, Tokenizer]:
    made = {name: Tokenizer(sentencepiece_model(**chosen), name) for name, chosen in SETTINGS.items()}
    return made | {name: Tokenizer(sentencepiece_model() + patch, name) for name, patch in PATCHES.items()}


def stream_of(tokenizer: Tokenizer, *texts: str) -> np.ndarray:
    documents = [[tokenizer.bos_id, *tokenizer.encode(text).tolist()] for text in texts]
    return np.array([token for document in documents for token in document], np.uint16)


def text_bytes(tokenizer: Tokenizer, tokens: list[int]) -> int:
    """The UTF-8 length of the text that one document's tokens decode to: each byte piece is one byte, whether
    or not the bytes form a character; marks of lost text and of capitals are no text."""
    model = tokenizer.model
    letters = [model.piece_to_id("<0x41>") if model.is_byte(token) else token for token in tokens]
    marks = tokens.count(model.unk_id()) * len(model.decode([model.unk_id()]).encode())
    capitals = sum(token in mark_tokens(model) for token in tokens) * len(SHIFT.encode())
    return len(model.decode(letters).encode()) - marks - capitals


def added_bytes(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """What each token of a stream adds to its document's text: the slow and obvious way."""
    added = []
    document: list[int] = []
    for token in tokens:
        if token == tokenizer.bos_id:
            document = []
        before = text_bytes(tokenizer, document)
        document.append(token)
        added.append(text_bytes(tokenizer, document) - before)
    return added


HOSTILE = st.text(
    st.one_of(
        st.sampled_from(
            "   ▁▁aethn\t\n\r\u00a0\u3000\u2028\u200b\ufeff\ufffd\u0301é中🎉ﬁ½▅<>0x41s\x07\x1b\x7f\x85"
        ),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    max_size=25,
)
SPACED = st.builds(lambda spaces, text: " " * spaces + text, st.integers(0, 5), HOSTILE)


@settings(max_examples=400)
@given(name=st.sampled_from(NAMES), texts=st.lists(SPACED, min_size=1, max_size=4))
def test_documents_sum_to_their_decoded_texts_whatever_the_settings(
    tokenizers: dict[str, Tokenizer], name: str, texts: list[str]
) -> None:
    tokenizer = tokenizers[name]
    total = 0
    for text in texts:
        tokens = tokenizer.encode(text).tolist()
        lengths = tokenizer.byte_table.lengths(stream_of(tokenizer, text))
        if tokenizer.model.unk_id() not in tokens:
            assert lengths.sum() == len(tokenizer.decode(tokens).encode())
        assert lengths.sum() == text_bytes(tokenizer, tokens)
        total += int(lengths.sum())
    assert tokenizer.byte_table.lengths(stream_of(tokenizer, *texts)).sum() == total


@settings(max_examples=400)
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_any_tokens_count_what_they_add(
    tokenizers: dict[str, Tokenizer], data: st.DataObject, name: str
) -> None:
    """Also tokens that no text is encoded to: control pieces, broken characters, odd runs of spaces."""
    tokenizer = tokenizers[name]
    special = [
        token
        for token, piece in enumerate(tokenizer.pieces)
        if piece.kind not in (Kind.TEXT, Kind.BYTE) or not piece.text.strip()
    ]
    token = st.sampled_from(special) | st.integers(0, tokenizer.vocab_size - 1)
    tokens = data.draw(st.lists(token, max_size=20))
    stream = np.array(tokens, np.uint16)
    expected = added_bytes(tokenizer, tokens)
    start = data.draw(st.integers(0, len(tokens) + 2))
    assert tokenizer.byte_table.lengths(stream, start).tolist() == expected[start:]
    # The same in parts.
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=3)))
    counter = tokenizer.byte_table.counter()
    parts = [counter.lengths(part).tolist() for part in np.split(stream, cuts)]
    assert [length for part in parts for length in part] == expected


def test_all_ways_of_dropping_leading_spaces_are_tried(tokenizers: dict[str, Tokenizer]) -> None:
    """The settings above cover what a decoder can do where a text begins, and pieces that show it."""

    def drops(tokenizer: Tokenizer) -> tuple[bool, bool]:
        space = next(piece for piece in tokenizer.pieces if piece.whole == b" ")
        return space.leading_space, space.blank

    seen = {drops(tokenizers[name]) for name in NAMES if b" " in [p.whole for p in tokenizers[name].pieces]}
    assert seen == {(False, False), (True, False), (True, True)}
    inner = [piece.text for piece in tokenizers["symbols with spaces"].pieces]
    assert {b"q r", b"n i", b" v", b"e ", b"   "} <= set(inner)
    assert any(len(piece.text.split(b" ")) > 2 for piece in tokenizers["no splits at spaces"].pieces)
    assert {piece.kind for tokenizer in tokenizers.values() for piece in tokenizer.pieces} == set(Kind)


def test_leading_spaces_that_are_kept_are_counted(
    tokenizers: dict[str, Tokenizer], corpus: list[str]
) -> None:
    """With white space kept and nothing normalised the bytes are the file's own."""
    texts = [" " * (1 + at % 4) + text[:300] for at, text in enumerate(corpus)]
    for name in ("spaces kept", "pieces of spaces"):
        stream = stream_of(tokenizers[name], *texts)
        assert tokenizers[name].byte_table.lengths(stream).sum() == len("".join(texts).encode())


@pytest.mark.parametrize("text", TRICKY)
def test_our_tokenizer_s_bytes_sum_to_the_decoded_text(tokenizer: Tokenizer, text: str) -> None:
    stream = stream_of(tokenizer, text)
    assert tokenizer.byte_table.lengths(stream).sum() == len(tokenizer.decode(stream).encode())


def test_a_byte_piece_is_one_byte_and_lost_text_none(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["plain"]
    model = tokenizer.model
    whole, broken, lost = ["<0xE2>", "<0x98>", "<0x83>"], ["<0xE2>", "<0xFF>"], ["<unk>", "<unk>", "▁"]
    tokens = np.array([1, *map(model.piece_to_id, [*whole, *broken, *lost])], np.uint16)
    assert tokenizer.decode(tokens) == "☃��" + " ⁇  ⁇  "
    assert tokenizer.byte_table.lengths(tokens).tolist() == [1, 1, 1, 1, 1, 0, 0, 1]


def test_lost_text_is_warned_of_once(sentencepiece_model: Models, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Tokenizer(sentencepiece_model())
    with caplog.at_level(logging.WARNING, "hybridlm.data"):
        tokenizer.byte_table.lengths(np.array([1, 40, 50], np.uint16))
        assert not caplog.records
        for _ in range(2):
            tokenizer.byte_table.lengths(np.array([1, 3, 40, 3, 50], np.uint16))
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 tokens are the unknown piece: their text is lost and counts no bytes"
    ]


def test_long_streams_are_counted_in_parts(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizers["pieces of spaces, with a dummy prefix"]
    tokens = np.random.default_rng(3).integers(0, tokenizer.vocab_size, 2000).astype(np.uint16)
    tokens[::3] = tokenizer.model.piece_to_id("▁")
    tokens[::7] = tokenizer.bos_id
    whole = tokenizer.byte_table.lengths(tokens, 0)
    for size in (1, 2, 5, 700):
        monkeypatch.setattr(byte_table, "_PART_TOKENS", size)
        np.testing.assert_array_equal(tokenizer.byte_table.lengths(tokens, 0), whole)


def test_a_word_model_with_byte_fallback_is_refused(sentencepiece_model: Models) -> None:
    """It would write the space before an unknown word as three bytes, and be credited with them."""
    with pytest.raises(FormatError, match=r'odd\.model: .* spaces as the three bytes of "▁"'):
        Tokenizer(sentencepiece_model(model_type="word"), "odd.model")


def test_a_tokenizer_that_rewrites_decoded_text_is_refused(
    sentencepiece_model: Models, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.tsv"
    rules.write_text("61\t62\n")
    model = sentencepiece_model(denormalization_rule_tsv=str(rules))
    with pytest.raises(FormatError, match=r"odd\.model: this tokenizer has denormalisation rules"):
        Tokenizer(model, "odd.model")


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (
            lambda decode, ids: decode(ids).replace("the", "The"),
            "piece .* decodes to '.*The.*', not to '.*the",
        ),
        (lambda decode, ids: decode(ids) + "." * (len(ids) > 9), "differently in a row than one by one"),
        (
            lambda decode, ids: decode(ids) or "<s>" * (ids == [1]),
            "piece 1, '<s>', decodes to '<s>', not to ''",
        ),
    ],
)
def test_a_decoder_that_does_anything_else_is_refused(
    sentencepiece_model: Models,
    monkeypatch: pytest.MonkeyPatch,
    decode: Callable[[Callable[[list[int]], str], list[int]], str],
    message: str,
) -> None:
    """Such as another version of SentencePiece might bring."""
    import sentencepiece

    original = sentencepiece.SentencePieceProcessor.decode

    def otherwise(self: object, ids: list[Any], **options: object) -> object:
        if ids and isinstance(ids[0], list):
            return [otherwise(self, part) for part in ids]
        return decode(lambda ids: original(self, ids), ids)

    model = sentencepiece_model()
    monkeypatch.setattr(sentencepiece.SentencePieceProcessor, "decode", otherwise)
    with pytest.raises(FormatError, match=rf"odd\.model: .*{message}"):
        Tokenizer(model, "odd.model")


def test_a_foreign_token_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    stream = np.array([1, 300, 512, 7, 600], np.uint16)
    with pytest.raises(InputError, match="token 512 at position 2"):
        tokenizer.byte_table.lengths(stream)
    counter = tokenizer.byte_table.counter()
    counter.lengths(stream[:2])
    with pytest.raises(InputError, match="token 512 at position 2"):
        counter.lengths(stream[2:])


def test_an_empty_stream_has_no_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.byte_table.lengths(np.empty(0, np.uint16), 0).shape == (0,)
    assert tokenizer.byte_table.lengths(np.array([1], np.uint16)).shape == (0,)
    with pytest.raises(InputError, match="start"):
        tokenizer.byte_table.lengths(np.array([1], np.uint16), -1)


def test_real_text_is_hardly_changed_by_the_tokenizer(tokenizer: Tokenizer, corpus: list[str]) -> None:
    """The bytes are those of the decoded text; on plain English they are the text's, but for white space."""
    for text in corpus[:20]:
        squeezed = " ".join(text.split())
        if tokenizer.model.normalize(squeezed) == squeezed:
            assert tokenizer.byte_table.lengths(stream_of(tokenizer, text)).sum() == len(squeezed.encode())


def test_pieces_are_what_the_model_says(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces[1] == Piece(b"", False, True, 0.0, Kind.CONTROL)
    assert tokenizer.pieces[3] == Piece(b"", False, False, 0.0, Kind.UNKNOWN)
    assert tokenizer.pieces[4 + 0x41] == Piece(b"A", False, False, 0.0, Kind.BYTE)
    the = tokenizer.model.piece_to_id("▁the")
    assert tokenizer.pieces[the] == Piece(b"the", True, False, tokenizer.model.get_score(the), Kind.TEXT)
    assert tokenizer.pieces[the].whole == b" the"
