"""Token shards: finding them, reading them as one stream, looking into them.

A shard is a header of 256 little-endian int32 ``[20240520, 1, n, 0...]`` and n little-endian uint16 tokens;
the file is exactly 1024 + 2n bytes. Documents start with BOS and follow each other. A data folder holds
``NAME_train_000000.bin``, ... and ``NAME_val_000000.bin``, ...
"""

import glob
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.arguments import check_kind
from hybridlm.data.pieces import Kind
from hybridlm.data.sidecar import SUFFIX, Sidecar, sidecar_path
from hybridlm.data.vocabulary import DEFAULT_BOS, DEFAULT_SIZE, Vocabulary
from hybridlm.errors import InputError
from hybridlm.files import open_to_read

if TYPE_CHECKING:
    from hybridlm.data.tokenizer import Tokenizer

log = logging.getLogger("hybridlm.data")

# How much of a shard is looked at in one go.
_PART_TOKENS = 1 << 22

_SHARD_NAME = re.compile(r".*_(train|val)_.*\.bin")


def expand(pattern: str | os.PathLike[str]) -> list[Path]:
    """The files that a glob matches, sorted by name. Raises InputError naming the glob if there is none, and
    for a folder.

    A path that exists is itself, whatever characters it has. ``**`` doesn't follow links to folders, which
    may lead back to where they are; nothing hidden is matched unless the pattern names it, and no sidecar.
    """
    pattern = os.fspath(pattern)
    if Path(pattern).is_dir():
        raise InputError(
            f"{pattern}: is a folder; name the shards in it, as in '{Path(pattern) / '*_train_*.bin'}' or "
            f"'{Path(pattern) / '*_val_*.bin'}'"
        )
    if Path(pattern).exists():
        return [Path(pattern)]
    if not glob.has_magic(pattern):
        raise InputError(f"{pattern}: no such file")
    # Path.glob takes relative patterns only.
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    asked_for = {part for part in parts if part.startswith(".")}
    try:
        matches = list(base.glob(str(Path(*parts[fixed:]))))
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"{pattern}: not a glob: {error}") from None
    found = [
        path
        for path in matches
        if not path.name.endswith(f".bin{SUFFIX}")
        and not any(part.startswith(".") and part not in asked_for for part in path.relative_to(base).parts)
    ]
    if not found:
        raise InputError(f"{pattern}: no file matches")
    return sorted(found)


def data_folder(folder: str | os.PathLike[str]) -> tuple[list[Path], list[Path]]:
    """(train, validation) shards of a data folder, each sorted by name.

    Raises InputError when the folder or either kind is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        fault = "not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {fault}; `hybridlm data shard` makes a folder of shards from text")
    found: dict[str, list[Path]] = {"train": [], "val": []}
    for path in sorted(folder.iterdir()):
        # Greedy, so that "x_train_val_000.bin" is for validation alone.
        if match := _SHARD_NAME.fullmatch(path.name):
            found[match[1]].append(path)
    for kind, paths in found.items():
        if not paths:
            raise InputError(f"{folder}: no shards named *_{kind}_*.bin; `hybridlm data shard` makes them")
    return found["train"], found["val"]


def is_validation_shard(path: str | os.PathLike[str]) -> bool:
    """Whether a shard is one for validation, by its sidecar or else by its name."""
    return _split_of(path) == "val"


def _split_of(path: str | os.PathLike[str]) -> str | None:
    """``train`` or ``val``, as the shard's sidecar says, or else its name."""
    sidecar = Sidecar.beside(path)
    if sidecar is not None and sidecar.source.get("split") in ("train", "val"):
        return str(sidecar.source["split"])
    match = _SHARD_NAME.fullmatch(Path(path).name)
    return None if match is None else match[1]


@dataclass(frozen=True)
class ShardHead:
    """A shard whose header has been read: the name it was given by, and how many tokens it has."""

    path: str
    tokens: int


