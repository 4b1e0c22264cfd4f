"""Is a score honest? The four rules, tried mechanically on whatever scores.

A `Subject` is anything that scores a stream: an artifact with a mixture, or somebody's own predictor. The
audit only calls it. It never looks inside, so what it finds holds for any kind of predictor:

- *causal*: the stream is scored again with everything after a target changed, and again cut off there; all
  scores up to that target must be the same to the bit.
- *normalised*: at sampled positions the whole row is asked for before the target is shown. It must sum to
  one, and the score that is then committed must be the row's.
- *score first*: the run that was asked for rows scores the same, to the bit, as one that wasn't: predicting
  changed nothing. That the committed score is the one of the row before shows that it was made before
  anything learned from the target.
- *single pass*: the chunks of a run hold every target once, in order, and other chunks give the same scores
  to the bit.
- *bytes*: the targets' bytes add up to the decoded text's, the artifact's parts to its size, and that is
  within the budget.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import BUDGET_BYTES, Artifact
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.scoring.evaluate import Mixer, MixtureSpec
from hybridlm.scoring.experts import AdaptiveCounts, Expert, OnlineCounts, OracleExperts, gather

TOLERANCE = 1e-6
"""Of a row's sum, and of a committed probability against the row's. Rows are float32 inside."""

Tokens = NDArray[np.uint16]


class Scorer(Protocol):
    """Scores consecutive pieces of one stream, and learns from them."""

    def score(self, stream: Tokens, start: int) -> NDArray[np.float64]:
        """The nll [N − start] of stream[start:] in nats; the stream ends where the piece does."""
        ...

    def row(self, stream: Tokens) -> NDArray[np.float64]:
        """[V]: ln p of each possible token after ``stream``, which has been scored to its end."""
        ...


class Subject(Protocol):
    """What is audited."""

    def scorer(self) -> Scorer:
        """A scorer at its start."""
        ...

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """A whole score, chunk by chunk: the index of each chunk's first target, and the chunk's nll."""
        ...


@dataclass(frozen=True)
class Causal:
    passed: bool
    positions: int
    """Targets after which the stream was changed, and cut off."""
    first_difference: int | None
    """The earliest target whose score knew something from after it."""


@dataclass(frozen=True)
class Normalised:
    passed: bool
    positions: int
    max_error: float
    """The largest |Σ p − 1| of a row."""
    max_disagreement: float
    """The largest difference of a committed probability from the row's."""


@dataclass(frozen=True)
class ScoreFirst:
    passed: bool
    rows: int
    """Predictions asked for along the way."""
    first_difference: int | None
    """The earliest target whose score changed because of them, or was not that of the row before it."""


@dataclass(frozen=True)
class SinglePass:
    passed: bool
    targets: int
    chunks: tuple[int, ...]
    """Sizes that were tried."""
    problem: str | None


@dataclass(frozen=True)
class BytesExact:
    passed: bool
    text_bytes: int
    decoded_bytes: int
    artifact_bytes: int
    budget_bytes: int
    problem: str | None


@dataclass(frozen=True)
class AuditReport:
    passed: bool
    causal: Causal
    normalised: Normalised
    score_first: ScoreFirst
    single_pass: SinglePass
    bytes_exact: BytesExact | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class MixtureSubject:
    """Experts and a mixture as `hybridlm eval` runs them."""

    def __init__(self, experts: Callable[[], Sequence[Expert]], mixer: str) -> None:
        self._experts = experts
        self._spec = MixtureSpec(mixer)

    def scorer(self) -> "MixtureScorer":
        return MixtureScorer(self._experts(), self._spec)

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        scorer = self.scorer()
        for start in range(1, len(stream), chunk):
            yield start, scorer.score(stream[: start + chunk], start)


class MixtureScorer:
    """One run of experts and their mixture."""

    def __init__(self, experts: Sequence[Expert], spec: MixtureSpec) -> None:
        self._experts = experts
        self._mixer = Mixer(spec, experts)

    def score(self, stream: Tokens, start: int) -> NDArray[np.float64]:
        return self._mixer.mix(gather(self._experts, stream, start))

    def row(self, stream: Tokens) -> NDArray[np.float64]:
        return self._mixer.row(stream)


