"""KenLM's models of a stream of tokens, which are words to it, and what they make of another stream."""

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.data.tokenizer import BOS

Tokens = NDArray[np.uint16]


class KenLM:
    """KenLM's models of one text, one at a time: modified Kneser-Ney of ``order`` words, a document a line.

    Files are written to ``folder``; ``lmplz`` and ``build_binary`` are the programs. Raises SystemExit with
    what a program says where it fails.
    """

    def __init__(self, folder: Path, train: Tokens, order: int, lmplz: str, build_binary: str) -> None:
        self.arpa = folder / "arpa"
        self._folder, self._order = folder, order
        self._lmplz, self._build_binary = lmplz, build_binary
        with (folder / "train.txt").open("w") as file:
            file.writelines(line + "\n" for line in documents(train))

    def estimate(self, pruning: str = "") -> None:
        """Writes ``arpa``; ``pruning`` as lmplz takes it, counts by order, or "" for none."""
        command = [self._lmplz, "-o", str(self._order), "-S", "1G", "-T", str(self._folder)]
        prune = ["--prune", *pruning.split()] if pruning else []
        started = time.perf_counter()
        with (self._folder / "train.txt").open() as text, self.arpa.open("w") as arpa:
            done = subprocess.run(
                [*command, *prune], stdin=text, stdout=arpa, stderr=subprocess.PIPE, text=True, check=False
            )
        _check("lmplz", done)
        print(f"lmplz {pruning}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)

    def trie(self) -> Path:
        """The last estimate as a quantised trie."""
        path = self._folder / "trie"
        quantised = ["-q", "8", "-b", "8", "-a", "22", "-T", str(self._folder)]
        done = subprocess.run(
            [self._build_binary, *quantised, "trie", str(self.arpa), str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        _check("build_binary", done)
        return path


def kenlm_bits(model: Any, stream: Tokens) -> tuple[float, int]:
    """Of a ``kenlm.Model``: bits of a stream, and how many of its tokens the model doesn't know.

    Events are the tokens of every document and its end. The stream begins with BOS, as each document does;
    what follows the last BOS is no document.
    """
    total, events, unknown = 0.0, 0, 0
    for line in documents(stream)[:-1]:
        for log10, _length, is_unknown in model.full_scores(line):
            total -= log10
            events += 1
            unknown += is_unknown
    if events != len(stream) - 1:
        raise ValueError(f"KenLM scored {events} events, not the same {len(stream) - 1}")
    return total * math.log2(10), unknown


def documents(stream: Tokens) -> list[str]:
    """Each document's tokens as words."""
    parts = np.split(stream, np.flatnonzero(stream == BOS))
    return [" ".join(map(str, part[1:])) for part in parts if len(part)]


def _check(program: str, done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise SystemExit(f"{program} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
