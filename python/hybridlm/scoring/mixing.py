"""Experts and mixtures at work together: a piece of the stream in, its nll by mixture out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError
from hybridlm.scoring.experts import Expert, Scored
from hybridlm.scoring.mixtures import (
    Pair,
    create_mixture,
    create_row_mixture,
    find_mixture,
    row_mixture_names,
)
from hybridlm.scoring.trace import Trace
from hybridlm.stopwatch import Stopwatch

ROW_VALUES = 1 << 21
"""Values of each expert's whole rows that are held at once: 100 MB for a dozen experts."""

Stage = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class MixtureSpec:
    """A mixture by name, over the experts of some families; None: of the families that it names itself."""

    mixer: str
    families: tuple[str, ...] | None = None

    def takes(self, expert: Expert) -> bool:
        families = find_mixture(self.mixer).families if self.families is None else self.families
        return expert.family in families


def expert_names(experts: Sequence[Expert]) -> tuple[str, ...]:
    return tuple(name for expert in experts for name in expert.names)


def gather(
    experts: Sequence[Expert],
    stream: NDArray[np.uint16],
    start: int,
    *,
    rows: NDArray[np.float32] | None = None,
    stage: Stage = lambda family: nullcontext(),
) -> list[Scored]:
    """What each expert says of the targets stream[start:].

    Into ``rows`` [K, N − start, V] go the whole distributions. Each expert works within ``stage(family)``.
    Raises InputError where an expert's value is not finite: a model that has diverged has no score.
    """
    found = []
    first = 0
    for expert in experts:
        with stage(expert.family):
            if rows is None:
                scored = expert.score(stream, start)
            else:
                scored = expert.score_rows(stream, start, rows[first : first + len(expert.names)])
        _check_finite(expert, scored, start)
        found.append(scored)
        first += len(expert.names)
    return found


def _check_finite(expert: Expert, scored: Scored, start: int) -> None:
    finite = np.isfinite(scored.log_probs)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"expert {expert.names[row]} gives target {start + column} a log-probability of "
            f"{scored.log_probs[row, column]}: its weights have diverged"
        )


def rows_of(experts: Sequence[Expert], targets: int) -> NDArray[np.float32]:
    """An array [K, targets, V] for whole rows."""
    return np.empty((len(expert_names(experts)), targets, experts[0].vocab_size), np.float32)


class LinearMixer:
    """A mixture of probabilities at work over those of the experts that it takes."""

    def __init__(self, spec: MixtureSpec, experts: Sequence[Expert]) -> None:
        self._at = [index for index, expert in enumerate(experts) if spec.takes(expert)]
        self._taken = [experts[index] for index in self._at]
        self._takes_evidence = getattr(find_mixture(spec.mixer), "evidence", False)
        names = list(expert_names(self._taken))
        sizes = [size for expert in self._taken for size in expert.gate_sizes]
        if self._takes_evidence:
            names += [name for expert in self._taken for name in expert.evidence_names]
            sizes += [size for expert in self._taken for size in expert.class_sizes]
        self._names = names
        self._mixture = create_mixture(spec.mixer, names, sizes)

    def mix(self, scored: Sequence[Scored]) -> NDArray[np.float64]:
        """The nll [n] of what `gather` has given, of all experts."""
        return self._mixture.mix(*self._inputs([scored[index] for index in self._at]))

    def mix_watched(self, scored: Sequence[Scored], start: int, trace: Trace) -> NDArray[np.float64]:
        """`mix`, to the same bits, which tells ``trace`` the weights before each target that it wants."""
        log_probs, gates = self._inputs([scored[index] for index in self._at])
        parts, done = [], 0
        for target in trace.wanted(start, start + log_probs.shape[1]).tolist():
            at = target - start
            if done < at:
                parts.append(self._mix(log_probs, gates, done, at))
            weights = self._mixture.weights(None if gates is None else gates[:, at])
            trace.observe(target, self._names, weights, log_probs[:, at])
            done = at
        parts.append(self._mix(log_probs, gates, done, log_probs.shape[1]))
        return np.concatenate(parts)

    def _mix(
        self, log_probs: NDArray[np.float32], gates: NDArray[np.uint8] | None, start: int, end: int
    ) -> NDArray[np.float64]:
        return self._mixture.mix(
            np.ascontiguousarray(log_probs[:, start:end]),
            None if gates is None else np.ascontiguousarray(gates[:, start:end]),
        )

    def fingerprint(self) -> bytes:
        """Of the weights, not of the experts."""
        return self._mixture.fingerprint()

    def row(self, stream: NDArray[np.uint16]) -> NDArray[np.float64]:
        """[V]: ln p of each possible token after ``stream``, to whose end all has been mixed. Learns nothing.

        Raises InputError for an expert that can't show its distribution.
        """
        log_probs, gates = self._inputs([expert.predict(stream) for expert in self._taken])
        weights = self._mixture.weights(None if gates is None else gates[:, 0])
        return np.asarray(np.log(weights @ np.exp(log_probs.astype(np.float64))))

    def _inputs(self, scored: Sequence[Scored]) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
        """What the mixture takes: log-probabilities and below them the evidence, gates and its classes."""
        log_probs = [one.log_probs for one in scored]
        gates = [one.gates for one in scored if len(one.gates)]
        if self._takes_evidence:
            log_probs += [one.shares for one in scored if len(one.shares)]
            gates += [one.classes for one in scored if len(one.classes)]
        return np.concatenate(log_probs), np.concatenate(gates) if gates else None


