"""Real text, a real tokenizer trained on it and real shards, made once for all tests."""

import os
import signal
from pathlib import Path
from pydoc_data.topics import topics

import hypothesis
import pytest

from hybridlm.data import documents, shards
from hybridlm.data.documents import Document
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.model import ModelConfig

# As `hybridlm` itself does: on a busy machine, threads that spin while they wait cost more than they save.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# What a shell starts in the background ignores Ctrl-C, and would hand that on to the commands under test.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast a machine is decides no test.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


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
def shard_dir(tmp_path_factory: pytest.TempPathFactory, corpus: list[str], tokenizer: Tokenizer) -> Path:
    """A data folder: a few training shards of at most 60,000 tokens and a validation shard."""
    folder = tmp_path_factory.mktemp("shards")
    train, val = documents.split([Document("pydoc", text) for text in corpus], 0.05)
    shards.write_shards(train, val, tokenizer, folder, name="topics", shard_tokens=60_000)
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
