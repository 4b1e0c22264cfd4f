"""Somebody else's scorer under audit: honest ones pass, replicas of the field's known cheats are caught.

Each cheat is small and complete: what its author would have called an optimisation is one method.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hybridlm.cli.main import main
from hybridlm.errors import InputError
from hybridlm.scoring.audit import AuditReport, audit
from hybridlm.scoring.foreign_subject import ForeignSubject, load_subject

V = 12
Tokens = NDArray[np.uint16]
Floats = NDArray[np.float64]
STREAM = np.random.default_rng(3).integers(0, V, 300).astype(np.uint16)
STREAM[100:200] = STREAM[:100]


class Bigrams:
    """Honest: Laplace-smoothed counts of what followed each token."""

    def __init__(self, vocab_size: int, first: int) -> None:
        self.counts = np.ones((vocab_size, vocab_size))
        self.last = first

    def distribution(self) -> Floats:
        return np.asarray(self.counts[self.last] / self.counts[self.last].sum())

    def row(self) -> Floats:
        return np.asarray(np.log(self.distribution()))

    def nats(self, token: int) -> float:
        return -float(self.row()[token])

    def learn(self, token: int) -> None:
        self.counts[self.last, token] += 1
        self.last = token

    def score(self, tokens: Tokens) -> Floats:
        found = []
        for token in tokens.tolist():
            found.append(self.nats(token))
            self.learn(token)
        return np.array(found)


class WithFingerprint(Bigrams):
    def fingerprint(self) -> dict[str, bytes]:
        return {"counts": hashlib.sha256(self.counts.tobytes()).digest()}


class CausalTilt(Bigrams):
    """Honest: what came most often after this token is made likelier, and the row is normalised again."""

    def distribution(self) -> Floats:
        tilted = super().distribution()
        tilted[self.counts[self.last].argmax()] *= np.e
        return np.asarray(tilted / tilted.sum())


class Batched(Bigrams):
    """Honest: the reported evaluation is another program than the step by step one, and rounds otherwise."""

    def evaluate(self, tokens: Tokens) -> Floats:
        return self.score(tokens[1:]).astype(np.float32)


class GateByClass(Bigrams):
    """The weight of the n-gram row depends on whether the *target* begins a word (here: is even)."""

    def nats(self, token: int) -> float:
        weight = 0.9 if token % 2 == 0 else 0.1
        uniform = 1 / len(self.counts)
        return -float(np.log(weight * self.distribution()[token] + (1 - weight) * uniform))

    def row(self) -> Floats:
        """What is shown is a mixture with one weight, which is a distribution."""
        return np.asarray(np.log(0.5 * self.distribution() + 0.5 / len(self.counts)))


class GateInTheRow(GateByClass):
    """The same, honest about what it does: its row sums to something else than one."""

    def row(self) -> Floats:
        return np.array([-self.nats(token) for token in range(len(self.counts))])


class UnnormalisedTilt(Bigrams):
    """A tilt without the normalisation after it."""

    def distribution(self) -> Floats:
        tilted = super().distribution()
        tilted[self.counts[self.last].argmax()] *= 1.05
        return tilted


class HashedTable(Bigrams):
    """Looks only the target up in a hashed table, so that collisions give all tokens of a bucket its mass."""

    def distribution(self) -> Floats:
        buckets = np.arange(len(self.counts)) % 8
        return np.asarray(np.bincount(buckets, super().distribution(), 8)[buckets])


class WarmsUp(Bigrams):
    """Runs some validation batches first, "to compile", and keeps the tables they leave."""

    def evaluate(self, tokens: Tokens) -> Floats:
        self.score(tokens[1:101])
        self.last = int(tokens[0])
        return self.score(tokens[1:])


class TwoPasses(Bigrams):
    """Learns from all of the text in a first pass, and reports the second."""

    def evaluate(self, tokens: Tokens) -> Floats:
        self.score(tokens[1:])
        self.last = int(tokens[0])
        return self.score(tokens[1:])


class BetterOfTwo(Bigrams):
    """Scores twice, with and without what the second pass knows, and keeps the smaller loss."""

    def evaluate(self, tokens: Tokens) -> Floats:
        first = self.score(tokens[1:])
        self.last = int(tokens[0])
        return np.minimum(first, self.score(tokens[1:]))


class PieceAhead(Bigrams):
    """Learns from the whole piece before it scores it."""

    def score(self, tokens: Tokens) -> Floats:
        last = self.last
        for token in tokens.tolist():
            self.learn(token)
        found = []
        for before, token in zip([last, *tokens[:-1].tolist()], tokens.tolist(), strict=True):
            self.last = before
            found.append(self.nats(token))
        self.last = int(tokens[-1])
        return np.array(found)


class PeeksInRow(Bigrams):
    """A row that is asked for is learned from."""

    def row(self) -> Floats:
        self.counts[self.last, 0] += 1
        return super().row()


class WritesToItsInput(Bigrams):
    """Not a cheat: what it does to the arrays it is given is its own affair."""

    def score(self, tokens: Tokens) -> Floats:
        found = super().score(tokens)
        tokens[:] = 0
        return found


def audited(kind: Callable[[int, int], Any], tolerance: float = 1e-4) -> AuditReport:
    subject = ForeignSubject("test", kind, V)
    return audit(
        subject, STREAM, V, chunk=64, rows=40, other_chunks=not subject.has_evaluate, tolerance=tolerance
    )


@pytest.mark.parametrize("kind", [Bigrams, WithFingerprint, CausalTilt, Batched, WritesToItsInput])
def test_honest_scorers_pass(kind: type[Bigrams]) -> None:
    report = audited(kind)
    assert report.passed, report
    assert report.score_first.learns == ({"counts": "target"} if kind is WithFingerprint else {})


def test_rounding_is_forgiven_only_within_the_tolerance() -> None:
    assert not audited(Batched, tolerance=0).passed
    assert not audited(Batched, tolerance=1e-9).passed


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (GateByClass, "normalised"),
        (GateInTheRow, "normalised"),
        (UnnormalisedTilt, "normalised"),
        (HashedTable, "normalised"),
        (WarmsUp, "causal"),
        (TwoPasses, "causal"),
        (BetterOfTwo, "causal"),
        (PieceAhead, "causal"),
        (PeeksInRow, "score_first"),
    ],
)
def test_the_known_cheats_are_caught(kind: type[Bigrams], broken: str) -> None:
    # Each of them is worth something, or it would be no cheat.
    report = audited(kind)
    assert not report.passed
    assert not getattr(report, broken).passed, report


def test_a_cheat_pays_off() -> None:
    honest = Bigrams(V, int(STREAM[0])).score(STREAM[1:]).sum()
    for kind in (WarmsUp, TwoPasses, BetterOfTwo):
        assert kind(V, int(STREAM[0])).evaluate(STREAM).sum() < honest  # type: ignore[attr-defined]
    for other in (UnnormalisedTilt, HashedTable, PieceAhead):
        assert other(V, int(STREAM[0])).score(STREAM[1:].copy()).sum() < honest


class NoRow:
    def __init__(self, vocab_size: int, first: int) -> None: ...

    def score(self, tokens: Tokens) -> Floats:
        return np.zeros(len(tokens))


class WrongShape(Bigrams):
    def score(self, tokens: Tokens) -> Floats:
        return super().score(tokens)[:-1]


class Raises(Bigrams):
    def row(self) -> Floats:
        raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (NoRow, "NoRow, has no method row"),
        (WrongShape, "score must return 64 floating-point numbers, not float64 of shape \\(63,\\)"),
        (Raises, r"test: RuntimeError: out of memory \(.*test_foreign_subject\.py:\d+, in row\)"),
        (lambda: None, "test: TypeError"),
    ],
)
def test_what_is_no_scorer_is_one_line(kind: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        audited(kind)


def test_from_the_command_line(
    tmp_path: Path,
    example_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_to_audit.py").write_text(Path(__file__).read_text())
    common = ["--val", str(example_folder / "data" / "*_val_*.bin"), "--rows", "8", "--changes", "2"]
    common += ["--tokenizer", str(example_folder / "tok.model"), "--max-tokens", "400", "--json"]
    for subject, code in (
        ("mine_to_audit:CausalTilt", 0),
        ("mine_to_audit.py:CausalTilt", 0),
        ("mine_to_audit:TwoPasses", 1),
    ):
        assert main(["audit", "--subject", subject, *common]) == code
        shown = json.loads(capsys.readouterr().out)
        assert shown["passed"] == (code == 0) == shown["causal"]["passed"]
        assert shown["bytes_exact"] is None
    for words, message in (
        (["--subject", "mine_to_audit"], "module:factory or file.py:factory"),
        (["--subject", "no_such_module:x"], "can't be imported: ModuleNotFoundError"),
        (["--subject", "mine_to_audit:Nobody"], "has no function or class Nobody"),
        (["--subject", "none.py:x"], "can't be imported: FileNotFoundError"),
        ([], "either an artifact's file or --subject"),
        (["a.pgar", "--subject", "x:y"], "either an artifact's file or --subject"),
    ):
        assert main(["audit", *words, *common]) == (2 if "either" in message else 1)
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert load_subject("mine_to_audit:Batched", V).has_evaluate
