"""What `hybridlm audit` tries its rules on: experts, mixture and test-time training as in `hybridlm eval`."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.scoring.artifact_experts import ExpertSet, experts_of
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import score_chunks
from hybridlm.scoring.mixing import Mixers, MixtureSpec

if TYPE_CHECKING:
    from hybridlm.distributed import Distributed

Tokens = NDArray[np.uint16]


class MixtureSubject:
    """Experts and a mixture as `hybridlm eval` runs them; ``fresh`` makes new experts for every run."""

    def __init__(self, fresh: Callable[[], ExpertSet], mixer: str) -> None:
        self._fresh = fresh
        self._spec = MixtureSpec(mixer)

    def scorer(self) -> "MixtureScorer":
        return MixtureScorer(self._fresh(), self._spec)

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        found = self._fresh()
        mixtures = {"": self._spec}
        for scored in score_chunks(stream, found.experts, mixtures, chunk=chunk, learn=found.learn):
            yield scored.start, scored.nll[""]


class MixtureScorer:
    """One run, piece by piece, that can be looked at in between."""

    def __init__(self, experts: ExpertSet, spec: MixtureSpec) -> None:
        self._experts = experts
        self._mixers = Mixers({"": spec}, experts.experts)
        self._mixer = self._mixers[""]

    def score(self, stream: Tokens, start: int) -> NDArray[np.float64]:
        return self._mixers.score(stream, start)[1][""]

    def row(self, stream: Tokens) -> NDArray[np.float64]:
        return self._mixer.row(stream)

    def learn(self, stream: Tokens, start: int) -> None:
        self._experts.learn(stream, start)

    def fingerprint(self) -> dict[str, bytes]:
        found = {expert.family: expert.fingerprint() for expert in self._experts.experts}
        found["mixture"] = self._mixer.fingerprint()
        for learner in self._experts.learners:
            found |= learner.fingerprints()
        return found


def artifact_subject(
    artifact: Artifact, vocab_size: int, config: ScoringConfig, dist: "Distributed | None" = None
) -> MixtureSubject:
    """What `hybridlm eval` scores with these settings: its mixture, experts and test-time training, which is
    ``sgd`` where none is named. ``dist`` as in `hybridlm.scoring.evaluate.evaluate`."""
    return MixtureSubject(lambda: experts_of(artifact, vocab_size, config, dist), config.mixer)
