"""The native half: shards, counting, frozen oracles, online experts.

Arrays are C-contiguous NumPy arrays of exactly the stated dtype, else TypeError. Log-probabilities are in
nats. Long calls release the GIL, honour Ctrl-C, and call ``progress(done)`` some twenty times a second;
an exception raised there stops the work and is passed on.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CODEC_BLOCK",
    "LIMIT_VARIABLE",
    "PARTIAL_COUNTS_MAGIC",
    "SPARSE_CANDIDATES_PER_BYTE",
    "SPARSE_COUNTS_MAGIC",
    "SPARSE_PROGRESS",
    "AdaptiveExperts",
    "ByteModel",
    "FormatError",
    "FrozenOracle",
    "GeometricMixture",
    "InputError",
    "LinearMixture",
    "NgramCounts",
    "OnlineExperts",
    "Predictor",
    "Segmenter",
    "SparseCounts",
    "TiltedExpert",
    "ZstdDecoder",
    "compress",
    "context_buckets",
    "decompress",
    "identify_shards",
    "looks_like",
    "overlap",
    "read_shard",
    "shard_tokens",
    "sparse_cutoff",
    "sparse_memory",
    "unpacked_limit",
    "write_shard",
]

class _Vocabulary(Protocol):
    """What ``hybridlm.data.vocabulary.Vocabulary`` has. A number of tokens in its place stands for document
    token 1 and a tokenizer that isn't known."""

    @property
    def size(self) -> int: ...
    @property
    def bos_id(self) -> int: ...
    @property
    def fingerprint(self) -> str | None:
        """64 hexadecimal digits."""

class InputError(ValueError): ...
class FormatError(InputError): ...

def looks_like(data: bytes) -> str | None:
    """A noun for a file that begins so, such as "an oracle"; None for what is unknown here."""

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

LIMIT_VARIABLE: str
"""The environment variable that sets `unpacked_limit`."""

def unpacked_limit() -> int:
    """What a part of a file may unpack to, in bytes: 256 MiB or as the environment says. InputError."""

def compress(data: bytes, level: int = 22, progress: Callable[[int], object] | None = None) -> bytes:
    """One zstd frame (levels 1 to 22) with content size and checksum."""

def decompress(data: bytes, max_bytes: int, what: str) -> bytes:
    """The content of one zstd frame. FormatError, naming ``what``, when it is damaged, is followed by
    other bytes, or holds more than ``max_bytes``."""

@final
class ZstdDecoder:
    """zstd frames, one after the other, that come in pieces; ``name`` stands for the data in errors."""

    def __new__(cls, name: str) -> ZstdDecoder: ...
    @property
    def inside_frame(self) -> bool:
        """Whether what has come so far ends inside a frame."""

    def decode(self, data: bytes, max_bytes: int) -> bytes:
        """Takes in ``data`` and gives at most ``max_bytes`` of content; fewer mean that more input is needed.

        FormatError for what isn't zstd, or is damaged.
        """

def overlap(
    train: Sequence[str | os.PathLike[str]],
    validation: Sequence[str | os.PathLike[str]],
    bos_id: int,
    lengths: Sequence[int],
    threads: int = 1,
    progress: Callable[[int], object] | None = None,
) -> list[tuple[tuple[int, int], int, list[int], list[int], tuple[int, int] | None]]:
    """Of each validation document: (shard, position) where it begins, its tokens, of each length how many
    n-grams it has and how many of them occur in training, and (shard, position) of the first training
    document that is the same. ``progress`` is told training tokens. FormatError, InputError, OSError."""

def context_buckets(tokens: NDArray[np.uint16], order: int, rows: int) -> NDArray[np.uint32]:
    """The table row of the context before each token, uint32 [N]; before the first token is token 0."""

PARTIAL_COUNTS_MAGIC: bytes
"""What a file of partial counts begins with."""

