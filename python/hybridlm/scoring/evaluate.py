"""The protocol of a score: chunk by chunk, every target once, scored before anything learns from it."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.config import as_dict
from hybridlm.data.byte_table import ByteTable
from hybridlm.errors import InputError
from hybridlm.files import atomic_write, check_output, exclusive
from hybridlm.progress import Progress
from hybridlm.scoring.ahead import Ahead
from hybridlm.scoring.artifact_experts import ExpertSet, experts_of
from hybridlm.scoring.confidence import bpb_interval
from hybridlm.scoring.config import DEFAULT_TTT, ScoringConfig, TTTOptimizer
from hybridlm.scoring.documents import DocumentTotals, check_table_path, write_table
from hybridlm.scoring.experts import Expert
from hybridlm.scoring.mixing import Mixers, MixtureSpec, expert_names
from hybridlm.scoring.mixtures import row_mixture_names
from hybridlm.scoring.state import Interruption, Learning, ScoreState
from hybridlm.scoring.tilted import Tilted
from hybridlm.scoring.trace import Trace
from hybridlm.scoring.units import LN_2, UNIT, in_units
from hybridlm.stopwatch import Stopwatch

if TYPE_CHECKING:
    from hybridlm.distributed import Distributed

log = logging.getLogger("hybridlm.eval")

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
class Documents:
    """Of each document, how many targets, how many bytes, and what the mixture took in bits."""

    tokens: list[int]
    bytes: list[int]
    bits: list[float]


@dataclass(frozen=True)
class ScoreFiles:
    """Files that a score reads and writes besides.

    state: where a score that is stopped is kept, and gone on with; removed when it is done.
    per_document: a table, .csv or .parquet, of each document's start, tokens, bytes and bits by expert.
    per_token: a .npy of the mixture's bits, float32, one for each target.
    """

    state: Path | None = None
    per_document: Path | None = None
    per_token: Path | None = None


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
        bpb_interval: 95% of it, by resampling documents; None where there are fewer than two.
        documents: of each document of the stream, in order, its targets, bytes and the mixture's bits.
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
    bpb_interval: tuple[float, float] | None
    documents: Documents
    seconds: float
    stages: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


NEEDS_NETWORK = ("neural", "tilted", "control")
"""The families of experts that say what a network does."""


def score_chunks(
    stream: NDArray[np.uint16],
    experts: Sequence[Expert],
    mixtures: Mapping[str, MixtureSpec],
    *,
    chunk: int,
    learn: Learn | None = None,
    watch: Stopwatch | None = None,
    trace: Trace | None = None,
) -> Iterator[ScoredChunk]:
    """Scores targets 1 … N − 1 of ``stream``, ``chunk`` at a time.

    Experts and mixtures are given the stream only up to a chunk's end. A chunk is committed by being
    yielded; only then, and never after the last one, ``learn(stream so far, chunk's start)`` is called.

    Experts that need tokens alone say what they have to say of the next chunk, in a thread of their own,
    while a neural one works on this chunk and learns from it. They are functions of the stream up to each
    token, so it changes nothing but the time.
    """
    watch = watch or Stopwatch()
    with ThreadPoolExecutor(max_workers=1) as pool:
        # Only where there is something to wait for meanwhile.
        neural = any(expert.family in NEEDS_NETWORK for expert in experts)
        ahead = [Ahead(expert, pool) for expert in experts if expert.family not in NEEDS_NETWORK]
        shared = {id(one.expert): one for one in ahead}
        mixers = Mixers(mixtures, [shared.get(id(expert), expert) for expert in experts])
        for start in range(1, len(stream), chunk):
            seen = stream[: start + chunk]
            if neural and not mixers.takes_rows:
                for one in ahead:
                    one.prepare(seen, start)
                if len(seen) < len(stream):
                    for one in ahead:
                        one.prepare(stream[: start + 2 * chunk], start + chunk)
            log_probs, nll = mixers.score(seen, start, watch, trace)
            yield ScoredChunk(start, log_probs, nll)
            if learn is not None and len(seen) < len(stream):
                with watch.stage("ttt"):
                    learn(seen, start)


def evaluate(
    artifact: Artifact,
    stream: NDArray[np.uint16],
    byte_table: ByteTable,
    config: ScoringConfig | None = None,
    dist: "Distributed | None" = None,
    *,
    mixtures: Mapping[str, MixtureSpec] | None = None,
    threads: int | None = None,
    control: NDArray[np.uint16] | None = None,
    stated_bytes: NDArray[np.uint16] | None = None,
    files: ScoreFiles = ScoreFiles(),
    on_chunk: Callable[[ScoredChunk], None] | None = None,
    trace: Trace | None = None,
) -> EvaluationResult:
    """Scores every token of ``stream`` but the first.

    Under a process group it is a collective: the neural expert's windows and test-time training are shared
    out, and every rank gets the same result. ``mixtures`` are scored besides ``config.mixer``, over the same
    expert scores. ``control``, training tokens that are at least as many, trains a model as often on them
    instead, to tell what is learned of this text from what any further training gives. The artifact is left
    as it is: the models that learn are copies of what it holds. ``stated_bytes`` [N], of each token of the
    stream, are counted in place of what the tokens decode to. ``on_chunk`` is called with each chunk when it
    is committed, and ``trace`` is told what happens along the text. Memory doesn't grow with the stream, but
    for its documents' totals.

    Raises InputError for a stream without targets or bytes, a vocabulary that isn't the artifact's, settings
    that are impossible, the state of another score; FormatError for a damaged artifact or state; OSError.
    With a state's file, Ctrl-C and SIGTERM end the score after a chunk, as KeyboardInterrupt.
    """
    config = config or ScoringConfig()
    began = time.perf_counter()
    watch = Stopwatch()
    is_main = dist is None or dist.is_main
    _check_lengths(stream, control, stated_bytes)
    _check_files(files, is_main)
    with watch.stage("load"):
        parts = experts_of(artifact, byte_table.vocab_size, config, dist, threads=threads, control=control)
    specs = {"": MixtureSpec(config.mixer), **(mixtures or {})}
    names = expert_names(parts.experts)
    labels = [label or f"mixture_{config.mixer}" for label in specs]
    kept = None if files.per_document is not None else labels[:1]
    counter = _Counter(byte_table, stream, stated_bytes, [*names, *labels], kept)
    tokens = len(stream) - 1
    experts: Sequence[Expert] = parts.experts
    state: ScoreState | None = None
    interruption = Interruption()
    with ExitStack() as stack:
        if files.state is not None:
            opened = _open_state(files.state, artifact, stream, config, specs, parts, control, is_main)
            state = stack.enter_context(opened)
            experts = state.wrap(experts)
            stack.enter_context(interruption.caught())
        progress = stack.enter_context(Progress("score", tokens, "tokens")) if is_main else None
        per_token = None
        if files.per_token is not None and is_main:
            per_token = stack.enter_context(_npy(files.per_token, tokens))
        latest: ScoredChunk | None = None

        def learn(seen: NDArray[np.uint16], start: int) -> None:
            if state is None or start > state.targets:
                parts.learn(seen, start)
            if state is None or latest is None:
                return
            state.committed(start, len(seen), dict(zip(names, latest.log_probs, strict=True)))
            asked = interruption.asked if dist is None else any(dist.all_gather_object(interruption.asked))
            if asked:
                state.write()
                raise KeyboardInterrupt(
                    f"stopped after {len(seen) - 1:,} of {tokens:,} targets; the same command goes on from "
                    f"{files.state}"
                )

        needs = learn if parts.learners or state is not None else None
        for scored in score_chunks(
            stream, experts, specs, chunk=config.chunk, learn=needs, watch=watch, trace=trace
        ):
            latest = scored
            lengths = counter.add(scored)
            if on_chunk is not None:
                on_chunk(scored)
            if trace is not None:
                said = dict(zip(names, -scored.log_probs, strict=True))
                trace.add(scored.start, said, scored.nll[""], lengths)
            if per_token is not None:
                per_token(scored.nll[""])
            if progress is not None:
                progress.update(scored.start - 1 + scored.log_probs.shape[1])
    result = _result(config, parts, specs, counter, watch.seconds, time.perf_counter() - began)
    if files.per_document is not None and is_main:
        documents = counter.documents
        write_table(files.per_document, documents.columns, documents.table(), UNIT / LN_2)
    return result


def _check_lengths(
    stream: NDArray[np.uint16], control: NDArray[np.uint16] | None, stated_bytes: NDArray[np.uint16] | None
) -> None:
    if len(stream) < 2:
        raise InputError(f"a stream of {len(stream)} tokens has no target to score: it takes at least two")
    if stated_bytes is not None and len(stated_bytes) != len(stream):
        raise InputError(
            f"bytes are stated of {len(stated_bytes):,} tokens, and the stream has {len(stream):,}"
        )
    if control is not None and len(control) < len(stream):
        raise InputError(
            f"the control has {len(control):,} tokens, fewer than the {len(stream):,} of the stream"
        )


def _check_files(files: ScoreFiles, is_main: bool) -> None:
    for path in (files.state, files.per_document, files.per_token):
        if path is not None and is_main:
            check_output(path)
    if files.per_document is not None:
        check_table_path(files.per_document)
    if files.per_token is not None and files.per_token.suffix != ".npy":
        raise InputError(f"{files.per_token}: bits per token are written to a .npy file")


@contextmanager
def _open_state(
    path: Path,
    artifact: Artifact,
    stream: NDArray[np.uint16],
    config: ScoringConfig,
    specs: Mapping[str, MixtureSpec],
    parts: ExpertSet,
    control: NDArray[np.uint16] | None,
    is_main: bool,
) -> Iterator[ScoreState]:
    """A score's state, locked against other processes; its file is removed when the block ends well."""
    kept = [expert for expert in parts.experts if expert.family in NEEDS_NETWORK]
    if kept and any(spec.mixer in row_mixture_names() for spec in specs.values()):
        raise InputError(
            f"a mixture of whole rows ({config.mixer}) can't go on from a state: it would take every row "
            "that the model has given"
        )
    lessons = b"" if control is None else control[: len(stream)].tobytes()
    identity = {
        "artifact": hashlib.sha256(artifact.to_bytes()).hexdigest(),
        "settings": json.dumps(as_dict(config), sort_keys=True),
        "control": hashlib.sha256(lessons).hexdigest(),
    }
    with exclusive(path) if is_main else nullcontext():
        learners: list[Learning] = [*parts.learners]
        learners += [expert for expert in parts.experts if isinstance(expert, Tilted)]
        state = ScoreState(path, identity, stream, kept, learners, writes=is_main)
        yield state
        state.remove()


class _Counter:
    """Totals of a score, chunk by chunk."""

    def __init__(
        self,
        byte_table: ByteTable,
        stream: NDArray[np.uint16],
        stated_bytes: NDArray[np.uint16] | None,
        columns: Sequence[str],
        kept: Sequence[str] | None,
    ) -> None:
        self._stream = stream
        self._stated_bytes = stated_bytes
        self._unknown = byte_table.unknown
        self._lengths = byte_table.counter()
        # The first token is no target, but a text may begin with it.
        self._lengths.lengths(stream[:1])
        self.lost = 0
        self.documents = DocumentTotals(columns, byte_table.begins, kept)

    def add(self, scored: ScoredChunk) -> NDArray[np.int64]:
        """The bytes [n] of its targets."""
        start, end = scored.start, scored.start + scored.log_probs.shape[1]
        targets = self._stream[start:end]
        totals = [in_units(-row.astype(np.float64)) for row in scored.log_probs]
        totals += [in_units(nll) for nll in scored.nll.values()]
        self.lost += int(np.count_nonzero(self._unknown[targets]))
        lengths = self._lengths.lengths(targets)
        if self._stated_bytes is not None:
            lengths = self._stated_bytes[start:end].astype(np.int64)
        self.documents.add(self._stream[start - 1 : end - 1], start, lengths, np.stack(totals))
        return lengths


def _result(
    config: ScoringConfig,
    parts: ExpertSet,
    specs: Mapping[str, MixtureSpec],
    counter: _Counter,
    stages: dict[str, float],
    seconds: float,
) -> EvaluationResult:
    names, table = expert_names(parts.experts), counter.documents.table()
    tokens, total_bytes = int(table[:, 1].sum()), int(table[:, 2].sum())
    if not total_bytes:
        raise InputError("the targets decode to no text, so there are no bytes to divide by")
    if counter.lost:
        log.warning(
            "%d of %d tokens are the unknown piece: their text is lost and counts no bytes",
            counter.lost,
            tokens,
        )

    def rate(total: int) -> Rate:
        bits = total * UNIT / LN_2
        return Rate(bits / tokens, bits / total_bytes)

    rates = parts.learners[0].report() if parts.learners else []
    updates = sum(one.updates for one in rates)
    kind = config.ttt or DEFAULT_TTT
    if rates and not updates:
        why = (
            f"the {tokens:,} targets are a single chunk of up to {config.chunk:,}; --chunk sets a smaller one"
        )
        if kind == "documents":
            why = (
                "no document is longer than a step of its adapters; --ttt-options.targets sets a shorter one"
            )
        log.warning("test-time training made no update: %s", why)
    totals = list(counter.documents.totals.values())
    of_experts = {name: rate(total) for name, total in zip(names, totals[: len(names)], strict=True)}
    of_mixtures = dict(zip(specs, map(rate, totals[len(names) :]), strict=True))
    result = of_mixtures.pop("")
    scored = 3 + counter.documents.columns.index(f"mixture_{config.mixer}")
    bits = np.asarray(table[:, scored] * (UNIT / LN_2), np.float64)
    return EvaluationResult(
        tokens=tokens,
        bytes=total_bytes,
        bits_per_token=result.bits_per_token,
        bpb=result.bpb,
        control=of_experts.pop("control", None),
        experts=of_experts,
        mixer=config.mixer,
        mixtures=of_mixtures,
        ttt=kind if updates else "off",
        ttt_updates=updates,
        ttt_undone=sum(one.undone for one in rates),
        ttt_rates=[
            LearningRate(one.rate, cost.bits_per_token, cost.bpb, one.updates, one.undone)
            for one, cost in ((one, rate(round(one.nats / UNIT))) for one in rates)
        ],
        bpb_interval=bpb_interval(bits, table[:, 2].astype(np.float64)),
        documents=Documents(
            table[:, 1].tolist(), table[:, 2].tolist(), [round(value, 4) for value in bits.tolist()]
        ),
        seconds=seconds,
        stages=stages,
    )


@contextmanager
def _npy(path: Path, targets: int) -> Iterator[Callable[[NDArray[np.float64]], None]]:
    """What takes the nll of ``targets`` targets, in order, and writes them as bits to a .npy file."""
    with atomic_write(path) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (targets,)}
        np.lib.format.write_array_header_1_0(file, header)

        def write(nll: NDArray[np.float64]) -> None:
            file.write((nll / LN_2).astype("<f4").tobytes())

        yield write
