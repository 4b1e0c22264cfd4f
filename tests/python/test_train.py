import dataclasses
import functools
import hashlib
import importlib.util
import json
import math
import os
import pickle
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridlm import _core
from hybridlm.data import shards
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.distributed import Distributed
from hybridlm.errors import FormatError, InputError
from hybridlm.files import atomic_write_bytes, write_json
from hybridlm.model import ModelConfig
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_dense
from hybridlm.train import checkpoint as checkpoints
from hybridlm.train.complementary import ComplementaryWeights
from hybridlm.train.config import (
    CheckpointConfig,
    ComplementaryConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    ValidationConfig,
)
from hybridlm.train.ema import EMA
from hybridlm.train.estimate import flops_per_token
from hybridlm.train.loader import TokenLoader, check_shards
from hybridlm.train.loop import LossGuard, TrainResult, activation_dtype, interruptible, phases, train
from hybridlm.train.optimizer import Optimizers
from hybridlm.train.schedule import (
    SharedClock,
    StepPlan,
    decay_scale,
    learning_rate_scale,
    muon_momentum,
    plan,
    progress,
    warmdown_scale,
)
from hybridlm.train.validation import Validator

ALONE = Distributed(0, 1, 0, torch.device("cpu"))
MODEL = ModelConfig(
    layers=2, width=32, heads=2, kv_heads=1, mlp_hidden=48, bigram_rows=64, bigram_width=32, rope_dims=8
)
CONFIG = TrainConfig(
    iterations=6,
    batch_tokens=256,
    sequence_length=32,
    log_every=1,
    device="cpu",
    model=MODEL,
    validation=ValidationConfig(max_tokens=2000),
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models this small lose by sharing their work."""
    monkeypatch.setenv("HYBRIDLM_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def oracle_path(tmp_path_factory: pytest.TempPathFactory, shard_dir: Path, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("oracle") / "topics.ngor"
    train_shards, _ = shards.data_folder(shard_dir)
    atomic_write_bytes(path, build_dense(train_shards, tokenizer.vocab_size, threads=1))
    return path


def loader_of(
    shard_dir: Path, distributed: Distributed = ALONE, sequences_per_step: int = 7, **options: Any
) -> TokenLoader:
    train_shards, _ = shards.data_folder(shard_dir)
    options = {"sequence_length": 96, "seed": 5} | options
    return TokenLoader(
        train_shards, sequences_per_step=sequences_per_step, distributed=distributed, **options
    )


def of_rank(rank: int, world_size: int) -> Distributed:
    return Distributed(rank, world_size, rank, torch.device("cpu"))


# Loader


def test_an_epoch_is_every_sequence_once(shard_dir: Path) -> None:
    loader = loader_of(shard_dir, sequences_per_step=1)
    wanted = set()
    for path in shards.data_folder(shard_dir)[0]:
        tokens = shards.read_stream([path])
        wanted |= {
            tokens[start : start + 97].astype(np.int64).tobytes() for start in range(0, len(tokens) - 96, 96)
        }
    epochs = [
        [loader.batch(step).tokens[0].numpy().tobytes() for step in steps]
        for steps in (range(loader.sequences), range(loader.sequences, 2 * loader.sequences))
    ]
    assert all(set(epoch) == wanted for epoch in epochs)
    assert len(epochs[0]) == len(epochs[1]) == loader.sequences
    assert epochs[0] != epochs[1]
    other_seed = loader_of(shard_dir, sequences_per_step=1, seed=6)
    assert other_seed.batch(0).tokens.numpy().tobytes() != epochs[0][0]


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_the_ranks_shares_make_up_the_batch_of_one(shard_dir: Path, world_size: int) -> None:
    alone = loader_of(shard_dir)
    shared = [loader_of(shard_dir, of_rank(rank, world_size)) for rank in range(world_size)]
    for step in (0, 3, 500):
        together = torch.cat([loader.batch(step).tokens for loader in shared])
        assert torch.equal(together, alone.batch(step).tokens)


def test_batches_are_those_of_their_steps(shard_dir: Path) -> None:
    loader = loader_of(shard_dir)
    batches = loader.batches(4)
    for step in (4, 5, 6):
        assert torch.equal(next(batches).tokens, loader.batch(step).tokens)
    batches.close()
    assert torch.equal(loader.batch(4).weights, torch.ones(7, 96))


def test_text_too_short_for_a_sequence_is_refused(shard_dir: Path) -> None:
    with pytest.raises(InputError, match="100001"):
        loader_of(shard_dir, sequence_length=100_000)
    with pytest.raises(InputError, match="ranks"):
        loader_of(shard_dir, of_rank(0, 8))


def test_ids_outside_the_vocabulary_are_found_before_training(tmp_path: Path) -> None:
    good, bad = tmp_path / "x_train_0.bin", tmp_path / "x_train_1.bin"
    _core.write_shard(str(good), np.full(50, 9, np.uint16))
    _core.write_shard(str(bad), np.full(50, 10, np.uint16))
    check_shards([good], Vocabulary(10, 9), ALONE)
    with pytest.raises(FormatError, match=r"x_train_1\.bin"):
        check_shards([good, bad], Vocabulary(10, 9), ALONE)
    good.write_bytes(good.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"x_train_0\.bin"):
        check_shards([good], Vocabulary(10, 9), ALONE)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_shard_that_one_rank_cannot_read_is_an_error_of_all(
    tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can read its own shards would wait for the other's answer."""
    paths = [tmp_path / f"x_train_{number}.bin" for number in range(2)]
    _core.write_shard(str(paths[0]), np.full(50, 9, np.uint16))
    refused = FileNotFoundError(2, "No such file or directory", str(paths[1]))
    own = refused if rank == 1 else None

    def all_gather(self: Distributed, value: Exception | None) -> list[Exception | None]:
        assert repr(value) == repr(own)
        return [None, pickle.loads(pickle.dumps(refused))]

    monkeypatch.setattr(Distributed, "all_gather_object", all_gather)
    with pytest.raises(FileNotFoundError, match=r"x_train_1\.bin"):
        check_shards(paths, Vocabulary(10, 9), of_rank(rank, 2))


def test_a_shard_that_shrinks_while_it_is_trained_on_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x_train_0.bin"
    _core.write_shard(str(path), np.arange(2000, dtype=np.uint16) % 9)
    loader = TokenLoader([path], sequence_length=96, sequences_per_step=2, seed=1, distributed=ALONE)
    assert loader.batch(0).tokens.shape == (2, 97)
    with path.open("r+b") as file:
        file.truncate(1024)
    with pytest.raises(FormatError, match=r"x_train_0\.bin"):
        loader.batch(1)


# Complementary training


def test_weights_are_those_of_a_slow_loop_over_full_rows(
    shard_dir: Path, tokenizer: Tokenizer, oracle_path: Path
) -> None:
    oracle = Oracle.from_file(oracle_path)
    config = ComplementaryConfig(alpha=0.8, floor=0.3, max_order=4)
    weights = ComplementaryWeights(oracle, config, tokenizer.vocab_size)
    loader = loader_of(shard_dir, sequences_per_step=2, weights=weights)
    stream = shards.read_stream(shards.data_folder(shard_dir)[0][:1])
    for first in (1, 97):
        got = weights.of_targets(stream[: first + 96], first)
        assert got.dtype == np.float32
        rows = np.exp(oracle.log_probs(stream, np.arange(first, first + 96), threads=1).astype(np.float64))
        for j in range(96):
            best = max(rows[k, j, stream[first + j]] for k, order in enumerate(oracle.orders) if order <= 4)
            assert got[j] == pytest.approx(max(1 - 0.8 * best, 0.3), abs=1e-5)
    batch = loader.batch(0)
    assert batch.weights.shape == (2, 96)
    assert 0.3 <= batch.weights.min() < batch.weights.max() <= 1
    # A batch's weights are of the shard that its sequences were cut from, with what stood before them.
    streams = [shards.read_stream([path]) for path in shards.data_folder(shard_dir)[0]]
    for tokens, found in zip(batch.tokens.numpy(), batch.weights.numpy(), strict=True):
        places = [
            (stream, first)
            for stream in streams
            for first in range(0, len(stream) - 96, 96)
            if (stream[first : first + 97] == tokens).all()
        ]
        expected = [weights.of_targets(stream[: first + 97], first + 1) for stream, first in places]
        assert any(np.array_equal(found, one) for one in expected)


def test_an_oracle_must_fit_the_tokenizer_and_have_such_orders(oracle_path: Path) -> None:
    oracle = Oracle.from_file(oracle_path)
    with pytest.raises(InputError, match="512 tokens, the tokenizer has 1024"):
        ComplementaryWeights(oracle, ComplementaryConfig(), 1024)
    with pytest.raises(InputError, match="max_order 0"):
        ComplementaryWeights(oracle, ComplementaryConfig(max_order=0), 512)


# Schedule and average


def test_learning_rate_rises_holds_and_falls_to_its_floor() -> None:
    schedule = ScheduleConfig(ramp_steps=3, warmdown=0.5, lr_floor=0.3)
    scales = [learning_rate_scale(step, step / 10, schedule) for step in range(11)]
    assert scales == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.3, 0.3])
    assert warmdown_scale(1.3, schedule) == 0.3
    assert warmdown_scale(1.3, ScheduleConfig(warmdown=0.5)) == 0.0
    assert warmdown_scale(1.0, ScheduleConfig(warmdown=0.0)) == 1.0