@dataclass(frozen=True)
class ShardRecord(ShardHead):
    """A shard that has been read to its end: also the SHA-256 of its file."""

    sha256: str

    @classmethod
    def of(cls, path: str) -> Self:
        """Raises FormatError or OSError."""
        tokens = _core.shard_tokens(path)
        with open_to_read(path) as file:
            return cls(path, tokens, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Stream:
    """Shards read as one stream.

    Attributes:
        tokens: uint16 [N].
        vocabulary: what the ids mean: as asked for, and as the shards' sidecars say.
        shards: all that were given, in order, the last of them perhaps read in part or not at all.
        repeated_tokens: how many of the tokens are those of documents that are exact copies of earlier ones.

    >>> tokenizer = hybridlm.Tokenizer.load("tok.model")
    >>> stream = hybridlm.open_stream(["data/text_val_000000.bin"], tokenizer.vocabulary)
    >>> [shard.path for shard in stream.shards], stream.repeated_tokens
    (['data/text_val_000000.bin'], 0)
    """

    tokens: NDArray[np.uint16]
    vocabulary: Vocabulary
    shards: tuple[ShardRecord, ...]
    repeated_tokens: int

    def __len__(self) -> int:
        return len(self.tokens)


def open_stream(
    paths: Iterable[str | os.PathLike[str]], vocabulary: Vocabulary, *, max_tokens: int | None = None
) -> Stream:
    """The tokens of all shards, one after the other, at most the first ``max_tokens``.

    Every shard's whole file is hashed. Raises FormatError naming file and offset for a foreign, truncated or
    altered shard, or for an id that is not below the vocabulary's size; InputError where a shard is given
    twice (by content, whatever its name), where a sidecar says that another tokenizer made it, and where
    there is no token at all. What can't be known is a warning: shards without a sidecar, a document token
    that begins nothing, a text that repeats itself.

    >>> tokenizer = hybridlm.Tokenizer.load("tok.model")
    >>> stream = hybridlm.open_stream(["data/text_val_000000.bin"], tokenizer.vocabulary, max_tokens=100)
    >>> len(stream), int(stream.tokens[0]) == tokenizer.bos_id
    (100, True)
    """
    check_kind(vocabulary, Vocabulary, "vocabulary")
    names = _names(paths, "open_stream")
    records = inspect_shards(names)
    vocabulary = known_vocabulary(
        records, size=vocabulary.size, bos_id=vocabulary.bos_id, fingerprint=vocabulary.fingerprint
    )
    for record in records:
        refuse_foreign(record, vocabulary.size)
    stream = _read(names, [record.tokens for record in records], vocabulary.size, max_tokens)
    if training := [name for name in names if _split_of(name) == "train"]:
        log.warning(
            "%s: training text, by name or sidecar: what is scored on it says nothing about new text",
            _and_others(training),
        )
    if stream[0] != vocabulary.bos_id:
        log.warning(
            "%s: begins with token %d, but documents are said to begin with token %d%s",
            names[0],
            stream[0],
            vocabulary.bos_id,
            "" if (stream == vocabulary.bos_id).any() else ", which occurs nowhere",
        )
    repeated = _repeated_tokens(stream, vocabulary.bos_id)
    if repeated > WARNED_SHARE * len(stream):
        log.warning(
            "%s: %.0f%% of the tokens are in documents that are exact copies of earlier ones of the stream, "
            "which experts that learn as they read predict for next to nothing",
            _and_others(names),
            100 * repeated / len(stream),
        )
    return Stream(stream, vocabulary, tuple(records), repeated)


WARNED_SHARE = 0.1
"""Of a stream in repeated documents."""


def read_stream(
    paths: Iterable[str | os.PathLike[str]], vocab_size: int | None = None, max_tokens: int | None = None
) -> NDArray[np.uint16]:
    """uint16 [N]: the tokens of `open_stream`, without a tokenizer to check the shards against.

    Raises as that does; without a ``vocab_size`` every id is taken.

    >>> hybridlm.read_stream(["data/text_val_000000.bin"], max_tokens=100).shape
    (100,)
    """
    names = _names(paths, "read_stream")
    return _read(names, [record.tokens for record in inspect_shards(names)], vocab_size, max_tokens)


def _names(paths: Iterable[str | os.PathLike[str]], function: str) -> list[str]:
    if isinstance(paths, str | os.PathLike):
        raise TypeError(f"{function} takes a list of shards: give [{os.fspath(paths)!r}]")
    return [os.fspath(path) for path in paths]


def _read(
    names: Sequence[str], sizes: Sequence[int], vocab_size: int | None, max_tokens: int | None
) -> NDArray[np.uint16]:
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


def inspect_shards(names: Sequence[str]) -> list[ShardRecord]:
    """Size and hash of each shard. Raises FormatError, OSError, or InputError for one that is given twice."""
    records = [ShardRecord.of(name) for name in names]
    refuse_repeated(records)
    return records


def refuse_repeated(records: Sequence[ShardRecord]) -> None:
    """Raises InputError for a shard that has tokens and another one's content."""
    seen: dict[str, str] = {}
    for record in records:
        if record.tokens and record.sha256 in seen:
            raise InputError(
                f"{record.path}: has the same content as {seen[record.sha256]}: text that is scored or "
                "trained on twice makes numbers that mean something else; give each shard once"
            )
        seen[record.sha256] = record.path


_GPT2_DOCUMENT_TOKEN = 50256
_GPT2_SIZE = 50257


def refuse_foreign(shard: ShardHead, vocab_size: int) -> None:
    """Raises InputError for a shard of GPT-2's tokens where the vocabulary is a smaller one.

    They come in files of the same layout, with <|endoftext|>, 50256, where each document begins; the token
    that is out of range would be named in any case, but not what it means.
    """
    if vocab_size >= _GPT2_SIZE or not shard.tokens:
        return
    if _core.read_shard(shard.path, 0, 1)[0] == _GPT2_DOCUMENT_TOKEN:
        raise InputError(
            f"{shard.path}: begins with token {_GPT2_DOCUMENT_TOKEN}: these are GPT-2's tokens (a vocabulary "
            f"of {_GPT2_SIZE}), but the vocabulary here has {vocab_size}: give GPT-2's tokenizer.json as "
            "--tokenizer, or shards of the tokenizer given"
        )


def known_vocabulary(
    shards: Sequence[ShardHead],
    *,
    size: int | None = None,
    bos_id: int | None = None,
    fingerprint: str | None = None,
    default_bos: int | None = None,
) -> Vocabulary:
    """What the ids of these shards mean: what is given, and for the rest what their sidecars say.

    Where neither knows, the size is `DEFAULT_SIZE`, and documents begin with ``default_bos``, or with 1 if
    all shards do. Raises InputError where a sidecar says otherwise than what is given or than another
    sidecar, and where nothing says what documents begin with.
    """
    most = 1 << 16 if size is None else size
    if bos_id is not None and not 0 <= bos_id < most:
        raise InputError(f"document token {bos_id} is outside the vocabulary of {most} tokens")
    known: dict[str, tuple[Any, str]] = {}
    for field, value in (("fingerprint", fingerprint), ("size", size), ("bos_id", bos_id)):
        if value is not None:
            known[field] = value, "what is given"
    silent = []
    for shard in shards:
        sidecar = Sidecar.beside(shard.path)
        if sidecar is None:
            silent.append(shard.path)
            continue
        sidecar.check(shard.path, shard.tokens, shard.sha256 if isinstance(shard, ShardRecord) else None)
        for field, words in _FIELDS.items():
            found = getattr(sidecar.vocabulary, field)
            value, said_by = known.setdefault(field, (found, sidecar_path(shard.path).name))
            if value != found:
                raise InputError(
                    f"{shard.path}: made with another tokenizer: its {words} is {found}, but by {said_by} "
                    f"it is {value}"
                )
    if silent and "fingerprint" in known:
        log.warning(
            "%s: no sidecar says which tokenizer made %s: what follows is right only if it was %s",
            _and_others(silent),
            "this shard" if len(silent) == 1 else "these shards",
            "that of the other shards" if fingerprint is None else "the one given",
        )
    if "bos_id" not in known and default_bos is not None:
        known["bos_id"] = default_bos, ""
    if "bos_id" not in known:
        for path in silent:
            first = _core.read_shard(path, 0, min(1, _core.shard_tokens(path)))
            if len(first) and first[0] != DEFAULT_BOS:
                raise InputError(
                    f"{path}: begins with token {first[0]}, not with {DEFAULT_BOS}"
                    f"{', as GPT-2 shards do' if first[0] == _GPT2_DOCUMENT_TOKEN else ''}: say which token "
                    f"documents begin with, by --bos-id {first[0]} if it is this one"
                )
    return Vocabulary(
        size=known.get("size", (DEFAULT_SIZE, ""))[0],
        bos_id=known.get("bos_id", (DEFAULT_BOS, ""))[0],
        fingerprint=known.get("fingerprint", (None, ""))[0],
    )


_FIELDS = {
    "size": "vocabulary's size",
    "fingerprint": "SHA-256",
    "bos_id": "document token",
}


def _and_others(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _repeated_tokens(stream: NDArray[np.uint16], bos_id: int) -> int:
    """Tokens in documents of which an exact copy came before."""
    starts = np.flatnonzero(stream == bos_id)
    if not len(starts):
        return 0
    seen: set[bytes] = set()
    repeated = 0
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(stream)], strict=True):
        digest = hashlib.blake2b(stream[start:end].tobytes(), digest_size=16).digest()
        if digest in seen:
            repeated += end - start
        seen.add(digest)
    return repeated


