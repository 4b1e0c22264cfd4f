"""A score's state in a file, so that a long one can be stopped and gone on with, to the same bits.

What a neural model, and the expert that tilts it, have said so far stands in ``FILE.scores``, float32, as
each chunk is done. Everything else that learns target by target, online experts and mixtures, has no state of
its own here: on resuming, they are shown the stream and those scores again, which takes them about two
microseconds a token. ``FILE`` holds what can't be made again so cheaply, the weights and optimisers of
test-time training and the exponents of the tilt, in safetensors form. It is written whole between two chunks,
and never unpickled.
"""

import hashlib
import logging
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import FormatError, InputError
from hybridlm.files import atomic_write_bytes, naming, open_to_read, read_bytes
from hybridlm.scoring.experts import Expert, Scored
from hybridlm.signals import handled_by
from hybridlm.tensor_file import load_arrays, save_arrays

log = logging.getLogger("hybridlm.eval")

FORMAT = 3
SECONDS = 60.0
"""Between two writings, at least."""
LARGEST = 1 << 34
"""Bytes. A larger file is refused before it is read."""
_BLOCK = 1 << 22


class Learning(Protocol):
    """What has state that can't be made again from the stream and the experts' scores."""

    def state(self) -> dict[str, NDArray[Any]]: ...

    def restore(self, state: dict[str, NDArray[Any]]) -> None: ...


