"""The process group that torchrun describes, or a group of one.

Every decision that depends on a clock or on chance is taken on rank 0 and broadcast, so that all ranks
take the same number of steps and no collective is left waiting.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as torch_distributed

from hybridlm.errors import InputError
from hybridlm.threads import set_by_torchrun

T = TypeVar("T")


@dataclass(frozen=True)
class Distributed:
    """This process's place among the ranks. Collectives are no-ops in a group of one.

    A collective raises ConnectionError when another rank has died or keeps this one waiting too long.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world_size > 1:
            with _others_alive():
                torch_distributed.barrier()

    def broadcast_object(self, value: T) -> T:
        """Rank 0's ``value``, on every rank. Picklable values of this program's own making only."""
        if self.world_size == 1:
            return value
        box = [value]
        with _others_alive():
            torch_distributed.broadcast_object_list(box, src=0, device=self._object_device())
        return box[0]

    def all_gather_object(self, value: T) -> list[T]:
        """Every rank's ``value``, by rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        with _others_alive():
            torch_distributed.all_gather_object(gathered, value)
        return gathered

    def all_reduce_sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums ``tensor`` over the ranks, in place."""
        if self.world_size > 1:
            with _others_alive():
                torch_distributed.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's ``tensor`` (one shape and dtype on all), by rank."""
        if self.world_size == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        with _others_alive():
            torch_distributed.all_gather(gathered, tensor.contiguous())
        return gathered

    def broadcast_(self, tensor: torch.Tensor, source: int = 0) -> torch.Tensor:
        """Overwrites ``tensor`` with that of rank ``source``."""
        if self.world_size > 1:
            with _others_alive():
                torch_distributed.broadcast(tensor, src=source)
        return tensor

    def on_main(self, function: Callable[[], T]) -> T:
        """Runs ``function`` on rank 0 alone and hands its result, or its exception, to every rank."""
        outcome: tuple[T | None, Exception | None] = (None, None)
        if self.is_main:
            try:
                outcome = (function(), None)
            except Exception as error:
                outcome = (None, error)
        result, raised = self.broadcast_object(outcome)
        if raised is not None:
            raise raised
        return result  # type: ignore[return-value]

    def close(self) -> None:
        if self.world_size > 1 and torch_distributed.is_initialized():
            torch_distributed.destroy_process_group()

    def _object_device(self) -> torch.device | None:
        return self.device if self.device.type == "cuda" else None


@functools.cache
def is_first_to_fail() -> bool:
    """Whether no other rank has called this before: of ranks that fail together, one tells the user.

    The same answer each time. Needs no process group, but torchrun's store or that of a group.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not has_agent and not torch_distributed.is_initialized():
        return True  # better that every rank reports it than that none does
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = torch_distributed.TCPStore(  # type: ignore[attr-defined] # not in its stubs
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=5),
        )
        return bool(store.add(f"hybridlm/failed/{attempt}", 1) == 1)
    except (RuntimeError, KeyError, ValueError):  # the store is gone, with the launcher that kept it
        return os.environ.get("RANK", "0") == "0"


@contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise for a closed connection and for a timeout
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise ConnectionError(f"another rank has died or doesn't answer ({reason})") from error


def pick_device(name: str | None, local_rank: int = 0) -> torch.device:
    """``name``, or CUDA where there is one, else the CPU. Raises InputError for a device that isn't there."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"{name!r} is not a device; try cpu or cuda") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError("no CUDA device is available here; try --device cpu")
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


def alone(device: str | None = None) -> Distributed:
    """A group of one, on ``device`` (see `pick_device`), whatever torchrun's environment says."""
    return Distributed(rank=0, world_size=1, local_rank=0, device=pick_device(device))


def initialise(device: str | None = None, *, timeout: float | None = None) -> Distributed:
    """Joins the group that torchrun's environment names (gloo on CPU, NCCL on CUDA), or stays alone.

    timeout: seconds that a rank waits for the others in a collective on CPUs; None: torch's half hour. (On
    GPUs ranks may wait for each other's compiler, and NCCL has a watchdog of its own.)

    Raises InputError where the environment has some of torchrun's variables and not others, or nonsense.
    """
    world_size = set_by_torchrun("WORLD_SIZE", 1, least=1)
    rank = set_by_torchrun("RANK", 0, least=0)
    local_rank = set_by_torchrun("LOCAL_RANK", 0, least=0)
    unset = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if world_size > 1 and unset:
        raise InputError(
            f"WORLD_SIZE is {world_size} in the environment, but {' and '.join(unset)} not set: start the "
            "command by torchrun, or unset WORLD_SIZE"
        )
    if rank >= world_size:
        raise InputError(
            f"RANK is {rank} in the environment, and WORLD_SIZE {world_size}: there is no such rank"
        )
    picked = pick_device(device, local_rank)
    if world_size > 1 and not torch_distributed.is_initialized():
        # Functions there take for a default the group that exists when the module is imported. Imported
        # later, they would keep the group, and gloo's threads, until Python ends, and under threads that then
        # want the interpreter a process aborts.
        import torch.distributed.nn.functional  # noqa: F401

        on_cuda = picked.type == "cuda"
        torch_distributed.init_process_group(
            "nccl" if on_cuda else "gloo",
            device_id=picked if on_cuda else None,
            timeout=None if on_cuda or timeout is None else timedelta(seconds=timeout),
        )
    return Distributed(rank, world_size, local_rank, picked)
