"""The protocol of a score: chunk by chunk, every target once, scored before anything learns from it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.data.byte_table import ByteTable
from hybridlm.errors import InputError
from hybridlm.progress import Progress
from hybridlm.scoring.experts import (
    CountingExpert,
    Expert,
    GatedExpert,
    RowExpert,
    expert_names,
    gather,
    online_experts,
    rows_of,
    vocabulary_of,
)
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.mixtures import (
    create_mixture,
    create_row_mixture,
    find_mixture,
    row_mixture_names,
)
from hybridlm.scoring.settings import ScoringSettings, TTTOptimizer

if TYPE_CHECKING:
    from hybridlm.distributed import Distributed
    from hybridlm.scoring.neural import NeuralExpert
    from hybridlm.scoring.ttt import TestTimeTrainer

log = logging.getLogger("hybridlm.eval")

# Sums of nll are kept as whole multiples of this many nats. Whole numbers add up to the same in any order,
# so a total doesn't depend on the chunks; the rounding is 10^-10 nats a target.
_UNIT = 2.0**-32

ROW_PIECE = 2048
"""Targets whose whole rows are held at once, where a mixture wants them: some 100 MB of a dozen experts."""

Learn = Callable[[NDArray[np.uint16], int], None]


@dataclass(frozen=True)
class MixtureSpec:
    """A mixture by name, over the experts of some families; None: of those that it says itself."""

    mixer: str
    families: tuple[str, ...] | None = None

    def takes(self, expert: Expert) -> bool:
        families = find_mixture(self.mixer).families if self.families is None else self.families
        return expert.family in families


@dataclass(frozen=True)
class Rate:
    """What a predictor costs: bits per token, and bits per byte of decoded text."""

    bits_per_token: float
    bpb: float


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
        ttt_updates: steps that it made.
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
    seconds: float
    stages: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Mixer:
    """A mixture at work over those of the experts that it takes."""

    def __init__(self, spec: MixtureSpec, experts: Sequence[Expert]) -> None:
        self._rows = np.flatnonzero([spec.takes(expert) for expert in experts for _ in expert.names])
        self._taken = [expert for expert in experts if spec.takes(expert)]
        self._gated = [expert for expert in self._taken if isinstance(expert, GatedExpert)]
        takes_evidence = getattr(find_mixture(spec.mixer), "evidence", False)
        self._counting = [e for e in self._taken if takes_evidence and isinstance(e, CountingExpert)]
        evidence = [name for expert in self._counting for name in expert.evidence_names]
        sizes = [size for expert in self._gated for size in expert.gate_sizes]
        sizes += [size for expert in self._counting for size in expert.class_sizes]
        self._mixture = create_mixture(spec.mixer, [*expert_names(self._taken), *evidence], sizes)

    def mix(self, log_probs: NDArray[np.float32]) -> NDArray[np.float64]:
        """The nll [n] of what `gather` has just given, of all experts."""
        shares = [expert.shares for expert in self._counting]
        gates = [e.gates for e in self._gated] + [e.classes for e in self._counting]
        rows = np.concatenate([log_probs[self._rows], *shares])
        return self._mixture.mix(rows, np.concatenate(gates) if gates else None)

    def fingerprint(self) -> bytes:
        """Of the weights, not of the experts."""
        return self._mixture.fingerprint()

    def row(self, stream: NDArray[np.uint16]) -> NDArray[np.float64]:
        """[V]: ln p of each possible token after ``stream``, to whose end all has been mixed. Learns nothing.

        Raises InputError for an expert that can't show its distribution.
        """
        shares = [expert.next_shares() for expert in self._counting]
        gates = [e.next_gates() for e in self._gated] + [e.next_classes() for e in self._counting]
        weights = self._mixture.weights(np.concatenate(gates) if gates else None)
        rows = np.concatenate([_next_rows(self._taken, stream), *shares]).astype(np.float64)
        return np.asarray(np.log(weights @ np.exp(rows)))


class RowMixer:
    """Likewise a mixture of whole rows."""

    def __init__(self, spec: MixtureSpec, experts: Sequence[Expert]) -> None:
        self._rows = np.flatnonzero([spec.takes(expert) for expert in experts for _ in expert.names])
        self._taken = [expert for expert in experts if spec.takes(expert)]
        names = expert_names(self._taken)
        self._mixture = create_row_mixture(spec.mixer, names, vocabulary_of(self._taken))

    def mix(self, rows: NDArray[np.float32], targets: NDArray[np.uint16]) -> NDArray[np.float64]:
        """The nll [n] of what `gather_rows` has just given, of all experts."""
        return self._mixture.mix(rows[self._rows], targets)

    def fingerprint(self) -> bytes:
        return self._mixture.fingerprint()

    def row(self, stream: NDArray[np.uint16]) -> NDArray[np.float64]:
        return self._mixture.row(_next_rows(self._taken, stream))


def _next_rows(experts: Sequence[Expert], stream: NDArray[np.uint16]) -> NDArray[np.float32]:
    """[K, V]"""
    rows = []
    for expert in experts:
        if not isinstance(expert, RowExpert):
            raise InputError(f"the {expert.family} expert has no whole rows to show")
        rows.append(expert.next_log_probs(stream))
    return np.concatenate(rows)


class Mixers:
    """Mixtures over the same experts: what scores a piece of the stream."""

    def __init__(self, mixtures: Mapping[str, MixtureSpec], experts: Sequence[Expert]) -> None:
        self._experts = experts
        self._linear: dict[str, Mixer] = {}
        self._of_rows: dict[str, RowMixer] = {}
        for label, spec in mixtures.items():
            if spec.mixer in row_mixture_names():
                self._of_rows[label] = RowMixer(spec, experts)
            else:
                self._linear[label] = Mixer(spec, experts)

    def __getitem__(self, label: str) -> Mixer | RowMixer:
        return self._linear.get(label) or self._of_rows[label]

    def score(
        self, stream: NDArray[np.uint16], start: int, watch: Stopwatch | None = None
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float64]]]:
        """ln p_k [K, n] of stream[start:], and by mixture their nll [n]."""
        watch = watch or Stopwatch()
        # Whole rows take K · V numbers a target: no more of them are held than they need to be.
        step = ROW_PIECE if self._of_rows else len(stream)
        found: list[NDArray[np.float32]] = []
        nll: dict[str, list[NDArray[np.float64]]] = {label: [] for label in [*self._linear, *self._of_rows]}
        # A piece without targets is one, too.
        for first in range(start, max(len(stream), start + 1), step):
            piece = stream[: first + step]
            rows = rows_of(self._experts, len(piece) - first) if self._of_rows else None
            log_probs = gather(self._experts, piece, first, rows=rows, stage=watch.stage)
            found.append(log_probs)
            with watch.stage("mixture"):
                for label, mixer in self._linear.items():
                    nll[label].append(mixer.mix(log_probs))
                if rows is not None:
                    for label, row_mixer in self._of_rows.items():
                        nll[label].append(row_mixer.mix(rows, piece[first:]))
        return np.concatenate(found, axis=1), {label: np.concatenate(part) for label, part in nll.items()}


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
) -> EvaluationResult:
    """Scores every token of ``stream`` but the first.

    Under a process group it is a collective: the neural expert's windows and test-time training are shared
    out, and every rank gets the same result. ``mixtures`` are scored besides ``settings.mixer``, over the
    same expert scores. The artifact is left as it is: the model that learns is a copy of what it holds.

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

    experts: list[Expert] = []
    trainer: TestTimeTrainer | None = None
    if artifact.neural_blob is not None and not settings.no_neural:
        with watch.stage("load"):
            neural, trainer = load_neural(artifact, settings, dist)
            _check_vocabulary("model", neural.model.config.vocab_size, byte_table)
        experts.append(neural)
    elif settings.ttt not in (None, "off"):
        raise InputError(f"test-time training ({settings.ttt}) needs a neural model, and none is scored")
    experts += online_experts(byte_table.vocab_size)
    if not settings.no_oracle:
        with watch.stage("load"):
            oracle = artifact.load_oracle()
        if oracle is not None:
            _check_vocabulary("oracle", oracle.vocab_size, byte_table)
            experts.append(OracleExperts(oracle, threads))

    specs = {"": MixtureSpec(settings.mixer), **(mixtures or {})}
    names = expert_names(experts)
    expert_totals = [0] * len(names)
    mixture_totals = dict.fromkeys(specs, 0)
    tokens = len(stream) - 1
    learn = None if trainer is None else trainer.learn
    with ExitStack() as stack:
        progress = None
        if dist is None or dist.is_main:
            progress = stack.enter_context(Progress("score", tokens, "tokens"))
        for scored in score_chunks(stream, experts, specs, chunk=settings.chunk, learn=learn, watch=watch):
            for row, log_probs in enumerate(scored.log_probs):
                expert_totals[row] += _total(-log_probs.astype(np.float64))
            for label, nll in scored.nll.items():
                mixture_totals[label] += _total(nll)
            if progress is not None:
                progress.update(scored.start - 1 + scored.log_probs.shape[1])

    def rate(total: int) -> Rate:
        bits = total * _UNIT / float(np.log(2.0))
        return Rate(bits / tokens, bits / total_bytes)

    updates = 0 if trainer is None else trainer.updates
    if trainer is not None and not updates:
        log.warning(
            "test-time training made no update: the %s targets are a single chunk of up to %s; --chunk makes "
            "smaller ones",
            f"{tokens:,}",
            f"{settings.chunk:,}",
        )
    result = rate(mixture_totals.pop(""))
    return EvaluationResult(
        tokens=tokens,
        bytes=total_bytes,
        bits_per_token=result.bits_per_token,
        bpb=result.bpb,
        experts=dict(zip(names, map(rate, expert_totals), strict=True)),
        mixer=settings.mixer,
        mixtures={label: rate(total) for label, total in mixture_totals.items()},
        ttt=(settings.ttt or "sgd") if updates else "off",
        ttt_updates=updates,
        seconds=time.perf_counter() - began,
        stages=watch.seconds,
    )


