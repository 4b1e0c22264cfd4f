"""The training run, top to bottom."""

import dataclasses
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hybridlm
from hybridlm.config import as_dict, readable
from hybridlm.data import shards
from hybridlm.data.byte_table import ByteTable
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.distributed import Distributed
from hybridlm.errors import FormatError, InputError
from hybridlm.extras import require_tensorboard
from hybridlm.files import exclusive, read_json, sweep, write_json
from hybridlm.model.gpt import GPT
from hybridlm.oracle import Oracle
from hybridlm.progress import quantity
from hybridlm.signals import handled_by
from hybridlm.threads import thread_count
from hybridlm.train import checkpoint as checkpoints
from hybridlm.train.checkpoint import Checkpoint, ModelMetadata
from hybridlm.train.complementary import ComplementaryWeights
from hybridlm.train.config import TrainConfig
from hybridlm.train.ema import EMA
from hybridlm.train.estimate import flops_per_token
from hybridlm.train.loader import Batch, TokenLoader, check_shards
from hybridlm.train.metrics import MetricsLog
from hybridlm.train.optimizer import Optimizers, clip_norm_
from hybridlm.train.schedule import SharedClock, StepPlan, plan, progress
from hybridlm.train.validation import Validator

LEAST_BFLOAT16_WIDTH = 192
"""On CPUs narrower models gain little from bfloat16 (benches/python/precision.py)."""

log = logging.getLogger("hybridlm.train")

CONFIG_FILE = "config.json"

# Settings that may differ in a resumed run: its length, and what doesn't affect its results.
_FREE_TO_CHANGE = (
    "iterations",
    "max_seconds",
    "log_every",
    "tensorboard",
    "peak_tflops",
    "spike_nats",
    "rank_timeout",
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
    allow_changes: bool = False,
    timer: Callable[[], float] = time.perf_counter,
) -> TrainResult:
    """Trains a GPT on the data folder's training shards and leaves it in ``out``/model.safetensors.

    A collective: every rank calls it alike. ``resume`` continues from the latest checkpoint in ``out``, and
    on a CPU ends with the very weights that a run without interruption ends with; ``allow_changes`` lets it
    go on with other settings. ``timer`` gives the seconds that ``max_seconds`` and the schedule go by.

    Raises InputError for data, tokenizer, oracle and settings that don't fit each other, when ``out`` holds
    a run already or another process trains there, and for a run that diverges; ConnectionError when another
    rank is gone; OSError; and KeyboardInterrupt, once a checkpoint is written, for SIGINT, SIGTERM and
    SIGHUP.
    """
    with ExitStack() as leave:
        return _train(config, data, tokenizer, out, dist, resume, allow_changes, timer, leave)


