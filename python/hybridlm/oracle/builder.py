"""Building an oracle from a program: shards and arrays in, an `Oracle` out."""

import hashlib
import os
import weakref
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from hybridlm import _core
from hybridlm.arguments import check_kind
from hybridlm.arrays import Integers, token_array
from hybridlm.data.shards import read_stream
from hybridlm.data.sidecar import write_sidecar
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import InputError
from hybridlm.files import scratch_folder
from hybridlm.oracle.build import build_dense, build_sparse
from hybridlm.oracle.oracle import Oracle
from hybridlm.oracle.sources import Estimator

DEFAULT_MAX_BYTES = 4_000_000


class OracleBuilder:
    """Gathers training tokens, shard by shard or array by array, and builds an oracle of them all.

    Arrays are kept on the disk until the oracle is built. The oracle doesn't depend on the order in which
    they came.

    >>> import numpy as np, hybridlm
    >>> builder = hybridlm.OracleBuilder(hybridlm.Vocabulary(8), order=3)
    >>> builder.add(np.array([1, 5, 6, 7, 5, 6, 7, 5, 6], np.uint16))
    >>> oracle = builder.build(max_bytes=1000)
    >>> rows = oracle.log_probs(np.array([1, 5, 6], np.uint16), np.array([3]))  # nats, [orders, 1, V]
    >>> int(rows[-1, 0].argmax())
    7
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        estimator: Estimator = "sparse",
        order: int | None = None,
        threads: int | None = None,
    ) -> None:
        """``order``: the highest, by default 6 (sparse) or 8 (dense)."""
        check_kind(vocabulary, Vocabulary, "vocabulary")
        self.vocabulary = vocabulary
        self._estimator = estimator
        self._order = order
        self._threads = threads
        leave = ExitStack()
        self._arrays = leave.enter_context(scratch_folder())
        weakref.finalize(self, leave.close)
        self._sources: list[Path] = []

    def add(self, tokens: Integers) -> None:
        """Adds tokens [n], of one or more documents, each begun by ``vocabulary.bos_id``.

        Raises InputError for what isn't one row of token ids of the vocabulary.
        """
        found = token_array(tokens, self.vocabulary.size)
        # A shard that is given twice is refused. The same array may be meant twice, and is then one shard.
        path = self._arrays / f"{hashlib.sha256(found.tobytes()).hexdigest()}.bin"
        before = [read_stream([path])] if path in self._sources and len(found) else []
        shard = np.concatenate([*before, found])
        _core.write_shard(os.fspath(path), shard)
        if self.vocabulary.fingerprint is not None:
            write_sidecar(path, shard, self.vocabulary)
        if path not in self._sources:
            self._sources.append(path)

    def add_shard(self, path: str | os.PathLike[str]) -> None:
        """Adds a shard's file, or a file of partial counts. Raises OSError where there is none."""
        path = Path(path)
        path.stat()
        self._sources.append(path)

    def build(self, *, max_bytes: int | None = None) -> Oracle:
        """The oracle of all that was added; a sparse one of at most ``max_bytes`` (4,000,000 by default).

        Raises InputError where nothing was added or a shard twice, or nothing fits; FormatError for a damaged
        shard; OSError.
        """
        if self._estimator == "dense":
            if max_bytes is not None:
                raise InputError("a dense oracle has the size of its tables: max_bytes is for a sparse one")
            data = build_dense(self._sources, self.vocabulary, orders=self._order or 8, threads=self._threads)
        else:
            data = build_sparse(
                self._sources,
                self.vocabulary,
                max_bytes=DEFAULT_MAX_BYTES if max_bytes is None else max_bytes,
                order=self._order,
                threads=self._threads,
            )
        return Oracle.from_bytes(data)