def test_weight_decay_holds_and_tapers_off() -> None:
    schedule = ScheduleConfig(decay_taper=0.4, final_decay_scale=0.5)
    scales = [decay_scale(tenth / 10, schedule) for tenth in (0, 5, 6, 7, 8, 9, 10, 13)]
    assert scales == pytest.approx([1, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.5])
    assert decay_scale(1.0, ScheduleConfig()) == 1.0


def test_recurrence_and_rounding_set_in_at_their_time() -> None:
    recurrent = dataclasses.replace(MODEL, recurrences=2)
    config = dataclasses.replace(
        CONFIG,
        model=recurrent,
        schedule=ScheduleConfig(recurrence_start=0.5, warmdown=1.0),
        late_qat_lr_scale=0.25,
    )
    plans = [plan(0, tenth / 10, config) for tenth in range(10)]
    assert [planned.recurrent for planned in plans] == [False] * 5 + [True] * 5
    assert [planned.quantised for planned in plans] == [False] * 8 + [True] * 2
    assert [(p.recurrent, p.quantised) for p in phases(config)] == [
        (False, False),
        (True, False),
        (True, True),
    ]
    assert not plan(0, 0.9, dataclasses.replace(config, model=MODEL)).recurrent
    at_its_floor = dataclasses.replace(config, schedule=ScheduleConfig(lr_floor=0.25))
    assert [(p.recurrent, p.quantised) for p in phases(at_its_floor)] == [(False, False), (True, False)]


