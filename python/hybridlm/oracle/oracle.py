"""An n-gram oracle that was estimated once and is only looked up from then on."""

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.arguments import check_kind
from hybridlm.arrays import Integers, token_array, whole_numbers
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import InputError
from hybridlm.extras import require_torch
from hybridlm.files import atomic_write_bytes, read_bytes
from hybridlm.oracle.vocabularies import vocabulary_of
from hybridlm.threads import thread_count

if TYPE_CHECKING:
    import torch

    from hybridlm.oracle.device_tables import OracleTables

log = logging.getLogger("hybridlm.oracle")


@dataclass(frozen=True, slots=True)
class State:
    """Where one is in a stream: its last tokens, as many as the oracle's longest context has."""

    tokens: tuple[int, ...]


class Oracle:
    """K normalised distributions over V tokens at every position of a stream, one per n-gram order.

    Predicting position i of a stream uses all tokens before it, ``tokens[:i]``; positions before the
    stream's start count as token 0. Log-probabilities are in nats. Look-ups run in native code without the
    GIL; ``threads`` defaults to this process's share of the machine and never changes a result.

    >>> oracle = hybridlm.Oracle.from_file("oracle.ngsp")
    >>> tokens = hybridlm.read_stream(["data/text_val_000000.bin"])
    >>> log_probs = oracle.target_log_probs(tokens)  # float32 [K, N], nats: order k, token i
    >>> rows = oracle.log_probs(tokens, np.array([10, 20]))  # float32 [K, 2, V]
    >>> log_probs.shape == (len(oracle.orders), len(tokens)), rows.shape[2] == oracle.vocab_size
    (True, True)
    """

    def __init__(self, core: _core.FrozenOracle, data: bytes = b"") -> None:
        """``core``: what was decoded from ``data``, an oracle file's bytes."""
        if not isinstance(core, _core.FrozenOracle):
            raise TypeError("an oracle is read by Oracle.from_file(path) or Oracle.from_bytes(data)")
        self._core = core
        self._data = data
        self._warned = False

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Raises OSError, or FormatError when the file is not an intact oracle."""
        return cls.from_bytes(read_bytes(path), os.fspath(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "oracle") -> Self:
        """Raises FormatError, calling the data ``name``."""
        return cls(_core.FrozenOracle.from_bytes(data, name), data)

    @classmethod
    def from_arpa(cls, path: str | os.PathLike[str], vocabulary: Vocabulary) -> Self:
        """The model of an ARPA file whose words are ids of ``vocabulary``. ``<s>`` and ``</s>`` both stand
        for its document token, and ids without a unigram share what ``<unk>`` has.

        `from_file` reads such a file as well, where at most one id has no unigram: ``<s>`` is that one.
        Raises FormatError for a damaged file, and for one whose rows don't sum to one within 10⁻³; OSError.
        """
        check_kind(vocabulary, Vocabulary, "vocabulary")
        data = read_bytes(path)
        return cls(_core.FrozenOracle.from_arpa(data, vocabulary, os.fspath(path)), data)

    def to_bytes(self) -> bytes:
        """The oracle's file."""
        return self._data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the oracle's file, whole or not at all. Raises OSError."""
        atomic_write_bytes(path, self._data)

    @property
    def native(self) -> _core.FrozenOracle:
        """The native object behind it, for other native code."""
        return self._core

    @property
    def orders(self) -> tuple[int, ...]:
        """Ascending; the K experts of every look-up, in this order."""
        return self._core.orders

    @property
    def vocab_size(self) -> int:
        return self._core.vocab_size

    @property
    def vocabulary(self) -> Vocabulary:
        """What its token ids mean, as far as its file says."""
        return vocabulary_of(self._core)

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the tokenizer's file, 64 hex digits; None where the oracle doesn't say."""
        return self.vocabulary.fingerprint

    def check_tokenizer(self, given: Vocabulary, name: str = "the oracle") -> None:
        """Raises InputError, calling the oracle ``name``, unless it was built with this tokenizer.

        An oracle that doesn't say what it was built with is held against the size alone, with one warning.
        """
        own = self.vocabulary
        if own.size != given.size:
            raise InputError(
                f"{name}: built for a vocabulary of {own.size} tokens, but the tokenizer given has "
                f"{given.size}"
            )
        if own.fingerprint is None:
            if not self._warned:
                self._warned = True
                log.warning(
                    "%s: doesn't say which tokenizer it was built with: what follows is right only if it was "
                    "the one given; `hybridlm oracle build --tokenizer` makes one that says it",
                    name,
                )
        elif given.fingerprint not in (None, own.fingerprint):
            raise InputError(
                f"{name}: built with the tokenizer {own.fingerprint}, but the one given is "
                f"{given.fingerprint} (SHA-256 of the files)"
            )
        elif own.bos_id != given.bos_id:
            raise InputError(
                f"{name}: built from documents that begin with token {own.bos_id}, but those of the "
                f"tokenizer given begin with {given.bos_id}"
            )

    @property
    def estimator(self) -> str:
        """The name that ``--estimator`` selects it by."""
        return self._core.estimator

    @property
    def nbytes(self) -> int:
        """Bytes of the oracle's file."""
        return self._core.nbytes

    def info(self) -> dict[str, Any]:
        """What ``oracle inspect`` shows; the keys depend on the estimator."""
        return self._core.info()

    def target_log_probs(
        self, tokens: Integers, *, start: int = 0, threads: int | None = None
    ) -> NDArray[np.float32]:
        """float32 [K, N − start]: ``[k, j]`` = ln p_k(tokens[start + j] | tokens[:start + j]).

        Tokens are of any integer type, NumPy's or torch's. Raises InputError for a token >= ``vocab_size`` or
        a ``start`` beyond the stream.
        """
        return self._core.target_log_probs(self._tokens(tokens), start, thread_count(threads))

    def log_probs(
        self, tokens: Integers, positions: Integers, *, threads: int | None = None
    ) -> NDArray[np.float32]:
        """float32 [K, M, V]: ``[k, m, v]`` = ln p_k(v | tokens[:positions[m]]); positions are in 0..=N.

        Raises InputError for a token >= ``vocab_size`` or a position outside the stream.
        """
        where = _positions(positions)
        return self._core.log_probs(self._tokens(tokens), where, thread_count(threads))

    def mixture(
        self,
        tokens: Integers,
        positions: Integers,
        weights: NDArray[np.floating[Any]],
        *,
        threads: int | None = None,
    ) -> NDArray[np.float32]:
        """float32 [M, V]: the *probabilities* ``[m, v]`` = Σ_k w_k p_k(v | tokens[:positions[m]]).

        ``weights`` are [K], or [K, M] for ones of each position's own; where they sum to 1 so does the row.
        The K rows are never made, which is what makes this many times faster than mixing ``log_probs``.
        Raises as ``log_probs`` does, TypeError for weights of another shape, and InputError for a weight
        that is negative or not finite.
        """
        where = _positions(positions)
        shares: NDArray[np.float32] = np.ascontiguousarray(weights).astype(np.float32, copy=False)
        return self._core.mixture(self._tokens(tokens), where, shares, thread_count(threads))

    def _tokens(self, tokens: Integers) -> NDArray[np.uint16]:
        # What is right already isn't looked through twice.
        if isinstance(tokens, np.ndarray) and tokens.dtype == np.uint16 and tokens.flags.c_contiguous:
            return cast("NDArray[np.uint16]", tokens)
        return token_array(tokens, self.vocab_size)

    def state(self, tokens: Integers) -> State:
        """The state after ``tokens``, which begin a stream. Raises InputError for one >= ``vocab_size``."""
        return State(tuple(token_array(tokens, self.vocab_size)[-self._context :].tolist()))

    def start(self) -> State:
        """The state where a document begins: after its document token."""
        return self.state([self.vocabulary.bos_id])

    def next(self, state: State, token: int) -> tuple[NDArray[np.float32], State]:
        """(float32 [K]: ln p of ``token`` by order, the state after it).

        The same as ``target_log_probs`` of the whole stream. Raises InputError for a token >= ``vocab_size``.

        >>> oracle = hybridlm.Oracle.from_file("oracle.ngsp")
        >>> state = oracle.start()
        >>> for token in [17, 42]:
        ...     log_probs, state = oracle.next(state, token)
        """
        tokens = token_array([*state.tokens, token], self.vocab_size)
        log_probs = self._core.target_log_probs(tokens, len(tokens) - 1, 1)[:, 0]
        return log_probs, State(tuple(tokens[-self._context :].tolist()))

    def top(self, state: State, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(int64 [k]: the likeliest next tokens by the highest order, float32 [k]: their ln p), likeliest
        first; of equally likely ones the lower id first. Raises InputError unless k is in 1 … V."""
        if not 1 <= k <= self.vocab_size:
            raise InputError(f"k must be 1 to {self.vocab_size}, not {k}")
        tokens = token_array(state.tokens, self.vocab_size)
        row = self._core.log_probs(tokens, np.array([len(tokens)]), 1)[-1, 0]
        best = np.argsort(-row, kind="stable")[:k]
        return best, row[best]

    def matched_orders(self, tokens: Integers, *, start: int = 0) -> NDArray[np.uint8]:
        """uint8 [N − start]: how many tokens the longest n-gram has that the oracle holds and that ends with
        ``tokens[start + j]``: the order that its probability rests on. KenLM calls it the n-gram length.

        A dense oracle has something in every row, so there it is always the highest. Raises InputError for a
        token >= ``vocab_size`` or a ``start`` beyond the stream.
        """
        return self._core.matched_orders(self._tokens(tokens), start)

    def perplexity(self, tokens: Integers) -> float:
        """exp of the mean nats of tokens[1:] by the highest order; the first token is context."""
        found = self._tokens(tokens)
        if len(found) < 2:
            raise InputError(f"{len(found)} tokens have no target: it takes at least two")
        log_probs = self._core.target_log_probs(found, 1, thread_count(None))[-1]
        return float(np.exp(-log_probs.mean(dtype=np.float64)))

    def save_arpa(self, path: str | os.PathLike[str]) -> None:
        """Writes the ARPA file of a sparse oracle, which KenLM and SRILM read: the same probabilities, to the
        rounding of their logarithms. Words are token ids, and ``<s>`` is the document token.

        Raises InputError for a dense oracle, OSError.
        """
        self._core.write_arpa(path)

    @property
    def _context(self) -> int:
        """Tokens before a target that its probability may depend on, at least one."""
        return max(1, max(self.orders) - 1)

    def tables(self, device: "torch.device | str" = "cpu") -> "OracleTables":
        """The same look-ups as a torch module on ``device``.

        Raises InputError unless the oracle is dense and PyTorch is there.
        """
        require_torch("an oracle's tables on a device")
        from hybridlm.oracle.device_tables import OracleTables

        return OracleTables(self._core, device)


def _positions(positions: Integers) -> NDArray[np.int64]:
    return np.ascontiguousarray(whole_numbers(positions, "positions"), np.int64)
