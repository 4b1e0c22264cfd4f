import copy
import dataclasses
import json
import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hybridlm.distributed import Distributed
from hybridlm.errors import InputError
from hybridlm.model import GPT, ModelConfig
from hybridlm.scoring.config import TTTConfig
from hybridlm.scoring.ttt import DEFAULT_LEARNING_RATE, TestTimeTrainer

ALONE = Distributed(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
LENGTH = 16
# 21 sequences: two full batches of 8 and one with empty lanes; the last sequence is short.
TOKENS = np.random.default_rng(0).integers(0, 40, 1 + 20 * LENGTH + 5).astype(np.uint16)


pytestmark = pytest.mark.usefixtures("one_thread")


def small_model() -> GPT:
    torch.manual_seed(0)
    config = ModelConfig(
        layers=3, width=32, heads=2, kv_heads=1, mlp_hidden=48, vocab_size=40, rope_dims=8,
        bigram_rows=32, bigram_width=8, zero_init_projections=False, embedding_std=0.3,
    )  # fmt: skip
    return GPT(config).eval()


def state(model: GPT) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def scale_of(name: str) -> float:
    if name.startswith("blocks.0."):
        return 0.0
    return {"attention.output.weight": 3.0, "mlp.down.weight": 3.0, "mlp.up.weight": 0.5}.get(
        ".".join(name.split(".")[2:]), 1.0
    )


def slow_training(
    model: GPT, optimizer: str, chunks: list[tuple[int, int]], epochs: int, rate: float
) -> None:
    """The same training, one parameter at a time, with each batch's gradient taken in one go."""
    parameters = dict(model.named_parameters())
    first = {name: torch.zeros_like(p) for name, p in parameters.items()}
    second = {name: torch.zeros_like(p) for name, p in parameters.items()}
    done = 0
    for start, end in chunks:
        sequences = [range(s, min(s + LENGTH, end)) for s in range(start, end, LENGTH)]
        batches = [sequences[i : i + 8] for i in range(0, len(sequences), 8)] * epochs
        for step, batch in enumerate(batches):
            nll = []
            for targets in batch:
                tokens = torch.from_numpy(TOKENS[targets.start - 1 : targets.stop].astype(np.int64))
                nll.append(F.cross_entropy(model(tokens[None, :-1])[0], tokens[1:], reduction="sum"))
            loss = torch.stack(nll).sum() / sum(len(targets) for targets in batch)
            trained = {name: p for name, p in parameters.items() if scale_of(name)}
            gradients = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
            norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
            done += 1
            for name, gradient in gradients.items():
                g = gradient * min(1.0, 1.0 / norm)
                with torch.no_grad():
                    if optimizer == "sgd":
                        first[name] = 0.9 * first[name] + g
                        update, lr = first[name], rate
                    else:
                        first[name] = 0.9 * first[name] + 0.1 * g
                        second[name] = 0.95 * second[name] + 0.05 * g * g
                        mean = first[name] / (1 - 0.9**done)
                        update = mean / ((second[name] / (1 - 0.95**done)).sqrt() + 1e-8)
                        lr = rate * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
                    parameters[name] -= lr * scale_of(name) * update


@pytest.mark.parametrize(("optimizer", "recipe_on"), [("sgd", False), ("adamw", False), ("sgd", True)])
def test_equal_to_slow_training(optimizer: str, recipe_on: bool, recipe: ModelConfig) -> None:
    def make() -> GPT:
        if not recipe_on:
            return small_model()
        torch.manual_seed(0)
        config = dataclasses.replace(
            recipe, vocab_size=40, zero_init_projections=False, embedding_std=0.3, bos_id=7
        )
        return GPT(config).eval()

    fast, slow = make(), make()
    settings = TTTConfig(epochs=2, frozen_blocks=1)
    trainer = TestTimeTrainer(
        fast, optimizer, settings, ALONE, rate=DEFAULT_LEARNING_RATE[optimizer], sequence_length=LENGTH
    )  # type: ignore[arg-type]
    cut, end = 1 + 9 * LENGTH, len(TOKENS)
    trainer.learn(TOKENS[:cut], 1)
    trainer.learn(TOKENS, cut)
    slow_training(slow, optimizer, [(1, cut), (cut, end)], 2, DEFAULT_LEARNING_RATE[optimizer])
    before = state(make())
    for name, value in state(slow).items():
        # Compared as changes: the weights themselves would hide a wrong step.
        torch.testing.assert_close(
            fast.state_dict()[name] - before[name], value - before[name], rtol=2e-3, atol=2e-6, msg=name
        )


def test_frozen_blocks_stay_and_everything_else_learns() -> None:
    model = small_model()
    before = state(model)
    trainer = TestTimeTrainer(
        model, "sgd", TTTConfig(frozen_blocks=2), ALONE, rate=0.002, sequence_length=LENGTH
    )
    trainer.learn(TOKENS, 1)
    for name, value in model.state_dict().items():
        frozen = name.startswith(("blocks.0.", "blocks.1."))
        # Layer 0 has no earlier values to mix in; its own mix is frozen here anyway.
        assert torch.equal(value, before[name]) == frozen, name


def test_only_the_given_targets_are_learned_from() -> None:
    start = 1 + 5 * LENGTH
    other = TOKENS.copy()
    other[: start - 1] = 7
    models = []
    for stream in (TOKENS, other):
        model = small_model()
        trainer = TestTimeTrainer(
            model, "sgd", TTTConfig(epochs=1), ALONE, rate=0.002, sequence_length=LENGTH
        )
        trainer.learn(stream, start)
        models.append(state(model))
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_learning_lowers_the_loss_of_what_was_learned() -> None:
    model = small_model()
    tokens = torch.from_numpy(TOKENS.astype(np.int64))[None]

    def loss(model: GPT) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:]))

    before = loss(copy.deepcopy(model))
    settings = TTTConfig(epochs=4)
    TestTimeTrainer(model, "sgd", settings, ALONE, rate=0.02, sequence_length=LENGTH).learn(TOKENS, 1)
    assert loss(model) < before