def load_neural(
    artifact: Artifact, settings: ScoringSettings, dist: "Distributed | None"
) -> "tuple[NeuralExpert, TestTimeTrainer | None]":
    """The artifact's neural expert, and what makes it learn."""
    import torch

    from hybridlm.distributed import Distributed, pick_device
    from hybridlm.scoring.neural import NeuralExpert
    from hybridlm.scoring.ttt import TestTimeTrainer
    from hybridlm.scoring.windows import WindowGrid

    dist = dist or Distributed(rank=0, world_size=1, local_rank=0, device=pick_device(None))
    model = artifact.load_model()
    if model is None:
        raise ValueError("the artifact has no neural part")
    model.to(dist.device)
    window = settings.window or model.config.sequence_length
    if not window:
        raise InputError(f"{artifact.name}: the model names no sequence length; give --window")
    grid = WindowGrid(window, settings.stride or max(1, window // 2))
    precision = settings.precision or ("bfloat16" if dist.device.type == "cuda" else "float32")
    autocast = torch.bfloat16 if precision == "bfloat16" else None
    expert = NeuralExpert(model, grid, dist, group=settings.batch, autocast=autocast)
    optimizer = settings.ttt or "sgd"
    if optimizer == "off":
        return expert, None
    trainer = TestTimeTrainer(
        model, optimizer, settings.ttt_options, dist, sequence_length=window, autocast=autocast
    )
    return expert, trainer


def _check_vocabulary(part: str, vocab_size: int, byte_table: ByteTable) -> None:
    if vocab_size != byte_table.vocab_size:
        raise InputError(
            f"the artifact's {part} has a vocabulary of {vocab_size} tokens and the tokenizer one of "
            f"{byte_table.vocab_size}: use the tokenizer that it was made with"
        )


def _total(nats: NDArray[np.float64]) -> int:
    return int(np.rint(nats / _UNIT).astype(np.int64).sum())