def identify_shards(paths: Sequence[str | os.PathLike[str]], threads: int = 1) -> list[tuple[str, int, str]]:
    """(name, tokens, hash) of each shard, as ``NgramCounts.shards`` has them. FormatError, OSError."""

@final
class NgramCounts:
    """Counts of orders 1 to ``orders``: ``table(order)[row of the context, token]``.

    ``buckets`` gives the rows of orders >= 3 that shouldn't have the default ones. Totals are 64-bit.
    After an error in the middle of counting or merging the counts are of no more use, and say so.
    """

    def __new__(
        cls, vocabulary: _Vocabulary | int, orders: int = 8, buckets: Mapping[int, int] | None = None
    ) -> NgramCounts: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def vocabulary(self) -> tuple[int, int, str | None]:
        """Size, document token, and the tokenizer's fingerprint, if it is known."""

    @property
    def has_document_token(self) -> bool:
        """Whether the document token occurs in what was counted."""

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
        """Counts shards, none of whose n-grams reach into the next. ``progress`` is told tokens.

        InputError for a shard that has been counted already, whatever its name: its content tells.
        """

    @property
    def shards(self) -> list[tuple[str, int, str]]:
        """(file name, tokens, BLAKE3 of the file in hexadecimal) of each shard counted, by hash."""

    def merge(self, other: NgramCounts) -> None:
        """Adds the counts of ``other``, of the same vocabulary and tables and of other shards.

        Where one of them doesn't know its tokenizer, the sum doesn't. InputError where they differ.
        """

    def merge_bytes(self, data: bytes, name: str = "partial counts", threads: int = 1) -> None:
        """Adds the counts of a file that ``to_bytes`` made, which errors call ``name``.

        FormatError for a damaged file; InputError for other tables, or a shard that is counted already.
        """

    @staticmethod
    def from_bytes(data: bytes, name: str = "partial counts", threads: int = 1) -> NgramCounts:
        """The counts of a file that ``to_bytes`` made. FormatError, calling the file ``name``."""

    def to_bytes(self, threads: int = 1) -> bytes:
        """The file of these counts. The bytes depend on nothing but the set of shards and the tables.

        InputError after ``count_tokens``: what was counted must be known by its file.
        """

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
        """An NGOR file, version 1 or (packed) version 3, compressed at a zstd level. ``progress`` is told
        bytes."""

SPARSE_COUNTS_MAGIC: bytes
"""What a file of sparse partial counts begins with."""

SPARSE_PROGRESS: int
"""What ``progress`` is told when ``SparseCounts.sparse_oracle`` is done."""

SPARSE_CANDIDATES_PER_BYTE: int
"""The most n-grams among which those of an oracle are chosen, per byte of it."""

def sparse_memory(candidates: int) -> int:
    """The bytes that a build must be allowed to take for its candidates, besides its counts."""

def sparse_cutoff(histogram: Sequence[int], max_bytes: int, memory: int) -> int:
    """n-grams that occur no more often are no candidates for an oracle of ``max_bytes``.

    ``histogram`` is a sum of ``SparseCounts.histogram``. InputError where the other n-grams would take more
    than ``memory`` bytes.
    """

