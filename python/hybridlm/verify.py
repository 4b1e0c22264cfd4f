"""A score that was reported, made again from its files and compared."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm import config as layers
from hybridlm.data.shards import ShardRecord, inspect_shards
from hybridlm.errors import FormatError, InputError
from hybridlm.files import read_json
from hybridlm.oracle.oracle_score import OracleEvaluation
from hybridlm.provenance import FileRecord, Provenance
from hybridlm.score import File, score_artifact, score_oracle
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import EvaluationResult

LARGEST = 1 << 26
"""Bytes. A larger file is refused as a score."""

TOLERANCE = {False: 1e-9, True: 1e-4}
"""Bits per byte by which a score may differ, without and with a neural model. Counting and looking up give
the same digits on any machine, except for its exp and log. A network's sums are rounded differently on other
machines, with other numbers of threads and other versions of PyTorch, and test-time training amplifies
that."""


@dataclass(frozen=True)
class Verdict:
    """verified: whether the files are those that were scored and score the same again.

    reported, found: bits per byte, then and now; found is None where other files stand in the way.
    problems: in words, what differs. tolerance: the difference in bits per byte that is let pass.
    """

    verified: bool
    reported: float
    found: float | None
    tolerance: float
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Reported:
    """A score's file: what was claimed, and what it was made of."""

    name: str
    bpb: float
    fields: dict[str, Any]
    made_of: Provenance

    @classmethod
    def read(cls, path: File) -> "Reported":
        """What `eval --json` or `oracle eval --json` printed. Raises FormatError or OSError."""
        name = os.fspath(path)
        found = read_json(path, LARGEST)
        try:
            bpb, counts = found["bpb"], [found[key] for key in ("tokens", "bytes")]
            made_of = found.get("made_of")
        except (KeyError, TypeError, AttributeError):
            raise FormatError(f"{name}: not a score: what `hybridlm eval --json` prints") from None
        if type(bpb) is not float or not all(type(count) is int for count in counts):
            raise FormatError(f"{name}: not a score: its bpb, tokens or bytes are no numbers")
        return cls(name, bpb, found, Provenance.from_json(made_of, name))

    @property
    def is_summary(self) -> bool:
        """Whether it is the summary of a whole run, whose fields have other names than a single score's."""
        return "scores" in self.fields


@dataclass(frozen=True)
class ScoredDocuments:
    """What a score's file says of each document: bytes and bits, float64 [documents]; bpb is of all."""

    name: str
    bpb: float
    tokens: tuple[int, ...]
    bytes: NDArray[np.float64]
    bits: NDArray[np.float64]
    shards: tuple[str, ...]

    @classmethod
    def read(cls, path: File) -> "ScoredDocuments":
        """What `eval --json` printed. Raises FormatError or OSError."""
        reported = Reported.read(path)
        name = reported.name
        found: Any = reported.fields.get("documents")
        try:
            if not isinstance(found, dict):
                raise TypeError("there are no documents in it")
            tokens, sizes, bits = (list(found[key]) for key in ("tokens", "bytes", "bits"))
            if not all(type(count) is int and count >= 0 for count in (*tokens, *sizes)):
                raise TypeError("a count is no whole number")
            if not all(type(value) in (int, float) and math.isfinite(value) for value in bits):
                raise TypeError("bits are no numbers")
            if not len(tokens) == len(sizes) == len(bits):
                raise TypeError("columns of different lengths")
            if (
                not sum(sizes)
                or min(bits) < 0
                or not math.isclose(sum(bits) / sum(sizes), reported.bpb, rel_tol=1e-6)
            ):
                raise TypeError("its bits and bytes don't make its bpb")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FormatError(
                f"{name}: doesn't say what each document cost ({error}); `hybridlm eval --json` prints it"
            ) from None
        return cls(
            name,
            reported.bpb,
            tuple(tokens),
            np.array(sizes, np.float64),
            np.array(bits, np.float64),
            tuple(shard.sha256 for shard in reported.made_of.shards),
        )

    def check_same_text(self, other: "ScoredDocuments") -> None:
        """Raises InputError where the other score is of other shards or other documents."""
        same = self.tokens == other.tokens and bool((self.bytes == other.bytes).all())
        if not same or self.shards != other.shards:
            raise InputError(f"{self.name} and {other.name} are scores of different texts")


