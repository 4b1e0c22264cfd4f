"""What an oracle is built from: shards and files of partial counts, told apart by how they begin."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from hybridlm import _core
from hybridlm.data.shards import ShardHead, expand, is_validation_shard, known_vocabulary
from hybridlm.data.vocabulary import DEFAULT_BOS, Vocabulary
from hybridlm.errors import InputError, UsageError
from hybridlm.files import open_to_read
from hybridlm.oracle.vocabularies import VocabularyLike

log = logging.getLogger("hybridlm.oracle")

Estimator = Literal["dense", "sparse"]

MAX_WEIGHT = 1000

Paths = Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Sources:
    """The paths of shards, and of partial counts of either estimator."""

    shards: tuple[str, ...]
    dense_counts: tuple[str, ...]
    sparse_counts: tuple[str, ...]
    weights: Mapping[str, int] = field(default_factory=dict)
    """How many copies of itself a path stands for, where it isn't one."""

    @classmethod
    def of(cls, sources: "Paths | Sources") -> "Sources":
        """Looks at each file's first bytes, once. Raises OSError, and InputError where there is no file."""
        if isinstance(sources, Sources):
            return sources
        if not sources:
            raise InputError("no shards to count")
        found: dict[str, list[str]] = {"shards": [], "dense": [], "sparse": []}
        for source in sources:
            found[_kind(source)].append(os.fspath(source))
        if held_out := [shard for shard in found["shards"] if is_validation_shard(shard)]:
            log.warning(
                "%s: held out for validation, by name or sidecar, and counted into the oracle all the same: "
                "no score on it will say anything",
                held_out[0],
            )
        return cls(tuple(found["shards"]), tuple(found["dense"]), tuple(found["sparse"]))

    @property
    def estimator(self) -> Estimator | None:
        """That of the partial counts, if there are any."""
        return "sparse" if self.sparse_counts else "dense" if self.dense_counts else None

    def weighted(self, weights: Iterable[tuple[str | os.PathLike[str], int]]) -> "Sources":
        """The same with weights: each is for the given files among those that a path or glob stands for.

        Raises InputError where there are none, where a file gets two, and for a weight out of range.
        """
        chosen = dict(self.weights)
        given = {Path(path).resolve(): path for path in self.shards + self.dense_counts + self.sparse_counts}
        for pattern, weight in weights:
            if not 1 <= weight <= MAX_WEIGHT:
                raise UsageError(f"weights are whole numbers from 1 to {MAX_WEIGHT}, not {weight}")
            paths = [given[path] for path in map(Path.resolve, expand(os.fspath(pattern))) if path in given]
            if not paths:
                raise InputError(f"{os.fspath(pattern)} is given a weight, but is none of the files to count")
            for path in paths:
                if path in chosen:
                    raise InputError(f"{path}: given two weights, {chosen[path]} and {weight}")
                chosen[path] = weight
        return replace(self, weights=chosen)

    def heads(self) -> list[ShardHead]:
        """The shards' sizes. Raises FormatError or OSError."""
        return [ShardHead(path, _core.shard_tokens(path)) for path in self.shards]

    def vocabulary(self, asked: VocabularyLike | None, of_counts: Vocabulary | None = None) -> Vocabulary:
        """What is asked for, or what the partial counts are of, and for the rest what sidecars say.

        A number of tokens that is asked for leaves document token and tokenizer open. Raises InputError where
        a sidecar says otherwise.
        """
        given = of_counts or asked
        known = Vocabulary(given) if isinstance(given, int) else given
        return known_vocabulary(
            self.heads(),
            size=None if known is None else known.size,
            bos_id=None if isinstance(given, int) or known is None else known.bos_id,
            fingerprint=None if known is None else known.fingerprint,
            default_bos=DEFAULT_BOS,
        )


def _kind(source: str | os.PathLike[str]) -> str:
    magics = {_core.PARTIAL_COUNTS_MAGIC: "dense", _core.SPARSE_COUNTS_MAGIC: "sparse"}
    if not Path(source).is_file() and Path(source).exists() and not Path(source).is_dir():
        raise InputError(
            f"{os.fspath(source)}: not a regular file; it is read more than once, so write it to a file first"
        )
    with open_to_read(source) as file:
        head = file.read(max(map(len, magics)))
    return next((kind for magic, kind in magics.items() if head.startswith(magic)), "shards")
