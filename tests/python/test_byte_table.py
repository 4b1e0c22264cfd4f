"""The sum of bytes over a text's tokens is the UTF-8 length of the decoded text, for any text and prefix."""

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.data.tokenizer import BOS, Tokenizer
from hybridlm.errors import InputError

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
]


def stream_of(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return np.concatenate([np.array([BOS], np.uint16), tokenizer.encode(text)])


def decoded_bytes(tokenizer: Tokenizer, tokens: np.ndarray) -> list[bytes]:
    """What each token adds to the text, from the pieces one by one: the slow and obvious way."""
    model = tokenizer.model
    added = []
    at_start = True
    for token in tokens.tolist():
        if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
            added.append(b"")
            at_start = True
            continue
        piece = model.id_to_piece(token)
        if model.is_byte(token):
            added.append(bytes([int(piece[1:-1], 16)]))
        else:
            text = piece.replace("▁", " ")
            added.append((text[1:] if at_start and text.startswith(" ") else text).encode())
        at_start = False
    return added


def variants(corpus: list[str]) -> dict[str, Tokenizer]:
    """Models unlike ours: a space before the first word, kept runs of spaces, pieces of spaces alone."""
    shapes = {
        "dummy prefix": {"add_dummy_prefix": True},
        "spaces kept": {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True},
        "unigram": {"model_type": "unigram"},
    }
    made = {}
    for name, shape in shapes.items():
        model = io.BytesIO()
        options = {"model_type": "bpe", "add_dummy_prefix": False, **shape}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text + "\n    indented      text        " * 5 for text in corpus[:20]]),
            model_writer=model,
            vocab_size=600,
            byte_fallback=True,
            max_sentence_length=1 << 20,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            user_defined_symbols=["▁▁▁▁"],
            minloglevel=2,
            **options,
        )
        made[name] = Tokenizer(model.getvalue())
    return made


@pytest.mark.parametrize("text", TRICKY)
def test_sums_to_the_decoded_text(tokenizer: Tokenizer, text: str) -> None:
    stream = stream_of(tokenizer, text)
    assert tokenizer.byte_table.lengths(stream).sum() == len(tokenizer.decode(stream).encode())


@given(text=st.text(max_size=80))
def test_sums_to_the_decoded_text_whatever_it_is(tokenizer: Tokenizer, text: str) -> None:
    stream = stream_of(tokenizer, text)
    assert tokenizer.byte_table.lengths(stream).sum() == len(tokenizer.decode(stream).encode())


def test_documents_in_one_stream_sum_to_their_texts(tokenizer: Tokenizer, corpus: list[str]) -> None:
    texts = [*TRICKY, *corpus]
    stream = np.concatenate([stream_of(tokenizer, text) for text in texts])
    decoded = sum(len(tokenizer.decode(tokenizer.encode(text)).encode()) for text in texts)
    assert tokenizer.byte_table.lengths(stream).sum() == decoded


def test_each_token_counts_what_it_adds(tokenizer: Tokenizer, corpus: list[str]) -> None:
    stream = np.concatenate([stream_of(tokenizer, text) for text in [*TRICKY, *corpus[:10]]])
    expected = [len(added) for added in decoded_bytes(tokenizer, stream)]
    lengths = tokenizer.byte_table.lengths(stream, start=0)
    assert lengths.dtype == np.int64
    assert lengths.tolist() == expected


@given(tokens=st.lists(st.integers(0, 511), max_size=60), start=st.integers(0, 70))
def test_any_tokens_from_any_start(tokenizer: Tokenizer, tokens: list[int], start: int) -> None:
    stream = np.array(tokens, np.uint16)
    expected = [len(added) for added in decoded_bytes(tokenizer, stream)]
    assert tokenizer.byte_table.lengths(stream, start).tolist() == expected[start:]


def test_other_sentencepiece_models(corpus: list[str]) -> None:
    for name, tokenizer in variants(corpus).items():
        pieces = [tokenizer.model.id_to_piece(token) for token in range(tokenizer.vocab_size)]
        assert "▁▁▁▁" in pieces
        for text in [*(text.strip() for text in TRICKY), "four    spaces        inside", *corpus[:5]]:
            stream = stream_of(tokenizer, text)
            total = tokenizer.byte_table.lengths(stream).sum()
            assert total == len(tokenizer.decode(stream).encode()), (name, text[:40])


def test_a_foreign_token_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    stream = np.array([1, 300, 512, 7, 600], np.uint16)
    with pytest.raises(InputError, match="token 512 at position 2"):
        tokenizer.byte_table.lengths(stream)


def test_an_empty_stream_has_no_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.byte_table.lengths(np.empty(0, np.uint16), 0).shape == (0,)
    assert tokenizer.byte_table.lengths(np.array([1], np.uint16)).shape == (0,)


def test_real_text_is_hardly_changed_by_the_tokenizer(tokenizer_path: Path, corpus: list[str]) -> None:
    """The bytes are those of the decoded text; on plain English they are the text's, but for white space."""
    tokenizer = Tokenizer.load(tokenizer_path)
    for text in corpus[:20]:
        stream = stream_of(tokenizer, text)
        squeezed = " ".join(text.split())
        if tokenizer.model.normalize(squeezed) == squeezed:
            assert tokenizer.byte_table.lengths(stream).sum() == len(squeezed.encode())