def artifact_subject(artifact: Artifact, vocab_size: int, mixer: str) -> MixtureSubject:
    """The subject that `hybridlm eval` scores. InputError for an artifact with a neural model."""
    artifact.check_oracle_alone("the audit")
    oracle = artifact.load_oracle()

    def experts() -> list[Expert]:
        found: list[Expert] = [OnlineCounts(vocab_size), AdaptiveCounts(vocab_size)]
        if oracle is not None:
            found.append(OracleExperts(oracle))
        return found

    return MixtureSubject(experts, mixer)


def audit(
    subject: Subject,
    stream: Tokens,
    vocab_size: int,
    *,
    artifact: Artifact | None = None,
    tokenizer: Tokenizer | None = None,
    chunk: int = 4096,
    changes: int = 6,
    rows: int = 64,
    seed: int = 0,
) -> AuditReport:
    """Tries the rules on ``stream``, whose first token is not scored.

    Args:
        artifact, tokenizer: What the bytes are checked against; without them they aren't.
        chunk: Targets of a chunk; others are tried, too.
        changes: Positions after which the future is changed.
        rows: Positions at which the whole row is asked for.
    """
    if len(stream) < 3:
        raise InputError(f"a stream of {len(stream)} tokens is too short to audit: it takes at least three")
    random = np.random.default_rng(seed)
    whole, problem = _run(subject, stream, chunk)
    positions = np.sort(random.choice(np.arange(1, len(stream)), min(rows, len(stream) - 1), replace=False))
    normalised, score_first = _rows(subject, stream, whole, positions)
    cuts = random.choice(np.arange(1, len(stream) - 1), min(changes, len(stream) - 2), replace=False)
    causal = _causal(subject, stream, whole, np.sort(cuts), vocab_size, chunk, random)
    single_pass = _single_pass(subject, stream, whole, problem, chunk)
    bytes_exact = None
    if artifact is not None and tokenizer is not None:
        bytes_exact = _bytes(artifact, tokenizer, stream)
    passed = causal.passed and normalised.passed and score_first.passed and single_pass.passed
    if bytes_exact is not None:
        passed = passed and bytes_exact.passed
    return AuditReport(passed, causal, normalised, score_first, single_pass, bytes_exact)


def _run(subject: Subject, stream: Tokens, chunk: int) -> tuple[NDArray[np.float64], str | None]:
    """The nll of every target, [N − 1], NaN where there is none, and what was wrong with the chunks."""
    found = np.full(len(stream) - 1, np.nan)
    expected, problem = 1, None
    for start, nll in subject.run(stream, chunk):
        if start != expected and problem is None:
            problem = f"a chunk begins at target {start}, where {expected} is next"
        if start + len(nll) > len(stream) and problem is None:
            problem = f"a chunk ends at target {start + len(nll) - 1}, beyond the last"
        part = found[start - 1 : start - 1 + len(nll)]
        part[:] = nll[: len(part)]
        expected = start + len(nll)
    if expected != len(stream) and problem is None:
        problem = f"{expected - 1} targets were scored of {len(stream) - 1}"
    return found, problem


def _difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> int | None:
    """The first target, counted from 1, whose scores differ in any bit."""
    different = np.flatnonzero(one.view(np.int64) != other.view(np.int64))
    return int(different[0]) + 1 if len(different) else None


def _earliest(found: int | None, candidate: int | None) -> int | None:
    return candidate if found is None or (candidate is not None and candidate < found) else found


def _causal(
    subject: Subject,
    stream: Tokens,
    whole: NDArray[np.float64],
    cuts: NDArray[np.int64],
    vocab_size: int,
    chunk: int,
    random: np.random.Generator,
) -> Causal:
    first = None
    for cut in cuts:
        changed = stream.copy()
        later = len(stream) - cut - 1
        # Every later token becomes another one.
        changed[cut + 1 :] = (changed[cut + 1 :] + random.integers(1, vocab_size, later)) % vocab_size
        for other in (changed, stream[: cut + 1]):
            nll, _ = _run(subject, other, chunk)
            first = _earliest(first, _difference(whole[:cut], nll[:cut]))
    return Causal(first is None, len(cuts), first)


