"""Your own model's stream, scored piece by piece by a mixture with an oracle and with experts that learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError
from hybridlm.oracle import Oracle
from hybridlm.scoring.config import DEFAULT_MIXER
from hybridlm.scoring.experts import Expert, Scored, online_experts
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.mixing import LinearMixer, MixtureSpec, gather

if TYPE_CHECKING:
    import torch

_FIRST_CAPACITY = 1 << 16


@dataclass(frozen=True)
class Piece:
    """What a piece of the stream cost.

    nll: float64 [n], the mixture's, in nats. experts: float32 [K, n], ln p of each expert, in the order of
    ``Scorer.names``.
    """

    nll: NDArray[np.float64]
    experts: NDArray[np.float32]


class _Given(Expert):
    """Log-probabilities that somebody else's model has come to."""

    family = "neural"

    def __init__(self, names: Sequence[str], vocab_size: int) -> None:
        self.names = tuple(names)
        self.vocab_size = vocab_size
        self.given = np.empty((len(names), 0), np.float32)

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        return Scored(self.given)

    def fingerprint(self) -> bytes:
        return b""


class Scorer:
    """Mixes what your models say of a stream with an oracle's orders and with experts that learn from it.

    The stream begins with the token ``first``, which is context and no target; with a whole shard, that is
    its first token. Pieces follow each other, and a stream gives the same numbers, bit for bit, however it is
    cut. A target is mixed with what was learned from targets before it alone, so the score obeys the rules of
    docs/architecture.md if your models' log-probabilities do: each of them is that of a distribution over the
    whole vocabulary which was fixed before the token was known.

    >>> import numpy as np, hybridlm
    >>> tokens = np.array([1, 5, 6, 5, 6, 5, 6, 5, 6], np.uint16)
    >>> scorer = hybridlm.Scorer(8, first=tokens[0])
    >>> mine = np.full(len(tokens) - 1, -np.log(8))  # a model that knows nothing, in nats
    >>> piece = scorer.score(tokens[1:], mine)
    >>> bool(piece.nll[-1] < -mine[-1])  # what has repeated itself is expected
    True
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        first: int = 1,
        oracle: Oracle | None = None,
        models: Sequence[str] = ("neural",),
        mixer: str = DEFAULT_MIXER,
        threads: int | None = None,
    ) -> None:
        """``models``: the names of yours, in the order of the rows that `score` is given; may be none.

        Raises InputError for an oracle of another vocabulary, for a mixer that there isn't or that takes
        whole rows, and for a ``first`` token outside the vocabulary.
        """
        if oracle is not None and oracle.vocab_size != vocab_size:
            raise InputError(f"the oracle has a vocabulary of {oracle.vocab_size} tokens, not {vocab_size}")
        self._vocab_size = vocab_size
        self._given = _Given(models, vocab_size)
        self._experts: list[Expert] = [self._given, *online_experts(vocab_size)]
        self._experts += [] if oracle is None else [OracleExperts(oracle, threads)]
        self._mixer = LinearMixer(MixtureSpec(mixer), self._experts)
        self._stream = np.empty(_FIRST_CAPACITY, np.uint16)
        self._stream[:1] = self._checked(np.asarray([first]))
        self._length = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Of the experts, yours first."""
        return tuple(name for expert in self._experts for name in expert.names)

    @property
    def targets(self) -> int:
        """How many have been scored."""
        return self._length - 1

    def score(
        self,
        tokens: "NDArray[np.integer[Any]] | torch.Tensor | Sequence[int]",
        log_probs: "NDArray[np.floating[Any]] | torch.Tensor | None" = None,
    ) -> Piece:
        """Scores the next n tokens of the stream, then learns from them.

        ``log_probs``, in nats: of the targets alone, [n] or [models, n], or whole rows, [n, V] or
        [models, n, V], of which the targets' are taken; NumPy or torch, on any device.

        Raises InputError for tokens outside the vocabulary, for other shapes, and for a log-probability that
        is above 0 or not finite.
        """
        targets = self._checked(_as_array(tokens))
        given = self._targets_of(log_probs, targets)
        start, self._length = self._length, self._length + len(targets)
        while self._length > len(self._stream):
            self._stream = np.concatenate([self._stream, np.empty_like(self._stream)])
        self._stream[start : self._length] = targets
        self._given.given = given
        scored = gather(self._experts, self._stream[: self._length], start)
        return Piece(self._mixer.mix(scored), np.concatenate([one.log_probs for one in scored]))

    def fingerprint(self) -> dict[str, bytes]:
        """By component, a hash of all state that later scores depend on."""
        found = {expert.family: expert.fingerprint() for expert in self._experts}
        return {**found, "mixture": self._mixer.fingerprint()}

    def _checked(self, tokens: NDArray[Any]) -> NDArray[np.uint16]:
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise InputError(
                f"tokens must be one row of whole numbers, not {tokens.dtype} of shape {tokens.shape}"
            )
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self._vocab_size:
            raise InputError(
                f"tokens reach from {tokens.min()} to {tokens.max()}, but the vocabulary has "
                f"{self._vocab_size}"
            )
        return tokens.astype(np.uint16)

    def _targets_of(self, log_probs: Any, targets: NDArray[np.uint16]) -> NDArray[np.float32]:
        """float32 [models, n]"""
        models, n = len(self._given.names), len(targets)
        if log_probs is None:
            if models:
                raise InputError(f"log_probs of {', '.join(self._given.names)} are missing")
            return np.empty((0, n), np.float32)
        shape = tuple(log_probs.shape)
        if shape in ((n, self._vocab_size), (models, n, self._vocab_size)):
            # Gathered where the rows are: on a GPU only the targets' values travel.
            rows = log_probs.reshape(models, n, self._vocab_size)
            index = targets.astype(np.int64)
            if isinstance(rows, np.ndarray):
                found = rows[:, np.arange(n), index]
            else:
                at = rows.new_tensor(index).long()
                found = rows.gather(2, at.expand(models, n)[..., None])[..., 0]
        elif shape in ((n,), (models, n)):
            found = log_probs.reshape(models, n)
        else:
            raise InputError(
                f"log_probs have the shape {shape}; for {n} tokens and {models} models it must be "
                f"({models}, {n}) or ({models}, {n}, {self._vocab_size}), the first without models if there "
                "is one"
            )
        values = _as_array(found).astype(np.float32)
        if not np.isfinite(values).all() or (values > 0).any():
            raise InputError("a log-probability is above 0 or not finite: log_probs are ln p, in nats")
        return np.ascontiguousarray(values)


def _as_array(values: Any) -> NDArray[Any]:
    """NumPy's view of an array, of a sequence, or of a tensor on whichever device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.is_floating_point() else values)
    return np.asarray(values)
