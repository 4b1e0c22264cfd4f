"""The training run, top to bottom."""

import dataclasses
import json
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

import hybridlm
from hybridlm.config import as_dict
from hybridlm.data import shards
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.distributed import Distributed
from hybridlm.errors import FormatError, InputError
from hybridlm.files import atomic_write_text
from hybridlm.model.gpt import GPT
from hybridlm.oracle import Oracle
from hybridlm.progress import quantity
from hybridlm.threads import thread_count
from hybridlm.train import checkpoint as checkpoints
from hybridlm.train.checkpoint import Checkpoint, ModelMetadata
from hybridlm.train.complementary import ComplementaryWeights
from hybridlm.train.config import TrainConfig
from hybridlm.train.ema import EMA
from hybridlm.train.loader import TokenLoader, check_shards
from hybridlm.train.metrics import MetricsLog
from hybridlm.train.optimizer import Optimizers
from hybridlm.train.schedule import (
    SharedClock,
    learning_rate_scale,
    muon_momentum,
    progress,
    warmdown_scale,
)
from hybridlm.train.validation import Validator

log = logging.getLogger("hybridlm.train")

CONFIG_FILE = "config.json"

# What a resumed run may set otherwise: how long it is, and what doesn't touch its results.
_FREE_TO_CHANGE = (
    "iterations",
    "max_seconds",
    "log_every",
    "device",
    "compile",
    "validation",
    "checkpoint",
)


@dataclass(frozen=True)
class TrainResult:
    """steps: done in all. seconds: spent on them. loss, bpb: of the final weights on validation tokens."""

    steps: int
    seconds: float
    parameters: int
    loss: float
    bpb: float


