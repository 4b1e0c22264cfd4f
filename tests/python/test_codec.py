"""The codec and generation, with a real tokenizer and an oracle of real text."""

import itertools
import lzma
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from hybridlm.generation import Generator, SamplingConfig
from hybridlm.model import ModelConfig, neural_blob
from hybridlm.oracle.build import build_sparse
from hybridlm.scoring.audit_subject import artifact_subject
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import evaluate


@pytest.fixture(scope="module")
def artifact(tokenizer: Tokenizer, shard_dir: Path) -> Artifact:
    counts = _core.NgramCounts(tokenizer.vocab_size, 4, {3: 512, 4: 512})
    counts.count_shards(data_folder(shard_dir)[0])
    return Artifact.from_bytes(pack(None, counts.dense_oracle(level=3)), "topics.pgar")


@pytest.fixture(scope="module")
def neural_artifact(tokenizer: Tokenizer, shard_dir: Path) -> Artifact:
    """With a small model that was never trained, but has all its parts at work."""
    import torch

    from hybridlm.model import GPT

    torch.manual_seed(1)
    model = GPT(
        ModelConfig(
            vocab_size=tokenizer.vocab_size, sequence_length=32, layers=3, width=32, heads=2, kv_heads=1,
            mlp_hidden=48, bigram_rows=64, bigram_width=32, zero_init_projections=False, embedding_std=0.5,
        )
    )  # fmt: skip
    blob = neural_blob.encode(model, tokenizer=tokenizer.fingerprint)
    oracle = build_sparse(data_folder(shard_dir)[0], tokenizer.vocabulary, max_bytes=20_000)
    return Artifact.from_bytes(pack(blob, oracle), "neural.pgar")


@pytest.fixture(scope="module")
def neural_codec(neural_artifact: Artifact, tokenizer: Tokenizer) -> Codec:
    return Codec(neural_artifact, tokenizer)


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


TOKENIZERS: list[dict[str, Any]] = [
    {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "normalization_rule_name": "identity"},
    {"treat_whitespace_as_suffix": True},
    {"model_type": "unigram", "split_by_whitespace": False, "remove_extra_whitespaces": False},
    {"model_type": "char", "bos_id": 7},
    {
        "user_defined_symbols": ["▁▁▁", "q r", " v", "e ", "▁", "\ufeff", "the\r\n"],
        "control_symbols": ["a b"],
    },
]


@pytest.fixture(scope="module")
def other_codecs(sentencepiece_model: Callable[..., bytes]) -> list[Codec]:
    made = []
    for chosen in TOKENIZERS:
        tokenizer = Tokenizer(sentencepiece_model(**chosen))
        oracle = _core.NgramCounts(tokenizer.vocab_size, 2).dense_oracle(level=1)
        made.append(Codec(Artifact.from_bytes(pack(None, oracle)), tokenizer))
    return made


@settings(max_examples=150)
@given(
    at=st.integers(0, len(TOKENIZERS) - 1),
    data=st.one_of(
        st.binary(max_size=60),
        st.text(st.sampled_from("  ▁aehntqrv\r\n\ufeff\ufffdé中\0"), max_size=60).map(str.encode),
    ),
)
def test_any_bytes_come_back_whatever_the_tokenizer(other_codecs: list[Codec], at: int, data: bytes) -> None:
    codec = other_codecs[at]
    assert codec.decompress(codec.compress(data).data) == data


def test_a_tokenizer_that_cannot_stand_for_any_bytes_is_refused(
    sentencepiece_model: Callable[..., bytes],
) -> None:
    tokenizer = Tokenizer(sentencepiece_model(byte_fallback=False), "words.model")
    oracle = _core.NgramCounts(tokenizer.vocab_size, 2).dense_oracle(level=1)
    with pytest.raises(InputError, match=r"words\.model: this tokenizer has no byte pieces"):
        Codec(Artifact.from_bytes(pack(None, oracle)), tokenizer)


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
    scorer = artifact_subject(artifact, tokenizer.vocab_size, ScoringConfig()).scorer()
    bits = scorer.score(stream, 1).sum() / np.log(2)
    assert codec.compress(text.encode()).claimed_bits == pytest.approx(bits, rel=1e-5)


def test_with_a_neural_model(
    neural_codec: Codec, neural_artifact: Artifact, tokenizer: Tokenizer, corpus: list[str]
) -> None:
    text = corpus[5][:3000].encode() + b"\r\n\xff\x00  two"
    compressed = neural_codec.compress(text)
    assert neural_codec.decompress(compressed.data) == text
    assert neural_codec.compress(text).data == compressed.data
    claimed = compressed.claimed_bits / 8
    assert abs(len(compressed.data) - claimed) < 0.005 * claimed + 64
    # What it claims is what is scored, model and all, across several windows.
    tokens = segmenter(tokenizer).encode(text)
    stream = np.concatenate(([tokenizer.bos_id], tokens)).astype(np.uint16)
    result = evaluate(neural_artifact, stream, tokenizer.byte_table, ScoringConfig(ttt="off", chunk=100))
    assert compressed.claimed_bits == pytest.approx(result.bits_per_token * len(tokens), rel=1e-5)


