"""What the network says of a token is the same number, asked for alone or with its whole row."""

import numpy as np
import pytest
import torch

from hybridlm.distributed import alone
from hybridlm.model import GPT, ModelConfig
from hybridlm.scoring.asked import Asked
from hybridlm.scoring.neural import NeuralExpert, normalisers, row_log_probs, target_log_probs, tell
from hybridlm.scoring.windows import WindowGrid

SIZES = (2, 63, 64, 257, 1024, 8192, 49_152)


def some_logits(vocab_size: int, scale: float, rows: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    return 15 + scale * torch.randn(rows, vocab_size, generator=generator)


@pytest.mark.parametrize("vocab_size", SIZES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_agree_with_double_precision_wherever_a_row_stands(vocab_size: int, scale: float) -> None:
    logits = some_logits(vocab_size, scale)
    found = normalisers(logits)
    assert found.dtype == torch.float64
    assert (found - logits.double().logsumexp(dim=-1)).abs().max() < 4e-7
    assert torch.equal(normalisers(logits.view(4, 16, -1)).flatten(), found)
    for first, count in ((0, 1), (5, 3), (31, 33)):
        assert torch.equal(normalisers(logits[first : first + count].clone()), found[first : first + count])


@pytest.mark.parametrize("vocab_size", SIZES)
def test_targets_and_what_is_asked_have_the_bits_of_the_row(vocab_size: int) -> None:
    logits = some_logits(vocab_size, 5.0)
    rows = row_log_probs(logits)
    assert (rows.double().exp().sum(dim=-1) - 1).abs().max() < 1e-6
    tokens = torch.arange(65) * 7 % vocab_size
    targets = target_log_probs(logits[None], tokens[None])[0]
    assert torch.equal(targets, rows[torch.arange(64), tokens[1:]])

    asked = Asked(np.arange(64).astype(np.uint16) % vocab_size, np.arange(65, dtype=np.uint32))
    told = torch.zeros(64)
    tell(logits, normalisers(logits), np.arange(64), np.arange(64), asked, told)
    assert torch.equal(told, rows[torch.arange(64), torch.arange(64) % vocab_size])


def test_a_prediction_commits_to_the_very_score() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        layers=1, width=32, heads=2, kv_heads=2, mlp_hidden=64, vocab_size=8192, sequence_length=16,
        bigram_rows=0, embedding_std=0.5, zero_init_projections=False,
    )  # fmt: skip
    expert = NeuralExpert(GPT(config).eval(), WindowGrid(16, 8), alone(), group=4)
    stream = np.random.default_rng(0).integers(0, 8192, 60).astype(np.uint16)
    scores = expert.score(stream, 1).log_probs[0]
    rows = np.empty((1, 59, 8192), np.float32)
    expert.score_rows(stream, 1, rows)
    for target in range(1, 60):
        row = expert.predict(stream[:target]).log_probs[0]
        assert row[stream[target]] == scores[target - 1]
        np.testing.assert_array_equal(row, rows[0, target - 1])