def train(
    config: TrainConfig,
    *,
    data: Path,
    tokenizer: Tokenizer,
    out: Path,
    dist: Distributed,
    resume: bool = False,
) -> TrainResult:
    """Trains a GPT on the data folder's training shards and leaves it in ``out``/model.safetensors.

    A collective: every rank calls it alike. ``resume`` continues from the latest checkpoint in ``out``, and
    on a CPU ends with the very weights that a run without interruption ends with.

    Raises InputError for data, tokenizer, oracle and settings that don't fit each other, or when ``out``
    holds a run already; OSError; and KeyboardInterrupt, once a checkpoint is written, for SIGINT and SIGTERM.
    """
    device = dist.device
    if device.type == "cpu":
        torch.set_num_threads(thread_count())
    precision = activation_dtype(config, device)

    config = with_facts(config, tokenizer)
    train_shards, val_shards = shards.data_folder(data)
    check_shards([*train_shards, *val_shards], tokenizer.vocabulary, dist)
    loader = TokenLoader(
        train_shards,
        sequence_length=config.sequence_length,
        sequences_per_step=config.sequences_per_step,
        seed=config.seed,
        distributed=dist,
        weights=complementary_weights(config, tokenizer),
    )
    val_stream = shards.read_stream(val_shards, tokenizer.vocab_size, max(2, config.validation.max_tokens))
    if len(val_stream) < 2:
        raise InputError(f"{val_shards[0]}: a validation text of one token has nothing to predict")
    validate = Validator(val_stream, tokenizer.byte_table, config.sequence_length, dist)

    torch.manual_seed(config.seed)
    model = GPT(config.model).to(device)
    parameters = list(model.parameters())
    for parameter in parameters:
        dist.broadcast_(parameter.data)
    gradient = flat_gradient(parameters)
    optimizers = Optimizers(model, config.optimizer, dist)
    loss_of = torch.compile(model.loss, dynamic=False) if config.compile else model.loss
    rows_at_once = max(1, config.micro_batch_tokens // config.sequence_length)

    def learn(tokens: Tensor, weights: Tensor, step: int, lr_scale: float) -> Tensor:
        """One optimiser step on this rank's share of a batch; returns the share's Σ nll (nats)."""
        total_weight = dist.all_reduce_sum_(weights.sum())
        gradient.zero_()
        nats = torch.zeros((), device=device)
        for rows, row_weights in zip(
            torch.split(tokens, rows_at_once), torch.split(weights, rows_at_once), strict=True
        ):
            with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
                loss, row_nats = loss_of(rows, row_weights, total_weight)
            loss.backward()  # type: ignore[no-untyped-call]
            nats += row_nats
        dist.all_reduce_sum_(gradient)
        if config.optimizer.gradient_clip:
            gradient.mul_((config.optimizer.gradient_clip / (gradient.norm() + 1e-6)).clamp(max=1.0))
        optimizers.step(lr_scale, muon_momentum(step, config.optimizer))
        return nats

    setting = {
        "data": str(data),
        "training_tokens": loader.tokens,
        "tokenizer": tokenizer.fingerprint,
        "training": as_dict(config),
    }
    dist.on_main(lambda: open_run(out, setting, resume))
    ema = EMA(model, config.ema_decay)
    state = TrainingState(model, optimizers, ema)
    step, seconds = 0, 0.0
    if resume:
        latest = latest_checkpoint(out)
        state.load(latest.tensors, f"the checkpoint of step {latest.step} in {out}")
        step, seconds = latest.step, latest.seconds
        del latest
    size = sum(parameter.numel() for parameter in parameters)
    log.info(
        "%s: %s parameters, %s training tokens, %s targets a step, %s × %s, %s",
        f"resumed at step {step}" if resume else "training",
        quantity(size),
        quantity(loader.tokens),
        quantity(config.batch_tokens),
        dist.world_size,
        device,
        str(precision).removeprefix("torch."),
    )
    if config.schedule.warmup_steps:
        warm_up(state, loader, config, learn)

    metrics = MetricsLog(out, step) if dist.is_main else None
    clock = SharedClock(dist, 1 if device.type == "cpu" else 10, step, seconds)
    batches = loader.batches(step)
    logged_step, logged_seconds = step, seconds
    nats, lr_scale = torch.zeros((), device=device), 1.0

    def measured_step(nats: Tensor, lr_scale: float) -> dict[str, float]:
        """What there is to say of the step just done. A collective, and it makes the host wait."""
        nonlocal logged_step, logged_seconds
        loss = float(dist.all_reduce_sum_(nats.clone())) / config.batch_tokens
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss} at step {step}: lower the learning rates")
        now = clock.measured()
        rate = (step - logged_step) * config.batch_tokens / (now - logged_seconds)
        logged_step, logged_seconds = step, now
        return {
            "step": step,
            "train_loss": loss,
            "lr_scale": lr_scale,
            "tokens": step * config.batch_tokens,
            "tokens_per_second": rate,
            "seconds": now,
        }

    def measured_weights() -> dict[str, float]:
        """How the weights that the run would leave now do, in full precision. A collective."""
        model.set_fake_quantisation(False)
        with ema.swapped_in(model):
            result = validate(model, precision)
        return {"val_loss": result.loss, "val_bpb": result.bpb}

    with interruptible() as interruption:
        while True:
            seconds, interrupted = clock.read(step, interruption.is_set())
            done = progress(step, seconds, config)
            if interrupted or done >= 1:
                break
            lr_scale = learning_rate_scale(step, done, config.schedule)
            model.set_fake_quantisation(warmdown_scale(done, config.schedule) < config.late_qat_lr_scale)
            batch = next(batches)
            tokens = batch.tokens.to(device, non_blocking=True)
            weights = batch.weights.to(device, non_blocking=True)
            nats = learn(tokens, weights, step, lr_scale)
            ema.update(model, step)
            step += 1

            validating = config.validation.every and step % config.validation.every == 0
            if (step % config.log_every == 0 or step == 1 or validating) and step < config.iterations:
                line = measured_step(nats, lr_scale)
                if validating:
                    with clock.paused():
                        line |= measured_weights()
                report(line, config, metrics)
            if config.checkpoint.every and step % config.checkpoint.every == 0:
                save_checkpoint(state, step, clock, out, config, dist)

        batches.close()
        if interrupted:
            save_checkpoint(state, step, clock, out, config, dist)
            dist.barrier()  # a rank that exits earlier would have rank 0 killed
            raise KeyboardInterrupt(
                f"interrupted after step {step}; the same command with --resume added continues"
            )
        line = {"step": step, "seconds": seconds}
        if step > logged_step:
            line = measured_step(nats, lr_scale)
        if dist.is_main:
            metadata = ModelMetadata(config.model, tokenizer.fingerprint, step)
            checkpoints.save_model(out, ema.average, metadata)
    line |= measured_weights()
    report(line, config, metrics)
    dist.barrier()  # so that no rank returns before the model is there
    return TrainResult(step, line["seconds"], size, line["val_loss"], line["val_bpb"])


