"""Step by step, the model says what it says of whole windows."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from hybridlm.distributed import Distributed
from hybridlm.errors import InputError
from hybridlm.model import GPT, ModelConfig
from hybridlm.model.incremental import IncrementalGPT
from hybridlm.scoring.neural import NeuralExpert
from hybridlm.scoring.windows import WindowGrid

V = 64
CONFIG = ModelConfig(
    vocab_size=V, layers=5, width=32, heads=4, kv_heads=2, mlp_hidden=48, rope_dims=4, bigram_rows=96,
    bigram_width=8, sequence_length=16,
)  # fmt: skip
SWITCHES = [
    {},
    {"layers": 1},
    {"layers": 4, "xsa_layers": 2, "kv_heads": 4},
    {"kv_heads": 1, "rope_dims": 8},
    {"tied_embeddings": False, "logit_softcap": 0.0},
    {"unet_skips": False, "residual_mix": False},
    {"branch_scales": False, "depth_scaled_norm": False},
    {"qk_norm": False, "query_gain": False, "rope_dims": 0},
    {"xsa_layers": 0, "value_residual": False, "gated_attention": False},
    {"mlp_affine": False, "bigram_rows": 0, "smear_gate": False, "leaky_relu_slope": 0.75},
    {"recurrences": 3, "recurrence_first": 0, "recurrence_last": 2},
    {"recurrences": 2, "recurrence_first": 4, "recurrence_last": 4},
    {"lane_layers": 5, "unet_skips": False},
    {"lane_layers": 2, "branch_scales": False},
    {"sparse_gate_channels": 12, "gated_attention": False},
    {"smear_channels": 12, "smear_gate": False},
    {"asymmetric_softcap": True},
    {"document_attention": True},
]


pytestmark = pytest.mark.usefixtures("one_thread")


def make_model(**switches: object) -> GPT:
    """A model none of whose parts is inactive."""
    torch.manual_seed(3)
    model = GPT(dataclasses.replace(CONFIG, **switches))  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def some_tokens(n: int) -> list[int]:
    random = np.random.default_rng(5)
    tokens = random.integers(2, V, n)
    tokens[::9] = CONFIG.bos_id
    return list(map(int, tokens))


def rows(model: GPT, tokens: list[int], window: int, stride: int) -> Tensor:
    steps = IncrementalGPT(model, window, stride)
    return torch.stack([steps.step(token) for token in tokens])


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@torch.no_grad()
def test_steps_equal_the_whole_window(switches: dict[str, object]) -> None:
    model = make_model(**switches)
    tokens = some_tokens(24)
    whole = torch.log_softmax(model(torch.tensor([tokens]))[0], dim=-1)
    torch.testing.assert_close(rows(model, tokens, 24, 12), whole, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("recurrent", [True, False])
@torch.no_grad()
def test_steps_of_the_whole_recipe_equal_the_whole_window(recipe: ModelConfig, recurrent: bool) -> None:
    model = make_model(**dataclasses.asdict(recipe))
    model.set_recurrence(recurrent)
    tokens = some_tokens(24)
    whole = torch.log_softmax(model(torch.tensor([tokens]))[0], dim=-1)
    torch.testing.assert_close(rows(model, tokens, 24, 12), whole, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("window, stride", [(16, 4), (16, 8), (16, 16), (7, 1), (1, 1)])
@pytest.mark.parametrize("with_recipe", [False, True])
def test_steps_equal_the_windows_of_scoring(
    window: int, stride: int, with_recipe: bool, recipe: ModelConfig
) -> None:
    model = make_model(**(dataclasses.asdict(recipe) if with_recipe else {}))
    tokens = some_tokens(90)
    stream = np.array(tokens, np.uint16)
    alone = Distributed(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    scored = NeuralExpert(model, WindowGrid(window, stride), alone).score(stream, 1).log_probs[0]
    found = rows(model, tokens, window, stride)[torch.arange(89), torch.tensor(tokens[1:])]
    np.testing.assert_allclose(found.numpy(), scored, rtol=2e-4, atol=2e-4)


def test_each_row_is_a_distribution_and_the_same_to_the_bit_again() -> None:
    model = make_model()
    tokens = some_tokens(60)
    found = rows(model, tokens, 16, 5)
    assert found.shape == (60, V) and found.dtype == torch.float32
    np.testing.assert_allclose(found.double().exp().sum(-1), 1, atol=1e-6)
    assert torch.equal(found, rows(model, tokens, 16, 5))


def test_a_later_token_changes_no_earlier_row() -> None:
    model = make_model()
    tokens = some_tokens(50)
    other = [*tokens[:30], *((token + 7) % V for token in tokens[30:])]
    before, after = rows(model, tokens, 16, 5), rows(model, other, 16, 5)
    assert torch.equal(before[:30], after[:30])
    assert not torch.allclose(before[30:], after[30:])


def test_it_keeps_the_weights_that_it_was_given() -> None:
    model = make_model()
    steps, again = IncrementalGPT(model, 16, 8), IncrementalGPT(model, 16, 8)
    expected = [again.step(token) for token in some_tokens(20)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    for token, row in zip(some_tokens(20), expected, strict=True):
        assert torch.equal(steps.step(token), row)


def test_what_makes_no_sense_is_refused() -> None:
    model = make_model()
    for window, stride in ((4, 5), (4, 0), (0, 0)):
        with pytest.raises(InputError, match="stride"):
            IncrementalGPT(model, window, stride)
    for token in (-1, V):
        with pytest.raises(InputError, match="outside the vocabulary"):
            IncrementalGPT(model, 4, 2).step(token)
