"""How many threads native work may use."""

import os

from hybridlm.errors import InputError

VARIABLE = "HYBRIDLM_NUM_THREADS"

MOST = 4096
"""The largest number of threads that is accepted."""


def thread_count(requested: int | None = None) -> int:
    """The caller's number, else HYBRIDLM_NUM_THREADS, else this process's share of the machine.

    The share is the cores this process may run on, divided by the ranks that torchrun has started on the
    machine (LOCAL_WORLD_SIZE). Results never depend on the number. Raises InputError below 1 or above `MOST`.
    """
    if requested is None and (value := os.environ.get(VARIABLE)):
        try:
            requested = int(value)
        except ValueError:
            raise InputError(f"{VARIABLE}={value!r} is not a whole number") from None
    if requested is None:
        return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if requested > MOST:
        raise InputError(f"the number of threads must be at most {MOST:,}, not {requested:,}")
    if requested < 1:
        raise InputError(f"the number of threads must be at least 1, not {requested}")
    return requested


def available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
