"""What `hybridlm audit` tries its rules on: experts, mixture and test-time training as in `hybridlm eval`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.scoring.artifact_experts import experts_of
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import score_chunks
from hybridlm.scoring.experts import Expert
from hybridlm.scoring.mixing import Mixers, MixtureSpec

if TYPE_CHECKING:
    from hybridlm.distributed import Distributed

Tokens = NDArray[np.uint16]


class Trainer(Protocol):
    """Test-time training."""

    def learn(self, stream: Tokens, start: int) -> None: ...

    def fingerprint(self) -> bytes: ...


@dataclass(frozen=True)
class Parts:
    """What one run needs, at its start."""

    experts: Sequence[Expert]
    trainer: Trainer | None = None


class MixtureSubject:
    """Experts and a mixture as `hybridlm eval` runs them; ``parts`` makes new ones for every run."""

    def __init__(self, parts: Callable[[], Parts], mixer: str) -> None:
        self._parts = parts
        self._spec = MixtureSpec(mixer)

    def scorer(self) -> "MixtureScorer":
        return MixtureScorer(self._parts(), self._spec)

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        parts = self._parts()
        learn = None if parts.trainer is None else parts.trainer.learn
        mixtures = {"": self._spec}
        for scored in score_chunks(stream, parts.experts, mixtures, chunk=chunk, learn=learn):
            yield scored.start, scored.nll[""]


class MixtureScorer:
    """One run, piece by piece, that can be looked at in between."""

    def __init__(self, parts: Parts, spec: MixtureSpec) -> None:
        self._experts, self._trainer = parts.experts, parts.trainer
        self._mixers = Mixers({"": spec}, self._experts)
        self._mixer = self._mixers[""]

    def score(self, stream: Tokens, start: int) -> NDArray[np.float64]:
        return self._mixers.score(stream, start)[1][""]

    def row(self, stream: Tokens) -> NDArray[np.float64]:
        return self._mixer.row(stream)

    def learn(self, stream: Tokens, start: int) -> None:
        if self._trainer is not None:
            self._trainer.learn(stream, start)

    def fingerprint(self) -> dict[str, bytes]:
        found = {expert.family: expert.fingerprint() for expert in self._experts}
        found["mixture"] = self._mixer.fingerprint()
        if self._trainer is not None:
            found["optimizer"] = self._trainer.fingerprint()
        return found


def artifact_subject(
    artifact: Artifact, vocab_size: int, config: ScoringConfig, dist: "Distributed | None" = None
) -> MixtureSubject:
    """What `hybridlm eval` scores with these settings: its mixture, experts and test-time training, which is
    ``sgd`` where none is named. ``dist`` as in `hybridlm.scoring.evaluate.evaluate`."""

    def parts() -> Parts:
        found = experts_of(artifact, vocab_size, config, dist)
        return Parts(found.experts, found.trainer)

    return MixtureSubject(parts, config.mixer)
