"""Hugging Face's byte-level tokenizers, held against the library that made them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.data.byte_level import byte_characters
from hybridlm.data.documents import Document
from hybridlm.data.pieces import Kind
from hybridlm.data.shard_writer import write_shards
from hybridlm.data.shards import data_folder, open_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import FormatError, InputError
from hybridlm.scoring.audit import _decoded_bytes

tokenizers = pytest.importorskip("tokenizers")
BOS = "<|endoftext|>"


@pytest.fixture(scope="module")
def library(corpus: list[str]) -> Any:
    """A byte-level BPE of the library's own making, of 400 tokens, that text is normalised for (NFC)."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[BOS],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(corpus[:20], trainer)
    made.add_tokens(["hybrid lm"])
    return made


@pytest.fixture(scope="module")
def tokenizer(library: Any) -> Tokenizer:
    return Tokenizer(library.to_str().encode(), "tokenizer.json")


def test_the_alphabet_is_the_librarys() -> None:
    assert set(byte_characters()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_characters().values()) == list(range(256))
    coder = tokenizers.decoders.ByteLevel()
    for character, byte in byte_characters().items():
        if byte < 0x80:
            assert coder.decode([character]) == chr(byte)


texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.sampled_from(f"{BOS} hybrid lm\né🎉 "))


@given(text=texts)
def test_tokens_and_bytes_are_the_librarys(library: Any, tokenizer: Tokenizer, text: str) -> None:
    normal = library.normalizer.normalize_str(text)
    tokens = tokenizer.encode(text)
    assert tokenizer.bos_id not in tokens
    stream = np.append(np.uint16(tokenizer.bos_id), tokens)
    assert tokenizer.decode(stream) == normal == library.decode(tokens.tolist())
    assert tokenizer.byte_table.lengths(stream).sum() == len(normal.encode())
    if BOS not in text:
        assert tokens.tolist() == library.encode(text, add_special_tokens=False).ids
    # Cut off in the middle of a character, too.
    for end in range(1, len(stream) + 1):
        part = stream[:end]
        assert _decoded_bytes(tokenizer, part) == tokenizer.byte_table.lengths(part).sum()


def test_shards_of_a_byte_level_tokenizer(tmp_path: Path, corpus: list[str], tokenizer: Tokenizer) -> None:
    train, val = [Document("", text) for text in corpus[:5]], [Document("", corpus[6] + BOS)]
    write_shards(train, val, tokenizer, tmp_path)
    stream = open_stream(data_folder(tmp_path)[1], tokenizer.vocabulary)
    assert tokenizer.decode(stream.tokens) == corpus[6] + BOS
    assert (stream.tokens == tokenizer.bos_id).sum() == 1
    assert open_stream(data_folder(tmp_path)[0], tokenizer.vocabulary).vocabulary == tokenizer.vocabulary


def test_kinds_and_names(library: Any, tokenizer: Tokenizer) -> None:
    kinds = [piece.kind for piece in tokenizer.pieces]
    assert kinds.count(Kind.BYTE) == 256 and kinds.count(Kind.CONTROL) == 1
    assert tokenizer.bos_id == library.token_to_id(BOS)
    assert tokenizer.vocab_size == library.get_vocab_size() == 401
    assert tokenizer.pieces[library.token_to_id("hybrid lm")].text == b"hybrid lm"


def test_truncation_and_padding_that_the_file_asks_for_lose_no_text(
    library: Any, tokenizer: Tokenizer
) -> None:
    cutting = tokenizers.Tokenizer.from_str(library.to_str())
    cutting.enable_truncation(4)
    cutting.enable_padding(length=8)
    text = "a text of more than four tokens"
    np.testing.assert_array_equal(Tokenizer(cutting.to_str().encode()).encode(text), tokenizer.encode(text))


def edited(library: Any, change: Callable[[dict[str, Any]], Any]) -> bytes:
    file = json.loads(library.to_str())
    change(file)
    return json.dumps(file).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["model"].update(type="Unigram"), "its model is Unigram"),
        (lambda file: file["model"].update(dropout=0.1), "dropout"),
        (lambda file: file.update(normalizer={"type": "Lowercase"}), "normalizer Lowercase"),
        (lambda file: file.update(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizer Whitespace"),
        (lambda file: file["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space"),
        (lambda file: file.update(pre_tokenizer=None), "no pre-tokenizer ByteLevel"),
        (lambda file: file.update(decoder={"type": "Fuse"}), "decoder isn't ByteLevel"),
        (lambda file: file["added_tokens"][-1].update(rstrip=True), "takes in the blanks"),
        (lambda file: file["model"]["vocab"].pop("!"), "can't read it|256 bytes"),
        (lambda file: file.pop("model"), 'no object "model"'),
        (lambda file: file["model"].update(vocab=7), "can't read it"),
    ],
)
def test_what_has_no_bytes_of_its_own_is_refused(library: Any, change: Any, message: str) -> None:
    with pytest.raises(FormatError, match=f"tokenizer.json: .*({message})"):
        Tokenizer(edited(library, change), "tokenizer.json")


def test_the_document_token(library: Any) -> None:
    several = tokenizers.Tokenizer.from_str(library.to_str())
    several.add_special_tokens(["<|pad|>"])
    with pytest.raises(InputError, match=r"no BOS piece: give --bos-id.*<\|endoftext\|>.*<\|pad\|>"):
        Tokenizer(several.to_str().encode())
    assert Tokenizer(several.to_str().encode(), bos_id=several.token_to_id("<|pad|>")).bos_id == 401
    several.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{BOS} $0", special_tokens=[(BOS, several.token_to_id(BOS))]
    )
    assert Tokenizer(several.to_str().encode()).bos_id == several.token_to_id(BOS)
    with pytest.raises(InputError, match="not a control piece"):
        Tokenizer(several.to_str().encode(), bos_id=5)


def test_without_the_library_it_says_what_to_install(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridlm.extras.installed", lambda package: package != "tokenizers")
    with pytest.raises(InputError, match=r"t\.json: .*needs the library tokenizers.*hybridlm\[hub\]"):
        Tokenizer(library.to_str().encode(), "t.json")


def test_broken_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"model": ')
    with pytest.raises(FormatError, match=r"t\.json: not JSON"):
        Tokenizer.load(path)