@dataclass(frozen=True)
class ShardContents:
    """What is in a shard. ``text_bytes`` is None without a tokenizer.

    warnings: what makes it doubtful that the shard is what it should be.
    """

    tokens: int
    documents: int
    distinct_ids: int
    max_id: int
    text_bytes: int | None
    warnings: tuple[str, ...]


def examine(
    path: str | os.PathLike[str], tokenizer: "Tokenizer | None" = None, bos_id: int = DEFAULT_BOS
) -> ShardContents:
    """Count what is in a shard, a part at a time. Raises as ``open_stream`` does.

    ``text_bytes`` are those of all tokens, the shard's first being the start of a text. ``bos_id`` is what
    documents begin with where there is no tokenizer to say it.
    """
    name = os.fspath(path)
    if tokenizer is not None:
        bos_id = tokenizer.bos_id
    size = _core.shard_tokens(name)
    vocab_size = None if tokenizer is None else tokenizer.vocab_size
    counts = np.zeros(1 << 16, np.int64)
    counter = None if tokenizer is None else tokenizer.byte_table.counter()
    text_bytes = 0
    for start in range(0, size, _PART_TOKENS):
        tokens = _core.read_shard(name, start, min(_PART_TOKENS, size - start), vocab_size)
        counts += np.bincount(tokens, minlength=len(counts))
        if counter is not None:
            text_bytes += int(counter.lengths(tokens).sum())
    used = np.flatnonzero(counts)
    return ShardContents(
        tokens=size,
        documents=int(counts[bos_id]),
        distinct_ids=len(used),
        max_id=int(used[-1]) if len(used) else -1,
        text_bytes=text_bytes if tokenizer is not None else None,
        warnings=tuple(_doubts(name, counts, bos_id, tokenizer)),
    )


