"""How many threads native work may use."""

import os

from hybridlm.errors import InputError

VARIABLE = "HYBRIDLM_NUM_THREADS"

MOST = 4096
"""The largest number of threads that is accepted."""


def thread_count(requested: int | None = None) -> int:
    """The caller's number, else HYBRIDLM_NUM_THREADS, else this process's share of the machine.

    The share is the cores this process may run on, divided by the ranks that torchrun has started on the
    machine (LOCAL_WORLD_SIZE). Results never depend on the number. Raises InputError below 1 or above `MOST`,
    and for a variable that is no such number.
    """
    if requested is None and (value := os.environ.get(VARIABLE)):
        try:
            requested = int(value)
        except ValueError:
            raise InputError(f"{VARIABLE}={value!r} is not a whole number") from None
    if requested is None:
        return max(1, available_cores() // set_by_torchrun("LOCAL_WORLD_SIZE", 1, least=1))
    if requested > MOST:
        raise InputError(f"the number of threads must be at most {MOST:,}, not {requested:,}")
    if requested < 1:
        raise InputError(f"the number of threads must be at least 1, not {requested}")
    return requested


def set_by_torchrun(variable: str, default: int, *, least: int) -> int:
    """A number that torchrun gives to its processes; ``default`` elsewhere.

    Raises InputError for what is below ``least`` or no whole number.
    """
    value = os.environ.get(variable, str(default))
    try:
        if (number := int(value)) >= least:
            return number
    except ValueError:
        pass
    raise InputError(
        f"{variable}={value!r} in the environment: it must be a whole number of at least {least}, as "
        "torchrun sets it; unset it to run alone"
    )


def available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