def _rows(
    subject: Subject, stream: Tokens, whole: NDArray[np.float64], positions: NDArray[np.int64]
) -> tuple[Normalised, ScoreFirst]:
    """Walks the stream once more, and stops before each position for the row of its target."""
    scorer = subject.scorer()
    nll = np.full(len(stream) - 1, np.nan)
    done = 1
    errors, disagreements = [], []
    disagrees = None
    for position in positions.tolist():
        if done < position:
            nll[done - 1 : position - 1] = scorer.score(stream[:position], done)
        elif position == 1:
            # Nothing has been shown yet; the first token is context.
            scorer.score(stream[:1], 1)
        row = scorer.row(stream[:position])
        nll[position - 1 : position] = scorer.score(stream[: position + 1], position)
        done = position + 1
        errors.append(abs(float(np.exp(row).sum()) - 1.0))
        disagreements.append(abs(float(np.exp(row[stream[position]]) - np.exp(-nll[position - 1]))))
        if not disagreements[-1] <= TOLERANCE:
            disagrees = _earliest(disagrees, position)
    if done < len(stream):
        nll[done - 1 :] = scorer.score(stream, done)
    first = _earliest(_difference(whole, nll), disagrees)
    # NumPy's maximum passes NaN on, and no NaN is within the tolerance.
    max_error, max_disagreement = float(np.max(errors)), float(np.max(disagreements))
    fine = max_error <= TOLERANCE and max_disagreement <= TOLERANCE
    return (
        Normalised(fine, len(positions), max_error, max_disagreement),
        ScoreFirst(first is None, len(positions), first),
    )


def _single_pass(
    subject: Subject, stream: Tokens, whole: NDArray[np.float64], problem: str | None, chunk: int
) -> SinglePass:
    chunks = (chunk, max(1, chunk // 3), 1 + chunk // 7, len(stream))
    for size in chunks[1:]:
        nll, other_problem = _run(subject, stream, size)
        problem = problem or other_problem
        if problem is None and (at := _difference(whole, nll)) is not None:
            problem = f"target {at} is scored otherwise in chunks of {size} than in chunks of {chunk}"
    return SinglePass(problem is None, len(stream) - 1, chunks, problem)


def _bytes(artifact: Artifact, tokenizer: Tokenizer, stream: Tokens) -> BytesExact:
    counted = int(tokenizer.byte_table.lengths(stream, start=1).sum())
    # The first token is not scored; whatever it stands for is not counted either.
    whole = int(tokenizer.byte_table.lengths(stream, start=0).sum())
    first = whole - counted
    boundaries = tokenizer.byte_table.boundary[stream]
    documents = np.split(stream, np.flatnonzero(boundaries))
    decoded = sum(_decoded_bytes(tokenizer, document) for document in documents) - first
    size = len(artifact.to_bytes())
    parts = 16 + len(artifact.neural_blob or b"") + len(artifact.oracle_blob or b"")
    problem = None
    if counted != decoded:
        problem = f"the targets count {counted} bytes and decode to {decoded}"
    elif size != parts:
        problem = f"the artifact has {size} bytes and its parts {parts}"
    elif size > BUDGET_BYTES:
        problem = f"the artifact has {size} bytes, above the budget of {BUDGET_BYTES}"
    return BytesExact(problem is None, counted, decoded, size, BUDGET_BYTES, problem)


def _decoded_bytes(tokenizer: Tokenizer, document: Tokens) -> int:
    """UTF-8 bytes of a document's text. A cut stream may end within a character, whose bytes then decode
    to U+FFFD one by one, and stand for one byte each."""
    tokens = document.tolist()
    model = tokenizer.model
    tail = 0
    while tokens and tail < 4 and model.is_byte(tokens[-1]):
        tokens.pop()
        tail += 1
    return len(tokenizer.decode(tokens).encode()) + tail