def activation_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """What matrix products run in. Only CUDA devices are trusted to have bfloat16 worth having."""
    if config.precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if config.precision == "bfloat16" else torch.float32


def with_facts(config: TrainConfig, tokenizer: Tokenizer) -> TrainConfig:
    """``config`` with what the tokenizer decides filled in. Raises InputError where it says otherwise."""
    model = config.model
    if model.vocab_size not in (0, tokenizer.vocab_size):
        raise InputError(
            f"model.vocab_size is {model.vocab_size}, but the tokenizer has {tokenizer.vocab_size} pieces; "
            "leave the former out"
        )
    model = dataclasses.replace(
        model,
        vocab_size=tokenizer.vocab_size,
        sequence_length=config.sequence_length,
        bos_id=tokenizer.bos_id,
    )
    return dataclasses.replace(config, model=model)


def complementary_weights(config: TrainConfig, tokenizer: Tokenizer) -> ComplementaryWeights | None:
    if config.oracle is None:
        return None
    if not config.oracle.is_file():
        # Whether it came from --oracle or NGRAM_ORACLE_PATH: never train silently without it.
        raise InputError(f"{config.oracle}: there is no such oracle")
    oracle = Oracle.from_file(config.oracle)
    oracle.check_tokenizer(tokenizer.vocabulary, str(config.oracle))
    return ComplementaryWeights(oracle, config.complementary, tokenizer.vocab_size)


