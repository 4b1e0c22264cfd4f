"""Real text, a real tokenizer trained on it and real shards, made once for all tests."""

import os

# As `hybridlm` itself does, and before torch is imported, which is when it is read: on a busy machine,
# threads that spin while they wait cost far more than they save.
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "passive")

import ast
import functools
import io
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import hypothesis
import pytest
import sentencepiece
import torch

import hybridlm
from hybridlm import _core
from hybridlm.artifact import pack
from hybridlm.data import documents, shard_writer
from hybridlm.data.documents import Document
from hybridlm.data.shards import data_folder
from hybridlm.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from hybridlm.model import ModelConfig, neural_blob

# What a shell starts in the background ignores Ctrl-C, and what nohup starts ignores the end of its terminal.
# Both would be handed on to the commands under test.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How fast a machine is decides no test.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: what packed them may have put the time into them, and two workers that collect
    different names stop the whole run."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """The language reference that `help()` shows: some 80 English documents, 0.5 MB."""
    return [documents.clean(topics[name]) for name in sorted(topics)]


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory, corpus: list[str]) -> Path:
    """A model file of 512 pieces, trained on all of ``corpus``."""
    path = tmp_path_factory.mktemp("tokenizer") / "tok.model"
    Tokenizer.train(corpus, path, vocab_size=512)
    return path


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_path)


@pytest.fixture(scope="session")
def model_without_fallback(tmp_path_factory: pytest.TempPathFactory, corpus: list[str]) -> Path:
    """A model file of 400 pieces, in which every character of ``corpus`` is known and no other."""
    path = tmp_path_factory.mktemp("without fallback") / "tok.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=file,
            model_type="bpe",
            vocab_size=400,
            byte_fallback=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            max_sentence_length=1 << 20,
            minloglevel=2,
        )
    return path


@pytest.fixture(scope="session")
def shard_dir(tmp_path_factory: pytest.TempPathFactory, corpus: list[str], tokenizer: Tokenizer) -> Path:
    """A data folder: a few training shards of at most 60,000 tokens and a validation shard."""
    folder = tmp_path_factory.mktemp("shards")
    train, val = documents.split([Document("pydoc", text) for text in corpus], 0.05)
    shard_writer.write_shards(train, val, tokenizer, folder, name="topics", shard_tokens=60_000)
    return folder


@pytest.fixture
def shards(shard_dir: Path) -> list[str]:
    """The paths of the training shards, in the order of their names."""
    return sorted(map(str, shard_dir.glob("*_train_*.bin")))


@pytest.fixture(scope="session")
def oracle_artifact(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, shard_dir: Path) -> Path:
    """An artifact of version 1 with a small dense oracle alone."""
    counts = _core.NgramCounts(tokenizer.vocab_size, 3, {3: 256})
    counts.count_shards(data_folder(shard_dir)[0])
    path = tmp_path_factory.mktemp("artifact") / "oracle.pgar"
    path.write_bytes(pack(None, counts.dense_oracle(level=1)))
    return path


@pytest.fixture(scope="session")
def neural_artifact(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """An artifact of version 1 with a tiny, untrained model alone."""
    import torch

    from hybridlm.model import GPT

    torch.manual_seed(4)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, sequence_length=16, layers=2, width=32, heads=2, kv_heads=1,
        mlp_hidden=32, rope_dims=8, bigram_rows=32, bigram_width=32, zero_init_projections=False,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("artifact") / "neural.pgar"
    path.write_bytes(pack(neural_blob.encode(GPT(config), tokenizer=tokenizer.fingerprint), None))
    return path


@pytest.fixture(scope="session")
def sentencepiece_model(corpus: list[str]) -> Callable[..., bytes]:
    """Makes small SentencePiece models unlike ours: 380 BPE pieces but for the settings that are given.

    Each is trained once. The text has runs of spaces inside and at the beginning of its lines.
    """
    lines = "".join(corpus[:3])[:15_000].split("\n")
    text = [*lines, *("    indented" + "  " * (at % 5) + line[:40] for at, line in enumerate(lines))]

    @functools.cache
    def train(settings: str) -> bytes:
        model = io.BytesIO()
        ids = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
        options = {"model_type": "bpe", "vocab_size": 380, "byte_fallback": True, **ids}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text),
            model_writer=model,
            hard_vocab_limit=False,
            character_coverage=0.98,
            num_threads=1,
            minloglevel=2,
            **options | ast.literal_eval(settings),
        )
        return model.getvalue()

    return lambda **settings: train(repr(settings))


@pytest.fixture(scope="session")
def example_folder(
    tmp_path_factory: pytest.TempPathFactory, corpus: list[str], tokenizer: Tokenizer, tokenizer_path: Path
) -> Path:
    """Where the examples of docstrings and documents run: tok.model, data/, oracle.ngsp and artifact.pgar."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "tok.model").write_bytes(tokenizer_path.read_bytes())
    train, val = documents.split([Document("pydoc", text) for text in corpus[:40]], 0.05)
    shard_writer.write_shards(train, val, tokenizer, folder / "data")
    builder = hybridlm.OracleBuilder(tokenizer.vocabulary, order=3)
    builder.add_shard(folder / "data" / "text_train_000000.bin")
    oracle = builder.build(max_bytes=40_000).to_bytes()
    (folder / "oracle.ngsp").write_bytes(oracle)
    (folder / "artifact.pgar").write_bytes(hybridlm.bundle(None, oracle, tokenizer).to_bytes())
    return folder


@pytest.fixture(scope="session")
def recipe() -> ModelConfig:
    """Every piece of the best trained stack at once, small. Its unrolled layers: 0 1 2 1 2 3 4."""
    return ModelConfig(
        vocab_size=64,
        layers=5,
        width=32,
        heads=4,
        kv_heads=2,
        mlp_hidden=48,
        rope_dims=4,
        recurrences=2,
        recurrence_first=1,
        recurrence_last=2,
        lane_layers=2,
        xsa_layers=5,
        query_gain_start=5.0,
        gated_attention=False,
        sparse_gate_channels=12,
        bigram_rows=0,
        smear_gate=False,
        smear_channels=12,
        asymmetric_softcap=True,
        document_attention=True,
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tensors so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
