"""Is a score honest? The four rules, tried mechanically on whatever scores.

A `Subject` is anything that scores a stream: an artifact with a mixture (`audit_subject`), or somebody's own
predictor. The audit only calls it, so what it finds holds for any kind of predictor:

- *causal*: the stream is scored again with everything after a target changed, and again cut off there; all
  scores up to that target must be the same to the bit.
- *normalised*: at sampled positions the whole row is asked for before the target is shown. It must sum to
  one, and the score that is then committed must be the row's.
- *score first*: a hash of all state is taken before a row is asked for and again before its target is shown;
  they must be equal. The target's score must be the row's, so it was made before anything learned from it.
  And the run that was asked for rows must score the same, to the bit, and end in the same state as one that
  wasn't.
- *single pass*: the chunks of a run hold every target once, in order, other chunks give the same scores to
  the bit, and no shard of the stream is there twice.
- *world size*: so do other numbers of processes (`world_sizes`).
- *bytes*: the targets' bytes add up to the decoded text's, the artifact's parts to its size, and that is
  within the budget.

docs/audit.md says what each of them can and can't show.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import BUDGET_BYTES, Artifact
from hybridlm.data import case_folding
from hybridlm.data.byte_level import ByteLevelModel
from hybridlm.data.shards import ShardRecord, Stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.scoring.world_sizes import WorldSize

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

    def learn(self, stream: Tokens, start: int) -> None:
        """Called when the chunk stream[start:] has been committed and more follows."""
        ...

    def fingerprint(self) -> Mapping[str, bytes]:
        """By component, a hash of all of its state that later scores depend on."""
        ...


class Subject(Protocol):
    """What is audited."""

    def scorer(self) -> Scorer:
        """A scorer at its start."""
        ...

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """A whole score, chunk by chunk: the index of each chunk's first target, and the chunk's nll."""
        ...


# What each rule found. As text: one line of what was tried, and what came of it.


@dataclass(frozen=True)
class Causal:
    passed: bool
    positions: int
    """Targets after which the stream was changed, and cut off."""
    first_difference: int | None
    """The earliest target whose score knew something from after it."""

    def __str__(self) -> str:
        found = "no earlier score moved" if self.passed else f"target {self.first_difference} moved"
        return f"the stream changed, and cut off, after {self.positions} targets: {found}"


@dataclass(frozen=True)
class Normalised:
    passed: bool
    positions: int
    max_error: float
    """The largest |Σ p − 1| of a row."""
    max_disagreement: float
    """The largest difference of a committed probability from the row's."""

    def __str__(self) -> str:
        return (
            f"{self.positions} whole rows: they sum to 1 within {self.max_error:.1e}, "
            f"and committed probabilities are theirs within {self.max_disagreement:.1e}"
        )


@dataclass(frozen=True)
class ScoreFirst:
    passed: bool
    rows: int
    """Predictions asked for along the way."""
    first_difference: int | None
    """The earliest target whose score changed because of them, or was not that of the row before it."""
    first_change: int | None
    """The earliest target before whose commitment the state changed."""
    changed: tuple[str, ...]
    """Components that a prediction changed, at once or by the end of the run."""
    learns: dict[str, str]
    """By component, when its hash was seen to change: ``target``, ``chunk`` or ``never``."""

    def __str__(self) -> str:
        times = {"target": "after a target", "chunk": "after a chunk", "never": "never"}
        learns = "; ".join(
            f"{', '.join(names)} {when}"
            for kind, when in times.items()
            if (names := [name for name, seen in self.learns.items() if seen == kind])
        )
        if self.changed:
            where = "by the end" if self.first_change is None else f"before target {self.first_change}"
            found = f"{', '.join(self.changed)} changed {where}"
        elif self.first_difference is not None:
            found = f"target {self.first_difference} was not scored by the state that predicted it"
        elif not self.learns:
            return (
                f"{self.rows} predictions: no score moved; what else changed is unknown without fingerprint()"
            )
        else:
            found = "no state changed between a prediction and its commitment"
        return f"{self.rows} predictions: {found} (state changes: {learns})"