def test_small_contents_with_a_neural_model(neural_codec: Codec) -> None:
    for content in (b"", b"a", b"\xff", b"the first items"):
        compressed = neural_codec.compress(content)
        assert neural_codec.decompress(compressed.data) == content
        assert len(compressed.data) <= compressed.claimed_bits / 8 + 64


def test_another_process_with_other_threads_decodes(
    neural_codec: Codec, neural_artifact: Artifact, tokenizer_path: Path, tmp_path: Path
) -> None:
    text = "The statement is executed once for each item. " * 8
    (tmp_path / "a.pgar").write_bytes(neural_artifact.to_bytes())
    (tmp_path / "z").write_bytes(neural_codec.compress(text.encode()).data)
    code = """
import sys, torch
from hybridlm.cli.main import main
torch.set_num_threads(3)
folder, tokenizer = sys.argv[1:]
code = main(["decompress", folder + "/z", "--artifact", folder + "/a.pgar", "--tokenizer", tokenizer,
             "-o", folder + "/back"])
assert torch.get_num_threads() == 3
sys.exit(code)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(tokenizer_path)], check=True)
    assert (tmp_path / "back").read_text() == text


def rewritten(data: bytes, **changes: object) -> bytes:
    """A compressed file with other values in its header, and a checksum that fits."""
    fields = ["version", "flags", "text_length", "zero", "artifact", "tokenizer", "first", "digest", "length"]
    layout = struct.Struct("<4sBBBB8s4sI8sQ")
    values = dict(zip(["magic", *fields], layout.unpack_from(data), strict=True)) | changes
    body = changes.pop("body", data[44:])
    values.pop("body", None)
    assert isinstance(body, bytes)
    header = layout.pack(*values.values())
    return header + struct.pack("<I", zlib.crc32(body, zlib.crc32(header))) + body


def test_other_arithmetic_is_refused_before_it_costs_anything(
    neural_codec: Codec, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = neural_codec.compress(b"The statement is executed once for each item. " * 9).data
    assert rewritten(data) == data
    # Another version of PyTorch, by what the file says of itself.
    n = data[6]
    here = data[44 : 44 + n].decode()
    older = rewritten(data, body=b"9" + data[45:])
    with pytest.raises(FormatError, match=rf"file\.z: its neural model was run by .* 9.*{here}"):
        neural_codec.decompress(older, "file.z")
    # The same version, but sums that come out otherwise: noticed within the first tokens.
    steps = 0
    from hybridlm.model.incremental import IncrementalGPT

    step = IncrementalGPT.step

    def rounding_otherwise(self: IncrementalGPT, token: int) -> object:
        nonlocal steps
        steps += 1
        return step(self, token) * 1.00001

    monkeypatch.setattr(IncrementalGPT, "step", rounding_otherwise)
    with pytest.raises(FormatError, match=r"file\.z: from byte .* arithmetic"):
        neural_codec.decompress(data, "file.z")
    assert 0 < steps <= 65
    monkeypatch.undo()
    # Headers that fit their checksum but not each other.
    plain = codec.compress(b"The statement").data
    for wrong in (rewritten(plain, flags=1), rewritten(plain, length=2**40), rewritten(data, flags=0)):
        with pytest.raises(FormatError, match="contradicts"):
            (neural_codec if len(wrong) == len(data) else codec).decompress(wrong)
    with pytest.raises(FormatError, match=r"version 3 .* use the hybridlm that wrote it"):
        codec.decompress(rewritten(plain, version=3))
    with pytest.raises(FormatError, match="arithmetic"):
        codec.decompress(rewritten(plain, first=1))


def test_what_does_not_compress_is_stored(codec: Codec, neural_codec: Codec, corpus: list[str]) -> None:
    random = np.random.default_rng(1)
    text = (" ".join(corpus).encode() * 4)[:70_000]
    noise = random.bytes(150_000)
    for content, stored in (
        (noise, len(noise)),
        (noise[:100], 100),
        (noise[:65536] + text[:65536] + noise[:2000], 65536 + 2000),
        (text[:65536] + noise[:65536] + text[:1500], 65536),
        (text[:3000], 0),
        (b"", 0),
    ):
        compressed = codec.compress(content)
        assert compressed.stored == stored
        assert len(compressed.data) <= 1.0001 * len(content) + 64
        assert codec.decompress(compressed.data) == content
        for at in (4, 5, 6, 7, len(compressed.data) - 1, len(compressed.data) // 2):
            bad = bytearray(compressed.data)
            bad[at] ^= 2
            with pytest.raises(FormatError):
                codec.decompress(bytes(bad))
    compressed = neural_codec.compress(noise[:2000])
    assert compressed.tokens == 0
    assert neural_codec.decompress(compressed.data) == noise[:2000]


def test_stored_blocks_that_contradict_the_header(codec: Codec) -> None:
    content = np.random.default_rng(2).bytes(70_000)
    data = codec.compress(content).data
    body = data[44:]
    for changes in (
        {"length": 2**62}, {"length": 0}, {"length": 69_999}, {"length": 70_001}, {"first": 1}, {"flags": 6},
        {"body": b"\x07" + body[1:]}, {"body": b"\x00" + body[1:]}, {"body": body + b"\x01"}, {"version": 2},
        {"zero": 1}, {"text_length": 3}, {"body": body[:-1]}, {"body": b""},
    ):  # fmt: skip
        with pytest.raises(FormatError):
            codec.decompress(rewritten(data, **changes))


def test_nothing_may_follow_a_payload(codec: Codec) -> None:
    data = codec.compress(b"The statement is executed once for each item. " * 9).data
    for more in (b"\0", bytes(5), bytes(4) + b"\1", bytes(9) + b"\1", b"\1" * 1000):
        with pytest.raises(FormatError, match="follow the payload"):
            codec.decompress(rewritten(data, body=data[44:] + more))


def test_a_diverged_model_is_no_codec(neural_codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridlm.model.incremental import IncrementalGPT

    step = IncrementalGPT.step
    monkeypatch.setattr(IncrementalGPT, "step", lambda self, token: step(self, token) + float("nan"))
    with pytest.raises(InputError, match="diverged"):
        neural_codec.compress(b"The statement")
    monkeypatch.setattr(IncrementalGPT, "step", lambda self, token: step(self, token)[:7])
    with pytest.raises(InputError, match="7 of 512 tokens"):
        neural_codec.compress(b"The statement")
    monkeypatch.setattr(IncrementalGPT, "step", lambda self, token: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        neural_codec.compress(b"The statement")


@pytest.mark.parametrize("kind", ["codec", "neural_codec"])
def test_damaged_files_are_refused(kind: str, request: pytest.FixtureRequest) -> None:
    codec = request.getfixturevalue(kind)
    content = b"The statement is executed once for each item of the sequence. " * 20
    data = codec.compress(content).data
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
    np.testing.assert_allclose(SamplingConfig().apply(row), row, rtol=1e-6)
    np.testing.assert_allclose(SamplingConfig(temperature=0).apply(row), [0, 1, 0, 0])
    np.testing.assert_allclose(SamplingConfig(top_k=2).apply(row), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    np.testing.assert_allclose(SamplingConfig(top_p=0.65).apply(row), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    squared = row.astype(np.float64) ** 2
    np.testing.assert_allclose(SamplingConfig(temperature=0.5).apply(row), squared / squared.sum(), rtol=1e-6)
    for wrong in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(InputError):
            SamplingConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["artifact", "neural_artifact"])
def test_generation_is_reproducible_and_explains_itself(
    kind: str, request: pytest.FixtureRequest, tokenizer: Tokenizer
) -> None:
    artifact = request.getfixturevalue(kind)

    def write(seed: int) -> list[tuple[int, float]]:
        generator = Generator(artifact, tokenizer)
        generator.read(tokenizer.encode("The statement"))
        drawn = list(itertools.islice(generator.tokens(SamplingConfig(), seed), 60))
        for sampled in drawn:
            assert sum(sampled.shares.values()) == pytest.approx(1)
            assert ("neural" in sampled.shares) == (kind == "neural_artifact")
            assert 0 < sampled.probability <= 1
            assert tokenizer.pieces[sampled.token].is_text
        return [(sampled.token, sampled.probability) for sampled in drawn]

    assert write(1) == write(1)
    assert write(1) != write(2)


@pytest.mark.parametrize("kind", ["artifact", "neural_artifact"])
def test_what_is_written_has_the_probability_that_is_scored(
    kind: str, request: pytest.FixtureRequest, tokenizer: Tokenizer
) -> None:
    artifact = request.getfixturevalue(kind)
    drawn = list(itertools.islice(Generator(artifact, tokenizer).tokens(SamplingConfig(), seed=4), 80))
    stream = np.array([tokenizer.bos_id, *(sampled.token for sampled in drawn)], np.uint16)
    settings = ScoringConfig(ttt="off" if kind == "neural_artifact" else None)
    result = evaluate(artifact, stream, tokenizer.byte_table, settings)
    bits = -np.log2([sampled.probability for sampled in drawn]).sum()
    assert result.bits_per_token * len(drawn) == pytest.approx(bits, rel=1e-5)


def test_a_held_out_stream_costs_less_with_what_is_learned(
    artifact: Artifact, tokenizer: Tokenizer, shard_dir: Path
) -> None:
    """The mixture over oracle and adaptive experts is better than any of them, and than Hedge."""
    stream = read_stream(data_folder(shard_dir)[1], tokenizer.vocab_size)
    total = {
        mixer: artifact_subject(artifact, tokenizer.vocab_size, ScoringConfig(mixer=mixer))
        .scorer()
        .score(stream, 1)
        .sum()
        for mixer in ("eg", "fixed-share", "bayes", "hedge")
    }
    assert total["eg"] < total["fixed-share"] < total["bayes"]
    assert total["eg"] < 0.85 * total["hedge"]
