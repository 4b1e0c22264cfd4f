"""Which stages of a pipeline run are finished, so that an interrupted run can be resumed."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from hybridlm.config import shown
from hybridlm.errors import FormatError, InputError
from hybridlm.files import exclusive, read_json, sweep, write_json

FILE = "unfinished.json"
_LARGEST = 1 << 20


class RunRecord:
    """RUN/unfinished.json: the run's settings and its finished stages. Removed when the run is finished."""

    def __init__(self, path: Path, identity: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        self._path = path
        self._identity = identity
        self.seconds = dict(seconds)
        """What each finished stage took."""
        self._done = set(seconds)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, identity: Mapping[str, Any]) -> Iterator[Self]:
        """The record of the run in ``folder``, a new one if there is none.

        Within the block no other process can run there.

        ``identity``: plain JSON values by name, all that decides the results. Raises InputError where the
        folder holds a finished run or one of another identity, and FormatError for a damaged record.
        """
        path = folder / FILE
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder, folder=True):
            sweep(folder)
            identity = json.loads(json.dumps(identity))
            if path.exists():
                yield cls(path, identity, _resumed(path, identity))
                return
            if (folder / "data").exists():
                raise InputError(f"{folder} holds an earlier run; name another folder, or remove it")
            record = cls(path, identity, {})
            record._write()
            try:
                yield record
            except BaseException:
                if not record._done:  # there is nothing to resume
                    record.remove()
                raise

    def has(self, stage: str) -> bool:
        return stage in self._done

    def done(self, stage: str, seconds: Mapping[str, float]) -> None:
        """Records that everything ``stage`` makes is in its place."""
        self._done.add(stage)
        self.seconds = dict(seconds)
        self._write()

    def remove(self) -> None:
        """The run is finished."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        stages = {stage: self.seconds[stage] for stage in sorted(self._done)}
        write_json(self._path, {"identity": self._identity, "stages": stages})


def _resumed(path: Path, identity: Mapping[str, Any]) -> dict[str, float]:
    found = read_json(path, _LARGEST)
    try:
        before = found["identity"]
        stages = {str(stage): float(seconds) for stage, seconds in found["stages"].items()}
        other = [name for name in {**before, **identity} if before.get(name) != identity.get(name)]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise FormatError(f"{path}: not the record of a run; remove {path.parent} to start afresh") from None
    if other:
        name = other[0]
        raise InputError(
            f"{path.parent} holds an interrupted run with another {name}: it was {shown(before.get(name))}, "
            f"and is {shown(identity.get(name))}: name another folder, or remove it"
        )
    return stages