@dataclass(frozen=True)
class SinglePass:
    passed: bool
    targets: int
    chunks: tuple[int, ...]
    """Sizes that were tried."""
    shards: tuple[ShardRecord, ...]
    """What the stream was read from, where that is known."""
    repeated_tokens: int
    """Tokens in documents of which an exact copy came before in the same stream."""
    problem: str | None

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.chunks))
        found = self.problem or (
            "each once, in order" + (", with the same score in all" if len(self.chunks) > 1 else "")
        )
        shards = "1 shard" if len(self.shards) == 1 else f"{len(self.shards)} different shards"
        source = f" of {shards}" if self.shards else ""
        repeated = f" ({self.repeated_tokens:,} tokens in repeated documents)" if self.repeated_tokens else ""
        return f"{self.targets:,} targets{source}{repeated} in chunks of {sizes}: {found}"


@dataclass(frozen=True)
class BytesExact:
    passed: bool
    text_bytes: int
    decoded_bytes: int
    artifact_bytes: int
    budget_bytes: int
    problem: str | None

    def __str__(self) -> str:
        found = self.problem or "as many as they decode to"
        return (
            f"{self.text_bytes:,} bytes of targets: {found}; "
            f"the artifact has {self.artifact_bytes:,} of {self.budget_bytes:,} bytes"
        )


@dataclass(frozen=True)
class AuditReport:
    """What each rule found; None: it was not tried."""

    passed: bool
    causal: Causal
    normalised: Normalised
    score_first: ScoreFirst
    single_pass: SinglePass
    world_size: WorldSize | None
    bytes_exact: BytesExact | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_RULES = {
    "causal": Causal,
    "normalised": Normalised,
    "score_first": ScoreFirst,
    "single_pass": SinglePass,
    "world_size": WorldSize,
    "bytes_exact": BytesExact,
}


def told(rule: str, found: Mapping[str, Any]) -> str:
    """One line of what was tried and what came of it, from what `AuditReport.as_dict` holds of ``rule``.

    Raises KeyError for another rule and where something is missing.
    """
    kind = _RULES[rule]
    return str(kind(**{field.name: found[field.name] for field in fields(kind)}))