def test_progress_follows_the_budget_that_ends_first() -> None:
    by_steps = TrainConfig(iterations=200)
    assert progress(50, 1e9, by_steps) == 0.25
    both = TrainConfig(iterations=200, max_seconds=10.0)
    assert progress(50, 1.0, both) == 0.25
    assert progress(50, 8.0, both) == 0.8


def test_momentum_rises_to_its_end() -> None:
    config = OptimizerConfig()
    assert [muon_momentum(step, config) for step in (0, 750, 1500, 9999)] == pytest.approx(
        [0.92, 0.955, 0.99, 0.99]
    )


def test_the_clock_stands_still_while_paused_and_counts_each_stretch_once() -> None:
    now = 100.0
    clock = SharedClock(ALONE, 1, step=0, seconds=5.0, timer=lambda: now)
    now += 24
    with clock.paused():
        assert clock.measured() == 29
        now += 1000
        assert clock.measured() == 29
    assert clock.measured() == 29
    now += 2
    assert clock.measured() == 31
    assert clock.read(0, interrupted=False) == (31, False)


@given(decay=st.floats(0, 0.999), values=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=20))
def test_the_average_is_its_recurrence_and_can_be_swapped_in(decay: float, values: list[float]) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 3.0)
    ema, wanted = EMA(model, decay), 3.0
    for step, value in enumerate(values):
        torch.nn.init.constant_(model.weight, value)
        ema.update(model, step)
        d = min(decay, (1 + step) / (10 + step))
        wanted = d * wanted + (1 - d) * model.weight.item()
    assert ema.average["weight"].item() == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    own, average = model.weight.item(), ema.average["weight"].item()
    with ema.swapped_in(model):
        assert model.weight.item() == average
    assert (model.weight.item(), ema.average["weight"].item()) == (own, average)


# Validation


@pytest.mark.parametrize("tokens", [2, 33, 300])
def test_validation_counts_each_target_once(shard_dir: Path, tokenizer: Tokenizer, tokens: int) -> None:
    from hybridlm.model import GPT

    torch.manual_seed(0)
    model = GPT(dataclasses.replace(MODEL, vocab_size=tokenizer.vocab_size))
    stream = shards.read_stream(shards.data_folder(shard_dir)[1], max_tokens=tokens)
    got = Validator(stream, tokenizer.byte_table, 32, ALONE)(model, torch.float32)
    nats = 0.0
    for start in range(0, tokens - 1, 32):
        window = torch.from_numpy(stream[start : start + 33].astype(np.int64))[None]
        nats += model.loss(window, torch.ones(1, window.shape[1] - 1), torch.tensor(1.0))[1].item()
    assert got.loss == pytest.approx(nats / (tokens - 1), rel=1e-5)
    count = tokenizer.byte_table.lengths(stream).sum()
    assert got.bpb == pytest.approx(nats / math.log(2) / max(1, count), rel=1e-5)


