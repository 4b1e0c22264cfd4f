"""Rolling attention: what a position may see, and scores by it."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hybridlm.distributed import Distributed
from hybridlm.errors import InputError
from hybridlm.model import GPT, ModelConfig, gpt
from hybridlm.model.gpt import Rolling, RollingMask, attend
from hybridlm.scoring.config import TTTConfig
from hybridlm.scoring.neural import NeuralExpert
from hybridlm.scoring.ttt import TestTimeTrainer
from hybridlm.scoring.windows import laid_out

V, BOS, WINDOW = 40, 1, 16
ALONE = Distributed(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
TOKENS = np.random.default_rng(0).integers(2, V, 700).astype(np.uint16)
TOKENS[::45] = BOS
CONFIG = ModelConfig(
    layers=3, width=32, heads=4, kv_heads=2, mlp_hidden=48, vocab_size=V, rope_dims=8, sequence_length=WINDOW,
    bigram_rows=32, bigram_width=8, zero_init_projections=False, embedding_std=0.5,
)  # fmt: skip


def slow_mask(positions: int, rolling: Rolling, document: Tensor | None) -> Tensor:
    """bool [B or 1, 1, T, T], position by position from the definition."""
    rows = []
    for t in range(positions):
        end = (t // rolling.block + 1) * rolling.block
        rows.append([end - rolling.window <= s <= t for s in range(positions)])
    mask = torch.tensor(rows)[None, None]
    return mask if document is None else mask & (document[:, None, :, None] == document[:, None, None, :])


@given(
    positions=st.integers(1, 40),
    block=st.integers(1, 9),
    before=st.integers(0, 12),
    by_document=st.booleans(),
    grouped=st.booleans(),
)
def test_a_block_sees_the_window_that_ends_with_it(
    positions: int, block: int, before: int, by_document: bool, grouped: bool
) -> None:
    torch.manual_seed(positions)
    query, key, value = (torch.randn(2, heads, positions, 4) for heads in (4, *[2 if grouped else 4] * 2))
    document = (torch.rand(2, positions) < 0.2).cumsum(1) if by_document else None
    rolling = Rolling(block + before, block)
    found = attend(query, key, value, RollingMask(rolling, document))
    wanted = F.scaled_dot_product_attention(
        query, key, value, attn_mask=slow_mask(positions, rolling, document), enable_gqa=grouped
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("document_attention", [False, True])
@torch.no_grad()
def test_a_model_equals_one_whose_attention_is_masked_position_by_position(
    document_attention: bool, recipe: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(recipe, document_attention=document_attention))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.from_numpy(TOKENS[:60].astype(np.int64))[None]
    rolling = Rolling(12, 5)
    found = model(tokens, rolling)

    def slow(query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Tensor:
        assert isinstance(mask, RollingMask) and (mask.document is not None) == document_attention
        dense = slow_mask(60, mask.rolling, mask.document)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=dense, enable_gqa=True)

    monkeypatch.setattr(gpt, "attend", slow)
    torch.testing.assert_close(found, model(tokens, rolling), rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    assert not torch.allclose(found, model(tokens), atol=1e-2)
    # One block that is a whole window is the plain model.
    torch.testing.assert_close(model(tokens, Rolling(60, 60)), model(tokens), rtol=1e-4, atol=1e-4)


def expert(batch: int = 16, stride: int = 8, seed: int = 0) -> NeuralExpert:
    torch.manual_seed(seed)
    grid, group = laid_out(WINDOW, stride, "rolling", batch)
    return NeuralExpert(GPT(CONFIG), grid, ALONE, group=group, rolling=Rolling(WINDOW, stride))


@given(window=st.integers(1, 40), data=st.data(), target=st.integers(1, 2000))
def test_a_target_has_the_context_that_its_window_would_give(
    window: int, data: st.DataObject, target: int
) -> None:
    stride = data.draw(st.integers(-(-window // 8), window))
    grid, _ = laid_out(window, stride, "rolling", 16)
    row = target - 1 - grid.start(grid.window_of(target))
    seen = row - max(0, (row // stride + 1) * stride - window) + 1
    assert min(target, window - stride + 1) <= seen <= window


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_cuts_change_no_bit_and_later_tokens_no_earlier_score(stride: int) -> None:
    one = expert(stride=stride)
    whole = one.score(TOKENS, 1).log_probs[0]
    for cut in (1, 64, 200, 333):
        pieces = [one.score(TOKENS[: at + cut], at).log_probs[0] for at in range(1, len(TOKENS), cut)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    other = TOKENS.copy()
    other[300:] = (other[300:] + 1) % V
    np.testing.assert_array_equal(one.score(other, 1).log_probs[0, :299], whole[:299])
    assert not np.array_equal(one.score(other, 1).log_probs[0, 299:], whole[299:])
    np.testing.assert_allclose(expert(batch=1, stride=stride).score(TOKENS, 1).log_probs[0], whole, atol=1e-4)


def test_scores_equal_one_pass_over_the_whole_stream_but_where_sequences_begin() -> None:
    """A sequence's first window has less behind it in the lower layers; elsewhere it makes no difference."""
    one = expert()
    found = one.score(TOKENS, 1).log_probs[0]
    tokens = torch.from_numpy(TOKENS.astype(np.int64))
    with torch.no_grad():
        logits = one.model(tokens[None, :-1], Rolling(WINDOW, 8))[0]
    wanted = -F.cross_entropy(logits, tokens[1:], reduction="none").numpy()
    first = one.grid.last_target(0)
    np.testing.assert_allclose(found[:first], wanted[:first], atol=1e-4)
    # Three layers of half a window's reach more each: so far do beginnings carry.
    second = one.grid.start(1) + 3 * WINDOW
    np.testing.assert_allclose(
        found[second : one.grid.last_target(1)], wanted[second : one.grid.last_target(1)], atol=1e-4
    )


def test_the_next_row_and_all_rows_are_what_is_scored() -> None:
    one = expert()
    scored = one.score(TOKENS, 1).log_probs[0]
    rows = np.empty((1, len(TOKENS) - 1, V), np.float32)
    np.testing.assert_allclose(one.score_rows(TOKENS, 1, rows).log_probs[0], scored, atol=1e-5)
    np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(-1), 1, atol=1e-5)
    for target in (1, 127, 128, 129, 500):
        row = one.predict(TOKENS[:target]).log_probs[0]
        np.testing.assert_allclose(row[TOKENS[target]], scored[target - 1], atol=1e-5)
        np.testing.assert_allclose(np.exp(row.astype(np.float64)).sum(), 1, atol=1e-5)


def test_what_has_diverged_is_replaced_by_the_model_that_sees_as_far() -> None:
    broken, sound = expert(seed=1), expert()
    learner = sound.learning(broken.model, TestTimeTrainer(
        broken.model, "sgd", TTTConfig(), ALONE, rate=0.1, sequence_length=WINDOW
    ).applied)  # fmt: skip
    with torch.no_grad():
        broken.model.token_embedding.weight.fill_(torch.nan)
    np.testing.assert_array_equal(learner.score(TOKENS, 1).log_probs, sound.score(TOKENS, 1).log_probs)


def test_what_cannot_roll_is_refused() -> None:
    with pytest.raises(InputError, match="eighth of the window"):
        laid_out(64, 7, "rolling", 16)
    with pytest.raises(InputError, match="blocks of 9"):
        Rolling(8, 9)
