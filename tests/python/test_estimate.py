"""What a run will take, against what it takes."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hybridlm.distributed import Distributed
from hybridlm.model import GPT, ModelConfig, neural_blob
from hybridlm.model.grid import Scheme
from hybridlm.train.config import TrainConfig
from hybridlm.train.ema import EMA
from hybridlm.train.estimate import activation_bytes, estimate, flops_per_token, packed_bytes
from hybridlm.train.optimizer import Optimizers
from hybridlm.train.schedule import StepPlan

LENGTH = 32
REFERENCE = ModelConfig(
    vocab_size=64, layers=4, width=64, heads=4, kv_heads=2, mlp_hidden=96, rope_dims=8, bigram_rows=64,
    bigram_width=32,
)  # fmt: skip


@pytest.fixture(params=["recipe", "reference"])
def config(request: pytest.FixtureRequest, recipe: ModelConfig) -> TrainConfig:
    model = recipe if request.param == "recipe" else REFERENCE
    model = dataclasses.replace(model, sequence_length=LENGTH)
    return TrainConfig(
        batch_tokens=8 * LENGTH, micro_batch_tokens=3 * LENGTH, sequence_length=LENGTH, model=model
    )


def inputs(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(rows, LENGTH + 1, dtype=torch.int64), torch.ones(rows, LENGTH), torch.ones(())


@pytest.mark.parametrize("recurrent", [True, False])
def test_operations_are_those_that_torch_counts(config: TrainConfig, recurrent: bool) -> None:
    with torch.device("meta"):
        model = GPT(config.model)
        model.set_recurrence(recurrent)
        with FlopCounterMode(display=False) as counter:
            loss, _ = model.loss(*inputs(2))
            loss.backward()
    # A product of a matrix and a vector, which torch doesn't count.
    smear = 6 * config.model.smear_channels
    counted = counter.get_total_flops() / (2 * LENGTH)
    assert flops_per_token(config.model, recurrent) == pytest.approx(counted + smear, rel=1e-9)


def test_activations_are_those_that_autograd_keeps(config: TrainConfig) -> None:
    model = GPT(config.model)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(*inputs(3))
    measured = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)
    with FakeTensorMode():
        fake = GPT(config.model)
    assert activation_bytes(fake, config, torch.float32) == pytest.approx(measured, rel=0.05)


def test_state_is_what_training_holds(config: TrainConfig) -> None:
    model = GPT(config.model)
    optimizers, ema = (
        Optimizers(model, config.optimizer, Distributed(0, 1, 0, torch.device("cpu"))),
        EMA(model, 0.9),
    )
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(StepPlan(1.0, 1.0, 0.9, False, False))
    held = [*model.parameters(), *(p.grad for p in model.parameters()), *ema.average.values()]
    held += [value for name, value in optimizers.state().items() if not name.endswith("/step")]
    found = estimate(config)
    assert found.state_bytes == sum(4 * tensor.numel() for tensor in held if tensor is not None)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("words", [[], ["std:6"], ["std:12", "embedding=8:absmax"]])
def test_packed_bytes_are_those_of_normal_weights_when_compressed(words: list[str]) -> None:
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(REFERENCE, width=128, mlp_hidden=384, vocab_size=512))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    scheme = Scheme.parse(words)
    blob = neural_blob.encode(model, tokenizer="ab" * 32, scheme=scheme)
    assert packed_bytes(model, scheme) == pytest.approx(len(blob), rel=0.03)
