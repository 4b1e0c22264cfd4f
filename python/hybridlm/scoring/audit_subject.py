"""What `hybridlm audit` tries its rules on: experts, mixture and test-time training as in `hybridlm eval`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.scoring.artifact_experts import experts_of
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import score_chunks
from hybridlm.scoring.experts import Expert, Learner
from hybridlm.scoring.mixing import Mixers, MixtureSpec

if TYPE_CHECKING:
    from hybridlm.distributed import Distributed

Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Parts:
    """What one run needs, at its start."""

    experts: Sequence[Expert]
    learners: Sequence[Learner] = ()

    def learn(self, stream: Tokens, start: int) -> None:
        for learner in self.learners:
            learner.learn(stream, start)


class MixtureSubject:
    """Experts and a mixture as `hybridlm eval` runs them; ``parts`` makes new ones for every run."""

    def __init__(self, parts: Callable[[], Parts], mixer: str) -> None:
        self._parts = parts
        self._spec = MixtureSpec(mixer)

    def scorer(self) -> "MixtureScorer":
        return MixtureScorer(self._parts(), self._spec)

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        parts = self._parts()
        mixtures = {"": self._spec}
        for scored in score_chunks(stream, parts.experts, mixtures, chunk=chunk, learn=parts.learn):
            yield scored.start, scored.nll[""]


class MixtureScorer:
    """One run, piece by piece, that can be looked at in between."""

    def __init__(self, parts: Parts, spec: MixtureSpec) -> None:
        self._parts = parts
        self._mixers = Mixers({"": spec}, parts.experts)
        self._mixer = self._mixers[""]

    def score(self, stream: Tokens, start: int) -> NDArray[np.float64]:
        return self._mixers.score(stream, start)[1][""]

    def row(self, stream: Tokens) -> NDArray[np.float64]:
        return self._mixer.row(stream)

    def learn(self, stream: Tokens, start: int) -> None:
        self._parts.learn(stream, start)

    def fingerprint(self) -> dict[str, bytes]:
        found = {expert.family: expert.fingerprint() for expert in self._parts.experts}
        found["mixture"] = self._mixer.fingerprint()
        for learner in self._parts.learners:
            found |= learner.fingerprints()
        return found


def artifact_subject(
    artifact: Artifact, vocab_size: int, config: ScoringConfig, dist: "Distributed | None" = None
) -> MixtureSubject:
    """What `hybridlm eval` scores with these settings: its mixture, experts and test-time training, which is
    ``sgd`` where none is named. ``dist`` as in `hybridlm.scoring.evaluate.evaluate`."""

    def parts() -> Parts:
        found = experts_of(artifact, vocab_size, config, dist)
        return Parts(found.experts, found.learners)

    return MixtureSubject(parts, config.mixer)
