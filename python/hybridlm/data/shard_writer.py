"""Writing documents as the token shards of a data folder, each with a sidecar that says what made it."""

import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.data.documents import Document, Split
from hybridlm.data.encoding import Encoded, Encoder
from hybridlm.data.sidecar import sidecar_path, write_sidecar
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.data.unknown_characters import UnknownCharacters
from hybridlm.errors import InputError
from hybridlm.files import exclusive, naming, scratch_folder

DEFAULT_SHARD_TOKENS = 10_000_000
MAX_SHARD_TOKENS = 2**31 - 1
"""The header's count is an int32."""

# Enough text for all threads to have work, little enough to be held several times over.
_BATCH_CHARACTERS = 4_000_000


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
    Beside each goes a sidecar that names the tokenizer, and the ``source`` that is given here.
    They gather in a hidden folder inside ``folder`` and are moved into place when the block ends; an
    exception, Ctrl-C among them, leaves ``folder`` as it was.

    Documents are tokenized on ``threads`` threads, or in ``processes``; the bytes depend on neither.
    ``unknown`` counts what the tokenizer has no piece for.

    Raises InputError for an impossible ``name`` or ``shard_tokens``, when shards of that name are there
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
        processes: int = 1,
        source: Mapping[str, Any] | None = None,
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
        self.unknown = UnknownCharacters()
        self.source = dict(source or {})
        self.summaries: list[ShardSummary] = []
        """The shards in place, training first; filled when the block ends."""

        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: not a folder")
        self._replace = replace
        self._old = self._already_there()
        self._folder_is_new = not self.folder.exists()
        self._encoder = Encoder(tokenizer, threads=threads, processes=processes)
        self._waiting: list[tuple[Split, str]] = []
        self._waiting_characters = 0
        self._splits: deque[list[Split]] = deque()
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
        with ExitStack() as leave:
            leave.callback(self._encoder.close)
            leave.enter_context(exclusive(self.folder, folder=True))
            # Another process may have been at work here until now.
            self._old = self._already_there()
            self._staging = leave.enter_context(scratch_folder(self.folder))
            self._leave = leave.pop_all()
        return self

    def _already_there(self) -> list[Path]:
        """The shards of this name, by split. Raises InputError unless they may be replaced."""
        old = sorted(self.folder.glob(f"{self.name}_train_??????.bin"))
        old += sorted(self.folder.glob(f"{self.name}_val_??????.bin"))
        if old and not self._replace:
            raise InputError(f"{old[0]} is there already; --force replaces the shards of that name")
        return old

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._encode()
                self._take(self._encoder.finish())
                for split in self._open:
                    self._close_shard(split)
                if not self._staged:
                    raise InputError("no document has any tokens, so there is nothing to write")
                if not self.allow_unknown:
                    self.unknown.refuse()
                self._publish()
        finally:
            self._leave.close()
            if self._folder_is_new and not self.summaries:
                self.folder.rmdir()

    def _encode(self) -> None:
        if self._waiting:
            self._splits.append([split for split, _ in self._waiting])
            texts = [text for _, text in self._waiting]
            self._waiting.clear()
            self._waiting_characters = 0
            self._take(self._encoder.add(texts))

    def _take(self, batches: Iterable[Encoded]) -> None:
        for batch in batches:
            self.unknown.merge(batch.unknown)
            for split, tokens in zip(self._splits.popleft(), batch.documents(), strict=True):
                if len(tokens):
                    self._append(split, tokens)

    def _append(self, split: Split, tokens: NDArray[np.uint16]) -> None:
        length = 1 + len(tokens)
        if length > MAX_SHARD_TOKENS:
            raise InputError(f"a document of {length} tokens is longer than a shard can be")
        if self._open[split] and self._open_tokens[split] + length > self.shard_tokens:
            self._close_shard(split)
        self._open[split].append(np.concatenate([np.array([self.tokenizer.bos_id], np.uint16), tokens]))
        self._open_tokens[split] += length

    def _close_shard(self, split: Split) -> None:
        documents = self._open[split]
        if not documents:
            return
        index = sum(staged.split == split for staged in self._staged)
        path = self._staging / f"{self.name}_{split}_{index:06d}.bin"
        tokens = np.concatenate(documents)
        source = {"split": split, "shard_tokens": self.shard_tokens, **self.source}
        with naming(self.folder / path.name):
            write_shard(path, tokens, self.tokenizer, source=source)
        self._staged.append(ShardSummary(path, split, len(tokens), len(documents)))
        documents.clear()
        self._open_tokens[split] = 0

    def _publish(self) -> None:
        for path in self._old:
            path.unlink()
            sidecar_path(path).unlink(missing_ok=True)
        for staged in sorted(self._staged, key=lambda staged: staged.path.name):
            final = self.folder / staged.path.name
            # First, so that no moment sees a shard whose sidecar is another's.
            with naming(final):
                sidecar_path(staged.path).replace(sidecar_path(final))
                staged.path.replace(final)
            self.summaries.append(ShardSummary(final, staged.split, staged.tokens, staged.documents))


def write_shard(
    path: str | os.PathLike[str],
    tokens: NDArray[np.uint16],
    tokenizer: Tokenizer | None = None,
    *,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Writes tokens [n] as one shard and, where their tokenizer is given, the sidecar that names it.

    ``source`` is kept in the sidecar: what the tokens were made from. Raises InputError for more tokens than
    a shard can hold or for ids outside the tokenizer's vocabulary, OSError.

    >>> tokenizer = hybridlm.Tokenizer.load("tok.model")
    >>> document = np.append(np.uint16(tokenizer.bos_id), tokenizer.encode("a document of its own"))
    >>> hybridlm.write_shard("mine.bin", document, tokenizer)
    >>> tokenizer.decode(hybridlm.read_stream(["mine.bin"]))
    'a document of its own'
    """
    path = Path(path)
    text_bytes = 0 if tokenizer is None else int(tokenizer.byte_table.counter().lengths(tokens).sum())
    # Without a sidecar for as long as it would be that of an earlier shard.
    sidecar_path(path).unlink(missing_ok=True)
    _core.write_shard(os.fspath(path), tokens)
    if tokenizer is None:
        return
    write_sidecar(path, tokens, tokenizer.vocabulary, text_bytes=text_bytes, source=source)


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
    source: Mapping[str, Any] | None = None,
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
        source=source,
    ) as writer:
        for document in train:
            writer.add("train", document.text)
        for document in val:
            writer.add("val", document.text)
    return writer.summaries
