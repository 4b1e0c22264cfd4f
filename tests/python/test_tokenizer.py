import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hybridlm.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import FormatError, InputError


def test_the_pieces_are_laid_out_as_promised(tokenizer: Tokenizer) -> None:
    model = tokenizer.model
    assert tokenizer.vocab_size == 512
    assert (model.pad_id(), model.bos_id(), model.eos_id(), model.unk_id()) == (PAD, BOS, EOS, UNK)
    assert [model.id_to_piece(4 + byte) for byte in range(256)] == [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = {model.id_to_piece(token) for token in range(260, 512)}
    assert "▁the" in pieces
    assert not any(sum(character.isdigit() for character in piece) > 1 for piece in pieces), "split digits"


def test_the_same_texts_give_the_same_bytes(
    tmp_path: Path, corpus: list[str], tokenizer_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in ("1", "3"):
        monkeypatch.setenv("HYBRIDLM_NUM_THREADS", threads)
        Tokenizer.train(iter(corpus), tmp_path / "again.model", 512)
        assert (tmp_path / "again.model").read_bytes() == tokenizer_path.read_bytes()


def test_the_fingerprint_is_the_files_sha256(tokenizer: Tokenizer, tokenizer_path: Path) -> None:
    assert tokenizer.fingerprint == hashlib.sha256(tokenizer_path.read_bytes()).hexdigest()


def test_text_there_and_back(tokenizer: Tokenizer, corpus: list[str]) -> None:
    for text in [*corpus[:10], "", "Ünïcödé 🎉 中文", "  spaced\n\nout "]:
        tokens = tokenizer.encode(text)
        assert tokens.dtype == np.uint16
        assert UNK not in tokens and BOS not in tokens
        assert tokenizer.decode(tokens) == tokenizer.model.normalize(text).replace("▁", " ")


def test_a_batch_is_encoded_like_its_texts(tokenizer: Tokenizer, corpus: list[str]) -> None:
    for threads in (1, 2, 5):
        batch = tokenizer.encode_batch(corpus[:12], threads)
        assert [part.tolist() for part in batch] == [tokenizer.encode(text).tolist() for text in corpus[:12]]


def test_decoding_refuses_what_the_vocabulary_lacks(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="token 512 at position 1"):
        tokenizer.decode(np.array([5, 512], np.uint16))
    with pytest.raises(InputError, match="token -1"):
        tokenizer.decode([-1])


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        ([], 512, "no text"),
        (["", " \n "], 512, "no text"),
        (["hello world"], 512, r"yields only \d+ pieces.*smaller --vocab-size"),
        (["abcdefghijklmnopqrstuvwxyz" * 9], 270, "must be at least 2"),
        (["hello"], 256, "above 256"),
        (["hello"], -5, "above 256"),
        (["hello"], 65_537, "at most 65536"),
    ],
)
def test_what_cannot_be_trained(
    tmp_path: Path, texts: list[str], vocab_size: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Tokenizer.train(texts, tmp_path / "tok.model", vocab_size)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_training_is_quiet(tmp_path: Path, corpus: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    Tokenizer.train(corpus[:20], tmp_path / "tok.model", 400)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), FormatError("a.txt: not UTF-8"), OSError("disk")])
def test_what_the_texts_raise_comes_through(
    tmp_path: Path, corpus: list[str], failure: BaseException
) -> None:
    def texts() -> Iterator[str]:
        yield corpus[0]
        raise failure

    with pytest.raises(type(failure)) as caught:
        Tokenizer.train(texts(), tmp_path / "tok.model", 400)
    assert caught.value is failure
    assert not any(tmp_path.iterdir())


def test_a_mark_that_sentencepiece_reserves_loses_no_text(tmp_path: Path, corpus: list[str]) -> None:
    trained = Tokenizer.train([text + " ▅" for text in corpus], tmp_path / "tok.model", 512)
    assert trained.vocab_size == 512
    assert trained.decode(trained.encode("a ▅ b")) == "a ▅ b"


def test_an_earlier_model_survives_a_failed_training(tmp_path: Path) -> None:
    path = tmp_path / "tok.model"
    path.write_bytes(b"earlier")
    with pytest.raises(InputError):
        Tokenizer.train(["too little"], path, 512)
    assert path.read_bytes() == b"earlier"


def test_a_path_that_cannot_be_written(tmp_path: Path, corpus: list[str]) -> None:
    with pytest.raises(OSError):
        Tokenizer.train(corpus, tmp_path / "no folder" / "tok.model", 512)


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: b"",
        lambda model: b"just text\n" * 50,
        lambda model: bytes(5000),
        lambda model: model[: len(model) // 2],
        lambda model: model[:-1],
        lambda model: b"\xff" + model[1:],
        lambda model: model.replace("▁the".encode(), b"\xe2\x96the\xff"),
    ],
)
def test_foreign_and_damaged_models_are_refused_by_name(tmp_path: Path, tokenizer_path: Path, damage) -> None:
    path = tmp_path / "other.model"
    path.write_bytes(damage(tokenizer_path.read_bytes()))
    with pytest.raises(FormatError, match=r"other\.model: not a SentencePiece model"):
        Tokenizer.load(path)


def test_documents_begin_with_the_model_s_own_bos(sentencepiece_model: Callable[..., bytes]) -> None:
    for bos_id in (0, 2, 7):
        model = sentencepiece_model(bos_id=bos_id, pad_id=-1, unk_id=3, eos_id=1)
        found = Tokenizer(model)
        assert found.bos_id == bos_id
        assert found.vocabulary == Vocabulary(found.vocab_size, bos_id, hashlib.sha256(model).hexdigest())


@pytest.mark.parametrize("settings", [{"bos_id": -1}, {"user_defined_symbols": ["<s>"]}])
def test_a_model_without_bos_needs_a_document_token(
    sentencepiece_model: Callable[..., bytes], tmp_path: Path, settings: dict[str, object]
) -> None:
    path = tmp_path / "other.model"
    path.write_bytes(sentencepiece_model(**settings))
    with pytest.raises(InputError, match=r"other\.model: .*no BOS piece: give --bos-id.* 2 '</s>'"):
        Tokenizer.load(path)
    assert Tokenizer.load(path, bos_id=2).bos_id == 2


def test_only_a_control_piece_begins_documents(tokenizer: Tokenizer, tokenizer_path: Path) -> None:
    """Any other piece stands for text, or could occur in one."""
    chosen = Tokenizer.load(tokenizer_path, bos_id=EOS)
    assert chosen.bos_id == chosen.vocabulary.bos_id == EOS
    assert chosen.fingerprint == tokenizer.fingerprint
    tokens = np.array([EOS, *tokenizer.encode("a b"), EOS, *tokenizer.encode("c")], np.uint16)
    assert chosen.byte_table.lengths(tokens).sum() == len("a b") + len("c")
    the = tokenizer.model.piece_to_id("▁the")
    for wrong, what in {UNK: "<unk>", 4: "<0x00>", the: "▁the"}.items():
        with pytest.raises(
            InputError, match=rf"--bos-id is {wrong}, .*tok\.model that is '{what}', not a control"
        ):
            Tokenizer.load(tokenizer_path, bos_id=wrong)
    for outside in (-1, 512, 2**40):
        with pytest.raises(
            InputError, match=rf"--bos-id is {outside}, but .*tok\.model has the pieces 0 to 511"
        ):
            Tokenizer.load(tokenizer_path, bos_id=outside)


def test_a_missing_model_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(os.fspath(tmp_path / "none.model"))
