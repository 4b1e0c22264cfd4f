"""Which shards an interrupted count has still to do: the same answer for dense and for sparse counts."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybridlm import _core
from hybridlm.errors import InputError

log = logging.getLogger("hybridlm.oracle")


def identified(shards: Sequence[str], threads: int) -> list[tuple[str, str]]:
    """Each of ``shards`` with its content, as files of counts know it.

    Name, size and date could tell faster but not for certain, and hashing a shard takes less than a tenth of
    the time of counting it.
    """
    contents = [content for _, _, content in _core.identify_shards(shards, threads)]
    return list(zip(shards, contents, strict=True))


def not_yet_counted(given: Sequence[tuple[str, str]], counted: Mapping[str, str], left: Path) -> list[str]:
    """Of the shards ``given``, those whose content an interrupted run had not counted when it left ``left``.

    ``counted`` maps the content of each shard that it had counted to the shard's name. Raises InputError
    where a shard was counted that is not given.
    """
    contents = {content for _, content in given}
    for content, name in counted.items():
        if content not in contents:
            raise InputError(
                f"{left}: an interrupted run has counted {name}, which is not given now; remove {left} to "
                "start afresh"
            )
    rest = [shard for shard, content in given if content not in counted]
    if counted:
        log.info("%s: resuming, %d of %d shards are counted", left, len(counted), len(given))
    return rest
