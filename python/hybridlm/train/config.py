"""The settings of a training run. Free of torch, so that the command line's help is quick."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hybridlm.config import check_ranges
from hybridlm.errors import InputError
from hybridlm.model.config import ModelConfig

# Far beyond any sensible setting, and small enough for all arithmetic that follows.
_MANY = 10**9
_RATE = (0, 1000)


@dataclass(frozen=True)
class OptimizerConfig:
    """Muon for the matrices, AdamW for embeddings and for vectors and scalars."""

    matrix_lr: float = 0.02
    """Learning rate of the matrices (Muon)."""
    embedding_lr: float = 0.03
    """Learning rate of the embeddings (AdamW)."""
    scalar_lr: float = 0.02
    """Learning rate of vectors and scalars (AdamW)."""
    decoder_lr_factor: float = 2.0
    """Learning rates of the second half of the layers are this many times those of the first."""
    weight_decay: float = 0.04
    """Of Muon's matrices; decoupled, times the learning rate, as the two that follow."""
    embedding_decay: float = 0.0
    """Weight decay of the embeddings."""
    scalar_decay: float = 0.0
    """Weight decay of vectors and scalars."""
    gradient_clip: float = 0.0
    """Largest global norm of the gradient; 0: no limit."""

    momentum_start: float = 0.92
    """Muon's momentum at the first step."""
    momentum_end: float = 0.99
    """Muon's momentum from step momentum_steps on."""
    momentum_steps: int = 1500
    """Steps in which Muon's momentum goes from start to end, linearly."""
    newton_schulz: Literal["quintic", "polar_express"] = "quintic"
    """Coefficients of the orthogonalisation: Jordan's, the same in each step, or Polar Express's."""
    newton_schulz_steps: int = 5
    """Iterations of the orthogonalisation."""
    newton_schulz_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 on CUDA, float32 elsewhere."""
    normalise_rows: bool = False
    """Rows of Muon's direction get the same norm before it is orthogonalised (MuonEq-R)."""

    adam_beta1: float = 0.8
    """Decay of AdamW's average of gradients."""
    adam_beta2: float = 0.95
    """Decay of AdamW's average of squared gradients."""
    adam_epsilon: float = 1e-8
    """Added to the root of AdamW's squared gradients."""

    def __post_init__(self) -> None:
        _at_least_zero(
            self,
            "optimizer.",
            *("matrix_lr", "embedding_lr", "scalar_lr", "decoder_lr_factor", "gradient_clip"),
            *("weight_decay", "embedding_decay", "scalar_decay", "newton_schulz_steps", "momentum_steps"),
            *("adam_epsilon",),
        )
        for name in ("momentum_start", "momentum_end", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"optimizer.{name} must be in [0, 1), not {getattr(self, name)}")
        rates = ("matrix_lr", "embedding_lr", "scalar_lr", "decoder_lr_factor")
        decays = ("weight_decay", "embedding_decay", "scalar_decay")
        check_ranges(
            self,
            "optimizer.",
            {
                **dict.fromkeys((*rates, *decays), _RATE),
                "gradient_clip": (0, _MANY),
                "momentum_steps": (0, _MANY),
                "newton_schulz_steps": (0, 100),
                "adam_epsilon": (0, 1),
            },
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """How learning rates move with the run's progress, counted in steps or in seconds (what ends first)."""

    ramp_steps: int = 0
    """The first steps, in which learning rates rise from near zero."""
    warmdown: float = 0.5
    """The last part of the run, as a fraction, in which learning rates fall linearly towards zero."""
    lr_floor: float = 0.0
    """As a fraction of the full rates: in the warm-down they don't fall below."""
    decay_taper: float = 0.0
    """The last part of the run, as a fraction, in which weight decay falls linearly."""
    final_decay_scale: float = 0.0
    """What it falls to, as a fraction of itself."""
    recurrence_start: float = 0.35
    """How far the run is, from 0 to 1, when depth recurrence sets in."""
    warmup_steps: int = 0
    """Steps before the clock starts, which compile kernels and are then undone completely."""

    def __post_init__(self) -> None:
        _at_least_zero(self, "schedule.", "ramp_steps", "warmup_steps")
        check_ranges(self, "schedule.", {"ramp_steps": (0, _MANY), "warmup_steps": (0, _MANY)})
        for name in ("warmdown", "lr_floor", "decay_taper", "final_decay_scale"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"schedule.{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0 <= self.recurrence_start < 1:
            raise InputError(f"schedule.recurrence_start must be in [0, 1), not {self.recurrence_start}")


@dataclass(frozen=True)
class ComplementaryConfig:
    """Weights of the loss when there is an oracle: w = max(1 − α · p_oracle(target), floor).

    p_oracle is the largest probability that any order up to ``max_order`` gives the target.
    """

    alpha: float = 0.5
    """α of the formula: 0 weighs every target the same."""
    floor: float = 0.1
    """The least that a target weighs."""
    max_order: int = 6
    """The highest order of the oracle that is asked."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"complementary.alpha must be in [0, 1], not {self.alpha}")
        if not 0 < self.floor <= 1:
            raise InputError(f"complementary.floor must be in (0, 1], not {self.floor}")
        check_ranges(self, "complementary.", {"max_order": (0, 255)})


@dataclass(frozen=True)
class ValidationConfig:
    """Validation while training, on windows without overlap: a measure of progress, not the run's score."""

    every: int = 0
    """In steps; 0: only at the end."""
    max_tokens: int = 1_000_000
    """How many targets of the validation shards are used, from the first."""

    def __post_init__(self) -> None:
        _at_least_zero(self, "validation.", "every", "max_tokens")
        check_ranges(self, "validation.", {"every": (0, _MANY), "max_tokens": (0, 2**40)})


@dataclass(frozen=True)
class CheckpointConfig:
    """What an interrupted run goes on from."""

    every: int = 0
    """In steps; 0: only when interrupted."""
    keep: int = 2
    """How many of the latest to keep."""

    def __post_init__(self) -> None:
        _at_least_zero(self, "checkpoint.", "every")
        if self.keep < 1:
            raise InputError(f"checkpoint.keep must be at least 1, not {self.keep}")
        check_ranges(self, "checkpoint.", {"every": (0, _MANY), "keep": (1, _MANY)})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's result, but for the data and the tokenizer."""

    iterations: int = 1000
    """Optimiser steps."""
    max_seconds: float = 0.0
    """Ends the run earlier, counting training alone, without warm-up and validation; 0: no limit."""
    batch_tokens: int = 16_384
    """Targets of one optimiser step, over all ranks."""
    micro_batch_tokens: int = 16_384
    """Most targets of one forward and backward pass on a rank: bounds memory, changes no result."""
    sequence_length: int = 256
    """Tokens of one training sequence, which the model sees as context."""
    seed: int = 1337
    """Of the first weights and of the order of the batches."""
    oracle: Path | None = field(default=None, metadata={"environment": "NGRAM_ORACLE_PATH"})
    """Oracle for complementary training; none: every token weighs the same."""
    ema_decay: float = 0.9985
    """Of the average of the weights that is the run's result; early on it is less, 0: no average."""
    late_qat_lr_scale: float = 0.0
    """Quantisation-aware training starts when the learning-rate scale falls below; 0: never."""
    log_every: int = 10
    """Steps between two lines of the log."""
    tensorboard: bool = False
    """Write the log for TensorBoard too, into the run's folder; needs the extra `tensorboard`."""
    peak_tflops: float = 0.0
    """What one device can do in the run's precision, in 10¹² operations a second; then the log has the
    share of it that is used (MFU)."""
    spike_nats: float = 2.0
    """A loss that is this much above the average of those logged before stops the run; 0: none does."""
    rank_timeout: float = 60.0
    """Under torchrun, on CPUs: seconds that a rank waits for the others before it takes them for dead."""
    device: str | None = None
    """cpu, cuda or cuda:N; none: CUDA where there is one."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of activations. auto: bfloat16 autocast on CUDA devices that have it, and on CPUs that multiply it
    natively for models at least 192 wide; else float32."""
    compile: bool = False
    """Compile the model with torch.compile."""

    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    complementary: ComplementaryConfig = field(default_factory=ComplementaryConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_tokens", "micro_batch_tokens", "sequence_length", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        _at_least_zero(
            self, "", "max_seconds", "late_qat_lr_scale", "seed", "peak_tflops", "spike_nats", "rank_timeout"
        )
        check_ranges(
            self,
            "",
            {
                **dict.fromkeys(("iterations", "log_every"), (1, _MANY)),
                **dict.fromkeys(("batch_tokens", "micro_batch_tokens"), (1, 2**31)),
                "sequence_length": (1, 2**24),
                **dict.fromkeys(("max_seconds", "peak_tflops", "spike_nats"), (0, _MANY)),
                # torch's collectives count milliseconds.
                "rank_timeout": (0, 10**7),
                "late_qat_lr_scale": (0, 1000),
                "seed": (0, 2**53),
            },
        )
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        if self.batch_tokens % self.sequence_length:
            raise InputError(
                f"batch_tokens {self.batch_tokens} is not a multiple of sequence_length "
                f"{self.sequence_length}"
            )
        if self.model.sequence_length not in (0, self.sequence_length):
            raise InputError(
                f"model.sequence_length is {self.model.sequence_length}, but sequence_length is "
                f"{self.sequence_length}; leave the former out"
            )

    @property
    def sequences_per_step(self) -> int:
        return self.batch_tokens // self.sequence_length


def _at_least_zero(settings: object, prefix: str, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < math.inf:
            raise InputError(f"{prefix}{name} must be a number, not negative; it is {value}")