def _doubts(
    name: str, counts: NDArray[np.int64], bos_id: int, tokenizer: "Tokenizer | None"
) -> Iterator[str]:
    size = int(counts.sum())
    if size and not counts[bos_id]:
        yield (
            f"the document token {bos_id} occurs nowhere: contexts will reach from one document into the "
            "next; --bos-id says which token documents begin with"
        )
    elif size and (first := int(_core.read_shard(name, 0, 1)[0])) != bos_id:
        yield f"begins with token {first}, not with the document token {bos_id}"
    if tokenizer is None:
        return
    pieces = tokenizer.pieces
    if not any(piece.kind is Kind.TEXT and piece.whole == b" " for piece in pieces) and not any(
        piece.kind is Kind.BYTE and piece.text == b" " for piece in pieces
    ):
        yield (
            "the tokenizer has no piece for a space alone, so a space that no merge takes in is lost as "
            "<unk>: its bytes aren't counted"
        )
    strange = [
        token
        for token, piece in enumerate(pieces)
        if counts[token] and token != bos_id and piece.kind in (Kind.CONTROL, Kind.UNUSED)
    ]
    if strange:
        total = int(counts[strange].sum())
        yield (
            f"{total:,} tokens are control or unused pieces ({', '.join(map(str, strange[:5]))}), which text "
            "is never cut into: another tokenizer's shard?"
        )
    used = len(np.flatnonzero(counts[: len(pieces)]))
    if size > _TELLING * len(pieces) and used < len(pieces) // 2:
        yield (
            f"only {used:,} of the tokenizer's {len(pieces):,} pieces occur in {size:,} tokens: another "
            "tokenizer's shard?"
        )


_TELLING = 1000
"""Tokens for each piece from which on most pieces should have occurred."""


def beginnings(
    path: str | os.PathLike[str], tokenizer: "Tokenizer", documents: int = 3, tokens: int = 60
) -> list[str]:
    """The decoded first ``tokens`` tokens of a shard's first documents; fewer if they start far behind."""
    name = os.fspath(path)
    stream = _core.read_shard(name, 0, min(_core.shard_tokens(name), 1 << 16), tokenizer.vocab_size)
    parts = np.split(stream, np.flatnonzero(stream == tokenizer.bos_id))
    return [tokenizer.decode(part[:tokens]) for part in parts if len(part)][:documents]
