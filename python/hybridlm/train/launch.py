"""Training with several processes on this machine: torchrun's agent, with one line for what goes wrong."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

logger = logging.getLogger("hybridlm.train")

VARIABLE = "HYBRIDLM_LAUNCHED"
"""Set in the environment of ranks that were started here."""

# How long a rank that was told to stop may take, to finish its step and write a checkpoint, and how long
# ranks may hang in a collective when another one has died.
_SECONDS_TO_STOP = 30


def launch(arguments: Sequence[str], processes: int) -> int:
    """Runs `python -m hybridlm.train ARGUMENTS` on ``processes`` ranks; the exit code of what ended them.

    When a rank dies, the others are ended within a minute. What ranks report they report themselves; here
    only a rank that could not is reported.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The agent's warnings and its traceback repeat what a rank has said.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        shutdown_timeout=_SECONDS_TO_STOP,
    )
    os.environ[VARIABLE] = "1"
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = [(number, signal.getsignal(number)) for number in numbers]
    try:
        elastic_launch(config, sys.executable)("-m", "hybridlm.train", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        logger.error(
            "hybridlm: error: rank %d was killed by %s; the same command with --resume goes on from the "
            "last checkpoint",
            rank,
            signal.Signals(-failure.exitcode).name,
        )
        return 1
    except SignalException:
        return 130
    finally:
        del os.environ[VARIABLE]
        for number, handler in handlers:
            signal.signal(number, handler)
    return 0