# The run


@pytest.fixture(scope="session")
def everything(recipe: ModelConfig, oracle_path: Path) -> dict[str, Any]:
    """Settings that switch on all that there is. In 6 steps recurrence sets in with the third, rounding with
    the fifth."""
    return {
        "model": dataclasses.replace(
            recipe, vocab_size=0, layers=2, recurrence_first=0, recurrence_last=0, lane_layers=1, rope_dims=8
        ),
        "oracle": oracle_path,
        "micro_batch_tokens": 96,
        "late_qat_lr_scale": 0.5,
        "optimizer": OptimizerConfig(
            newton_schulz="polar_express",
            normalise_rows=True,
            gradient_clip=0.3,
            embedding_decay=0.085,
            scalar_decay=0.02,
            decoder_lr_factor=1.5,
            momentum_steps=4,
        ),
        "schedule": ScheduleConfig(
            ramp_steps=1, warmdown=0.85, lr_floor=0.1, decay_taper=0.5, recurrence_start=0.3, warmup_steps=1
        ),
    }


@pytest.fixture
def run(shard_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> Any:
    def run(
        name: str,
        resume: bool = False,
        allow_changes: bool = False,
        timer: Callable[[], float] = time.perf_counter,
        **settings: Any,
    ) -> tuple[TrainResult, Path]:
        config = dataclasses.replace(CONFIG, **settings)
        out = tmp_path / name
        result = train(
            config,
            data=shard_dir,
            tokenizer=tokenizer,
            out=out,
            dist=ALONE,
            resume=resume,
            allow_changes=allow_changes,
            timer=timer,
        )
        return result, out

    return run


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses_of(out: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["train_loss"]) for line in metrics_of(out)]


def test_a_run_learns_and_leaves_what_it_should(run: Any, tokenizer: Tokenizer) -> None:
    result, out = run("r", iterations=30, validation=ValidationConfig(every=10, max_tokens=2000))
    lines = metrics_of(out)
    assert [line["step"] for line in lines] == list(range(1, 31))
    keys = {"step", "train_loss", "train_bpb", "lr_scale", "matrix_lr", "embedding_lr", "scalar_lr"}
    keys |= {"weight_decay", "gradient_norm", "tokens", "tokens_per_second", "loader_share", "seconds"}
    assert all(keys <= line.keys() for line in lines)
    assert all(line["gradient_norm"] > 0 and 0 <= line["loader_share"] < 1 for line in lines)
    assert "mfu" not in lines[0]
    assert [line["step"] for line in lines if "val_bpb" in line] == [10, 20, 30]
    assert lines[-1]["tokens"] == 30 * 256
    assert lines[0]["train_loss"] == pytest.approx(math.log(512), rel=0.05)
    assert lines[-1]["val_loss"] < lines[0]["train_loss"] - 1
    assert result.bpb == lines[-1]["val_bpb"]
    config = json.loads((out / "config.json").read_text())
    assert config["training"]["model"]["vocab_size"] == tokenizer.vocab_size

    model, metadata = checkpoints.load_model(out)
    assert metadata.tokenizer == tokenizer.fingerprint
    assert metadata.step == result.steps == 30
    assert model.config == metadata.config
    assert model.config.sequence_length == 32
    assert result.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_log_says_what_the_step_did(run: Any, shard_dir: Path, tokenizer: Tokenizer) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _, out = run(
            "r",
            timer=Turned(patch),
            iterations=3,
            peak_tflops=1e-6,
            schedule=ScheduleConfig(warmdown=1.0, decay_taper=1.0),
        )
    config = dataclasses.replace(MODEL, vocab_size=tokenizer.vocab_size, sequence_length=32)
    for step, line in enumerate(metrics_of(out)):
        scale = 1 - step / 3
        assert line["matrix_lr"] == pytest.approx(0.02 * scale)
        assert line["embedding_lr"] == pytest.approx(0.03 * scale)
        assert line["weight_decay"] == pytest.approx(0.04 * scale)
        assert line["tokens_per_second"] == 256
        assert line["mfu"] == pytest.approx(256 * flops_per_token(config) / 1e6)
        batch = loader_of(shard_dir, sequences_per_step=8, sequence_length=32, seed=1337).batch(step).tokens
        text_bytes = sum(tokenizer.byte_table.lengths(row.numpy().astype(np.uint16)).sum() for row in batch)
        bits = line["train_loss"] / math.log(2) * 256
        assert line["train_bpb"] == pytest.approx(bits / text_bytes)