def flat_gradient(parameters: list[torch.nn.Parameter]) -> Tensor:
    """One float32 buffer that holds the gradients of all parameters, so that one all-reduce does."""
    flat = torch.zeros(sum(parameter.numel() for parameter in parameters), device=parameters[0].device)
    pieces = torch.split(flat, [parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view(parameter.shape)
    return flat


@dataclass(frozen=True)
class TrainingState:
    """All that a step changes. Batches are a function of the step number, and so have no state."""

    model: GPT
    optimizers: Optimizers
    ema: EMA

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves, by name; of the random state, a copy."""
        return {
            **{f"model/{name}": value for name, value in self.model.state_dict().items()},
            **{f"ema/{name}": value for name, value in self.ema.average.items()},
            **{f"optimizer/{name}": value for name, value in self.optimizers.state().items()},
            "random": torch.get_rng_state(),
        }

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], where: str) -> None:
        """Raises FormatError, naming the tensor and ``where``, for the state of another model."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "random": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        shapes = {name: value.shape for name, value in self.model.state_dict().items()}
        for part in ("model", "ema"):
            checkpoints.check_shapes(parts[part], shapes, f"{where} ({part})")
        for name, value in self.model.state_dict().items():
            value.copy_(parts["model"][name])
            self.ema.average[name].copy_(parts["ema"][name])
        self.optimizers.load_state(parts["optimizer"])
        torch.set_rng_state(parts["random"][""])


def warm_up(
    state: TrainingState,
    loader: TokenLoader,
    config: TrainConfig,
    learn: Callable[[Tensor, Tensor, int, float], Tensor],
) -> None:
    """Steps that compile and allocate what training will use; afterwards nothing has changed."""
    device = state.model.token_embedding.weight.device
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    batch = loader.batch(0)
    tokens, weights = batch.tokens.to(device), batch.weights.to(device)
    for _ in range(config.schedule.warmup_steps):
        learn(tokens, weights, 0, 1.0)
    if config.late_qat_lr_scale > config.schedule.final_lr_scale and config.schedule.warmdown:
        state.model.set_fake_quantisation(True)  # a graph of its own, to be compiled before it is needed
        learn(tokens, weights, 0, 1.0)
        state.model.set_fake_quantisation(False)
    state.load(before, "the state before the warm-up")


def open_run(out: Path, setting: dict[str, Any], resume: bool) -> None:
    """Makes the run's folder and writes down what it runs.

    Raises InputError when that would write over a run worth keeping, or resume one that was set otherwise.
    """
    path = out / CONFIG_FILE
    if resume:
        check_same_setting(path, setting)
    elif checkpoints.complete_checkpoints(out) or (out / checkpoints.MODEL_FILE).exists():
        raise InputError(
            f"{out} holds a training run already: continue it with --resume, or give another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    versions = {"hybridlm": hybridlm.__version__, "torch": torch.__version__}
    log.info("%s", json.dumps(setting["training"]))
    atomic_write_text(path, json.dumps(versions | setting, indent=2) + "\n")


def check_same_setting(path: Path, setting: dict[str, Any]) -> None:
    """Raises InputError, naming what differs, unless ``setting`` goes on with the run of ``path``."""
    try:
        before = json.loads(path.read_text())
        differences = [
            f"{name} was {before['training'].get(name)}, is {value}"
            for name, value in setting["training"].items()
            if name not in _FREE_TO_CHANGE and before["training"].get(name) != value
        ]
        differences += [
            f"{name} was {before.get(name)}, is {setting[name]}"
            for name in ("training_tokens", "tokenizer")
            if before.get(name) != setting[name]
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FormatError(f"{path}: not the configuration of a run") from None
    if differences:
        raise InputError(f"can't resume {path.parent} with other settings: {'; '.join(differences)}")


def latest_checkpoint(out: Path) -> Checkpoint:
    complete = checkpoints.complete_checkpoints(out)
    if not complete:
        raise InputError(f"{out / checkpoints.CHECKPOINTS}: no complete checkpoint to resume from")
    return checkpoints.load_checkpoint(complete[-1])


def save_checkpoint(
    state: TrainingState,
    step: int,
    clock: SharedClock,
    out: Path,
    config: TrainConfig,
    dist: Distributed,
) -> None:
    if dist.is_main:
        with clock.paused():
            point = Checkpoint(step, clock.measured(), state.tensors())
            checkpoints.save_checkpoint(out, point, config.checkpoint.keep)


def report(line: dict[str, float], config: TrainConfig, metrics: MetricsLog | None) -> None:
    """One line of metrics, for machines in the run's log and for people on stderr."""
    if metrics is None:
        return
    metrics.write(**line)
    words = [f"step {line['step']}/{config.iterations}", f"{line['seconds']:.1f} s"]
    if "train_loss" in line:
        words += [
            f"loss {line['train_loss']:.4f} nats",
            f"learning rate × {line['lr_scale']:.3f}",
            f"{quantity(line['tokens_per_second'])} tokens/s",
        ]
    if "val_bpb" in line:
        words += [f"validation {line['val_loss']:.4f} nats, {line['val_bpb']:.4f} bits per byte"]
    log.info("%s", " · ".join(words))


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set instead of what they would do; a second SIGINT does as usual.

    Under torchrun signals come several times, from the terminal and from the agent, so there no number of
    them breaks off the step that is being finished.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may take signals
        return
    alone = "TORCHELASTIC_RUN_ID" not in os.environ

    def note(number: int, frame: FrameType | None) -> None:
        if event.is_set() and alone and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
