"""A Ray cluster: connecting to it, what it can run, and its errors as ours."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from hybridlm.errors import InputError
from hybridlm.extras import require_ray

TASKS_PER_CPU = 16
"""Tasks that each CPU gets: many enough to come out even, few enough that starting them doesn't show."""

MAX_RETRIES = 10
"""How often Ray starts a task again whose worker was lost. A task that raises is not started again."""

_SECONDS_TO_CONNECT = 10

SECONDS_BETWEEN_CHECKS = 30.0
"""While no task finishes, how often the cluster is asked whether it can still run any."""


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module ray, connected; what it raises as errors of ours."""
    require_ray("--engine ray")
    import ray

    ours = not ray.is_initialized()
    if ours:
        if where := address or os.environ.get("RAY_ADDRESS"):
            _check_reachable(where)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise InputError(f"no Ray cluster can be reached at {address}: {error}") from None
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise OSError(f"Ray has given up: {error}") from None
    finally:
        if ours:
            ray.shutdown()


def absolute(shards: Sequence[str | os.PathLike[str]]) -> list[str]:
    return [os.path.abspath(shard) for shard in shards]  # noqa: PTH100 - resolving links may leave what nodes share


def _check_reachable(address: str) -> None:
    """Raises InputError where nobody listens at ``address``: Ray itself goes on trying for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):  # such as auto and local
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster can be reached at {address}: {error}") from None


def task_slots(ray: Any, threads: int) -> int:
    """Tasks that can run at once. Raises InputError where none ever could."""
    most = _largest_node(ray)
    if threads > most:
        raise InputError(
            f"--threads {threads}: a task runs on one node, and the largest of this cluster has {most} CPUs"
        )
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)


def _largest_node(ray: Any) -> int:
    """CPUs of the largest node that is alive."""
    return max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)


def first_finished(ray: Any, running: Sequence[Any], threads: int) -> tuple[list[Any], list[Any]]:
    """Waits for one of the tasks, of ``threads`` CPUs each: those that have finished, and the others.

    Raises OSError where no node is left that could run them: Ray itself would wait for one to be added.
    """
    while True:
        finished, others = ray.wait(list(running), timeout=SECONDS_BETWEEN_CHECKS)
        if finished:
            return finished, others
        _check_nodes(ray, threads)


def fetched(ray: Any, objects: Any, threads: int) -> Any:
    """What tasks of ``threads`` CPUs have made. Where it was lost it is made again; raises as above."""
    seconds = SECONDS_BETWEEN_CHECKS
    while True:
        try:
            return ray.get(objects, timeout=seconds)
        except ray.exceptions.GetTimeoutError:
            _check_nodes(ray, threads)
        seconds *= 2  # large objects may take long to come, and begin again each time


def _check_nodes(ray: Any, threads: int) -> None:
    if _largest_node(ray) < threads:
        raise OSError(
            f"no node is left in the Ray cluster that could run a task (--threads {threads}); with nodes, "
            "the same command does the work"
        )


@contextlib.contextmanager
def naming_the_node() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename}: a worker on {socket.gethostname()} can't read this shard ({error.strerror}); "
            "every node must see the shards under the same path"
        ) from None