@final
class SparseCounts:
    """The distinct n-grams of some shards, of orders up to ``order``, and how often each occurs.

    They are in memory, as bytes of a file, or in a file, which is read as it is needed and must stay.
    """

    @staticmethod
    def count(
        paths: Sequence[str | os.PathLike[str]],
        vocabulary: _Vocabulary | int,
        order: int,
        memory: int,
        out: str | os.PathLike[str] | None = None,
        threads: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> SparseCounts:
        """Counts shards, none of whose n-grams reach into the next, into memory or the file ``out``.

        Counting takes about ``memory`` bytes besides the result, some 5 per token. ``progress`` is told
        tokens. InputError for a shard that is given twice, whatever its name: its content tells.
        FormatError, OSError.
        """

    @staticmethod
    def open(path: str | os.PathLike[str]) -> SparseCounts:
        """The counts in a file. FormatError for a damaged one, OSError."""

    @staticmethod
    def from_bytes(data: bytes, name: str = "sparse partial counts") -> SparseCounts:
        """The counts in a file's bytes. FormatError, calling the file ``name``."""

    @staticmethod
    def merge(
        parts: Sequence[SparseCounts],
        out: str | os.PathLike[str],
        threads: int = 1,
        progress: Callable[[int], object] | None = None,
        weights: Sequence[int] | None = None,
    ) -> SparseCounts:
        """Writes the sum of ``parts`` to the file ``out``, in constant memory. ``progress`` is told bytes.

        Each part counts as often as its weight says, once without ``weights``. InputError when they are of
        different vocabularies or orders, or two of them of the same shard. FormatError for a damaged file,
        OSError.
        """

    @staticmethod
    def add(
        parts: Sequence[SparseCounts], threads: int = 1, weights: Sequence[int] | None = None
    ) -> SparseCounts:
        """The sum of ``parts`` in memory, without saying of which shards. As ``merge`` otherwise."""

    @staticmethod
    def heads(parts: Sequence[SparseCounts], weights: Sequence[int] | None = None) -> bytes:
        """The file that ``merge`` makes, but without n-grams. InputError as there."""

    @staticmethod
    def unnamed(data: bytes, tokens: int) -> SparseCounts:
        """What ``beginning_with`` returned. FormatError."""

    def beginning_with(self, start: int, end: int) -> tuple[bytes, int]:
        """The n-grams whose first token is ``start`` or above and below ``end``: a file of no shard, and the
        sum of their counts."""

    def histogram(self, threads: int = 1) -> list[int]:
        """How many n-grams of order 2 and above occur 0, 1, … times; the last number is of those that occur
        more often than that. FormatError, OSError."""

    def candidates(self, cutoff: int, threads: int = 1) -> bytes:
        """The n-grams that occur more than ``cutoff`` times, for ``sparse_oracle_of``."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def vocabulary(self) -> tuple[int, int, str | None]:
        """Size, document token, and the tokenizer's fingerprint, if it is known."""

    @property
    def has_document_token(self) -> bool:
        """Whether the document token occurs in what was counted."""

    @property
    def order(self) -> int: ...
    @property
    def tokens(self) -> int:
        """Tokens that were counted, each as often as its shard was."""

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""

    @property
    def shards(self) -> list[tuple[str, int, str]]:
        """(file name, tokens, BLAKE3 of the file in hexadecimal) of each shard counted, by hash."""

    @property
    def weights(self) -> list[int]:
        """How often each of ``shards`` was counted."""

    def occurrences(self, ngram: Sequence[int]) -> int:
        """How often an n-gram of up to ``order`` tokens occurs."""

    def continuations(self, context: Sequence[int]) -> list[tuple[int, int]]:
        """The tokens that follow fewer than ``order`` tokens, ascending, and how often each does."""

    def to_bytes(self) -> bytes:
        """The file's bytes. They depend on nothing but the set of shards, the vocabulary and the order."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file. OSError."""

    def sparse_oracle(
        self,
        max_bytes: int,
        memory: int,
        threads: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> bytes:
        """The best sparse oracle of at most ``max_bytes`` bytes: a file NGSP, version 4.

        InputError when nothing fits, or when the build would take more than about ``memory`` bytes.
        """

    def sparse_oracle_of(
        self,
        candidates: Sequence[bytes],
        max_bytes: int,
        memory: int,
        threads: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> bytes:
        """The same from ``SparseCounts.candidates`` that begin with ascending tokens.

        They must be of the cutoff of all counts together; ``self`` needs no n-grams (``heads``). InputError,
        FormatError.
        """

@final
class FrozenOracle:
    """An n-gram oracle, ready to be looked up. K orders, each an expert; V tokens."""

    @staticmethod
    def from_bytes(data: bytes, name: str = "oracle", threads: int = 1) -> FrozenOracle:
        """Reads an oracle file; ``name`` stands for it in a FormatError."""

    @staticmethod
    def from_arpa(data: bytes, vocabulary: _Vocabulary | int, name: str = "oracle") -> FrozenOracle:
        """Reads an ARPA file whose words are ids of ``vocabulary``. FormatError, InputError."""

    @property
    def estimator(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def vocabulary(self) -> tuple[int, int, str | None]:
        """Size, document token, and the tokenizer's fingerprint, if the file says."""

    @property
    def orders(self) -> tuple[int, ...]: ...
    @property
    def raising_orders(self) -> int:
        """How many orders have n-grams by which a `TiltedExpert` tilts; 0 for the dense estimator."""

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

    def matched_orders(self, tokens: NDArray[np.uint16], start: int = 0) -> NDArray[np.uint8]:
        """``[j]``: tokens of the longest n-gram of the model that ends with tokens[start + j], [N - start].

        InputError for a token outside the vocabulary or a ``start`` beyond the stream."""

    def write_arpa(self, path: str | os.PathLike[str]) -> None:
        """Writes a sparse oracle's ARPA file, whole or not at all. InputError for a dense oracle; OSError."""

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
    def fingerprint(self) -> bytes:
        """A hash of the whole state, 32 bytes: unchanged as long as nothing has been learned."""

    def observe(self, tokens: NDArray[np.uint16]) -> None:
        """Learns tokens without scoring them, such as the first one of a stream."""

    def score(
        self, tokens: NDArray[np.uint16], rows: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """``[e, j]`` = ln p of tokens[j] given all tokens before it, [4, n]; then learns it.

        Into ``rows`` [4, n, V] goes ln p of every token that there might have been instead."""

    def next_log_probs(self) -> NDArray[np.float32]:
        """``[e, v]`` = ln p of each possible next token, [4, V]; learns nothing."""

@final
class AdaptiveExperts:
    """An n-gram model, a match model and a cache that learn as they go, each token scored before it is
    learned. ``score`` and ``observe`` continue where the last call stopped.

    names: of the 3 experts. gate_sizes: how many values each of the G gates has; a gate is a small number,
    known before its target, by which a mixture may choose weights.

    counting_names: of those experts that rest on counted contexts. evidence_names: of the L lengths of
    context that the n-gram model has. class_sizes: how many classes the contexts of each have, with 0 for
    a context that isn't known.
    """

    names: ClassVar[tuple[str, ...]]
    gate_sizes: ClassVar[tuple[int, ...]]
    counting_names: ClassVar[tuple[str, ...]]
    evidence_names: ClassVar[tuple[str, ...]]
    class_sizes: ClassVar[tuple[int, ...]]
    def __new__(cls, vocab_size: int) -> AdaptiveExperts: ...
    @property
    def vocab_size(self) -> int: ...
    def observe(self, tokens: NDArray[np.uint16]) -> None:
        """Learns tokens without scoring them, such as the first one of a stream."""

    def score(
        self, tokens: NDArray[np.uint16], rows: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
        """``[e, j]`` = ln p of tokens[j] given all tokens before it, [3, n]; the gates that each token met,
        [G, n]; ln of its share in the context of each length, [L, n], −inf where it has never followed; and
        the contexts' classes, [L, n].

        Into ``rows`` [3, n, V] goes ln p of every token that there might have been instead."""

    def next_log_probs(self) -> NDArray[np.float32]:
        """``[e, v]`` = ln p of each possible next token, [3, V]; learns nothing."""

    def fingerprint(self) -> bytes:
        """A hash of the whole state, 32 bytes: unchanged as long as nothing has been learned."""

    def next_gates(self) -> NDArray[np.uint8]:
        """The gates of the next token, [G]."""

    def next_shares(self) -> NDArray[np.float32]:
        """``[l, v]`` = ln of the share of each possible next token in the context of each length, [L, V]."""

    def next_classes(self) -> NDArray[np.uint8]:
        """The classes of the next token's contexts, [L]."""

@final
class LinearMixture:
    """Weights over K experts that learn target by target: ``stacked``, ``eg``, ``fixed-share`` or ``bayes``.

    ``stacked`` also takes the evidence of L = ``lengths`` lengths of context, as L more rows after the
    experts' and L more gates after theirs, and is told which experts, ``base``, don't count contexts.
    The others take none. ``ready``, ascending: the experts that know something before the stream begins,
    which ``stacked`` and ``eg`` give 0.9 of the weights at first.
    """

    names: ClassVar[tuple[str, ...]]
    def __new__(
        cls,
        name: str,
        experts: int,
        gate_sizes: Sequence[int] = ...,
        base: Sequence[int] = ...,
        lengths: int = 0,
        ready: Sequence[int] = ...,
    ) -> LinearMixture: ...
    def mix(
        self, log_probs: NDArray[np.float32], gates: NDArray[np.uint8] | None = None
    ) -> NDArray[np.float64]:
        """The nll of the next n targets in nats, [n], from log_probs [K + L, n] and gates [G, n]. Each target
        is mixed with what was learned from targets before it; cuts between calls change no bit."""

    def fingerprint(self) -> bytes:
        """A hash of the whole state, 32 bytes: unchanged as long as nothing has been learned."""

    def weights(self, gates: Sequence[int] | None = None) -> NDArray[np.float64]:
        """The weights [K + L] that the next target meets, its gates being these."""

@final
class GeometricMixture:
    """p(v) ∝ Π p_k(v)^θ_k over the whole vocabulary; the exponents learn target by target. At first they are
    what `LinearMixture` has as weights."""

    def __new__(cls, experts: int, vocab_size: int, ready: Sequence[int] = ...) -> GeometricMixture: ...
    def mix(self, rows: NDArray[np.float32], targets: NDArray[np.uint16]) -> NDArray[np.float64]:
        """The nll of the targets in nats, [n], from ln p rows [K, n, V]."""

    def row(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """ln p of each possible next token, [V], from the experts' rows [K, V]; learns nothing."""

    def fingerprint(self) -> bytes:
        """A hash of the whole state, 32 bytes: unchanged as long as nothing has been learned."""

    @property
    def exponents(self) -> NDArray[np.float64]:
        """θ [K], as the next target meets them."""

@final
class TiltedExpert:
    """A network's distribution, tilted by a sparse oracle's n-grams; the exponents learn target by target.

    ``tokens`` are a stream, uint16 [N], whose targets are tokens[start:]; ln p are float32, in nats.
    InputError for tokens outside the vocabulary and for arrays of other lengths.
    """

    def __new__(cls, oracle: FrozenOracle) -> TiltedExpert:
        """InputError for an oracle without n-grams of three tokens or more."""

    def raised_tokens(
        self, tokens: NDArray[np.uint16], start: int
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
        """Of which tokens [m] the network is asked, and how many they are up to each target, [n + 1]."""

    def mix(
        self,
        tokens: NDArray[np.uint16],
        start: int,
        log_probs: NDArray[np.float32],
        of_raised: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """ln p of the targets, [n], from the network's, [n], and its ln p of the tokens asked about, [m]."""

    def mix_rows(
        self,
        tokens: NDArray[np.uint16],
        start: int,
        rows: NDArray[np.float32],
        tilted: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """`mix` from the network's rows, which also fills the rows ``tilted``; both [n V], flattened."""

    def row(self, tokens: NDArray[np.uint16], row: NDArray[np.float32]) -> NDArray[np.float32]:
        """ln p of each possible token after ``tokens``, [V], from the network's; learns nothing."""

    def state(self) -> NDArray[np.float64]:
        """All that later scores depend on."""

    def restore(self, state: NDArray[np.float64]) -> None:
        """Takes over what `state` gave; InputError for another oracle's."""

    def fingerprint(self) -> bytes:
        """A hash of the whole state, 32 bytes: unchanged as long as nothing has been learned."""

@final
class ByteModel:
    """A byte model to compare with: ``ctw`` or ``kn``, of up to ``depth`` (1 to 8) bytes of context.

    ``ppm`` is an old name of ``kn``; ``method`` is then ``kn`` all the same.
    """

    def __new__(cls, method: str, depth: int | None = None) -> ByteModel: ...
    @staticmethod
    def from_bytes(
        data: bytes, name: str = "baseline", progress: Callable[[int], object] | None = None
    ) -> ByteModel:
        """Rebuilds what ``to_bytes`` stored; ``name`` stands for it in a FormatError."""

    @property
    def method(self) -> str: ...
    @property
    def depth(self) -> int: ...
    def code(self, text: bytes, progress: Callable[[int], object] | None = None) -> float:
        """The code length of ``text`` in bits; every byte is coded, then learned."""

    def to_bytes(self) -> bytes:
        """The model as a file: what it has learned, compressed, from which it is rebuilt exactly."""

CODEC_BLOCK: int
"""Bytes of content that share a checksum."""

@final
class Predictor:
    """The next token's distribution, step by step: neural model, adaptive experts, oracle, and their
    ``mixture``; ``first`` is the token that begins the stream. There are K experts, and the mixture takes the
    evidence of L lengths of context besides (``stacked`` does, others have L = 0).

    ``neural`` is given the token that came last and returns the probability of each possible next one,
    float32 [V]; it is called once per token, in order, and what it raises is raised.
    """

    def __new__(
        cls,
        vocab_size: int,
        *,
        neural: Callable[[int], NDArray[np.float32]] | None = None,
        oracle: FrozenOracle | None = None,
        mixture: str = "stacked",
        first: int = 1,
    ) -> Predictor: ...
    @property
    def names(self) -> list[str]:
        """Of the K experts, in the order of ``hybridlm eval``, then of the L lengths of context."""

    def predict(self) -> NDArray[np.float32]:
        """The probability of each possible next token, [V]; sums to one."""

    def weights(self) -> NDArray[np.float64]:
        """The weights of the experts and of the lengths of context in ``predict``, [K + L]."""

    def expert_probabilities(self, token: int) -> NDArray[np.float64]:
        """What each expert gives a next token, and its share in each context, [K + L]."""

    def update(self, token: int) -> None:
        """Learns the token that came."""

@final
class Segmenter:
    """Bytes to tokens and back, exactly; and the codec over them.

    ``pieces`` gives of each token its bytes (none: it stands for no text), the score that decides what is
    merged first, and whether it is a byte piece.
    """

    def __new__(cls, pieces: Sequence[tuple[bytes, float, bool]]) -> Segmenter: ...
    def encode(self, data: bytes) -> NDArray[np.uint16]:
        """Tokens that decode to exactly ``data``."""

    def decode(self, tokens: NDArray[np.uint16]) -> bytes: ...
    def compress(
        self, data: bytes, predictor: Predictor, progress: Callable[[int], object] | None = None
    ) -> tuple[bytes, tuple[int, list[int]], float, int]:
        """(payload, checks, bits that the model claims, tokens), with a new predictor.

        checks: the CRC-32 of the first tokens' frequencies, and that of each whole block of CODEC_BLOCK
        bytes of ``data``.
        """

    def decompress(
        self,
        payload: bytes,
        length: int,
        checks: tuple[int, list[int]],
        predictor: Predictor,
        name: str = "payload",
        progress: Callable[[int], object] | None = None,
    ) -> bytes:
        """The ``length`` bytes that ``compress`` coded. Of another payload, or by other arithmetic:
        FormatError as soon as a check fails, or other bytes after the last whole block."""
