"""Token shards: finding them, reading them as one stream, writing a data folder.

A shard is a header of 256 little-endian int32 ``[20240520, 1, n, 0...]`` and n little-endian uint16 tokens;
the file is exactly 1024 + 2n bytes. Documents start with BOS (id 1) and follow each other. A data folder
holds ``NAME_train_000000.bin``, ... and ``NAME_val_000000.bin``, ...
"""

import glob
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.data.documents import Document, Split
from hybridlm.data.tokenizer import BOS, Tokenizer
from hybridlm.data.unknown_characters import UnknownCharacters
from hybridlm.errors import InputError

DEFAULT_SHARD_TOKENS = 10_000_000
MAX_SHARD_TOKENS = 2**31 - 1
"""The header's count is an int32."""

# Enough text for all threads to have work, little enough to be held several times over.
_BATCH_CHARACTERS = 4_000_000

# How much of a shard is looked at in one go.
_PART_TOKENS = 1 << 22

_SHARD_NAME = re.compile(r".*_(train|val)_.*\.bin")


def expand(pattern: str | os.PathLike[str]) -> list[Path]:
    """The files that a glob matches, sorted by name. Raises InputError naming the glob if there is none.

    A path that exists is itself, whatever characters it has.
    """
    pattern = os.fspath(pattern)
    if Path(pattern).exists():
        return [Path(pattern)]
    if found := sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute pattern
        return [Path(path) for path in found]
    if glob.has_magic(pattern):
        raise InputError(f"{pattern}: no file matches")
    raise InputError(f"{pattern}: no such file")


def data_folder(folder: str | os.PathLike[str]) -> tuple[list[Path], list[Path]]:
    """(train, validation) shards of a data folder, each sorted by name.

    Raises InputError when the folder or either kind is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: dict[str, list[Path]] = {"train": [], "val": []}
    for path in sorted(folder.iterdir()):
        # Greedy, so that "x_train_val_000.bin" is for validation alone.
        if match := _SHARD_NAME.fullmatch(path.name):
            found[match[1]].append(path)
    for kind, paths in found.items():
        if not paths:
            raise InputError(f"{folder}: no shards named *_{kind}_*.bin; `hybridlm data shard` makes them")
    return found["train"], found["val"]


def read_stream(
    paths: Iterable[str | os.PathLike[str]], vocab_size: int | None = None, max_tokens: int | None = None
) -> NDArray[np.uint16]:
    """uint16 [N]: the tokens of all shards, one after the other, at most the first ``max_tokens``.

    Raises FormatError naming file and offset for a foreign, truncated or altered shard, or for an id that is
    not below ``vocab_size``; InputError if there is no token at all.
    """
    names = [os.fspath(path) for path in paths]
    sizes = [_core.shard_tokens(name) for name in names]
    total = sum(sizes) if max_tokens is None else min(sum(sizes), max_tokens)
    if total < 1:
        raise InputError(f"no tokens in {', '.join(names) or 'no shards'}")
    stream = np.empty(total, np.uint16)
    filled = 0
    for name, size in zip(names, sizes, strict=True):
        count = min(size, total - filled)
        stream[filled : filled + count] = _core.read_shard(name, 0, count, vocab_size)
        filled += count
    return stream


@dataclass(frozen=True)
class ShardSummary:
    path: Path
    split: Split
    tokens: int
    documents: int


class DataFolderWriter:
    """Writes a data folder's shards from documents as they come; a context manager.

    Shards are cut between documents: one is closed before the document that would take it past
    ``shard_tokens``, so every shard begins with BOS and only a single longer document makes a longer shard.
    They gather in a hidden folder inside ``folder`` and are moved into place when the block ends; an
    exception, Ctrl-C among them, leaves ``folder`` as it was.

    ``unknown`` counts what the tokenizer has no piece for.

    Raises InputError for a ``name`` or ``shard_tokens`` that can't be, when shards of that name are there
    already (unless ``replace``), and at the end where no document has tokens or too much is unknown (unless
    ``allow_unknown``); OSError where the folder can't be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        tokenizer: Tokenizer,
        *,
        name: str = "text",
        shard_tokens: int = DEFAULT_SHARD_TOKENS,
        replace: bool = False,
        allow_unknown: bool = False,
        threads: int | None = None,
    ) -> None:
        if not re.fullmatch(r"[\w.-]+", name) or re.search(r"_(train|val)(_|$)", name) or name[0] in ".-":
            raise InputError(
                f"{name!r} can't name shards: use letters, digits, dots, dashes and underscores, "
                'and neither "_train" nor "_val"'
            )
        if not 1 <= shard_tokens <= MAX_SHARD_TOKENS:
            raise InputError(f"a shard must have 1 to {MAX_SHARD_TOKENS} tokens, not {shard_tokens}")
        self.folder = Path(folder)
        self.tokenizer = tokenizer
        self.name = name
        self.shard_tokens = shard_tokens
        self.allow_unknown = allow_unknown
        self.unknown = UnknownCharacters(tokenizer)
        self.threads = threads
        self.summaries: list[ShardSummary] = []
        """The shards in place, training first; filled when the block ends."""

        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: not a folder")
        self._old = sorted(self.folder.glob(f"{name}_train_??????.bin"))
        self._old += sorted(self.folder.glob(f"{name}_val_??????.bin"))
        if self._old and not replace:
            raise InputError(f"{self._old[0]} is there already; --force replaces the shards of that name")
        self._folder_is_new = not self.folder.exists()
        self._waiting: list[tuple[Split, str]] = []
        self._waiting_characters = 0
        self._open: dict[Split, list[NDArray[np.uint16]]] = {"train": [], "val": []}
        self._open_tokens: Counter[Split] = Counter()
        self._staged: list[ShardSummary] = []

    def add(self, split: Split, text: str) -> None:
        self._waiting.append((split, text))
        self._waiting_characters += len(text)
        if self._waiting_characters >= _BATCH_CHARACTERS:
            self._encode()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._staging = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{self.name}.", suffix=".part"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._encode()
                for split in self._open:
                    self._close_shard(split)
                if not self._staged:
                    raise InputError("no document has any tokens, so there is nothing to write")
                if not self.allow_unknown:
                    self.unknown.refuse()
                self._publish()
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
            if self._folder_is_new and not self.summaries:
                self.folder.rmdir()

    def _encode(self) -> None:
        texts = [text for _, text in self._waiting]
        encoded = self.tokenizer.encode_batch(texts, self.threads) if texts else []
        self.unknown.add(texts, encoded)
        for (split, _), tokens in zip(self._waiting, encoded, strict=True):
            if len(tokens):
                self._append(split, tokens)
        self._waiting.clear()
        self._waiting_characters = 0

    def _append(self, split: Split, tokens: NDArray[np.uint16]) -> None:
        length = 1 + len(tokens)
        if length > MAX_SHARD_TOKENS:
            raise InputError(f"a document of {length} tokens is longer than a shard can be")
        if self._open[split] and self._open_tokens[split] + length > self.shard_tokens:
            self._close_shard(split)
        self._open[split].append(np.concatenate([np.array([BOS], np.uint16), tokens]))
        self._open_tokens[split] += length

    def _close_shard(self, split: Split) -> None:
        documents = self._open[split]
        if not documents:
            return
        index = sum(staged.split == split for staged in self._staged)
        path = self._staging / f"{self.name}_{split}_{index:06d}.bin"
        tokens = np.concatenate(documents)
        _core.write_shard(os.fspath(path), tokens)
        self._staged.append(ShardSummary(path, split, len(tokens), len(documents)))
        documents.clear()
        self._open_tokens[split] = 0

    def _publish(self) -> None:
        for path in self._old:
            path.unlink()
        for staged in sorted(self._staged, key=lambda staged: staged.path.name):
            final = self.folder / staged.path.name
            staged.path.replace(final)
            self.summaries.append(ShardSummary(final, staged.split, staged.tokens, staged.documents))