def test_tensorboard_gets_every_number(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"pip install 'hybridlm\[tensorboard\]'"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        run("r", tensorboard=True)
    written: dict[str, dict[int, float]] = {}

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert folder.endswith("r/tensorboard") and purge_step == 1

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.setdefault(name, {})[step] = value

        def flush(self) -> None:
            pass

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: "there")
    stub = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stub)  # type: ignore[arg-type]
    _, out = run("r", tensorboard=True, iterations=2)
    lines = metrics_of(out)
    assert written == {
        name: {line["step"]: line[name] for line in lines if name in line} for name in lines[-1]
    }


def test_warm_up_leaves_no_trace(run: Any, everything: dict[str, Any]) -> None:
    cold = dataclasses.replace(everything["schedule"], warmup_steps=0)
    _, plain = run("plain", **(everything | {"schedule": cold}))
    _, warmed = run("warmed", **everything)
    assert losses_of(plain) == losses_of(warmed)
    assert (plain / "model.safetensors").read_bytes() == (warmed / "model.safetensors").read_bytes()


@pytest.mark.parametrize("with_everything", [False, True])
def test_a_resumed_run_ends_as_one_without_interruption(
    run: Any, everything: dict[str, Any], with_everything: bool
) -> None:
    settings = everything if with_everything else {}
    settings = settings | {"checkpoint": CheckpointConfig(every=1, keep=9)}
    _, whole = run("whole", **settings)
    for done in (4, 1) if with_everything else (5,):
        cut = whole.parent / f"cut after {done}"
        shutil.copytree(whole, cut)
        (cut / "model.safetensors").unlink()
        # The next checkpoint was being written when the machine went down, and a line of the log too.
        for later in range(done + 1, 7):
            (cut / "checkpoints" / f"step-{later:08d}" / "state.json").unlink()
        lines = (cut / "metrics.jsonl").read_text().splitlines(keepends=True)
        (cut / "metrics.jsonl").write_text("".join(lines[:done]) + lines[done][:20])
        run(cut.name, resume=True, **settings)
        assert losses_of(cut) == losses_of(whole)
        assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