class ScoreState:
    """The state of one score, from its file if there is one; raises InputError for that of another score.

    ``identity`` is whatever decides the score beside the stream. ``experts`` are those whose scores are kept,
    ``learners`` what has state; both are taken to where the file is.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, str],
        stream: NDArray[np.uint16],
        experts: Sequence[Expert],
        learners: Sequence[Learning],
        *,
        writes: bool = True,
    ) -> None:
        self._path = path
        self._scores_path = path.with_name(path.name + ".scores")
        self._identity = dict(identity)
        self._stream = stream
        self._learners = learners
        self._writes = writes
        self._kept = [_Kept(expert, self) for expert in experts]
        self._columns = sum(len(expert.names) for expert in experts)
        self._digest = hashlib.sha256(stream[:1].tobytes())
        self._checksum = 0
        self._written = time.monotonic()
        self.targets = 0
        """How many have been scored, learned from, and are in the file."""
        if path.exists():
            self._read()
        self._done = self.targets
        if writes:
            with naming(self._scores_path), self._scores_path.open("r+b" if self.targets else "wb") as file:
                file.truncate(self.targets * self._columns * 4)

    def wrap(self, experts: Sequence[Expert]) -> list[Expert]:
        """The experts, those that are kept replaced by what gives the file's scores as far as they reach."""
        kept = {id(one.expert): one for one in self._kept}
        return [kept.get(id(expert), expert) for expert in experts]

    def recorded(self, kept: "_Kept", start: int, end: int) -> NDArray[np.float32]:
        """[K, end − start]"""
        if end - 1 > self.targets:
            raise FormatError(f"{self._path}: its {self.targets:,} targets don't end with a chunk")
        column = sum(len(one.expert.names) for one in self._kept[: self._kept.index(kept)])
        # Read, not mapped: a mapping of a file that becomes shorter ends the process.
        rows = np.empty((end - start, self._columns), np.float32)
        with open_to_read(self._scores_path) as file:
            file.seek((start - 1) * self._columns * 4)
            if file.readinto(rows.data.cast("B")) != rows.nbytes:
                raise FormatError(f"{self._scores_path}: became shorter while it was read")
        return np.ascontiguousarray(rows[:, column : column + len(kept.expert.names)].T)

    def committed(self, start: int, end: int, log_probs: Mapping[str, NDArray[np.float32]]) -> None:
        """The chunk of targets start … end − 1, with what each expert has said by name, has been scored and
        learned from. Written to the file now and then."""
        if end - 1 <= self.targets:
            return
        names = [name for one in self._kept for name in one.expert.names]
        data = b""
        if names:
            data = np.stack([log_probs[name] for name in names], axis=1).tobytes()
        self._digest.update(self._stream[start:end].tobytes())
        self._checksum = zlib.crc32(data, self._checksum)
        if self._writes:
            with naming(self._scores_path), self._scores_path.open("ab") as file:
                file.write(data)
        self._done = end - 1
        if time.monotonic() - self._written >= SECONDS:
            self.write()

    def write(self) -> None:
        """What has been committed is in the file when this returns. Raises OSError."""
        if not self._writes:
            return
        with naming(self._scores_path), self._scores_path.open("rb") as file:
            os.fsync(file.fileno())
        tensors = {
            f"{at}/{name}": np.ascontiguousarray(value)
            for at, learner in enumerate(self._learners)
            for name, value in learner.state().items()
        }
        metadata = {
            "format": FORMAT,
            "identity": self._identity,
            "targets": self._done,
            "columns": self._columns,
            "stream": self._digest.hexdigest(),
            "scores": self._checksum,
            "tensors": _tensors_hash(tensors),
        }
        atomic_write_bytes(self._path, save_arrays(tensors, metadata))
        self._written = time.monotonic()

    def remove(self) -> None:
        """The score is done."""
        if self._writes:
            self._path.unlink(missing_ok=True)
            self._scores_path.unlink(missing_ok=True)

    def _read(self) -> None:
        name = str(self._path)
        if (size := self._path.stat().st_size) > LARGEST:
            raise FormatError(f"{name}: {size:,} bytes, too many for the state of a score")
        tensors, metadata = load_arrays(read_bytes(self._path), f"{name}: not the state of a score")
        try:
            if metadata["format"] != FORMAT:
                raise FormatError(
                    f"{name}: state of format {metadata['format']}, and this program reads format {FORMAT} "
                    "alone: go on with the hybridlm that wrote it, or remove it to begin anew"
                )
            identity, targets = metadata["identity"], int(metadata["targets"])
            columns, digest, checksum = metadata["columns"], metadata["stream"], metadata["scores"]
            tensors_hash = metadata["tensors"]
            if not isinstance(identity, dict):
                raise TypeError("its identity is no object")
        except FormatError:
            raise
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise FormatError(f"{name}: not the state of a score: {error}") from None
        if _tensors_hash(tensors) != tensors_hash:
            raise FormatError(f"{name}: damaged: the SHA-256 of its tensors is not the one in its metadata")
        other = [key for key, value in self._identity.items() if identity.get(key) != value]
        if columns != self._columns or other:
            raise InputError(
                f"{name}: the state of another score, with other {' and '.join(other) or 'experts'}: name "
                "another file, or remove it to begin anew"
            )
        if not 0 < targets < len(self._stream):
            raise InputError(
                f"{name}: {targets:,} targets were scored, and {len(self._stream) - 1:,} are given"
            )
        self._digest.update(self._stream[1 : targets + 1].tobytes())
        if self._digest.hexdigest() != digest:
            raise InputError(f"{name}: the state of the score of another text")
        self._read_scores(targets, checksum)
        for at, learner in enumerate(self._learners):
            prefix = f"{at}/"
            learner.restore(
                {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            )
        self.targets = targets
        log.info("%s targets were scored before; going on from there", f"{targets:,}")

    def _read_scores(self, targets: int, checksum: int) -> None:
        needed = targets * self._columns * 4
        if not needed:
            return
        found = 0
        with open_to_read(self._scores_path) as file:
            for at in range(0, needed, _BLOCK):
                found = zlib.crc32(file.read(min(_BLOCK, needed - at)), found)
        if found != checksum or self._scores_path.stat().st_size < needed:
            raise FormatError(
                f"{self._scores_path}: damaged: not the scores that {self._path.name} belongs to"
            )
        self._checksum = found


def _tensors_hash(tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) of tensors, by name."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hasher.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        hasher.update(np.ascontiguousarray(tensor).tobytes())
    return hasher.hexdigest()


class _Kept(Expert):
    """An expert whose scores are read from the file as far as they reach."""

    def __init__(self, expert: Expert, state: ScoreState) -> None:
        self.family, self.names, self.vocab_size = expert.family, expert.names, expert.vocab_size
        self.expert = expert
        self._state = state

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        if start <= self._state.targets:
            return Scored(self._state.recorded(self, start, len(stream)))
        return self.expert.score(stream, start)

    def fingerprint(self) -> bytes:
        return self.expert.fingerprint()


class Interruption:
    """Ctrl-C, SIGTERM and SIGHUP as a request: ``asked`` becomes true, and a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within the block, in the main thread; any other thread leaves signals alone."""
        with handled_by(self._ask):
            yield

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.warning("stopping at the end of the chunk, to write the state; once more stops at once")
