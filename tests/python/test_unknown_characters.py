from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.data.shard_writer import DataFolderWriter
from hybridlm.data.shards import read_stream
from hybridlm.data.tokenizer import UNK, Tokenizer
from hybridlm.data.unknown_characters import UnknownCharacters
from hybridlm.errors import InputError


@pytest.fixture(scope="session")
def without_fallback(model_without_fallback: Path) -> Tokenizer:
    return Tokenizer.load(model_without_fallback)


@given(texts=st.lists(st.text(st.sampled_from("the 世界ж\u2585🎉"), min_size=1), min_size=1))
def test_unknown_characters_are_those_that_have_no_piece(
    without_fallback: Tokenizer, texts: list[str]
) -> None:
    counted = UnknownCharacters()
    encoded = without_fallback.encode_batch(texts)
    counted.add(without_fallback, texts[:1], encoded[:1])
    others = UnknownCharacters()
    others.add(without_fallback, texts[1:], encoded[1:])
    counted.merge(others)
    expected = {character: sum(text.count(character) for text in texts) for character in "世界ж\u2585🎉"}
    assert counted.counts == {character: count for character, count in expected.items() if count}
    assert counted.tokens == sum((tokens == UNK).sum() for tokens in encoded)
    assert counted.share == pytest.approx(sum(expected.values()) / sum(map(len, texts)))


def test_with_byte_fallback_nothing_is_unknown(tokenizer: Tokenizer) -> None:
    counted = UnknownCharacters()
    texts = ["世界 ж \u2585 🎉 \x07"]
    counted.add(tokenizer, texts, tokenizer.encode_batch(texts))
    assert (counted.tokens, counted.share) == (0, 0)
    counted.refuse()


def test_the_most_frequent_ones_are_named(without_fallback: Tokenizer) -> None:
    counted = UnknownCharacters()
    texts = ["the " * 2000 + "世界世 ж"]
    counted.add(without_fallback, texts, without_fallback.encode_batch(texts))
    assert str(counted) == (
        "4 unknown characters (0.050%) in 2 <unk> tokens: '世' U+4E16 2, 'ж' U+0436 1, '界' U+754C 1"
    )
    counted.add(
        without_fallback, ["一二三四五六七八九"], without_fallback.encode_batch(["一二三四五六七八九"])
    )
    assert str(counted).endswith("4 others")


def test_the_writer_refuses_more_than_a_thousandth_unless_told(
    tmp_path: Path, without_fallback: Tokenizer
) -> None:
    def write(folder: Path, text: str, allow_unknown: bool = False) -> int:
        with DataFolderWriter(folder, without_fallback, allow_unknown=allow_unknown) as writer:
            writer.add("train", text)
        assert writer.unknown.counts.total() == text.count("世")
        return int((read_stream(folder.glob("*.bin")) == UNK).sum())

    known = "the " * 250
    assert write(tmp_path / "some", f"{known}世") == 1
    with pytest.raises(InputError, match=r"^2 unknown .* more than 0\.1% of the text: .*--allow-unknown"):
        write(tmp_path / "many", f"{known}世世")
    assert not (tmp_path / "many").exists()
    assert write(tmp_path / "many", f"{known}世世", allow_unknown=True) == 1, "one for the run of them"


def test_text_without_tokens_replaces_no_shards(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with DataFolderWriter(tmp_path, tokenizer) as writer:
        writer.add("train", "text")
    before = [path.read_bytes() for path in tmp_path.iterdir()]
    with (
        pytest.raises(InputError, match="no document has any tokens"),
        DataFolderWriter(tmp_path, tokenizer, replace=True) as writer,
    ):
        writer.add("train", "\u200b")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == before
