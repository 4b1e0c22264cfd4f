"""The native half: shards, counting, frozen oracles, online experts.

Arrays are C-contiguous NumPy arrays of exactly the stated dtype, else TypeError. Log-probabilities are in
nats. Long calls release the GIL, honour Ctrl-C, and call ``progress(done)`` some twenty times a second;
an exception raised there stops the work and is passed on.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SPARSE_PROGRESS",
    "FormatError",
    "FrozenOracle",
    "InputError",
    "NgramCounts",
    "OnlineExperts",
    "build_sparse",
    "compress",
    "context_buckets",
    "decompress",
    "read_shard",
    "shard_tokens",
    "write_shard",
]

class InputError(ValueError): ...
class FormatError(InputError): ...

def shard_tokens(path: str | os.PathLike[str]) -> int:
    """The number of tokens in a shard, whose header and size are checked. FormatError, OSError."""

def read_shard(
    path: str | os.PathLike[str], start: int = 0, count: int | None = None, vocab_size: int | None = None
) -> NDArray[np.uint16]:
    """Tokens ``start`` to ``start + count`` of a shard (all by default), copied.

    FormatError names the file and the offset of a token >= ``vocab_size``; InputError when the range
    leaves the shard.
    """

def write_shard(path: str | os.PathLike[str], tokens: NDArray[np.uint16]) -> None:
    """Writes a shard, which appears under ``path`` only when complete. OSError."""

def compress(data: bytes, level: int = 22, progress: Callable[[int], object] | None = None) -> bytes:
    """One zstd frame (levels 1 to 22) with content size and checksum."""

def decompress(data: bytes, max_bytes: int, what: str) -> bytes:
    """The content of one zstd frame. FormatError, naming ``what``, when it is damaged, is followed by
    other bytes, or holds more than ``max_bytes``."""

def context_buckets(tokens: NDArray[np.uint16], order: int, rows: int) -> NDArray[np.uint32]:
    """The table row of the context before each token, uint32 [N]; before the first token is token 0."""

@final
class NgramCounts:
    """Counts of orders 1 to ``orders``: ``table(order)[row of the context, token]``.

    ``buckets`` gives the rows of orders >= 3 that shouldn't have the default ones. Totals are 64-bit.
    """

    def __new__(
        cls, vocab_size: int, orders: int = 8, buckets: Mapping[int, int] | None = None
    ) -> NgramCounts: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def orders(self) -> tuple[int, ...]: ...
    @property
    def buckets(self) -> dict[int, int]: ...
    @property
    def tokens(self) -> int:
        """Tokens in everything counted so far."""

    def count_tokens(
        self,
        tokens: NDArray[np.uint16],
        threads: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Counts one stream."""

    def count_shards(
        self,
        paths: Sequence[str | os.PathLike[str]],
        threads: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """Counts shards, none of whose n-grams reach into the next. ``progress`` is told tokens."""

    def merge(self, other: NgramCounts) -> None:
        """Adds the counts of ``other``, of the same vocabulary and tables."""

    def table(self, order: int) -> NDArray[np.uint64]:
        """The counts of one order, [rows, V]; a copy."""

    def quantise(self, order: int, threads: int = 1) -> NDArray[np.int8]:
        """ln((c + 1) / (Σc + V)), clamped to [-10, 0], in steps of 10/127; int8 [rows, V]."""

    def dense_oracle(
        self,
        level: int = 22,
        threads: int = 1,
        progress: Callable[[int], object] | None = None,
        packed: bool = False,
    ) -> bytes:
        """An NGOR file, version 1 or (packed) version 2, compressed at a zstd level. ``progress`` is told
        bytes."""

SPARSE_PROGRESS: int
"""What ``progress`` is told when ``build_sparse`` is done."""

def build_sparse(
    paths: Sequence[str | os.PathLike[str]],
    vocab_size: int,
    order: int,
    max_bytes: int,
    threads: int = 1,
    progress: Callable[[int], object] | None = None,
) -> bytes:
    """The best sparse oracle of at most ``max_bytes`` bytes that the shards give: a file NGSP, version 1.

    The bytes depend neither on the shards' order nor on ``threads``. InputError when nothing fits,
    FormatError for a damaged shard, OSError.
    """

@final
class FrozenOracle:
    """An n-gram oracle, ready to be looked up. K orders, each an expert; V tokens."""

    @staticmethod
    def from_bytes(data: bytes, name: str = "oracle", threads: int = 1) -> FrozenOracle:
        """Reads an oracle file; ``name`` stands for it in a FormatError."""

    @property
    def estimator(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def orders(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int:
        """Bytes of the file."""

    def info(self) -> dict[str, Any]:
        """What ``oracle inspect`` shows; keys depend on the estimator."""

    def target_log_probs(
        self,
        tokens: NDArray[np.uint16],
        start: int = 0,
        threads: int = 1,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """``[k, j]`` = ln p_k(tokens[start + j] | tokens[:start + j]), [K, N - start]."""

    def log_probs(
        self,
        tokens: NDArray[np.uint16],
        positions: NDArray[np.int64],
        threads: int = 1,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """``[k, m, v]`` = ln p_k(v | tokens[:positions[m]]), [K, M, V]."""

    def mixture(
        self,
        tokens: NDArray[np.uint16],
        positions: NDArray[np.int64],
        weights: NDArray[np.float32],
        threads: int = 1,
    ) -> NDArray[np.float32]:
        """``[m, v]`` = Σ_k w_k p_k(v | tokens[:positions[m]]), probabilities [M, V]; ``weights`` are [K] or
        [K, M]. TypeError for another shape, InputError for a weight that is negative or not finite."""

    def dense_tables(self) -> list[tuple[int, NDArray[np.int8], NDArray[np.float32]]] | None:
        """Of a dense oracle, per order: (order, cells [rows, V], log of each row's sum [rows])."""

@final
class OnlineExperts:
    """Unigram, bigram, trigram and decaying cache, each token scored before it is learned.

    ``score`` and ``observe`` continue where the last call stopped.
    """

    names: ClassVar[tuple[str, ...]]
    def __new__(cls, vocab_size: int) -> OnlineExperts: ...
    @property
    def vocab_size(self) -> int: ...
    def observe(self, tokens: NDArray[np.uint16]) -> None:
        """Learns tokens without scoring them, such as the first one of a stream."""

    def score(self, tokens: NDArray[np.uint16]) -> NDArray[np.float32]:
        """``[e, j]`` = ln p of tokens[j] given all tokens before it, [4, n]; then learns it."""

    def next_log_probs(self) -> NDArray[np.float32]:
        """``[e, v]`` = ln p of each possible next token, [4, V]; learns nothing."""
