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
    most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if threads > most:
        raise InputError(
            f"--threads {threads}: a task runs on one node, and the largest of this cluster has {most} CPUs"
        )
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)


@contextlib.contextmanager
def naming_the_node() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename}: a worker on {socket.gethostname()} can't read this shard ({error.strerror}); "
            "every node must see the shards under the same path"
        ) from None
