"""What runs in every step stays on the device and makes the host wait for nothing.

Tensors here have no data: on the meta device, or fake ones that claim to be on CUDA. One on another device,
a `.item()`, a branch on a value or a shape that depends on data is then an error, also without a GPU. (Fake
CUDA tensors have no backward pass on a machine without a GPU; the meta device has.)
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hybridlm.distributed import Distributed
from hybridlm.model import GPT, ModelConfig
from hybridlm.scoring.config import TTTConfig
from hybridlm.scoring.neural import NeuralExpert, normalisers, target_log_probs
from hybridlm.scoring.ttt import TestTimeTrainer
from hybridlm.scoring.windows import WindowGrid
from hybridlm.train.config import OptimizerConfig, TrainConfig
from hybridlm.train.ema import EMA
from hybridlm.train.loop import Learner
from hybridlm.train.optimizer import clip_norm_
from hybridlm.train.schedule import StepPlan

META, CUDA = torch.device("meta"), torch.device("cuda", 0)
PLANS = [
    StepPlan(lr_scale=1.0, decay_scale=1.0, momentum=0.9, recurrent=False, quantised=False),
    StepPlan(lr_scale=0.1, decay_scale=0.5, momentum=0.9, recurrent=True, quantised=True),
]


@pytest.fixture(params=["recipe", "reference"])
def config(request: pytest.FixtureRequest, recipe: ModelConfig) -> TrainConfig:
    """The whole recipe, and the reference's stack with an oracle's weights and plain optimisers."""
    if request.param == "reference":
        plain = ModelConfig(
            vocab_size=64, layers=3, width=32, heads=4, kv_heads=2, mlp_hidden=48, rope_dims=4, bigram_rows=32
        )
        return TrainConfig(batch_tokens=256, sequence_length=32, micro_batch_tokens=96, model=plain)
    optimizer = OptimizerConfig(gradient_clip=0.3, newton_schulz="polar_express", normalise_rows=True)
    small = dataclasses.replace(recipe, layers=3, recurrence_last=1, lane_layers=1, xsa_layers=3)
    return TrainConfig(batch_tokens=256, sequence_length=32, model=small, optimizer=optimizer)


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has no autocast; here none is wanted."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def model_on(device: torch.device, config: TrainConfig) -> GPT:
    with device:
        return GPT(config.model)


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    with FakeTensorMode():
        yield


def test_these_tensors_catch_what_they_should() -> None:
    def wait(x: Tensor) -> None:
        x.sum().item()

    def branch(x: Tensor) -> None:
        bool(x.sum() > 0)

    def depend(x: Tensor) -> None:
        x[x > 0]

    def mix(x: Tensor) -> None:
        x + torch.ones(3)

    mistakes: list[Callable[[Tensor], None]] = [wait, branch, depend, mix]
    for mistake in mistakes:
        with pytest.raises((RuntimeError, NotImplementedError)):
            mistake(torch.ones(3, device=META))
        with pytest.raises(Exception, match=r"aten|device"), fake_cuda():
            mistake(torch.ones(3, device=CUDA))


@pytest.mark.usefixtures("meta")
def test_a_training_step(config: TrainConfig) -> None:
    model = model_on(META, config)
    learner = Learner(model, config, Distributed(0, 1, 0, META), torch.float32)
    ema = EMA(model, 0.99)
    tokens = torch.zeros(8, 33, dtype=torch.int64, device=META)
    for step, plan in enumerate(PLANS):
        outcome = learner.step(tokens, torch.ones(8, 32, device=META), plan)
        ema.update(model, step)
        assert outcome.nats.device == outcome.gradient_norm.device == META


def test_forward_pass_and_optimisers_on_cuda(config: TrainConfig) -> None:
    with fake_cuda():
        model = model_on(CUDA, config)
        learner = Learner(model, config, Distributed(0, 1, 0, CUDA), torch.float32)
        ema = EMA(model, 0.99)
        tokens = torch.zeros(8, 33, dtype=torch.int64, device=CUDA)
        for step, plan in enumerate(PLANS):
            model.set_recurrence(plan.recurrent)
            model.set_fake_quantisation(plan.quantised)
            loss, _ = model.loss(tokens, torch.ones(8, 32, device=CUDA), torch.ones((), device=CUDA))
            assert loss.device == CUDA
            norm = clip_norm_(
                torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), 1
            )
            assert norm.device == CUDA
            learner.optimizers.step(plan)
            ema.update(model, step)


def test_scoring_on_cuda(config: TrainConfig) -> None:
    with fake_cuda(), torch.no_grad():
        model = model_on(CUDA, config)
        expert = NeuralExpert(model, WindowGrid(16, 8), Distributed(0, 1, 0, CUDA), group=4)
        stream = torch.zeros(200, dtype=torch.int64, device=CUDA)
        rows = expert._rows(stream, expert.grid.start(4))
        logits = expert._logits(rows)
        for target, scores in expert._score_group(logits, normalisers(logits), rows, 1):
            assert scores.device == CUDA and target >= 33
        rows = stream.view(4, 50)
        assert target_log_probs(model(rows[:, :-1]), rows).shape == (4, 49)


@pytest.mark.usefixtures("meta")
def test_a_step_of_test_time_training(config: TrainConfig) -> None:
    trainer = TestTimeTrainer(
        model_on(META, config),
        "sgd" if config.model.document_attention else "adamw",
        TTTConfig(),
        Distributed(0, 1, 0, META),
        rate=0.001,
        sequence_length=16,
    )
    tokens = torch.zeros(8, 16, dtype=torch.int64, device=META)
    trainer._step(tokens, tokens, 0.5)