def verify(
    reported: Reported,
    *,
    scored: File | None = None,
    shards: Sequence[File] | None = None,
    tokenizer: File | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Verdict:
    """Scores again and compares. Files are where they were, unless another place is given.

    Raises InputError for settings that this version doesn't have, FormatError, and OSError for files that
    aren't there.
    """
    made_of = reported.made_of
    scored = made_of.scored.path if scored is None else scored
    tokenizer = made_of.tokenizer.path if tokenizer is None else tokenizer
    shards = [shard.path for shard in made_of.shards] if shards is None else shards
    problems = [
        *_other_file(made_of.scored, scored),
        *_other_file(made_of.tokenizer, tokenizer),
        *_other_stated_bytes(made_of.stated_bytes),
        *_other_shards(made_of.shards, inspect_shards([os.fspath(shard) for shard in shards])),
    ]
    if problems:
        return Verdict(False, reported.bpb, None, 0.0, tuple(problems))
    result = _score(made_of, scored, shards, tokenizer, device, threads)
    tolerance = TOLERANCE["neural" in getattr(result, "experts", {})]
    if not abs(result.bpb - reported.bpb) <= tolerance:
        problems.append(f"bpb: {reported.bpb:.6f} was reported, and it is {result.bpb:.6f}")
    again = json.loads(json.dumps(asdict(result)))
    for key in ("tokens", "bytes") if reported.is_summary else again.keys() - _NOT_COMPARED:
        problems += _differences(key, reported.fields.get(key), again[key], tolerance)
    return Verdict(not problems, reported.bpb, result.bpb, tolerance, tuple(problems))


_NOT_COMPARED = {"bpb", "seconds", "stages", "control"}
"""Of a score's fields: the first has a tolerance of its own, time is another each time, and the control's
training text is not named."""


def _differences(name: str, then: Any, now: Any, tolerance: float) -> list[str]:
    """In words, where two JSON values differ; numbers may by a thousand times the tolerance."""
    if isinstance(now, dict) and isinstance(then, dict) and now.keys() == then.keys():
        return [d for key in now for d in _differences(f"{name}.{key}", then[key], now[key], tolerance)]
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        pairs = enumerate(zip(then, now, strict=True))
        return [d for at, (a, b) in pairs for d in _differences(f"{name}.{at}", a, b, tolerance)][:3]
    if type(now) is float and type(then) is float:
        if math.isclose(now, then, rel_tol=1000 * tolerance, abs_tol=1000 * tolerance):
            return []
    elif type(now) is type(then) and not isinstance(now, dict | list) and now == then:
        return []
    return [f"{name}: {_shown(then)} was reported, and it is {_shown(now)}"]


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _score(
    made_of: Provenance,
    scored: File,
    shards: Sequence[File],
    tokenizer: File,
    device: str | None,
    threads: int | None,
) -> EvaluationResult | OracleEvaluation:
    if made_of.command == "oracle eval":
        return score_oracle(scored, shards, tokenizer, bos_id=made_of.bos_id, threads=threads).result
    if made_of.command != "eval":
        raise InputError(f"a score of the command {made_of.command!r} can't be made again by this version")
    return score_artifact(
        scored,
        shards,
        tokenizer,
        layers.from_values(ScoringConfig, made_of.settings, "the score's settings"),
        bos_id=made_of.bos_id,
        max_tokens=made_of.max_tokens,
        stated_bytes=[file.path for file in made_of.stated_bytes] or None,
        device=device,
        threads=threads,
    ).result


def _other_file(then: FileRecord, path: File) -> list[str]:
    now = FileRecord.of(path)
    if replace(now, path=then.path) == then:
        return []
    return [f"{now.path}: not the file that was scored: SHA-256 {now.sha256}, not {then.sha256}"]


def _other_stated_bytes(then: Sequence[ShardRecord]) -> list[str]:
    found = [(ShardRecord.of(file.path), file) for file in then]
    return [
        f"{now.path}: not the bytes that were stated: SHA-256 {now.sha256}, not {before.sha256}"
        for now, before in found
        if now != before
    ]


def _other_shards(then: Sequence[ShardRecord], now: Sequence[ShardRecord]) -> list[str]:
    if len(then) != len(now):
        return [f"{len(then)} shards were scored, and {len(now)} are given"]
    return [
        f"{found.path}: not the shard that was scored: SHA-256 {found.sha256}, not {before.sha256}"
        for before, found in zip(then, now, strict=True)
        if before.sha256 != found.sha256
    ]
