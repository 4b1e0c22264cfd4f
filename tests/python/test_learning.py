"""Several rates side by side: what they are mixed to, and what becomes of training that has diverged."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hybridlm.artifact import Artifact, pack
from hybridlm.data.byte_table import ByteTable
from hybridlm.distributed import Distributed
from hybridlm.errors import InputError
from hybridlm.model import GPT, ModelConfig, neural_blob
from hybridlm.scoring import learning
from hybridlm.scoring.artifact_experts import load_neural
from hybridlm.scoring.asked import Asked
from hybridlm.scoring.config import ScoringConfig, TTTConfig
from hybridlm.scoring.evaluate import EvaluationResult, evaluate
from hybridlm.scoring.neural import NeuralExpert
from hybridlm.scoring.rates import SHARE, SPAN, RateMixture
from hybridlm.scoring.ttt import DEFAULT_LEARNING_RATE, TestTimeTrainer

V, WINDOW = 24, 16


pytestmark = pytest.mark.usefixtures("one_thread")


def text_like(n: int, seed: int = 0, language: int = 0) -> NDArray[np.uint16]:
    """Documents of tokens whose next ones can be learned; they begin with token 1."""
    rng = np.random.default_rng(seed)
    following = np.random.default_rng(language).permutation(V)
    tokens = [1]
    for at in range(1, n):
        again = int(following[tokens[-1]]) if rng.random() < 0.8 else int(rng.integers(2, V))
        tokens.append(1 if at % 45 == 0 else max(again, 2))
    return np.array(tokens, np.uint16)


STREAM = text_like(500)
TABLE = ByteTable(np.full(V, 2, np.int32), np.zeros(V, np.bool_), np.arange(V) == 1)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """With a model that has learned how often each token comes, and of four languages a little."""
    torch.manual_seed(0)
    config = ModelConfig(
        layers=2, width=32, heads=2, kv_heads=1, mlp_hidden=32, vocab_size=V, sequence_length=WINDOW,
        rope_dims=8, bigram_rows=16, bigram_width=32, zero_init_projections=False, embedding_std=0.5,
    )  # fmt: skip
    model = GPT(config)
    alone = Distributed(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    lessons = np.concatenate([text_like(400, 10 + language, language) for language in range(4)])
    settings = TTTConfig(epochs=8, frozen_blocks=0)
    TestTimeTrainer(model, "adamw", settings, alone, rate=0.01, sequence_length=WINDOW).learn(lessons, 1)
    return Artifact.from_bytes(pack(neural_blob.encode(model, tokenizer="ab" * 32), None))


def scored(artifact: Artifact, ttt: str = "sgd", chunk: int = 64, **options: Any) -> EvaluationResult:
    chosen = TTTConfig(**{"epochs": 2, "frozen_blocks": 0, "targets": 8, "documents": 4, **options})
    settings = ScoringConfig(chunk=chunk, batch=4, ttt=ttt, ttt_options=chosen)  # type: ignore[arg-type]
    return evaluate(artifact, STREAM, TABLE, settings)


@pytest.mark.parametrize("cut", [1, 37, SPAN, 3 * SPAN])
def test_rates_are_weighed_as_by_a_slow_loop(cut: int) -> None:
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.uniform(0.05, 1, (3, 3 * SPAN))).astype(np.float32)
    weights, slow = np.full(3, 1 / 3), []
    for at, column in enumerate(np.exp(log_probs.astype(np.float64)).T, 1):
        slow.append(np.log(weights @ column))
        weights = weights * column / (weights @ column)
        if at % SPAN == 0:
            weights = (1 - SHARE) * weights + SHARE / 3
    mixture, whole = RateMixture(3), RateMixture(3)
    found = np.concatenate(
        [mixture.mix(log_probs[:, at : at + cut])[0] for at in range(0, log_probs.shape[1], cut)]
    )
    np.testing.assert_allclose(found, slow, atol=1e-9)
    np.testing.assert_allclose(mixture.weights(), weights, atol=1e-9)
    # A cut changes no bit, and a copy goes on as the first would.
    np.testing.assert_array_equal(found, whole.mix(log_probs)[0])
    assert mixture.fingerprint() == whole.fingerprint()
    copy = RateMixture(3)
    copy.restore(mixture.state())
    np.testing.assert_array_equal(copy.mix(log_probs[:, :9])[0], mixture.mix(log_probs[:, :9])[0])


def test_a_mixture_of_rates_is_hardly_worse_than_the_best() -> None:
    rng = np.random.default_rng(1)
    log_probs = np.log(rng.uniform(0.2, 1, (2, 5000))).astype(np.float32)
    log_probs[1] -= 3  # a rate that ruins the model
    lost = -RateMixture(2).mix(log_probs)[0].sum() + log_probs[0].sum(dtype=np.float64)
    assert 0 < lost < np.log(2) + 5000 / SPAN * SHARE


@pytest.mark.parametrize("ttt", ["sgd", "adamw", "lora", "documents"])
def test_a_rate_that_ruins_the_model_costs_next_to_nothing(artifact: Artifact, ttt: str) -> None:
    off = scored(artifact, "off")
    ruined = scored(artifact, ttt, learning_rates=(0.0, 1e3), margin=100.0)
    assert np.isfinite(ruined.bpb) and ruined.ttt_updates > 0
    still, other = ruined.ttt_rates
    assert (still.learning_rate, still.updates, still.bpb) == (0, 0, pytest.approx(off.experts["neural"].bpb))
    assert other.learning_rate == 1e3 and other.bpb > still.bpb + 0.1
    assert ruined.experts["neural"].bpb < still.bpb + 8 / ruined.bytes


@pytest.mark.parametrize("ttt", ["sgd", "adamw", "lora"])
@pytest.mark.parametrize("rate", [100.0, 1e3])
def test_divergence_is_undone_counted_and_named(
    artifact: Artifact, ttt: str, rate: float, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = scored(artifact, ttt, learning_rates=(rate,))
    off = scored(artifact, "off")
    assert result.ttt_undone == result.ttt_rates[0].undone == 7, "after each chunk but the last"
    assert f"rate {rate:g} diverged" in caplog.text
    # What has diverged never scores: all is as without training.
    assert result.experts["neural"] == off.experts["neural"] and result.bpb == off.bpb


def test_what_was_good_on_the_trained_chunk_but_bad_on_the_next_is_undone(artifact: Artifact) -> None:
    """Half of the stream repeats one pattern, the rest knows nothing of it."""
    pattern = np.tile(np.arange(2, 8), 40)
    stream = np.concatenate([[1], pattern, text_like(200, 3, 3)]).astype(np.uint16)
    options = TTTConfig(learning_rates=(0.0, 0.3), epochs=3, frozen_blocks=0, margin=0.2)
    settings = ScoringConfig(chunk=60, batch=4, ttt="sgd", ttt_options=options)
    result = evaluate(artifact, stream, TABLE, settings)
    assert result.ttt_undone >= 1
    patient = replace(settings, ttt_options=replace(options, margin=50.0))
    assert evaluate(artifact, stream, TABLE, patient).ttt_undone == 0


def test_a_row_that_is_no_distribution_is_the_untrained_model_s(artifact: Artifact) -> None:
    """Position by position, so that what comes later can't change an earlier row."""
    settings = ScoringConfig(batch=4, ttt="sgd", ttt_options=TTTConfig(learning_rates=(0.01,)))
    learning, _ = load_neural(artifact, settings, None)
    untrained, _ = load_neural(artifact, replace(settings, ttt="off"), None)
    expert = learning.arms[0].expert  # type: ignore[attr-defined]
    assert isinstance(expert, NeuralExpert) and isinstance(untrained, NeuralExpert)
    forward = expert.model.forward

    def broken(tokens: torch.Tensor, *settings: object) -> torch.Tensor:
        logits = forward(tokens, *settings)
        logits[tokens == 5] = float("nan")
        logits[tokens == 6] = 1e35
        return logits + torch.where(tokens == 7, 0.5, 0.0)[..., None] * torch.arange(V)

    expert.model.forward = broken  # type: ignore[method-assign]
    found, plain = (one.score(STREAM, 1).log_probs[0] for one in (expert, untrained))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found != plain, STREAM[:-1] == 7)
    for target in (5, 6):
        at = int(np.flatnonzero(STREAM[20:-1] == target)[0]) + 21
        np.testing.assert_array_equal(
            expert.predict(STREAM[:at]).log_probs, untrained.predict(STREAM[:at]).log_probs
        )


