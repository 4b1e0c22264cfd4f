"""The codec and generation, with a real tokenizer and an oracle of real text."""

import itertools
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridlm import _core
from hybridlm.artifact import Artifact, pack
from hybridlm.codec import Codec, segmenter
from hybridlm.data.shards import data_folder, read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import FormatError, InputError
from hybridlm.generate import Generator, SamplingSettings
from hybridlm.scoring.audit import artifact_subject


@pytest.fixture(scope="module")
def artifact(tokenizer: Tokenizer, shard_dir: Path) -> Artifact:
    counts = _core.NgramCounts(tokenizer.vocab_size, 4, {3: 512, 4: 512})
    counts.count_shards(data_folder(shard_dir)[0])
    return Artifact.from_bytes(pack(None, counts.dense_oracle(level=3)), "topics.pgar")


@pytest.fixture(scope="module")
def codec(artifact: Artifact, tokenizer: Tokenizer) -> Codec:
    return Codec(artifact, tokenizer)


def test_segments_are_the_tokenizer_s_where_it_changes_nothing(
    tokenizer: Tokenizer, corpus: list[str]
) -> None:
    pieces = segmenter(tokenizer)
    for text in corpus[:20]:
        normal = tokenizer.decode(tokenizer.encode(text))
        np.testing.assert_array_equal(pieces.encode(normal.encode()), tokenizer.encode(normal))


@settings(max_examples=60)
@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_any_bytes_come_back(codec: Codec, data: bytes) -> None:
    assert codec.decompress(codec.compress(data).data) == data


@pytest.mark.parametrize(
    "text",
    ["", "ﬁne ①  two  spaces\t\n\r\n", "▁ literal ▁▁", "\ufeff\u00a0\u200b", "<s></s><unk><0x41>", "漢字 🦀"],
)
def test_what_the_tokenizer_would_normalise_comes_back(codec: Codec, text: str) -> None:
    assert codec.decompress(codec.compress(text.encode()).data) == text.encode()


def test_the_file_is_as_large_as_claimed_and_smaller_than_the_peers(codec: Codec, corpus: list[str]) -> None:
    text = "\n".join(corpus)[:60_000].encode()
    compressed = codec.compress(text)
    claimed = compressed.claimed_bits / 8
    assert abs(len(compressed.data) - claimed) < 0.005 * claimed + 64
    # Not held out: the oracle has seen much of it.
    assert len(compressed.data) < len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def test_the_claim_is_what_eval_scores(
    codec: Codec, artifact: Artifact, tokenizer: Tokenizer, corpus: list[str]
) -> None:
    text = corpus[3][:20_000]
    tokens = segmenter(tokenizer).encode(text.encode())
    stream = np.concatenate(([tokenizer.bos_id], tokens)).astype(np.uint16)
    scorer = artifact_subject(artifact, tokenizer.vocab_size, "eg").scorer()
    bits = scorer.score(stream, 1).sum() / np.log(2)
    assert codec.compress(text.encode()).claimed_bits == pytest.approx(bits, rel=1e-5)


def test_damaged_files_are_refused(codec: Codec) -> None:
    data = codec.compress(b"The statement is executed once for each item of the sequence. " * 20).data
    for at in range(len(data)):
        altered = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        with pytest.raises(FormatError, match=r"file\.z"):
            codec.decompress(altered, "file.z")
        with pytest.raises(FormatError, match=r"file\.z"):
            codec.decompress(data[:at], "file.z")
    with pytest.raises(FormatError, match="damaged"):
        codec.decompress(data + b"\0", "file.z")


def test_another_artifact_or_tokenizer_is_refused(
    codec: Codec, tokenizer: Tokenizer, corpus: list[str], tmp_path: Path
) -> None:
    data = codec.compress(b"for each item").data
    counts = _core.NgramCounts(tokenizer.vocab_size, 2)
    other = Codec(Artifact.from_bytes(pack(None, counts.dense_oracle(level=1))), tokenizer)
    with pytest.raises(FormatError, match="another artifact"):
        other.decompress(data)
    with pytest.raises(FormatError, match="another tokenizer"):
        foreign = Tokenizer.train(corpus[:30], tmp_path / "other.model", vocab_size=512)
        Codec(Artifact.from_bytes(pack(None, counts.dense_oracle(level=1))), foreign).decompress(data)


def test_sampling_cuts_and_sharpens() -> None:
    row = np.array([0.1, 0.4, 0.2, 0.3], np.float32)
    np.testing.assert_allclose(SamplingSettings().apply(row), row, rtol=1e-6)
    np.testing.assert_allclose(SamplingSettings(temperature=0).apply(row), [0, 1, 0, 0])
    np.testing.assert_allclose(SamplingSettings(top_k=2).apply(row), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    np.testing.assert_allclose(SamplingSettings(top_p=0.65).apply(row), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    squared = row.astype(np.float64) ** 2
    np.testing.assert_allclose(
        SamplingSettings(temperature=0.5).apply(row), squared / squared.sum(), rtol=1e-6
    )
    for wrong in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(InputError):
            SamplingSettings(**wrong)  # type: ignore[arg-type]


def test_generation_is_reproducible_and_explains_itself(artifact: Artifact, tokenizer: Tokenizer) -> None:
    def write(seed: int) -> list[tuple[int, float]]:
        generator = Generator(artifact, tokenizer)
        generator.read(tokenizer.encode("The statement"))
        drawn = list(itertools.islice(generator.tokens(SamplingSettings(), seed), 60))
        for sampled in drawn:
            assert sum(sampled.shares.values()) == pytest.approx(1)
            assert 0 < sampled.probability <= 1
            assert not tokenizer.byte_table.boundary[sampled.token]
        return [(sampled.token, sampled.probability) for sampled in drawn]

    assert write(1) == write(1)
    assert write(1) != write(2)


def test_what_is_written_has_the_probability_that_is_scored(artifact: Artifact, tokenizer: Tokenizer) -> None:
    generator = Generator(artifact, tokenizer)
    drawn = list(itertools.islice(generator.tokens(SamplingSettings(), seed=4), 50))
    stream = np.array([tokenizer.bos_id, *(sampled.token for sampled in drawn)], np.uint16)
    nll = artifact_subject(artifact, tokenizer.vocab_size, "eg").scorer().score(stream, 1)
    np.testing.assert_allclose(nll, [-np.log(sampled.probability) for sampled in drawn], rtol=1e-4)


def test_a_held_out_stream_costs_less_with_what_is_learned(
    artifact: Artifact, tokenizer: Tokenizer, shard_dir: Path
) -> None:
    """The mixture over oracle and adaptive experts is better than any of them, and than Hedge."""
    stream = read_stream(data_folder(shard_dir)[1], tokenizer.vocab_size)
    total = {
        mixer: artifact_subject(artifact, tokenizer.vocab_size, mixer).scorer().score(stream, 1).sum()
        for mixer in ("eg", "fixed-share", "bayes", "hedge")
    }
    assert total["eg"] < total["fixed-share"] < total["bayes"]
    assert total["eg"] < 0.85 * total["hedge"]