def audit(
    subject: Subject,
    stream: Tokens,
    vocab_size: int,
    *,
    artifact: Artifact | None = None,
    tokenizer: Tokenizer | None = None,
    source: Stream | None = None,
    world_size: WorldSize | None = None,
    chunk: int = 4096,
    other_chunks: bool = True,
    changes: int = 6,
    rows: int = 64,
    seed: int = 0,
    tolerance: float = 0.0,
) -> AuditReport:
    """Tries the rules on ``stream``, whose first token is not scored.

    Args:
        artifact, tokenizer: What the bytes are checked against; without them they aren't.
        source: The shards that the stream was read from: none may be there twice.
        world_size: What `world_sizes.compare` found, to be reported with the rest.
        chunk: Targets of a chunk.
        other_chunks: Try others, too: not where the score depends on them by definition, as with test-time
            training.
        changes: Positions after which the future is changed.
        rows: Positions at which the whole row is asked for.
        tolerance: Nats by which scores that must be the same may differ, where a scorer's sums are rounded
            differently for other pieces of the stream; 0: not by a bit. Rows may then be off by as much, too.

    Raises InputError for a stream of fewer than three tokens.
    """
    check_length(stream)
    random = np.random.default_rng(seed)
    whole, problem = _run(subject, stream, chunk)
    positions = np.sort(random.choice(np.arange(1, len(stream)), min(rows, len(stream) - 1), replace=False))
    normalised, score_first = _rows(subject, stream, whole, positions, chunk, tolerance)
    cuts = random.choice(np.arange(1, len(stream) - 1), min(changes, len(stream) - 2), replace=False)
    causal = _causal(subject, stream, whole, np.sort(cuts), vocab_size, chunk, random, tolerance)
    chunks = (chunk, max(1, chunk // 3), 1 + chunk // 7, len(stream)) if other_chunks else (chunk,)
    problem = problem or _read_twice(source)
    single_pass = _single_pass(subject, stream, whole, problem, chunks, source, tolerance)
    bytes_exact = None
    if artifact is not None and tokenizer is not None:
        bytes_exact = _bytes(artifact, tokenizer, stream)
    parts = (causal, normalised, score_first, single_pass, world_size, bytes_exact)
    passed = all(part.passed for part in parts if part is not None)
    return AuditReport(passed, *parts)


def check_length(stream: Tokens) -> None:
    """Raises InputError unless a stream is long enough to be audited."""
    if len(stream) < 3:
        raise InputError(f"a stream of {len(stream)} tokens is too short to audit: it takes at least three")


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


def _difference(one: NDArray[np.float64], other: NDArray[np.float64], tolerance: float) -> int | None:
    """The first target, counted from 1, whose scores differ in any bit and by more than ``tolerance``."""
    differ = one.view(np.int64) != other.view(np.int64)
    # Two NaN may be the same bits, but none is within a tolerance.
    different = np.flatnonzero(differ & ~(np.abs(one - other) <= tolerance))
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
    tolerance: float,
) -> Causal:
    first = None
    for cut in cuts:
        changed = stream.copy()
        later = len(stream) - cut - 1
        # Every later token becomes another one.
        changed[cut + 1 :] = (changed[cut + 1 :] + random.integers(1, vocab_size, later)) % vocab_size
        for other in (changed, stream[: cut + 1]):
            nll, _ = _run(subject, other, chunk)
            first = _earliest(first, _difference(whole[:cut], nll[:cut], tolerance))
    return Causal(first is None, len(cuts), first)


class _Watch:
    """One scorer's walk through the stream, with a look at its state at every stop."""

    def __init__(self, subject: Subject, stream: Tokens) -> None:
        self.scorer = subject.scorer()
        self.stream = stream
        self.nll = np.full(len(stream) - 1, np.nan)
        self.learns: dict[str, str] = {}
        self.first_change: int | None = None
        self.changed: set[str] = set()

    def walk(self, chunk: int, positions: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Scores every target; yields each of ``positions`` and its row once the target is committed."""
        # Nothing has been shown yet; the first token is context.
        self.scorer.score(self.stream[:1], 1)
        self.learns = dict.fromkeys(self.scorer.fingerprint(), "never")
        for start in range(1, len(self.stream), chunk):
            end, at = min(start + chunk, len(self.stream)), start
            for position in positions[(positions >= start) & (positions < end)].tolist():
                self._score(at, position)
                before = self.scorer.fingerprint()
                row = self.scorer.row(self.stream[:position])
                if changed := _changed(before, self.scorer.fingerprint()):
                    self.changed |= changed
                    self.first_change = _earliest(self.first_change, position)
                before = self.scorer.fingerprint()
                self._score(position, position + 1)
                self._learned(before, "target")
                at = position + 1
                yield position, row
            self._score(at, end)
            if end < len(self.stream):
                before = self.scorer.fingerprint()
                self.scorer.learn(self.stream[:end], start)
                self._learned(before, "chunk")

    def _score(self, start: int, end: int) -> None:
        if start < end:
            self.nll[start - 1 : end - 1] = self.scorer.score(self.stream[:end], start)

    def _learned(self, before: Mapping[str, bytes], when: str) -> None:
        for name in _changed(before, self.scorer.fingerprint()):
            if self.learns.get(name) != "target":
                self.learns[name] = when


def _changed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _rows(
    subject: Subject,
    stream: Tokens,
    whole: NDArray[np.float64],
    positions: NDArray[np.int64],
    chunk: int,
    tolerance: float,
) -> tuple[Normalised, ScoreFirst]:
    """Walks the stream once more, and stops before each position for the row of its target."""
    watch = _Watch(subject, stream)
    errors, disagreements = [], []
    disagrees = None
    for position, row in watch.walk(chunk, positions):
        errors.append(abs(float(np.exp(row).sum()) - 1.0))
        committed = np.exp(-watch.nll[position - 1])
        disagreements.append(abs(float(np.exp(row[stream[position]]) - committed)))
        if not disagreements[-1] <= max(TOLERANCE, tolerance):
            disagrees = _earliest(disagrees, position)
    first = _earliest(_difference(whole, watch.nll, tolerance), disagrees)
    # Once more without a look: a prediction may have left something that shows later.
    unwatched = _Watch(subject, stream)
    for _ in unwatched.walk(chunk, positions[:0]):
        pass
    changed = watch.changed | _changed(unwatched.scorer.fingerprint(), watch.scorer.fingerprint())
    # NumPy's maximum passes NaN on, and no NaN is within the tolerance.
    max_error, max_disagreement = float(np.max(errors)), float(np.max(disagreements))
    fine = max_error <= max(TOLERANCE, tolerance) and max_disagreement <= max(TOLERANCE, tolerance)
    return (
        Normalised(fine, len(positions), max_error, max_disagreement),
        ScoreFirst(
            first is None and not changed,
            len(positions),
            first,
            watch.first_change,
            tuple(sorted(changed)),
            watch.learns,
        ),
    )


def _single_pass(
    subject: Subject,
    stream: Tokens,
    whole: NDArray[np.float64],
    problem: str | None,
    chunks: tuple[int, ...],
    source: Stream | None,
    tolerance: float,
) -> SinglePass:
    for size in chunks[1:]:
        nll, other_problem = _run(subject, stream, size)
        problem = problem or other_problem
        if problem is None and (at := _difference(whole, nll, tolerance)) is not None:
            problem = f"target {at} is scored otherwise in chunks of {size} than in chunks of {chunks[0]}"
    shards, repeated = ((), 0) if source is None else (source.shards, source.repeated_tokens)
    return SinglePass(problem is None, len(stream) - 1, chunks, shards, repeated, problem)


def _read_twice(source: Stream | None) -> str | None:
    """Which of the stream's shards has the content of an earlier one."""
    seen: dict[str, str] = {}
    for shard in source.shards if source else ():
        if shard.tokens and shard.sha256 in seen:
            return f"{shard.path} is {seen[shard.sha256]} once more"
        seen[shard.sha256] = shard.path
    return None


def _bytes(artifact: Artifact, tokenizer: Tokenizer, stream: Tokens) -> BytesExact:
    counted = int(tokenizer.byte_table.lengths(stream, start=1).sum())
    # The first token is not scored, so whatever it stands for is not counted.
    decoded = _decoded_bytes(tokenizer, stream) - _decoded_bytes(tokenizer, stream[:1])
    size = len(artifact.to_bytes())
    parts = artifact.header_bytes + artifact.neural_bytes + artifact.oracle_bytes
    problem = None
    if counted != decoded:
        problem = f"the targets count {counted} bytes and decode to {decoded}"
    elif not counted:
        problem = "the targets decode to no text, so there are no bytes to divide by"
    elif size != parts:
        problem = f"the artifact has {size} bytes and its parts {parts}"
    elif size > BUDGET_BYTES:
        problem = f"the artifact has {size} bytes, above the budget of {BUDGET_BYTES}"
    return BytesExact(problem is None, counted, decoded, size, BUDGET_BYTES, problem)


def _decoded_bytes(tokenizer: Tokenizer, stream: Tokens) -> int:
    """The UTF-8 length of the documents' texts as SentencePiece decodes them, without the byte table.

    The decoder writes U+FFFD for bytes that form no character and a mark for the unknown piece, which are not
    the text's: a byte piece stands for one byte, the unknown piece for text that is lost.
    """
    model = tokenizer.model
    if isinstance(model, ByteLevelModel):
        documents = np.split(stream, np.flatnonzero(stream == tokenizer.bos_id))
        return sum(model.decoded_bytes(document.tolist()) for document in documents)

    def length(tokens: list[int]) -> int:
        text = model.decode(tokens)
        return len((case_folding.unfold(text) if tokenizer.folds_case else text).encode())

    ids = np.arange(tokenizer.vocab_size)
    # Any one byte in place of each has the same length, and this one always forms a character.
    ids[[model.is_byte(token) for token in ids.tolist()]] = model.piece_to_id("<0x41>")
    documents = np.split(ids[stream], np.flatnonzero(stream == tokenizer.bos_id))
    decoded = sum(length(document.tolist()) for document in documents)
    unknown = model.unk_id()
    return decoded - int(np.count_nonzero(stream == unknown)) * length([unknown])
