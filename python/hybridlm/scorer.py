"""Your own model's stream, scored piece by piece by a mixture with an oracle and with experts that learn."""

import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.arguments import check_kind
from hybridlm.arrays import Integers, as_numpy, token_array
from hybridlm.config import shown
from hybridlm.errors import FormatError, InputError
from hybridlm.files import atomic_write_bytes, read_bytes
from hybridlm.oracle import Oracle
from hybridlm.scoring.config import DEFAULT_MIXER
from hybridlm.scoring.experts import Expert, Scored, online_experts
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.mixing import LinearMixer, MixtureSpec, gather
from hybridlm.tensor_file import load_arrays, save_arrays

if TYPE_CHECKING:
    import torch

_FIRST_CAPACITY = 1 << 16
_REPLAYED = 1 << 14
"""Targets at a time, where a state is restored."""

_FORMAT = 1
_LARGEST_STATE = 1 << 36
"""Bytes. A larger file is refused before it is read."""


@dataclass(frozen=True)
class Piece:
    """What a piece of the stream cost.

    nll: float64 [n], the mixture's, in nats. experts: float32 [K, n], ln p of each expert, in the order of
    ``Scorer.names``.
    """

    nll: NDArray[np.float64]
    experts: NDArray[np.float32]


class _Given(Expert):
    """The log-probabilities that the caller gives."""

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

        Raises InputError for an oracle of another vocabulary, for an unknown mixer or one that takes whole
        rows, and for a ``first`` token outside the vocabulary.
        """
        if oracle is not None:
            check_kind(oracle, Oracle, "oracle")
            if oracle.vocab_size != vocab_size:
                raise InputError(
                    f"the oracle has a vocabulary of {oracle.vocab_size} tokens, not {vocab_size}"
                )
        self._vocab_size = vocab_size
        self._given = _Given(models, vocab_size)
        spec = MixtureSpec(mixer)
        experts: list[Expert] = [self._given, *online_experts(vocab_size)]
        experts += [] if oracle is None else [OracleExperts(oracle, threads)]
        self._experts = [expert for expert in experts if expert is self._given or spec.takes(expert)]
        self._mixer = LinearMixer(spec, self._experts)
        self._settings = {
            "vocab_size": vocab_size,
            "models": list(models),
            "mixer": mixer,
            "oracle": None if oracle is None else hashlib.sha256(oracle.to_bytes()).hexdigest(),
        }
        self._stream = np.empty(_FIRST_CAPACITY, np.uint16)
        self._told = np.empty((_FIRST_CAPACITY, len(models)), np.float32)
        self._stream[:1] = token_array([first], vocab_size)
        self._length = 1
        self._checksum = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Of yours and of the experts that the mixer takes."""
        return tuple(name for expert in self._experts for name in expert.names)

    @property
    def targets(self) -> int:
        """How many have been scored."""
        return self._length - 1

    def score(
        self,
        tokens: Integers,
        log_probs: "NDArray[np.floating[Any]] | torch.Tensor | None" = None,
    ) -> Piece:
        """Scores the next n tokens of the stream, then learns from them.

        ``log_probs``, in nats: of the targets alone, [n] or [models, n], or whole rows, [n, V] or
        [models, n, V], of which the targets' are taken; NumPy or torch, on any device.

        Raises InputError for tokens outside the vocabulary, for other shapes, and for a log-probability that
        is above 0 or not finite.
        """
        targets = token_array(tokens, self._vocab_size)
        return self._score(targets, self._targets_of(log_probs, targets))

    def _score(self, targets: NDArray[np.uint16], given: NDArray[np.float32]) -> Piece:
        start, self._length = self._length, self._length + len(targets)
        while self._length > len(self._stream):
            self._stream = np.concatenate([self._stream, np.empty_like(self._stream)])
            self._told = np.concatenate([self._told, np.empty_like(self._told)])
        self._stream[start : self._length] = targets
        self._told[start : self._length] = given.T
        self._given.given = given
        scored = gather(self._experts, self._stream[: self._length], start)
        nll = self._mixer.mix(scored)
        self._checksum = zlib.crc32(nll.astype("<f8").tobytes(), self._checksum)
        return Piece(nll, np.concatenate([one.log_probs for one in scored]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state as a safetensors file, whole or not at all: what `restore` goes on from.

        It holds the stream and what your models said of it, 2 + 4 · models bytes a target: everything else
        follows from these. Raises OSError.
        """
        metadata = {"format": _FORMAT, **self._settings, "nll": self._checksum}
        tensors: dict[str, NDArray[Any]] = {
            "stream": self._stream[: self._length].copy(),
            "log_probs": self._told[1 : self._length].copy(),
        }
        atomic_write_bytes(path, save_arrays(tensors, metadata))

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Takes over the state that another scorer with the same settings has saved, to the bit.

        The stream is scored again, at the speed of `score`. This scorer must not have scored anything. Raises
        InputError where it has, or where the state is that of other settings or comes out otherwise on this
        machine; FormatError for a file that is no state; OSError.
        """
        if self.targets:
            raise InputError("a state is restored by a new scorer, and this one has scored already")
        name = os.fspath(path)
        stream, told, metadata = _read_state(Path(path))
        if other := [key for key, value in self._settings.items() if metadata.get(key) != value]:
            found = " and ".join(f"{key} {shown(metadata.get(key))}" for key in other)
            raise InputError(f"{name}: the state of a scorer with {found}, not with this one's")
        if told.shape[1] != len(self._given.names) or len(told) != len(stream) - 1:
            raise FormatError(f"{name}: not a scorer's state: its arrays don't fit each other")
        try:
            self._stream[:1] = token_array(stream[:1], self._vocab_size)
            for start in range(0, len(told), _REPLAYED):
                piece = token_array(stream[1:][start : start + _REPLAYED], self._vocab_size)
                self._score(piece, _checked(told[start : start + _REPLAYED].T))
        except InputError as error:
            raise FormatError(f"{name}: not a scorer's state: {error}") from None
        if self._checksum != metadata.get("nll"):
            raise InputError(
                f"{name}: the saved targets have other scores here: the state was saved by another version "
                "or on another kind of machine, or is damaged"
            )

    def fingerprint(self) -> dict[str, bytes]:
        """By component, a hash of all state that later scores depend on."""
        found = {expert.family: expert.fingerprint() for expert in self._experts}
        return {**found, "mixture": self._mixer.fingerprint()}

    def _targets_of(self, log_probs: Any, targets: NDArray[np.uint16]) -> NDArray[np.float32]:
        """float32 [models, n]"""
        models, n = len(self._given.names), len(targets)
        if log_probs is None:
            if models:
                raise InputError(f"log_probs of {', '.join(self._given.names)} are missing")
            return np.empty((0, n), np.float32)
        if not hasattr(log_probs, "detach"):
            log_probs = np.asarray(log_probs)
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
                f"log_probs have the shape {shape}; for {n} tokens, models {models}, it must be "
                f"({models}, {n}) or ({models}, {n}, {self._vocab_size}), the first without models if there "
                "is one"
            )
        return _checked(as_numpy(found))


def _checked(values: NDArray[Any]) -> NDArray[np.float32]:
    """float32 [models, n]"""
    values = values.astype(np.float32)
    # Rounding may put ln 1 just above 0.
    wrong = ~(np.isfinite(values) & (values <= 1e-6))
    if wrong.any():
        model, at = np.argwhere(wrong)[0]
        raise InputError(
            f"log_probs[{model}, {at}] is {values[model, at]}: a log-probability is above 0 or not finite; "
            "log_probs are ln p, in nats"
        )
    return np.ascontiguousarray(np.minimum(values, 0))


def _read_state(path: Path) -> tuple[NDArray[np.uint16], NDArray[np.float32], dict[str, Any]]:
    """Stream [N] and log_probs [N − 1, models] of a state's file, and what is said of them."""
    if (size := path.stat().st_size) > _LARGEST_STATE:
        raise FormatError(f"{path}: {size:,} bytes, too many for a scorer's state")
    tensors, metadata = load_arrays(read_bytes(path), f"{path}: not a scorer's state")
    try:
        stream, told = tensors["stream"], tensors["log_probs"]
        if metadata["format"] != _FORMAT:
            raise FormatError(f"{path}: state of format {metadata['format']}; this program reads {_FORMAT}")
        fits = stream.dtype == np.uint16 and told.dtype == np.float32
        if not (fits and stream.ndim == 1 and told.ndim == 2 and len(stream)):
            raise TypeError("its arrays are of other types or shapes")
    except FormatError:
        raise
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path}: not a scorer's state: {error}") from None
    return stream, told, metadata