def _train(
    config: TrainConfig,
    data: Path,
    tokenizer: Tokenizer,
    out: Path,
    dist: Distributed,
    resume: bool,
    allow_changes: bool,
    timer: Callable[[], float],
    leave: ExitStack,
) -> TrainResult:
    """``leave`` is given what is to be left when the run ends, however it does."""
    device = dist.device
    if device.type == "cpu":
        torch.set_num_threads(thread_count())
    precision = activation_dtype(config, device)

    config = with_facts(config, tokenizer)
    if config.tensorboard:
        require_tensorboard("the setting tensorboard")
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
    for parameter in model.parameters():
        dist.broadcast_(parameter.data)
    learner = Learner(model, config, dist, precision)
    ema = EMA(model, config.ema_decay)
    state = TrainingState(model, learner.optimizers, ema)

    setting = {
        "data": str(data),
        "training_tokens": loader.tokens,
        "tokenizer": tokenizer.fingerprint,
        "training": as_dict(config),
    }
    dist.on_main(lambda: leave.enter_context(open_run(out, setting, resume, allow_changes)))
    step, seconds = 0, 0.0
    if resume:
        latest = latest_checkpoint(out)
        state.load(latest.tensors, f"the checkpoint of step {latest.step} in {out}")
        step, seconds = latest.step, latest.seconds
        del latest
    size = sum(parameter.numel() for parameter in model.parameters())
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
        warm_up(state, loader, config, learner)

    metrics = MetricsLog(out, step, tensorboard=config.tensorboard) if dist.is_main else None
    clock = SharedClock(dist, 1 if device.type == "cpu" else 10, step, seconds, timer)
    guard = LossGuard(config.spike_nats)
    batches = loader.batches(step)
    logged_step, logged_seconds, waited = step, seconds, 0.0

    def measured_step(batch: Batch, planned: StepPlan, outcome: StepOutcome) -> dict[str, float]:
        """What there is to say of the step just done. A collective, and it makes the host wait.

        Raises InputError for a loss that says that the run has diverged.
        """
        nonlocal logged_step, logged_seconds, waited
        sums = torch.stack((outcome.nats.double(), target_bytes(batch, tokenizer.byte_table).to(device)))
        nats, text_bytes = dist.all_reduce_sum_(sums).tolist()
        loss = nats / config.batch_tokens
        if problem := guard.problem(loss):
            raise InputError(f"{problem} at step {step}: the run diverged; {what_to_do(out)}")
        now = clock.measured()
        rate = (step - logged_step) * config.batch_tokens / max(now - logged_seconds, 1e-9)
        line = {
            "step": step,
            "train_loss": loss,
            "train_bpb": nats / math.log(2) / max(1.0, text_bytes),
            "gradient_norm": float(outcome.gradient_norm),
            "lr_scale": planned.lr_scale,
            "matrix_lr": planned.lr_scale * config.optimizer.matrix_lr,
            "embedding_lr": planned.lr_scale * config.optimizer.embedding_lr,
            "scalar_lr": planned.lr_scale * config.optimizer.scalar_lr,
            "weight_decay": planned.decay_scale * config.optimizer.weight_decay,
            "tokens": step * config.batch_tokens,
            "tokens_per_second": rate,
            "loader_share": waited / max(now - logged_seconds, 1e-9),
            "seconds": now,
        }
        if config.peak_tflops:
            flops = rate * flops_per_token(config.model, planned.recurrent)
            line["mfu"] = flops / (dist.world_size * config.peak_tflops * 1e12)
        logged_step, logged_seconds, waited = step, now, 0.0
        return line

    def measured_weights() -> dict[str, float]:
        """How the weights that the run would leave now do, in full precision. A collective."""
        model.set_fake_quantisation(False)
        with ema.swapped_in(model):
            result = validate(model, precision)
        return {"val_loss": result.loss, "val_bpb": result.bpb}

    def save_checkpoint() -> None:
        """A collective. Raises InputError instead of saving what is not worth resuming from."""
        tensors = state.tensors()
        check_finite(tensors, f"step {step}: the run diverged; {what_to_do(out)}")
        with clock.paused():
            point = Checkpoint(step, clock.measured(), tensors)
            dist.on_main(lambda: checkpoints.save_checkpoint(out, point, config.checkpoint.keep))

    with interruptible() as interruption:
        while True:
            seconds, interrupted = clock.read(step, interruption.is_set())
            done = progress(step, seconds, config)
            if interrupted or done >= 1:
                break
            planned = plan(step, done, config)
            before = timer()
            batch = next(batches)
            waited += timer() - before
            outcome = learner.step(
                batch.tokens.to(device, non_blocking=True),
                batch.weights.to(device, non_blocking=True),
                planned,
            )
            ema.update(model, step)
            step += 1

            validating = config.validation.every and step % config.validation.every == 0
            saving = config.checkpoint.every and step % config.checkpoint.every == 0
            if (
                step % config.log_every == 0 or step == 1 or validating or saving
            ) and step < config.iterations:
                line = measured_step(batch, planned, outcome)
                if validating:
                    with clock.paused():
                        line |= measured_weights()
                report(line, config, metrics)
            if saving:
                save_checkpoint()

        batches.close()
        line = {"step": step, "seconds": seconds}
        if step > logged_step:
            line = measured_step(batch, planned, outcome)
        if interrupted:
            save_checkpoint()
            dist.barrier()  # a rank that exits earlier would have rank 0 killed
            raise KeyboardInterrupt(
                f"interrupted after step {step}; the same command with --resume added continues"
            )
        model.set_recurrence(True)  # as the model is used from now on
        check_finite(ema.average, f"step {step}: the run diverged; {what_to_do(out)}")
        line |= measured_weights()
        if not math.isfinite(line["val_loss"]):
            raise InputError(f"the validation loss is {line['val_loss']}; {what_to_do(out)}")
        metadata = ModelMetadata(config.model, tokenizer.fingerprint, step)
        dist.on_main(lambda: checkpoints.save_model(out, ema.average, metadata))
        report(line, config, metrics)
        if interruption.is_set():  # too late for the run, but what called it may have more to do
            raise KeyboardInterrupt(f"interrupted when {out / checkpoints.MODEL_FILE} was complete")
    return TrainResult(step, line["seconds"], size, line["val_loss"], line["val_bpb"])