class RowMixer:
    """A mixture of whole rows at work over those of the experts that it takes."""

    def __init__(self, spec: MixtureSpec, experts: Sequence[Expert]) -> None:
        self._rows = np.flatnonzero([spec.takes(expert) for expert in experts for _ in expert.names])
        self._taken = [expert for expert in experts if spec.takes(expert)]
        names = expert_names(self._taken)
        self._mixture = create_row_mixture(spec.mixer, names, self._taken[0].vocab_size if names else 0)

    def mix(
        self, scored: Sequence[Scored], rows: NDArray[np.float32], targets: NDArray[np.uint16]
    ) -> NDArray[np.float64]:
        """The nll [n] of targets whose whole distributions `gather` has put into ``rows``, of all experts."""
        return self._mixture.mix(rows[self._rows], targets)

    def fingerprint(self) -> bytes:
        """Of the weights, not of the experts."""
        return self._mixture.fingerprint()

    def row(self, stream: NDArray[np.uint16]) -> NDArray[np.float64]:
        """As `LinearMixer.row`."""
        return self._mixture.row(np.concatenate([e.predict(stream).log_probs for e in self._taken]))


class PairMixer:
    """A `Pair` at work over those of the experts that it takes."""

    def __init__(self, pair: Pair, spec: MixtureSpec, experts: Sequence[Expert]) -> None:
        families = spec.families or pair.families
        self._linear = LinearMixer(MixtureSpec(pair.linear, families), experts)
        self._of_rows = RowMixer(MixtureSpec(pair.of_rows, families), experts)
        self._over = create_mixture(pair.over, [pair.linear, pair.of_rows])

    def mix(
        self, scored: Sequence[Scored], rows: NDArray[np.float32], targets: NDArray[np.uint16]
    ) -> NDArray[np.float64]:
        """As `RowMixer.mix`."""
        both = np.stack((self._linear.mix(scored), self._of_rows.mix(scored, rows, targets)))
        return self._over.mix((-both).astype(np.float32))

    def fingerprint(self) -> bytes:
        """Of all weights, not of the experts."""
        parts = (self._linear, self._of_rows, self._over)
        return hashlib.sha256(b"".join(part.fingerprint() for part in parts)).digest()

    def row(self, stream: NDArray[np.uint16]) -> NDArray[np.float64]:
        """As `LinearMixer.row`."""
        rows = np.stack((self._linear.row(stream), self._of_rows.row(stream)))
        return np.asarray(np.log(self._over.weights() @ np.exp(rows)))


def _row_mixer(spec: MixtureSpec, experts: Sequence[Expert]) -> RowMixer | PairMixer:
    found = find_mixture(spec.mixer)
    return PairMixer(found, spec, experts) if isinstance(found, Pair) else RowMixer(spec, experts)


class Mixers:
    """Mixtures over the same experts: what scores a piece of the stream."""

    def __init__(self, mixtures: Mapping[str, MixtureSpec], experts: Sequence[Expert]) -> None:
        self._experts = experts
        self._linear: dict[str, LinearMixer] = {}
        self._of_rows: dict[str, RowMixer | PairMixer] = {}
        for label, spec in mixtures.items():
            if spec.mixer in row_mixture_names():
                self._of_rows[label] = _row_mixer(spec, experts)
            else:
                self._linear[label] = LinearMixer(spec, experts)

    def __getitem__(self, label: str) -> LinearMixer | RowMixer | PairMixer:
        return self._linear.get(label) or self._of_rows[label]

    @property
    def takes_rows(self) -> bool:
        """Whether any of them mixes whole rows."""
        return bool(self._of_rows)

    def score(
        self,
        stream: NDArray[np.uint16],
        start: int,
        watch: Stopwatch | None = None,
        trace: Trace | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float64]]]:
        """ln p_k [K, n] of stream[start:], and by mixture their nll [n].

        ``trace`` watches the mixture that is called "".
        """
        watch = watch or Stopwatch()
        # Whole rows take K · V numbers a target: no more of them are held than they need to be.
        step = max(1, ROW_VALUES // self._experts[0].vocab_size) if self._of_rows else len(stream)
        found: list[NDArray[np.float32]] = []
        nll: dict[str, list[NDArray[np.float64]]] = {label: [] for label in [*self._linear, *self._of_rows]}
        # A piece without targets is one, too.
        for first in range(start, max(len(stream), start + 1), step):
            piece = stream[: first + step]
            rows = rows_of(self._experts, len(piece) - first) if self._of_rows else None
            scored = gather(self._experts, piece, first, rows=rows, stage=watch.stage)
            found.append(np.concatenate([one.log_probs for one in scored]))
            with watch.stage("mixture"):
                for label, mixer in self._linear.items():
                    if trace is not None and label == "":
                        nll[label].append(mixer.mix_watched(scored, first, trace))
                    else:
                        nll[label].append(mixer.mix(scored))
                if rows is not None:
                    for label, row_mixer in self._of_rows.items():
                        nll[label].append(row_mixer.mix(scored, rows, piece[first:]))
        return np.concatenate(found, axis=1), {label: np.concatenate(part) for label, part in nll.items()}
