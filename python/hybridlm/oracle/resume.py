"""Which shards an interrupted count has still to do: the same answer for dense and for sparse counts."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybridlm import _core
from hybridlm.errors import InputError

log = logging.getLogger("hybridlm.oracle")


def not_yet_counted(shards: Sequence[str], counted: Mapping[str, str], left: Path, threads: int) -> list[str]:
    """Of ``shards``, those whose content an interrupted run had not counted when it left the file ``left``.

    ``counted`` maps the content of each shard that it had counted to the shard's name. A shard has been
    counted if its content is what was counted: name, size and date could tell faster but not for certain, and
    hashing a shard takes less than a tenth of the time of counting it. Raises InputError where a shard was
    counted that is not given.
    """
    given = [content for _, _, content in _core.identify_shards(shards, threads)]
    for content, name in counted.items():
        if content not in given:
            raise InputError(
                f"{left}: an interrupted run has counted {name}, which is not given now; remove {left} to "
                "start afresh"
            )
    rest = [shard for shard, content in zip(shards, given, strict=True) if content not in counted]
    if counted:
        log.info("%s: resuming, %d of %d shards are counted", left, len(counted), len(shards))
    return rest