RANKS = """
    import hashlib, json, os, sys, tempfile
    import torch, torch.distributed
    from torch.multiprocessing import start_processes
    sys.path.insert(0, sys.argv[1])
    from test_ttt import LENGTH, TOKENS, small_model
    from hybridlm.distributed import Distributed
    from hybridlm.scoring.config import TTTConfig
    from hybridlm.scoring.ttt import TestTimeTrainer

    def train(rank, world, folder):
        if world > 1:
            torch.distributed.init_process_group(
                "gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world
            )
        dist = Distributed(rank, world, rank, torch.device("cpu"))
        model = small_model()
        settings = TTTConfig(epochs=1, batch=16)
        TestTimeTrainer(model, "sgd", settings, dist, rate=0.002, sequence_length=LENGTH).learn(TOKENS, 1)
        weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
        with open(f"{folder}/{world}-{rank}", "w") as file:
            file.write(hashlib.sha256(weights).hexdigest())
        dist.close()

    torch.set_num_threads(1)
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        # Alone in this process first: what torch imports late is then there for all that are forked off it.
        train(0, 1, folder)
        for world in (1, 2, 3, 8):
            if world > 1:
                start_processes(train, (world, folder), nprocs=world, start_method="fork")
            digests[world] = [open(f"{folder}/{world}-{rank}").read() for rank in range(world)]
    print(json.dumps(digests))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks processes that have imported torch")
def test_any_number_of_ranks_trains_to_the_same_bits() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RANKS), str(__file__.rpartition("/")[0])],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    digests = json.loads(done.stdout)
    assert [len(ranks) for ranks in digests.values()] == [1, 2, 3, 8]
    assert len({digest for ranks in digests.values() for digest in ranks}) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch": 12}, {"batch": 0}, {"learning_rates": (-1.0,)},
        {"learning_rates": (0.1, 0.1)}, {"learning_rates": (0.1, float("nan"))},
        {"momentum": 1.0}, {"clip": 0.0}, {"frozen_blocks": -1}, {"output_scale": float("nan")},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"test-time training|^ttt_options\."):
        TTTConfig(**wrong)  # type: ignore[arg-type]
