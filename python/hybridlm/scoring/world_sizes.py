"""Does a score depend on the number of processes? The scorer under torchrun, on one process and on two.

`compare` starts torchrun for each number, with gloo on the CPU and one thread a process. Every process runs
this module and writes the scores that it came to; all of them must be the same to the bit.
"""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.config import as_dict, from_values
from hybridlm.errors import InputError
from hybridlm.files import atomic_write_bytes, scratch_folder
from hybridlm.scoring.config import DEFAULT_TTT, ScoringConfig
from hybridlm.scoring.windows import laid_out

log = logging.getLogger("hybridlm.audit")

SIZES = (1, 2)


@dataclass(frozen=True)
class WorldSize:
    """What came of it.

    Attributes:
        world_sizes: numbers of processes.
        targets, chunk, ttt: of each run.
        first_difference: the earliest target, counted from 1, that any process scored otherwise.
    """

    passed: bool
    world_sizes: tuple[int, ...]
    targets: int
    chunk: int
    ttt: str
    first_difference: int | None

    def __str__(self) -> str:
        found = "the same bits on every process" if self.passed else f"target {self.first_difference} differs"
        sizes = " and ".join(map(str, self.world_sizes))
        return (
            f"{self.targets:,} targets on {sizes} processes, TTT {self.ttt}, chunks of {self.chunk}: {found}"
        )


def prefix(
    artifact: Artifact, stream: NDArray[np.uint16], config: ScoringConfig
) -> tuple[NDArray[np.uint16], ScoringConfig]:
    """As much of the stream as gives each of two processes a forward pass of the model, in two chunks: one to
    learn from, and one to score with what was learned."""
    neural = artifact.neural_header()
    window = config.window or (neural.model.get("sequence_length", 0) if neural else 0)
    stride = config.stride or max(1, window // 2)
    grid, group = laid_out(max(1, window), stride, config.attention, config.batch)
    targets = min(len(stream) - 1, 2 * group * grid.stride + window)
    chunk = max(1, min(config.chunk, targets // 2))
    return stream[: targets + 1], dataclasses.replace(config, chunk=chunk)


def compare(
    artifact: Artifact,
    stream: NDArray[np.uint16],
    config: ScoringConfig,
    *,
    worker: str = "hybridlm.scoring.world_sizes",
) -> WorldSize:
    """Scores ``stream`` under torchrun, in chunks of ``config.chunk``, once for each of `SIZES`.

    ``worker`` is the module that the processes run. Raises InputError where they fail.
    """
    with scratch_folder() as folder:
        atomic_write_bytes(folder / "artifact.pgar", artifact.to_bytes())
        np.save(folder / "stream.npy", stream, allow_pickle=False)
        (folder / "config.json").write_text(json.dumps(as_dict(config)))
        scores = [score for size in SIZES for score in _torchrun(worker, folder, size)]
    first = None
    for other in scores[1:]:
        different = np.flatnonzero(scores[0].view(np.int64) != other.view(np.int64))
        if len(different) and (first is None or different[0] + 1 < first):
            first = int(different[0]) + 1
    return WorldSize(first is None, SIZES, len(stream) - 1, config.chunk, config.ttt or DEFAULT_TTT, first)


def _torchrun(worker: str, folder: Path, size: int) -> list[NDArray[np.float64]]:
    """The nll [N − 1] that each of ``size`` processes came to."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", worker, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    results = [_result(folder, size, rank) for rank in range(size)]
    if done.returncode:
        told = done.stderr.splitlines()
        # What C++ says when it gives up, and what Python does.
        lines = [line for line in told if "what():" in line]
        lines += [line for line in told if "Error" in line and "ChildFailedError" not in line]
        # A process that was ended by a signal has said nothing itself.
        lines += [line for line in told if "exitcode" in line] or ["no reason given"]
        problem = f"the scorer failed under torchrun with {size} processes: {lines[0].strip()}"
        if not all(path.exists() for path in results):
            raise InputError(problem)
        # Seen with gloo: a process that has done its work aborts when the group is left.
        log.warning("%s; all of them had scored everything by then", problem)
    return [np.load(path, allow_pickle=False) for path in results]


def _result(folder: Path, size: int, rank: int) -> Path:
    return folder / f"nll_{rank}_of_{size}.npy"


def run_worker(folder: Path) -> None:
    """One process of a group: scores the folder's stream and writes what came out."""
    from hybridlm.distributed import initialise
    from hybridlm.scoring.audit_subject import artifact_subject

    options: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config = from_values(ScoringConfig, options, "config.json")
    stream = np.load(folder / "stream.npy", allow_pickle=False)
    dist = initialise("cpu")
    try:
        artifact = Artifact.from_file(folder / "artifact.pgar")
        vocab_size = int(artifact.summary()["vocab_size"])
        subject = artifact_subject(artifact, vocab_size, config, dist)
        nll = np.concatenate([chunk for _, chunk in subject.run(stream, config.chunk)])
        result = _result(folder, dist.world_size, dist.rank)
        # There once it is whole.
        np.save(result.with_suffix(".part.npy"), nll, allow_pickle=False)
        result.with_suffix(".part.npy").replace(result)
    finally:
        dist.close()


if __name__ == "__main__":
    run_worker(Path(sys.argv[1]))