def test_training_pays_where_there_is_something_to_learn(artifact: Artifact) -> None:
    off = scored(artifact, "off").experts["neural"].bpb
    for ttt, rate in (("sgd", 0.05), ("adamw", 0.003), ("lora", 0.01)):
        result = scored(artifact, ttt, learning_rates=(0.0, rate))
        assert result.experts["neural"].bpb < 0.97 * off, ttt
        assert result.ttt_undone == 0


@pytest.mark.parametrize("ttt", ["sgd", "adamw", "lora", "documents"])
def test_by_default_training_is_hardly_worse_than_none(artifact: Artifact, ttt: str) -> None:
    result = evaluate(artifact, STREAM, TABLE, ScoringConfig(chunk=64, batch=4, ttt=ttt))  # type: ignore[arg-type]
    assert [one.learning_rate for one in result.ttt_rates] == [0.0, DEFAULT_LEARNING_RATE[ttt]]
    assert result.ttt == ttt and result.ttt_updates > 0
    lost = (result.experts["neural"].bpb - result.ttt_rates[0].bpb) * result.bytes * np.log(2)
    assert lost < np.log(2) + 0.01


def test_adapters_of_a_document_learn_its_language(artifact: Artifact) -> None:
    """Every document has a language of its own, so that nothing is left of it after its end."""
    documents = np.concatenate([text_like(250, 20 + at, 20 + at)[:45].tolist() * 6 for at in range(4)])
    documents[np.arange(len(documents)) % 270 != 0] = np.maximum(documents, 2)[
        np.arange(len(documents)) % 270 != 0
    ]
    stream = documents.astype(np.uint16)
    options = TTTConfig(learning_rates=(0.0, 0.01), targets=8, documents=4, weight_decay=0.0)
    settings = ScoringConfig(chunk=256, batch=4, ttt="documents", ttt_options=options)
    result = evaluate(artifact, stream, TABLE, settings)
    assert result.experts["neural"].bpb < 0.97 * result.ttt_rates[0].bpb


