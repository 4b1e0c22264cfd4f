"""The protocol of a score: chunk by chunk, every target once, scored before anything learns from it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.data.byte_table import ByteTable
from hybridlm.errors import InputError
from hybridlm.progress import Progress
from hybridlm.scoring.artifact_experts import experts_of
from hybridlm.scoring.experts import Expert
from hybridlm.scoring.mixing import Mixers, MixtureSpec, expert_names
from hybridlm.scoring.settings import ScoringSettings, TTTOptimizer
from hybridlm.stopwatch import Stopwatch

if TYPE_CHECKING:
    from hybridlm.distributed import Distributed

log = logging.getLogger("hybridlm.eval")

# Sums of nll are kept as whole multiples of this many nats. Whole numbers add up to the same in any order,
# so a total doesn't depend on the chunks; the rounding is 10^-10 nats a target.
_UNIT = 2.0**-32

Learn = Callable[[NDArray[np.uint16], int], None]


@dataclass(frozen=True)
class Rate:
    """What a predictor costs: bits per token, and bits per byte of decoded text."""

    bits_per_token: float
    bpb: float


@dataclass(frozen=True)
class LearningRate:
    """What the neural expert costs at one learning rate, its updates, and how often they were undone."""

    learning_rate: float
    bits_per_token: float
    bpb: float
    updates: int
    undone: int


@dataclass(frozen=True)
class ScoredChunk:
    """Committed scores of consecutive targets.

    Attributes:
        start: the first target's index in the stream; the first chunk's is 1.
        log_probs: float32 [K, n], nats, a row per expert.
        nll: by mixture, float64 [n], nats.
    """

    start: int
    log_probs: NDArray[np.float32]
    nll: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class EvaluationResult:
    """A score of ``tokens`` targets that decode to ``bytes`` bytes of text.

    Attributes:
        bits_per_token, bpb: of the mixture ``mixer`` over all experts.
        experts: each expert's own rate.
        mixtures: the rates of further mixtures over the same experts' scores.
        ttt: the optimiser of test-time training, or ``off``: also where it never came to an update, because
            all targets fit one chunk.
        ttt_updates: steps that it made; ttt_undone: how often it had diverged and was undone.
        ttt_rates: what became of each learning rate.
        control: the neural expert's rate if it is trained, as often, on training tokens; None: not tried.
        seconds: wall time; ``stages`` says what for.
    """

    tokens: int
    bytes: int
    bits_per_token: float
    bpb: float
    experts: dict[str, Rate]
    mixer: str
    mixtures: dict[str, Rate]
    ttt: TTTOptimizer
    ttt_updates: int
    ttt_undone: int
    ttt_rates: list[LearningRate]
    control: Rate | None
    seconds: float
    stages: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def score_chunks(
    stream: NDArray[np.uint16],
    experts: Sequence[Expert],
    mixtures: Mapping[str, MixtureSpec],
    *,
    chunk: int,
    learn: Learn | None = None,
    watch: Stopwatch | None = None,
) -> Iterator[ScoredChunk]:
    """Scores targets 1 … N − 1 of ``stream``, ``chunk`` at a time.

    Experts and mixtures are given the stream only up to a chunk's end. A chunk is committed by being
    yielded; only then, and never after the last one, ``learn(stream so far, chunk's start)`` is called.
    """
    watch = watch or Stopwatch()
    mixers = Mixers(mixtures, experts)
    for start in range(1, len(stream), chunk):
        seen = stream[: start + chunk]
        log_probs, nll = mixers.score(seen, start, watch)
        yield ScoredChunk(start, log_probs, nll)
        if learn is not None and len(seen) < len(stream):
            with watch.stage("ttt"):
                learn(seen, start)


def evaluate(
    artifact: Artifact,
    stream: NDArray[np.uint16],
    byte_table: ByteTable,
    settings: ScoringSettings | None = None,
    dist: "Distributed | None" = None,
    *,
    mixtures: Mapping[str, MixtureSpec] | None = None,
    threads: int | None = None,
    control: NDArray[np.uint16] | None = None,
) -> EvaluationResult:
    """Scores every token of ``stream`` but the first.

    Under a process group it is a collective: the neural expert's windows and test-time training are shared
    out, and every rank gets the same result. ``mixtures`` are scored besides ``settings.mixer``, over the
    same expert scores. ``control``, training tokens that are at least as many, trains a model as often on
    them instead, to tell what is learned of this text from what any further training gives. The artifact is
    left as it is: the models that learn are copies of what it holds.

    Raises InputError for a stream without targets or bytes, a vocabulary that isn't the artifact's, settings
    that can't be; FormatError for a damaged artifact.
    """
    settings = settings or ScoringSettings()
    began = time.perf_counter()
    watch = Stopwatch()
    if len(stream) < 2:
        raise InputError(f"a stream of {len(stream)} tokens has no target to score: it takes at least two")
    lengths = byte_table.lengths(stream, start=1)
    total_bytes = int(lengths.sum())
    if not total_bytes:
        raise InputError("the targets decode to no text, so there are no bytes to divide by")
    if control is not None and len(control) < len(stream):
        raise InputError(
            f"the control has {len(control):,} tokens, fewer than the {len(stream):,} of the stream"
        )

    with watch.stage("load"):
        parts = experts_of(artifact, byte_table.vocab_size, settings, dist, threads=threads, control=control)
    experts = parts.experts

    specs = {"": MixtureSpec(settings.mixer), **(mixtures or {})}
    names = expert_names(experts)
    expert_totals = [0] * len(names)
    mixture_totals = dict.fromkeys(specs, 0)
    tokens = len(stream) - 1
    with ExitStack() as stack:
        progress = None
        if dist is None or dist.is_main:
            progress = stack.enter_context(Progress("score", tokens, "tokens"))
        for scored in score_chunks(
            stream,
            experts,
            specs,
            chunk=settings.chunk,
            learn=parts.learn if parts.learners else None,
            watch=watch,
        ):
            for row, log_probs in enumerate(scored.log_probs):
                expert_totals[row] += _total(-log_probs.astype(np.float64))
            for label, nll in scored.nll.items():
                mixture_totals[label] += _total(nll)
            if progress is not None:
                progress.update(scored.start - 1 + scored.log_probs.shape[1])

    def rate(total: int) -> Rate:
        bits = total * _UNIT / float(np.log(2.0))
        return Rate(bits / tokens, bits / total_bytes)

    rates = parts.learners[0].report() if parts.learners else []
    updates = sum(one.updates for one in rates)
    if rates and not updates:
        log.warning(
            "test-time training made no update: the %s targets are a single chunk of up to %s; --chunk makes "
            "smaller ones",
            f"{tokens:,}",
            f"{settings.chunk:,}",
        )
    of_experts = dict(zip(names, map(rate, expert_totals), strict=True))
    result = rate(mixture_totals.pop(""))
    return EvaluationResult(
        tokens=tokens,
        bytes=total_bytes,
        bits_per_token=result.bits_per_token,
        bpb=result.bpb,
        control=of_experts.pop("control", None),
        experts=of_experts,
        mixer=settings.mixer,
        mixtures={label: rate(total) for label, total in mixture_totals.items()},
        ttt=(settings.ttt or "sgd") if updates else "off",
        ttt_updates=updates,
        ttt_undone=sum(one.undone for one in rates),
        ttt_rates=[
            LearningRate(one.rate, cost.bits_per_token, cost.bpb, one.updates, one.undone)
            for one, cost in ((one, rate(round(one.nats / _UNIT))) for one in rates)
        ],
        seconds=time.perf_counter() - began,
        stages=watch.seconds,
    )


def _total(nats: NDArray[np.float64]) -> int:
    return int(np.rint(nats / _UNIT).astype(np.int64).sum())