class Turned:
    """A clock that a training step moves on by one second, and that interrupts the run before one of them."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        interrupt_at: float = math.inf,
        by: signal.Signals = signal.SIGINT,
    ) -> None:
        self.now, self._interrupt_at, self._by = 0.0, interrupt_at, by
        step = Optimizers.step

        def timed_step(*arguments: Any) -> None:
            step(*arguments)
            self.now += 1

        monkeypatch.setattr(Optimizers, "step", timed_step)

    def __call__(self) -> float:
        if self.now >= self._interrupt_at:
            self._interrupt_at = math.inf
            signal.raise_signal(self._by)
        return self.now


def test_a_run_under_nohup_is_not_ended_by_a_hangup(run: Any) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.MonkeyPatch.context() as patch:
            result, _ = run("whole", timer=Turned(patch, interrupt_at=2, by=signal.SIGHUP), iterations=4)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.steps == 4


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_resumed_under_a_time_limit_goes_on_at_its_second(run: Any, by: signal.Signals) -> None:
    settings = {"iterations": 1000, "max_seconds": 8.0, "schedule": ScheduleConfig(warmdown=0.75)}
    with pytest.MonkeyPatch.context() as patch:
        whole_result, whole = run("whole", timer=Turned(patch), **settings)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt, match="after step 3"):
        run("cut", timer=Turned(patch, interrupt_at=3, by=by), **settings)
    cut = whole.parent / "cut"
    assert checkpoints.load_checkpoint(checkpoints.complete_checkpoints(cut)[-1]).seconds == 3
    with pytest.MonkeyPatch.context() as patch:
        cut_result, _ = run("cut", resume=True, timer=Turned(patch), **settings)
    assert cut_result == whole_result
    assert (whole_result.steps, whole_result.seconds) == (8, 8.0)
    steps, of_whole = (
        [
            (line["step"], line["seconds"], line["train_loss"], line["lr_scale"])
            for line in metrics_of(out)
            if "train_loss" in line
        ]
        for out in (cut, whole)
    )
    assert steps == of_whole
    assert [scale for *_, scale in steps] == pytest.approx([1, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_rank_that_is_ended_does_not_speak_of_its_group() -> None:
    """The launcher, which ends it because another rank has died, has said so."""
    with pytest.raises(ConnectionError), interruptible():
        raise ConnectionError("another rank has died")
    with pytest.raises(KeyboardInterrupt) as interrupted, interruptible():
        signal.raise_signal(signal.SIGTERM)
        raise ConnectionError("another rank has died")
    assert not str(interrupted.value)


def test_an_interrupt_during_the_last_validation_is_not_lost(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call = Validator.__call__

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return call(*arguments)

    monkeypatch.setattr(Validator, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt, match="was complete"):
        run("r", iterations=2)
    assert checkpoints.load_model(tmp_path / "r")[1].step == 2
    assert "val_bpb" in metrics_of(tmp_path / "r")[-1]


def test_micro_batches_and_their_remainder_change_nothing(run: Any) -> None:
    _, whole = run("whole")
    _, parts = run("parts", micro_batch_tokens=3 * 32)
    for (_, one), (_, other) in zip(losses_of(whole), losses_of(parts), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_late_quantisation_sets_in_with_the_low_learning_rate(run: Any) -> None:
    schedule = ScheduleConfig(warmdown=1.0)
    _, plain = run("plain", schedule=schedule, late_qat_lr_scale=0.0)
    _, aware = run("aware", schedule=schedule, late_qat_lr_scale=0.4)
    pairs = list(zip(losses_of(plain), losses_of(aware), metrics_of(aware), strict=True))
    assert [one == other for one, other, _ in pairs] == [line["lr_scale"] >= 0.4 for *_, line in pairs]


def test_an_oracle_changes_the_objective(run: Any, oracle_path: Path) -> None:
    _, plain = run("plain")
    _, complementary = run("complementary", oracle=oracle_path)
    # Losses in the log are unweighted, so the first, before any step, is the same.
    assert losses_of(plain)[0] == losses_of(complementary)[0]
    assert losses_of(plain)[1:] != losses_of(complementary)[1:]
    _, indifferent = run("indifferent", oracle=oracle_path, complementary=ComplementaryConfig(alpha=0.0))
    assert losses_of(plain) == losses_of(indifferent)


def test_bfloat16_activations_stay_close(run: Any, everything: dict[str, Any]) -> None:
    optimizer = dataclasses.replace(everything["optimizer"], newton_schulz_dtype="bfloat16")
    _, full = run("full", **everything)
    _, half = run("half", **(everything | {"precision": "bfloat16", "optimizer": optimizer}))
    assert losses_of(full) != losses_of(half)
    for (_, one), (_, other) in zip(losses_of(full), losses_of(half), strict=True):
        assert one == pytest.approx(other, rel=0.02)
    weights = safetensors.torch.load_file(half / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_a_compiled_run_has_the_same_losses_and_compiles_in_the_warm_up_alone(
    run: Any, everything: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch's tracer sees it; turning graphs into machine code takes a minute and is not ours."""
    graphs: list[int] = []  # how many optimiser steps were done at each compilation

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(steps)
        return module.forward

    steps = 0
    step_of_optimizers = Optimizers.step

    def counted(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        step_of_optimizers(*arguments)

    # A micro-batch that divides the batch: a remainder would be a shape, and so a graph, of its own.
    settings = everything | {"micro_batch_tokens": 128}
    _, plain = run("plain", **settings)
    monkeypatch.setattr(Optimizers, "step", counted)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    _, compiled = run("compiled", compile=True, **settings)
    for (_, one), (_, other) in zip(losses_of(plain), losses_of(compiled), strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    assert graphs == [0, 1, 2], "one for each phase, while the warm-up's three steps are taken"


def test_seconds_end_a_run_before_its_steps_do(run: Any) -> None:
    result, out = run("r", iterations=1_000_000, max_seconds=0.5, log_every=1000)
    assert 1 <= result.steps < 1_000_000
    assert metrics_of(out)[-1]["step"] == result.steps


def test_a_diverging_run_says_so_and_saves_nothing_of_it(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Optimizers.step

    def breaking(self: Optimizers, planned: StepPlan) -> None:
        step(self, planned)
        if planned.momentum > 0.92:  # from the third step on
            with torch.no_grad():
                next(iter(self._names)).fill_(math.nan)

    monkeypatch.setattr(Optimizers, "step", breaking)
    optimizer = OptimizerConfig(momentum_start=0.9, momentum_end=0.96, momentum_steps=4)
    settings = {"optimizer": optimizer, "checkpoint": CheckpointConfig(every=1, keep=1)}
    # The weights are bad before a loss shows it: what would be saved is looked at itself.
    with pytest.raises(InputError, match=r"skip_weight.* step 3: .*step-00000002.*--resume") as stopped:
        run("r", **settings)
    assert "lower the learning rates (--optimizer.matrix-lr" in str(stopped.value)
    out = Path(str(stopped.value).split("last good checkpoint is ")[1].split(":")[0]).parents[1]
    assert [path.name for path in checkpoints.complete_checkpoints(out)] == ["step-00000002"]
    assert not (out / "model.safetensors").exists()
    with pytest.raises(InputError, match=r"the loss is nan at step 4: .*no checkpoint to go back to"):
        run("without", optimizer=optimizer)
    # At its last step a run has no next loss to notice by.
    with pytest.raises(InputError, match=r"holds a value that is not finite at step 3"):
        run("short", optimizer=optimizer, iterations=3)


def test_a_spike_is_told_from_noise() -> None:
    guard = LossGuard(2.0)
    assert all(guard.problem(loss) is None for loss in (6.0, 5.0, 7.5, 4.0, 6.0))
    assert "up from an average of 5.8" in str(guard.problem(8.0))
    assert guard.problem(7.0) is None
    assert guard.problem(math.nan) == "the loss is nan"
    without_limit = LossGuard(0.0)
    assert without_limit.problem(1.0) is None and without_limit.problem(1e9) is None
    assert without_limit.problem(math.inf) == "the loss is inf"


def test_a_run_is_not_written_over_nor_resumed_otherwise_unless_told_to(run: Any) -> None:
    settings = {"iterations": 2, "checkpoint": CheckpointConfig(every=1)}
    _, out = run("r", **settings)
    with pytest.raises(InputError, match="holds a training run already"):
        run("r")
    slower = OptimizerConfig(matrix_lr=0.001)
    with pytest.raises(InputError, match=r"batch_tokens was 256, is 320; optimizer was .*--allow-changes"):
        run("r", resume=True, batch_tokens=320, optimizer=slower)
    run("r", resume=True, allow_changes=True, optimizer=slower, **(settings | {"iterations": 3}))
    assert metrics_of(out)[-1]["matrix_lr"] == pytest.approx(0.001 * metrics_of(out)[-1]["lr_scale"])
    with pytest.raises(FileNotFoundError):
        run("nothing", resume=True)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        (
            "ema/token_embedding.weight",
            math.nan,
            "ema/token_embedding.weight holds a value",
        ),
        ("optimizer/blocks.0.attention.query.weight/momentum", None, "query.weight/momentum is missing"),
        ("optimizer/token_embedding.weight/exp_avg", torch.zeros(3), r"exp_avg is torch.float32 \[3\]"),
        ("optimizer/token_embedding.weight/more", torch.zeros(3), "weight/more is unknown"),
        ("model/blocks.0.attention.query.weight", torch.zeros(3), r"query.weight has shape \[3\]"),
        ("random", None, "random numbers is missing"),
    ],
)
def test_a_checkpoint_that_cannot_be_resumed_from_is_refused(
    run: Any, name: str, value: float | torch.Tensor | None, complaint: str
) -> None:
    settings = {"iterations": 2, "checkpoint": CheckpointConfig(every=1, keep=1)}
    _, out = run("r", **settings)
    (folder,) = checkpoints.complete_checkpoints(out)
    tensors = dict(checkpoints.load_checkpoint(folder).tensors)
    if value is None:
        del tensors[name]
    elif isinstance(value, float):
        tensors[name].flatten()[5] = value
    else:
        tensors[name] = value
    checkpoints.save_checkpoint(out, checkpoints.Checkpoint(2, 1.0, tensors), keep=1)
    with pytest.raises(FormatError, match=complaint):
        run("r", resume=True, **settings)


def test_settings_that_the_tokenizer_denies_are_refused(run: Any) -> None:
    with pytest.raises(InputError, match="the tokenizer has 512 pieces"):
        run("r", model=dataclasses.replace(MODEL, vocab_size=1024))


@pytest.mark.parametrize(
    "settings",
    [
        {"iterations": 0},
        {"batch_tokens": 100},
        {"ema_decay": 1.0},
        {"max_seconds": -1.0},
        {"max_seconds": math.nan},
        {"model": ModelConfig(sequence_length=31)},
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(CONFIG, **settings)


# Files


def test_only_the_latest_complete_checkpoints_stay(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        point = checkpoints.Checkpoint(step, step / 2, {"a": torch.full((3,), float(step))})
        checkpoints.save_checkpoint(tmp_path, point, keep=2)
    found = checkpoints.complete_checkpoints(tmp_path)
    assert [path.name for path in found] == ["step-00000010", "step-00000100"]
    loaded = checkpoints.load_checkpoint(found[-1])
    assert (loaded.step, loaded.seconds, loaded.tensors["a"].tolist()) == (100, 50.0, [100.0] * 3)


def test_a_checkpoint_whose_sum_is_right_must_be_one(tmp_path: Path) -> None:
    folder = checkpoints.save_checkpoint(
        tmp_path, checkpoints.Checkpoint(1, 0.0, {"a": torch.ones(3)}), keep=1
    )
    data = b"not tensors"
    (folder / "tensors.safetensors").write_bytes(data)
    state = json.loads((folder / "state.json").read_text())
    state["sha256"] = hashlib.sha256(data).hexdigest()
    del state["checksum"]
    write_json(folder / "state.json", state)
    with pytest.raises(FormatError, match=r"tensors\.safetensors: not in safetensors form"):
        checkpoints.load_checkpoint(folder)


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, file: str) -> None:
    point = checkpoints.Checkpoint(1, 0.0, {"a": torch.ones(3)})
    folder = checkpoints.save_checkpoint(tmp_path, point, keep=1)
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 0x81
    (folder / file).write_bytes(data)
    with pytest.raises(FormatError, match=str(folder)):
        checkpoints.load_checkpoint(folder)


def test_a_foreign_model_file_is_refused_by_name(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has the training run finished"):
        checkpoints.load_model(tmp_path)
    _, out = run("r", iterations=1)
    path = out / "model.safetensors"
    whole = path.read_bytes()
    tensors = safetensors.torch.load(whole)
    elsewhere = tmp_path / os.fsdecode(b"not text \xff")
    shutil.copytree(out, elsewhere)
    assert checkpoints.load_model(elsewhere)[1] == checkpoints.load_model(out)[1]

    def header(step: object = 1, **model: Any) -> dict[str, str]:
        model = dataclasses.asdict(dataclasses.replace(MODEL, vocab_size=512)) | model
        return {"hybridlm": json.dumps({"model": model, "tokenizer": "x", "step": step})}

    less = {name: tensor for name, tensor in tensors.items() if name != "skip_gate"}
    broken = tensors | {"skip_gate": tensors["skip_gate"] + math.inf}
    half = {name: tensor.half() for name, tensor in tensors.items()}
    for data, complaint in [
        (whole[:-1], "not in safetensors form"),
        (b"", "not in safetensors form"),
        (safetensors.torch.save(tensors), "the metadata lacks"),
        (safetensors.torch.save(tensors, header(step="x")), "the metadata lacks"),
        (safetensors.torch.save(tensors, header(layers=0)), "at least 1"),
        (safetensors.torch.save(tensors, header(layers=4096)), "tensors can't be 4096 layers"),
        (safetensors.torch.save(broken, header()), "skip_gate holds a value that is not finite"),
        (safetensors.torch.save(less, header()), "skip_gate is missing"),
        (safetensors.torch.save(half, header()), "not float32"),
        (safetensors.torch.save(tensors, header(vocab_size=500)), "token_embedding.weight has shape"),
    ]:
        path.write_bytes(data)
        with pytest.raises(FormatError, match=complaint):
            checkpoints.load_model(out)


@pytest.mark.parametrize("native", [False, True])
def test_auto_takes_bfloat16_where_a_device_has_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)

    def found(device: str, width: int, precision: Any = "auto") -> torch.dtype:
        model = dataclasses.replace(CONFIG.model, width=width)
        config = dataclasses.replace(CONFIG, precision=precision, model=model)
        return activation_dtype(config, torch.device(device))

    of_native = torch.bfloat16 if native else torch.float32
    assert found("cpu", 128) == torch.float32
    assert found("cpu", 256) == of_native
    assert found("cuda", 128) == of_native
    assert found("cpu", 256, "float32") == found("cuda", 256, "float32") == torch.float32
    assert found("cpu", 128, "bfloat16") == torch.bfloat16
