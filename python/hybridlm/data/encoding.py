"""Tokenizing batches of documents, here or in processes of their own; batches come back in order.

A process runs this module. It is told the tokenizer and then batch after batch on its stdin, and answers on
its stdout. A message is an array of parts: their number and their lengths in bytes, u64 each, then the parts.
"""

import json
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from hybridlm.data.tokenizer import Tokenizer
from hybridlm.data.unknown_characters import UnknownCharacters
from hybridlm.errors import InputError

_AHEAD = 2
"""Batches for each process that may be under way: one at work, one so that it need not wait."""
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class Encoded:
    """A batch's documents: their tokens one after the other, uint16 [n], and how many each has, int64
    [documents]; and what the tokenizer had no piece for."""

    tokens: NDArray[np.uint16]
    lengths: NDArray[np.int64]
    unknown: UnknownCharacters

    def documents(self) -> list[NDArray[np.uint16]]:
        return np.split(self.tokens, np.cumsum(self.lengths)[:-1])


def encode(tokenizer: Tokenizer, texts: Sequence[str], threads: int | None) -> Encoded:
    encoded = tokenizer.encode_batch(texts, threads)
    unknown = UnknownCharacters()
    unknown.add(tokenizer, texts, encoded)
    lengths = np.array([len(tokens) for tokens in encoded], np.int64)
    return Encoded(np.concatenate([np.empty(0, np.uint16), *encoded]), lengths, unknown)


class Encoder:
    """`encode` of batches, in the order in which they are given, in this process or in several others.

    A process tokenizes on one thread. Raises InputError where one of them ends before its work is done.
    """

    def __init__(self, tokenizer: Tokenizer, *, threads: int | None = None, processes: int = 1) -> None:
        if processes < 1:
            raise InputError(f"--processes is {processes}: it must be at least 1")
        self._tokenizer = tokenizer
        self._threads = threads
        self._most = _AHEAD * processes
        self._waiting: deque[Future[Encoded]] = deque()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._own = threading.local()
        # Each of these threads does nothing but wait for a process of its own.
        self._pool = None if processes == 1 else ThreadPoolExecutor(processes)

    def add(self, texts: Sequence[str]) -> Iterator[Encoded]:
        """Takes a batch; gives those that are done and those that must be before another is taken."""
        if self._pool is None:
            yield encode(self._tokenizer, texts, self._threads)
            return
        self._waiting.append(self._pool.submit(self._elsewhere, texts))
        while self._waiting and (len(self._waiting) >= self._most or self._waiting[0].done()):
            yield self._waiting.popleft().result()

    def finish(self) -> Iterator[Encoded]:
        """The rest."""
        while self._waiting:
            yield self._waiting.popleft().result()

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        self._waiting.clear()
        if self._pool is not None:
            for process in self._processes:
                process.kill()
            self._pool.shutdown(cancel_futures=True)
            for process in self._processes:
                process.communicate()

    def _elsewhere(self, texts: Sequence[str]) -> Encoded:
        """`encode`, in this thread's process."""
        try:
            process = getattr(self._own, "process", None) or self._start()
            _write(process.stdin, [text.encode("utf-8", "surrogatepass") for text in texts])
            tokens, lengths, unknown = _read(process.stdout)
        except (EOFError, BrokenPipeError):
            raise InputError(
                "a process that tokenizes has ended before its work was done, perhaps for lack of memory: "
                "use fewer --processes"
            ) from None
        counted = UnknownCharacters()
        counted.tokens, counted.total, counts = json.loads(unknown)
        counted.counts.update(counts)
        return Encoded(np.frombuffer(tokens, "<u2"), np.frombuffer(lengths, "<i8"), counted)

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._processes.append(process)
        self._own.process = process
        tokenizer = self._tokenizer
        _write(process.stdin, [tokenizer.data, tokenizer.name.encode(), str(tokenizer.bos_id).encode()])
        return process


def _write(to: IO[bytes] | None, parts: Sequence[bytes]) -> None:
    assert to is not None
    to.write(struct.pack(f"<{1 + len(parts)}Q", len(parts), *map(len, parts)))
    to.writelines(parts)
    to.flush()


def _read(source: IO[bytes] | None) -> list[bytes]:
    """Raises EOFError where there is no other message."""
    assert source is not None
    (count,) = _U64.unpack(_exactly(source, _U64.size))
    lengths = struct.unpack(f"<{count}Q", _exactly(source, count * _U64.size))
    return [_exactly(source, length) for length in lengths]


def _exactly(source: IO[bytes], count: int) -> bytes:
    data = source.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _serve(source: IO[bytes], to: IO[bytes]) -> None:
    """A process that tokenizes, until nothing more comes."""
    model, name, bos_id = _read(source)
    tokenizer = Tokenizer(model, name.decode(), int(bos_id))
    while True:
        try:
            texts = [text.decode("utf-8", "surrogatepass") for text in _read(source)]
        except EOFError:
            return
        encoded = encode(tokenizer, texts, threads=1)
        unknown = encoded.unknown
        counted = json.dumps([unknown.tokens, unknown.total, unknown.counts]).encode()
        _write(to, [encoded.tokens.astype("<u2").tobytes(), encoded.lengths.astype("<i8").tobytes(), counted])


if __name__ == "__main__":
    # Ctrl-C reaches every process of a terminal; the one that was started says what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(sys.stdin.buffer, sys.stdout.buffer)
