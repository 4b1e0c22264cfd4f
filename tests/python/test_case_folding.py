"""Capitals as marks: nothing is lost, and no byte is counted otherwise."""

import re
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.artifact import Artifact, bundle
from hybridlm.cli.main import main
from hybridlm.codec import Codec
from hybridlm.data.case_folding import CAPS, MARKS, QUOTE, SHIFT, Unfolder, fold, unfold
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import FormatError
from hybridlm.generation import generate
from hybridlm.oracle.builder import OracleBuilder

HOSTILE = st.text(
    st.one_of(
        st.sampled_from([*"  aBcDßİıςΣσΩẖH\u0331\u0301ǅⅧéÉ,.'1", *MARKS, *"\ue010\ue011\ue012\ue013"]),
        st.characters(exclude_categories=["Cs"]),
    )
)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Hello from NASA.", "⇧hello from⇪ nasa."),
        ("McDonald's iPhone", "⇧mc⇧donald's i⇧phone"),
        ("A B  C", "⇧a⇧ b ⇧ c"),
        ("NASAs ÉTÉ Ωμέγα", "⇧n⇧a⇧s⇧as⇪ été⇧ ωμέγα"),
        ("H\u0331H İ ǅ Ⅷ", "H\u0331⇧h İ ǅ Ⅷ"),  # composed, without one small letter, or changed by NFKC
        ("\ue000\ue010", "⇤\ue010\ue010"),
    ],
)
def test_words_are_folded(text: str, folded: str) -> None:
    for sign, mark in zip("⇧⇪⇤", MARKS, strict=True):
        folded = folded.replace(sign, mark)
    assert fold(text) == folded
    assert unfold(folded) == text


@given(text=HOSTILE)
def test_any_text_comes_back(text: str) -> None:
    folded = fold(text)
    assert unfold(folded) == text
    # What is left without the marks has as many bytes.
    unquoted = re.sub(f"{QUOTE}(.)", r"\1", folded, flags=re.DOTALL)
    assert len(re.sub(f"[{SHIFT}{CAPS}]", "", unquoted).encode()) == len(text.encode())


@given(text=HOSTILE, cuts=st.lists(st.integers(0, 20)))
def test_a_text_in_parts_is_unfolded_as_a_whole(text: str, cuts: list[int]) -> None:
    unfolder, rest, parts = Unfolder(), text, []
    for cut in cuts:
        parts.append(unfolder.add(rest[:cut]))
        rest = rest[cut:]
    assert "".join([*parts, unfolder.add(rest), unfolder.finish()]) == unfold(text)


@given(text=HOSTILE)
def test_folding_leaves_nothing_to_normalise(text: str) -> None:
    """A normaliser that finds small letters for capitals must not compose them with what follows."""
    normal = unicodedata.normalize("NFKC", text)
    folded = fold(normal)
    parts = [unicodedata.normalize("NFKC", part) for part in re.split(f"([{''.join(MARKS)}])", folded)]
    assert unfold("".join(parts)) == normal


@given(text=HOSTILE)
def test_any_marks_are_read_and_count_nothing(text: str) -> None:
    assert len(unfold(text).encode()) == len(re.sub(f"[{''.join(MARKS)}]", "", text).encode())


def test_time_is_linear() -> None:
    def seconds(length: int) -> float:
        began = time.process_time()
        for part in ("a", "aB", "\u0301a", " ", "A", SHIFT, f"{CAPS}a"):
            unfold(fold(part * (length // len(part))))
        return time.process_time() - began

    seconds(1000)
    assert seconds(200_000) < 100 * seconds(20_000)


@pytest.fixture(scope="module")
def folding(tmp_path_factory: pytest.TempPathFactory, corpus: list[str]) -> Tokenizer:
    folder = tmp_path_factory.mktemp("folding")
    texts = [*corpus, "The NASA and The ESA Met In PARIS"]
    return Tokenizer.train(texts, folder / "folding.model", 400, fold_case=True)


def test_a_tokenizer_learns_no_capitals(folding: Tokenizer) -> None:
    assert folding.folds_case
    assert not any(re.search(b"[A-Z]", piece.text) for piece in folding.pieces if len(piece.text) > 1)
    tokens = folding.encode("The the THE").tolist()
    assert [folding.model.id_to_piece(token) for token in tokens].count(SHIFT) == 1
    assert folding.decode(tokens) == "The the THE"


@pytest.mark.parametrize("text", ["ﬁ Ⅷ ½", "a lower block ▁ of H\u0331 and Ｆｕｌｌ", "\ue001 stays \ue010"])
def test_text_is_normalised_as_without_folding(folding: Tokenizer, tokenizer: Tokenizer, text: str) -> None:
    assert folding.decode(folding.encode(text)) == tokenizer.decode(tokenizer.encode(text))


@given(content=st.one_of(st.binary(max_size=60), HOSTILE.map(str.encode)))
def test_the_codec_gives_any_content_back(codec: Codec, content: bytes) -> None:
    assert codec.decompress(codec.compress(content).data) == content


@pytest.fixture(scope="module")
def artifact(folding: Tokenizer, corpus: list[str]) -> Artifact:
    builder = OracleBuilder(folding.vocabulary)
    documents = [np.append(np.uint16(folding.bos_id), folding.encode(text)) for text in corpus]
    builder.add(np.concatenate(documents))
    return bundle(None, builder.build(max_bytes=20_000).to_bytes(), folding)


@pytest.fixture(scope="module")
def codec(folding: Tokenizer, artifact: Artifact) -> Codec:
    return Codec(artifact, folding)


def test_generated_text_has_capitals_and_no_marks(
    folding: Tokenizer, artifact: Artifact, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "tok.model").write_bytes(folding.data)
    (tmp_path / "artifact.pgar").write_bytes(artifact.to_bytes())
    given = ["--artifact", str(tmp_path / "artifact.pgar"), "--tokenizer", str(tmp_path / "tok.model")]
    assert main(["generate", *given, "--prompt", "A Capital", "--tokens", "60"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert text == generate(artifact, folding, "A Capital", tokens=60) + "\n"
    assert text.startswith("A Capital") and not set(MARKS) & set(text)
    assert re.search("[A-Z]", text.removeprefix("A Capital"))


def test_a_dummy_prefix_is_refused(sentencepiece_model: Any) -> None:
    """The space would be put there twice."""
    with pytest.raises(FormatError, match="add_dummy_prefix=False"):
        Tokenizer(sentencepiece_model(user_defined_symbols=list(MARKS)))


def test_without_all_marks_nothing_is_folded(sentencepiece_model: Any) -> None:
    tokenizer = Tokenizer(sentencepiece_model(user_defined_symbols=[SHIFT, CAPS], add_dummy_prefix=False))
    assert not tokenizer.folds_case
    assert tokenizer.decode(tokenizer.encode(f"{SHIFT}a")) == f"{SHIFT}a"