def write_shards(
    train: Iterable[Document],
    val: Iterable[Document],
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    *,
    name: str = "text",
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    replace: bool = False,
    allow_unknown: bool = False,
    threads: int | None = None,
) -> list[ShardSummary]:
    """Write both splits as the shards of a data folder; see DataFolderWriter for how and what it raises."""
    with DataFolderWriter(
        folder,
        tokenizer,
        name=name,
        shard_tokens=shard_tokens,
        replace=replace,
        allow_unknown=allow_unknown,
        threads=threads,
    ) as writer:
        for document in train:
            writer.add("train", document.text)
        for document in val:
            writer.add("val", document.text)
    return writer.summaries


@dataclass(frozen=True)
class ShardContents:
    """What is in a shard. ``text_bytes`` is None without a tokenizer."""

    tokens: int
    documents: int
    distinct_ids: int
    max_id: int
    text_bytes: int | None


def examine(path: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> ShardContents:
    """Count what is in a shard, a part at a time. Raises as ``read_stream`` does.

    ``text_bytes`` are those of all tokens, the shard's first being the start of a text.
    """
    name = os.fspath(path)
    size = _core.shard_tokens(name)
    vocab_size = None if tokenizer is None else tokenizer.vocab_size
    counts = np.zeros(1 << 16, np.int64)
    text_bytes = 0

    for start in range(0, size, _PART_TOKENS):
        before = min(start, 1)
        tokens = _core.read_shard(name, start - before, min(_PART_TOKENS, size - start) + before, vocab_size)
        counts += np.bincount(tokens[before:], minlength=len(counts))
        if tokenizer is not None:
            text_bytes += int(tokenizer.byte_table.lengths(tokens, before).sum())
    used = np.flatnonzero(counts)
    return ShardContents(
        tokens=size,
        documents=int(counts[BOS]),
        distinct_ids=len(used),
        max_id=int(used[-1]) if len(used) else -1,
        text_bytes=text_bytes if tokenizer is not None else None,
    )


def beginnings(
    path: str | os.PathLike[str], tokenizer: Tokenizer, documents: int = 3, tokens: int = 60
) -> list[str]:
    """The decoded first ``tokens`` tokens of a shard's first documents; fewer if they start far behind."""
    name = os.fspath(path)
    stream = _core.read_shard(name, 0, min(_core.shard_tokens(name), 1 << 16), tokenizer.vocab_size)
    parts = np.split(stream, np.flatnonzero(stream == BOS))
    return [tokenizer.decode(part[:tokens]) for part in parts if len(part)][:documents]


def total_tokens(summaries: Sequence[ShardSummary], split: Split) -> int:
    return sum(summary.tokens for summary in summaries if summary.split == split)
