"""The neural expert with test-time training: models that learn at several rates, and what is made of them.

Each rate has a model of its own, an *arm*. `RateMixture` weighs what the arms say, target by target, by what
they have said of earlier targets. With rate 0 among them, the artifact's model as it is, the mixture costs at
most ln K nats more in all than no training would have cost, whatever the training does.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hybridlm.errors import InputError
from hybridlm.scoring.asked import Asked, Network
from hybridlm.scoring.experts import RateReport, Scored
from hybridlm.scoring.log_sum_exp import log_sum_exp
from hybridlm.scoring.neural import NeuralExpert
from hybridlm.scoring.rates import RateMixture
from hybridlm.scoring.units import UNIT, in_units

log = logging.getLogger("hybridlm.eval")

_BLOCK = 1 << 18
"""Tokens that are asked about, of which the arms are mixed at once."""


class Trainer(Protocol):
    """What trains an arm's model between chunks."""

    @property
    def updates(self) -> int: ...

    @property
    def undone(self) -> int:
        """How often it has undone training by itself."""
        ...

    def learn(self, stream: NDArray[np.uint16], start: int) -> None: ...

    def is_finite(self) -> bool: ...

    def undo(self) -> None: ...

    def fingerprint(self) -> bytes: ...

    def state(self) -> dict[str, torch.Tensor]: ...

    def restore(self, state: dict[str, torch.Tensor]) -> None: ...


def _nothing() -> NDArray[np.float32]:
    return np.empty(0, np.float32)


@dataclass
class Arm:
    """One rate: what it says, and what makes it learn; no trainer: rate 0.

    chunk: ln p of the chunk's targets so far. total: the nll of all targets, in units. undone: how often what
    was learned has been forgotten.
    """

    rate: float
    expert: Network
    trainer: Trainer | None
    chunk: NDArray[np.float32] = field(default_factory=_nothing)
    total: int = 0
    undone: int = 0

    def committed(self, first: int) -> float:
        """The nll of the chunk's targets from its ``first`` on, in nats."""
        return -float(self.chunk[first:].sum(dtype=np.float64))