@dataclass(frozen=True)
class StepOutcome:
    """nats: Σ nll of this rank's targets. gradient_norm: before clipping. Scalars, still on the device."""

    nats: Tensor
    gradient_norm: Tensor


class Learner:
    """The one step that changes the weights. On a GPU the host never waits for it here."""

    def __init__(self, model: GPT, config: TrainConfig, dist: Distributed, precision: torch.dtype) -> None:
        self.model = model
        self.optimizers = Optimizers(model, config.optimizer, dist)
        self._gradient = flat_gradient(list(model.parameters()))
        self._loss = (
            torch.compile(model.loss, fullgraph=True, dynamic=False) if config.compile else model.loss
        )
        self._rows_at_once = max(1, config.micro_batch_tokens // config.sequence_length)
        self._clip = config.optimizer.gradient_clip
        self._precision = precision
        self._dist = dist

    def step(self, tokens: Tensor, weights: Tensor, plan: StepPlan) -> StepOutcome:
        """On this rank's share of a batch: tokens int64 [B, T + 1], weights float32 [B, T]. A collective."""
        device, precision = tokens.device, self._precision
        self.model.set_recurrence(plan.recurrent)
        self.model.set_fake_quantisation(plan.quantised)
        total_weight = self._dist.all_reduce_sum_(weights.sum())
        self._gradient.zero_()
        nats = torch.zeros((), device=device)
        for rows, row_weights in zip(
            torch.split(tokens, self._rows_at_once), torch.split(weights, self._rows_at_once), strict=True
        ):
            with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
                loss, row_nats = self._loss(rows, row_weights, total_weight)
            loss.backward()  # type: ignore[no-untyped-call]
            nats += row_nats
        self._dist.all_reduce_sum_(self._gradient)
        norm = clip_norm_(self._gradient, self._clip)
        self.optimizers.step(plan)
        return StepOutcome(nats, norm)


class LossGuard:
    """Tells a run that goes wrong from one that is noisy.

    Wrong is a loss that is not finite, and one more than ``spike_nats`` above the exponential moving average
    (0.9) of those before it; with 0 only the former.
    """

    def __init__(self, spike_nats: float) -> None:
        self._spike = spike_nats
        self._average: float | None = None

    def problem(self, loss: float) -> str | None:
        """What is wrong with ``loss``, the next one, if anything is."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        average = loss if self._average is None else self._average
        if self._spike and loss > average + self._spike:
            return f"the loss is {loss:.3f} nats, up from an average of {average:.3f},"
        self._average = average + 0.1 * (loss - average)
        return None


def what_to_do(out: Path) -> str:
    """For the user of a run that diverged."""
    advice = "lower the learning rates (--optimizer.matrix-lr and others) or set --optimizer.gradient-clip"
    complete = checkpoints.complete_checkpoints(out)
    if not complete:
        return f"there is no checkpoint to go back to: {advice} and start anew"
    return (
        f"the last good checkpoint is {complete[-1]}: {advice}, and go on from there with --resume "
        "--allow-changes"
    )


def target_bytes(batch: Batch, table: ByteTable) -> Tensor:
    """float64 scalar: the bytes of text that the batch's targets stand for."""
    rows = batch.tokens.numpy().astype(np.uint16)
    return torch.tensor(sum(int(table.lengths(row).sum()) for row in rows), dtype=torch.float64)


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises InputError, naming a tensor, unless all are finite. The host waits once, for all of them."""
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()]
    if not names:
        return
    finite = torch.stack([tensors[name].isfinite().all().cpu() for name in names])
    if not finite.all():
        name = names[int(finite.int().argmin())]
        raise InputError(f"{name} holds a value that is not finite at {where}")


def activation_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """What matrix products run in.

    auto: by the device and the model's width, never by a measurement, so that a run and its resumption, and
    the same run again, choose alike.
    """
    if config.precision != "auto":
        return torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and cpu_has_bfloat16() and config.model.width >= LEAST_BFLOAT16_WIDTH
    return torch.bfloat16 if fast else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 (AVX512-BF16, AMX), as far as this version of PyTorch tells."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


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
        self.optimizers.load_state(parts["optimizer"], where)
        random = parts["random"].get("", torch.empty(0))
        if random.shape != torch.get_rng_state().shape or random.dtype != torch.uint8:
            raise FormatError(f"{where}: the state of the random numbers is missing or has another form")
        torch.set_rng_state(random)


def warm_up(state: TrainingState, loader: TokenLoader, config: TrainConfig, learner: Learner) -> None:
    """Steps that compile and allocate what training will use; afterwards nothing has changed.

    Depth recurrence and quantisation-aware training each make graphs of their own: every combination that
    the run will come to is met here.
    """
    device = state.model.token_embedding.weight.device
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    batch = loader.batch(0)
    tokens, weights = batch.tokens.to(device), batch.weights.to(device)
    for planned in phases(config):
        for _ in range(config.schedule.warmup_steps):
            learner.step(tokens, weights, planned)
    state.load(before, "the state before the warm-up")


def phases(config: TrainConfig) -> list[StepPlan]:
    """A plan for each combination of depth recurrence and rounding that the run comes to, in order."""
    found: dict[tuple[bool, bool], StepPlan] = {}
    for progress_ in range(1000):
        planned = plan(0, progress_ / 1000, config)
        found.setdefault((planned.recurrent, planned.quantised), planned)
    return list(found.values())


@contextmanager
def open_run(out: Path, setting: dict[str, Any], resume: bool, allow_changes: bool) -> Iterator[None]:
    """Makes the run's folder and writes the settings there. Within the block no other process trains there.

    Raises InputError where another process does, where a finished or resumable run would be overwritten, and
    where one with other settings would be resumed, unless ``allow_changes``.
    """
    path = out / CONFIG_FILE
    if not resume:
        out.mkdir(parents=True, exist_ok=True)
    with exclusive(out, folder=True):
        _check_run(out, path, setting, resume, allow_changes)
        sweep(out)
        versions = {"hybridlm": hybridlm.__version__, "torch": torch.__version__}
        log.info("settings, which %s holds too:\n%s", path, readable(setting["training"]))
        write_json(path, versions | setting)
        yield


def _check_run(out: Path, path: Path, setting: dict[str, Any], resume: bool, allow_changes: bool) -> None:
    if resume:
        differences = "; ".join(setting_differences(path, setting))
        if differences and not allow_changes:
            raise InputError(
                f"can't resume {out} with other settings: {differences}; --allow-changes does it anyway"
            )
        if differences:
            log.warning("resuming with other settings: %s", differences)
    elif checkpoints.complete_checkpoints(out) or (out / checkpoints.MODEL_FILE).exists():
        raise InputError(
            f"{out} holds a training run already: continue it with --resume, or give another --out"
        )


def setting_differences(path: Path, setting: dict[str, Any]) -> list[str]:
    """How ``setting`` differs from that of the run that wrote ``path``, in what must not change."""
    try:
        before = read_json(path, 1 << 24)
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
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FormatError(f"{path}: not the configuration of a run") from None
    return differences


def latest_checkpoint(out: Path) -> Checkpoint:
    complete = checkpoints.complete_checkpoints(out)
    if not complete:
        raise InputError(f"{out / checkpoints.CHECKPOINTS}: no complete checkpoint to resume from")
    return checkpoints.load_checkpoint(complete[-1])


def report(line: dict[str, float], config: TrainConfig, metrics: MetricsLog | None) -> None:
    """One line of metrics, for machines in the run's log and for people on stderr."""
    if metrics is None:
        return
    metrics.write(**line)
    words = [f"step {line['step']}/{config.iterations}", f"{line['seconds']:.1f} s"]
    if "train_loss" in line:
        words += [
            f"loss {line['train_loss']:.4f} nats, {line['train_bpb']:.4f} bits per byte",
            f"learning rate × {line['lr_scale']:.3f}",
            f"gradient {line['gradient_norm']:.3g}",
            f"{quantity(line['tokens_per_second'])} tokens/s",
        ]
    if "mfu" in line:
        words += [f"{line['mfu']:.1%} of the stated peak"]
    if "val_bpb" in line:
        words += [f"validation {line['val_loss']:.4f} nats, {line['val_bpb']:.4f} bits per byte"]
    log.info("%s", " · ".join(words))


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set instead of what they would do; a second SIGINT does as
    usual. A SIGHUP that is ignored (nohup) stays so.

    Under torchrun signals come several times, from the terminal and from the agent, so there no number of
    them breaks off the step that is being finished. Where a rank has died the agent ends the others and says
    so: a rank that then finds its group gone has been interrupted, and has nothing to add.
    """
    event = threading.Event()
    alone = "TORCHELASTIC_RUN_ID" not in os.environ

    def note(number: int, frame: FrameType | None) -> None:
        if event.is_set() and alone and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    with handled_by(note):
        try:
            yield event
        except ConnectionError:
            if event.is_set():
                raise KeyboardInterrupt from None
            raise