def test_what_is_asked_is_what_the_rows_have_in_blocks_of_any_size(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, random = text_like(120), np.random.default_rng(1)
    ends = np.concatenate(([0], np.cumsum(random.integers(0, 9, len(stream) - 1)))).astype(np.uint32)
    asked = Asked(random.integers(0, V, int(ends[-1])).astype(np.uint16), ends)
    config = ScoringConfig(ttt="sgd", batch=4, chunk=64)
    found = []
    for block in (1 << 18, 7, 1):
        monkeypatch.setattr(learning, "_BLOCK", block)
        found.append(load_neural(artifact, config, None)[0].score_asked(stream, 1, asked)[1])
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
    rows = np.empty((1, len(stream) - 1, V), np.float32)
    load_neural(artifact, config, None)[0].score_rows(stream, 1, rows)
    places, of = asked.of(np.arange(len(stream) - 1))
    np.testing.assert_allclose(found[0], rows[0, of, asked.tokens[places]], atol=2e-6)


def test_a_control_learns_from_other_tokens(artifact: Artifact) -> None:
    noise = np.random.default_rng(0).integers(2, V, len(STREAM)).astype(np.uint16)
    options = TTTConfig(
        learning_rates=(0.0, 0.01), epochs=2, frozen_blocks=0, documents=4, targets=8, margin=100.0
    )
    for ttt in ("sgd", "lora", "documents"):
        settings = ScoringConfig(chunk=64, batch=4, ttt=ttt, ttt_options=options)  # type: ignore[arg-type]
        plain = evaluate(artifact, STREAM, TABLE, settings)
        held, same = (evaluate(artifact, STREAM, TABLE, settings, control=c) for c in (noise, STREAM))
        assert plain.control is None and held.control is not None and same.control is not None
        assert held.experts == plain.experts and held.bpb == plain.bpb, "a control has no part in the score"
        assert held.control.bpb > plain.ttt_rates[1].bpb
        # A control that is trained on the stream itself is the arm that learns.
        assert same.control.bpb == pytest.approx(plain.ttt_rates[1].bpb, abs=1e-7)
    with pytest.raises(InputError, match="control"):
        evaluate(artifact, STREAM, TABLE, replace(settings, ttt="off"), control=noise)
    with pytest.raises(InputError, match="control"):
        evaluate(artifact, STREAM, TABLE, settings, control=noise[:-1])