class LearningExpert(Network):
    """One distribution out of those of several arms.

    ``untrained`` is the artifact's model, which every arm is held against: one that costs more than
    ``margin`` nats a target above it, or isn't a number, forgets all that it has learned. That is tried on
    each chunk that is committed (on its last ``probe`` targets where rate 0 is not among the arms), and
    again on the last ``probe`` targets after training on them, so that what has diverged scores nothing.

    ``lessons`` is what the arms are trained on in place of the stream, for a control: as many tokens at
    least. A control is of the family ``control``, which no mixture takes unless it is told to.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        untrained: NeuralExpert,
        *,
        margin: float,
        probe: int,
        family: str = "neural",
        lessons: NDArray[np.uint16] | None = None,
    ) -> None:
        self.family = family
        self.names = (family,)
        self.vocab_size = untrained.vocab_size
        self.arms = list(arms)
        self._rates = RateMixture(len(arms))
        self._untrained = untrained
        self._margin = margin
        self._probe = probe
        self._lessons = lessons

    def score_asked(
        self, stream: NDArray[np.uint16], start: int, asked: Asked
    ) -> tuple[Scored, NDArray[np.float32]]:
        said = [arm.expert.score_asked(stream, start, asked) for arm in self.arms]
        scored, weights = self._mixed([one for one, _ in said])
        _, targets = asked.of(np.arange(len(stream) - start))
        told = np.empty(len(targets), np.float32)
        # A block at a time: a chunk asks about millions of tokens, and these sums are in double precision.
        for at in range(0, len(told), _BLOCK):
            block = slice(at, at + _BLOCK)
            told[block] = log_sum_exp(weights[:, targets[block]] + np.stack([one[block] for _, one in said]))
        return scored, told

    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        shown = np.empty((len(self.arms), *rows.shape[1:]), np.float32)
        scored, weights = self._mixed(
            [arm.expert.score_rows(stream, start, shown[at : at + 1]) for at, arm in enumerate(self.arms)]
        )
        # Target by target, because a product over several at once may add in another order.
        for target in range(rows.shape[1]):
            rows[0, target] = np.log(np.exp(weights[:, target]) @ np.exp(shown[:, target].astype(np.float64)))
        return scored

    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        rows = np.concatenate([arm.expert.predict(stream).log_probs for arm in self.arms])
        mixed = np.log(self._rates.weights() @ np.exp(rows.astype(np.float64)))
        return Scored(mixed.astype(np.float32)[None])

    def _mixed(self, scored: Sequence[Scored]) -> tuple[Scored, NDArray[np.float64]]:
        """What all arms say together, and the log-weights [K, n] of each."""
        log_probs = np.concatenate([one.log_probs for one in scored])
        for arm, row in zip(self.arms, log_probs, strict=True):
            arm.chunk = np.concatenate((arm.chunk, row))
            arm.total += int(in_units(-row.astype(np.float64)).sum())
        mixed, weights = self._rates.mix(log_probs)
        return Scored(mixed.astype(np.float32)[None]), weights

    def learn(self, stream: NDArray[np.uint16], start: int) -> None:
        """Trains every arm on the chunk stream[start:], or on the lessons at its place. A collective."""
        probe = max(start, len(stream) - self._probe)
        still = next((arm for arm in self.arms if arm.trainer is None), None)
        if still is None:
            first, reference = probe, self._nll(self._untrained, stream, probe)
            after = reference
        else:
            first, reference = start, still.committed(0)
            after = still.committed(probe - start)
        for arm in self.arms:
            if arm.trainer is None:
                continue
            if not arm.committed(first - start) <= reference + self._margin * (len(stream) - first):
                self._undo(arm, arm.trainer, "the chunk cost")
            arm.trainer.learn(stream if self._lessons is None else self._lessons[: len(stream)], start)
            if not arm.trainer.is_finite():
                self._undo(arm, arm.trainer, "its weights are not finite")
            elif isinstance(arm.expert, NeuralExpert):
                nll = self._nll(arm.expert, stream, probe)
                if not nll <= after + self._margin * (len(stream) - probe):
                    self._undo(arm, arm.trainer, "what it was trained on costs")
        for arm in self.arms:
            arm.chunk = _nothing()

    @staticmethod
    def _nll(expert: NeuralExpert, stream: NDArray[np.uint16], start: int) -> float:
        return -float(expert.score(stream, start).log_probs.sum(dtype=np.float64))

    def _undo(self, arm: Arm, trainer: Trainer, why: str) -> None:
        trainer.undo()
        arm.undone += 1
        more = (
            "" if "finite" in why else f" more than {self._margin:g} nats a target above the artifact's model"
        )
        log.warning("test-time training at rate %g diverged: %s%s; it begins anew", arm.rate, why, more)

    def report(self) -> list[RateReport]:
        return [
            RateReport(
                arm.rate,
                arm.total * UNIT,
                arm.trainer.updates if arm.trainer else 0,
                arm.undone + (arm.trainer.undone if arm.trainer else 0),
            )
            for arm in self.arms
        ]

    def fingerprint(self) -> bytes:
        """Of the models."""
        return hashlib.sha256(b"".join(arm.expert.fingerprint() for arm in self.arms)).digest()

    def fingerprints(self) -> dict[str, bytes]:
        trained = b"".join(arm.trainer.fingerprint() for arm in self.arms if arm.trainer)
        found = {"optimizer": hashlib.sha256(trained).digest()}
        return {**found, "rates": self._rates.fingerprint()} if len(self.arms) > 1 else found

    def state(self) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {"rates": self._rates.state()}
        for at, arm in enumerate(self.arms):
            # Python's whole numbers have no end, but 2^63 units are two thousand million nats.
            found[f"{at}.counts"] = np.array([arm.total, arm.undone], np.int64)
            if arm.trainer is not None:
                state = arm.trainer.state()
                found |= {f"{at}.{name}": tensor.cpu().numpy() for name, tensor in state.items()}
        return found

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        if state.keys() != (own := self.state()).keys():
            raise InputError("the state is that of another kind of test-time training")
        for name, value in own.items():
            if state[name].shape != value.shape or state[name].dtype != value.dtype:
                raise InputError(f"the state's {name} is {state[name].dtype} {list(state[name].shape)}")
        self._rates.restore(state["rates"])
        for at, arm in enumerate(self.arms):
            arm.total, arm.undone = map(int, state[f"{at}.counts"])
            if arm.trainer is not None:
                prefix = f"{at}."
                arm.trainer.restore(
                    {
                        name.removeprefix(prefix): torch.from_numpy(value.copy())
                        for name, value in state.items()
                        if name.startswith(prefix) and name != f"{at}.counts"
                    }
                )
