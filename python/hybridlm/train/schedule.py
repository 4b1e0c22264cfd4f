"""What a step does as a function of the run's progress, and the clock that progress may follow."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from hybridlm.distributed import Distributed
from hybridlm.train.config import OptimizerConfig, ScheduleConfig, TrainConfig


def progress(step: int, seconds: float, config: TrainConfig) -> float:
    """How far the run is, from 0 to 1 and beyond, by steps done or by seconds, whichever is further."""
    by_steps = step / config.iterations
    return max(by_steps, seconds / config.max_seconds) if config.max_seconds else by_steps


@dataclass(frozen=True)
class StepPlan:
    """How one optimiser step is taken.

    lr_scale, decay_scale: what base learning rates and weight decays are multiplied with. momentum: Muon's.
    recurrent: with depth recurrence. quantised: the model sees its matrices rounded.
    """

    lr_scale: float
    decay_scale: float
    momentum: float
    recurrent: bool
    quantised: bool


def plan(step: int, progress: float, config: TrainConfig) -> StepPlan:
    """Of step number ``step``, counted from 0, which starts when the run has come as far as ``progress``."""
    schedule = config.schedule
    return StepPlan(
        learning_rate_scale(step, progress, schedule),
        decay_scale(progress, schedule),
        muon_momentum(step, config.optimizer),
        config.model.recurrences > 1 and progress >= schedule.recurrence_start,
        warmdown_scale(progress, schedule) < config.late_qat_lr_scale,
    )


def warmdown_scale(progress: float, config: ScheduleConfig) -> float:
    """1 until the warm-down, then falling linearly to 0 at the run's end, but not below ``lr_floor``."""
    if not config.warmdown or progress <= 1 - config.warmdown:
        return 1.0
    return max(config.lr_floor, (1 - progress) / config.warmdown)


def learning_rate_scale(step: int, progress: float, config: ScheduleConfig) -> float:
    """What base learning rates are multiplied with in step number ``step``, counted from 0."""
    ramp = min(1.0, (step + 1) / (config.ramp_steps + 1))
    return ramp * warmdown_scale(progress, config)


def decay_scale(progress: float, config: ScheduleConfig) -> float:
    """1 until the taper, then falling linearly to ``final_decay_scale`` at the run's end."""
    if not config.decay_taper or progress <= 1 - config.decay_taper:
        return 1.0
    left = max(0.0, 1 - progress) / config.decay_taper
    return config.final_decay_scale + (1 - config.final_decay_scale) * left


def muon_momentum(step: int, config: OptimizerConfig) -> float:
    share = min(1.0, step / config.momentum_steps) if config.momentum_steps > 0 else 1.0
    return config.momentum_start + share * (config.momentum_end - config.momentum_start)


class SharedClock:
    """Seconds spent on training steps, as rank 0 measures them and all ranks believe them.

    Ranks meet every ``meet_every`` steps, and go on from there by the pace of the last stretch: a meeting on
    a GPU makes the host wait for it. Whether to stop on a signal, which may reach only some, is settled in
    the same meeting. ``timer``: seconds since any fixed moment, never falling.
    """

    def __init__(
        self,
        distributed: Distributed,
        meet_every: int,
        step: int,
        seconds: float,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._distributed = distributed
        self._meet_every = meet_every
        self._timer = timer
        self._before = seconds
        self._since: float | None = timer()  # None while paused
        self._met_at = (step, seconds)
        self._pace = 0.0
        self._first_step = step

    def read(self, step: int, interrupted: bool) -> tuple[float, bool]:
        """Before step ``step``: seconds so far, and whether any rank was told to stop. A collective."""
        met_step, met_seconds = self._met_at
        if (step - self._first_step) % self._meet_every == 0:
            told = torch.tensor(
                [self.measured() if self._distributed.is_main else 0.0, float(interrupted)],
                dtype=torch.float64,
                device=self._distributed.device,
            )
            seconds, stops = self._distributed.all_reduce_sum_(told).tolist()
            if step > met_step:
                self._pace = (seconds - met_seconds) / (step - met_step)
            self._met_at = (step, seconds)
            return seconds, stops > 0
        return met_seconds + self._pace * (step - met_step), False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For what is not training: validation, checkpoints. Meanwhile the clock stands still."""
        if self._distributed.device.type == "cuda":
            torch.cuda.synchronize()
        self._before, self._since = self.measured(), None
        try:
            yield
        finally:
            self._since = self._timer()

    def measured(self) -> float:
        return self._before if self._since is None else self._before + self._timer() - self._since
