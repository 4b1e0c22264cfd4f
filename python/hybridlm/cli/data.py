"""`hybridlm data …`: train a tokenizer, turn text into shards, look into a shard."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hybridlm.cli.arguments import (
    ChosenTokenizer,
    Count,
    Files,
    Fraction,
    Glob,
    Natural,
    Out,
    Pieces,
    Threads,
    TokenId,
)
from hybridlm.cli.options import Range
from hybridlm.cli.output import check_output, is_standard, number_of, output_file, print_json
from hybridlm.progress import Progress

if TYPE_CHECKING:
    from hybridlm.data.documents import Document
    from hybridlm.data.overlap import DocumentOverlap

log = logging.getLogger("hybridlm.data")

# SentencePiece holds its training text in memory, several times over; more hardly changes a small vocabulary.
_TOKENIZER_CHARACTERS = 100_000_000


def tokenizer(
    text: Files,
    out: Out,
    vocab_size: Pieces = 1024,
    fold_case: bool = False,
    text_field: str = "text",
    one_per_file: bool = False,
    plain: bool = False,
) -> None:
    """Train a SentencePiece BPE tokenizer with byte fallback.

    The same text gives the same bytes. Of more than 100 million characters, a sample of the documents is
    used, taken from those that `data shard` would hold out for validation last.

    Args:
        text: Text files, folders of them, globs, or - for stdin: prose with blank lines between documents,
            JSON Lines with a "text" in each, a JSON array of such, or Parquet with a column "text"; UTF-8,
            plain or compressed with gzip, bzip2, xz or zstd. What is in a file decides, not its name.
        out: The model file to write; - is standard output.
        vocab_size: Pieces, the 256 bytes and 4 special ones among them.
        fold_case: Write capitals as marks before lower-case words ("⇧the" for "The"), so that the pieces of
            words needn't be there in two cases. Bits per byte stay those of the text as it was.
        text_field: The member of JSON objects, or the column of Parquet files, that holds the text.
        one_per_file: A file of prose is one document, whatever blank lines it has.
        plain: Take every file for prose, even one that looks like JSON.
    """
    from hybridlm.data.documents import sample
    from hybridlm.data.tokenizer import Tokenizer

    check_output(out)
    read = 0

    def counted() -> "Iterator[Document]":
        nonlocal read
        for document in _documents(text, one_per_file, plain, text_field, "reading"):
            read += 1
            yield document

    documents = sample(counted(), _TOKENIZER_CHARACTERS)
    if len(documents) < read:
        log.info("training on a sample of %d of %d documents", len(documents), read)
    texts = (document.text for document in documents)
    with output_file(out) as file:
        trained = Tokenizer.train(texts, file, vocab_size, fold_case=fold_case)
    told = f"{out}: {trained.vocab_size} pieces, fingerprint {trained.fingerprint}"
    print(told, file=sys.stderr if is_standard(out) else sys.stdout)


def shard(
    text: Files,
    tokenizer: ChosenTokenizer,
    out: Out,
    val_fraction: Fraction = 0.05,
    shard_tokens: Annotated[int, Range(1, (1 << 31) - 1)] = 10_000_000,
    name: str = "text",
    text_field: str = "text",
    one_per_file: bool = False,
    plain: bool = False,
    allow_unknown: bool = False,
    force: bool = False,
    threads: Threads | None = None,
    processes: Threads = 1,
) -> None:
    """Turn text into the token shards of a data folder, NAME_train_*.bin and NAME_val_*.bin.

    Each document becomes BOS and its tokens. Whether it is held out for validation depends on its own text
    alone, so copies of it stay on one side. Shards are cut between documents and appear together at the end.

    Args:
        text: Text files, folders of them, globs, or - for stdin: prose with blank lines between documents,
            JSON Lines with a "text" in each, a JSON array of such, or Parquet with a column "text"; UTF-8,
            plain or compressed with gzip, bzip2, xz or zstd. What is in a file decides, not its name.
            A text without blank lines is cut into documents of about 16,000 characters.
        out: The data folder.
        val_fraction: The part of the documents that is held out for validation, 0 to below 1.
        shard_tokens: The most tokens in a shard (a longer document gets a shard of its own).
        name: What the shards' names begin with.
        text_field: The member of JSON objects, or the column of Parquet files, that holds the text.
        one_per_file: A file of prose is one document, whatever blank lines it has.
        plain: Take every file for prose, even one that looks like JSON.
        allow_unknown: Write shards even if more than 0.1% of the characters become <unk>, which a tokenizer
            without byte fallback has for what it doesn't know.
        force: Replace shards of that name.
        threads: Threads to use; all cores by default. The bytes don't depend on it.
        processes: Processes to tokenize in, on one thread each, while this one reads. The bytes don't depend
            on it.
    """
    from hybridlm.data.documents import check_fraction, split_stream
    from hybridlm.data.pieces import SPACE
    from hybridlm.data.shard_writer import DataFolderWriter

    check_fraction(val_fraction)
    loaded = tokenizer.load()
    documents = _documents(text, one_per_file, plain, text_field, "tokenizing")
    marks = 0
    with DataFolderWriter(
        out,
        loaded,
        name=name,
        shard_tokens=shard_tokens,
        replace=force,
        allow_unknown=allow_unknown,
        threads=threads,
        processes=processes,
        source={
            "text": [path.name for path in text],
            "val_fraction": val_fraction,
            "text_field": text_field,
            "one_per_file": one_per_file,
            "plain": plain,
        },
    ) as writer:
        for side, document in split_stream(documents, val_fraction):
            writer.add(side, document.text)
            marks += document.text.count(SPACE)
    for summary in writer.summaries:
        print(f"{summary.path}: {summary.tokens:,} tokens, {number_of(summary.documents, 'document')}")
    if writer.unknown.tokens:
        print(writer.unknown)
    if marks:
        log.warning(
            "%d characters %s (U+2581) are spaces now, as SentencePiece writes spaces so", marks, SPACE
        )
    if val_fraction and all(summary.split == "train" for summary in writer.summaries):
        log.warning("no validation shard: there are no two different documents")


def fetch(
    dataset: tyro.conf.Positional[str],
    out: Out,
    files: tuple[str, ...] = ("*",),
    revision: str = "main",
) -> None:
    """Download files of a dataset from the Hugging Face hub, ready for `data shard` or, if they are shards,
    for everything else. Needs a network and the extra `hub`. Files that are there already are kept.

    Args:
        dataset: Its name on the hub, OWNER/NAME.
        out: The folder to put the files in.
        files: Quoted globs of the files to take; all of them by default.
        revision: A branch, a tag or a commit, which makes the same files come again.
    """
    from hybridlm.data.hub import fetch as download

    for path in download(dataset, out, files, revision):
        print(path)


def overlap(
    train: Files,
    val: Glob,
    lengths: tuple[Count, ...] = (8, 13, 20, 32, 50),
    listed: Natural = 10,
    bos_id: TokenId | None = None,
    threads: Threads | None = None,
    json: bool = False,
) -> None:
    """Show how much of a validation text is in the training text, by n-grams and by whole documents.

    A score on text that a model has been trained on says nothing about new text. This shows, for each length,
    the share of the validation text's n-grams that occur in training, and the documents that have most in
    common with it. A document that is in training as a whole is listed with its place there.

    Args:
        train: Training shards; a quoted glob works, too.
        val: A quoted glob of validation shards.
        lengths: Tokens of the n-grams, ascending.
        listed: How many documents to list; --json lists all.
        bos_id: The token that documents begin with, where no sidecar says it.
        threads: Threads to use; all cores by default. The result doesn't depend on it.
        json: One JSON object instead.
    """
    from hybridlm.cli.output import number_table, print_table
    from hybridlm.data.overlap import overlap as find
    from hybridlm.data.shards import expand
    from hybridlm.data.shards import inspect_shards as looked_at

    paths = [path for pattern in train for path in expand(pattern)]
    total = sum(record.tokens for record in looked_at([str(path) for path in paths]))
    with Progress("overlap", total, "tokens") as progress:
        found = find(
            paths,
            expand(val),
            lengths=lengths,
            bos_id=bos_id,
            threads=threads,
            progress=progress.update,
        )
    if json:
        print_json(found.as_dict())
        return
    tokens = sum(document.tokens for document in found.documents)
    print(
        f"{number_of(len(found.documents), 'validation document')} of {tokens:,} tokens, against "
        f"{found.train_tokens:,} training tokens"
    )
    print(f"{len(found.copies):,} of the documents are in training as a whole")
    table = number_table("n-gram of", "validation n-grams", "in training")
    for at, length in enumerate(found.lengths):
        ngrams = sum(document.ngrams[at] for document in found.documents)
        table.add_row(f"{length} tokens", f"{ngrams:,}", f"{found.share(at):.2%}")
    print_table(table)
    most = sorted(
        (document for document in found.documents if any(document.found) or document.copy_of is not None),
        key=lambda document: (document.copy_of is None, [-share for share in _shares(document)]),
    )
    for document in most[:listed]:
        shares = ", ".join(
            f"{length}: {document.share(at):.0%}"
            for at, length in enumerate(found.lengths)
            if document.ngrams[at]
        )
        same = "" if document.copy_of is None else f"; the same as {document.copy_of}"
        print(f"{document.place}: {document.tokens:,} tokens ({shares}){same}")
    if len(most) > listed:
        others = number_of(len(most) - listed, "more document")
        print(f"and {others} with something in common, which --json lists")


def _shares(document: "DocumentOverlap") -> list[float]:
    """From the longest n-grams on."""
    return [document.share(at) for at in reversed(range(len(document.ngrams)))]


def inspect(
    shard: tyro.conf.Positional[str],
    tokenizer: Path | None = None,
    bos_id: TokenId | None = None,
    json: bool = False,
) -> None:
    """Show what a shard holds.

    Args:
        shard: The shard's file.
        tokenizer: The shard's tokenizer, to show its bytes (those of the decoded text, which the tokenizer
            has normalised) and how its first documents begin.
        bos_id: The token that documents begin with, where neither the tokenizer nor a sidecar says it.
        json: One JSON object instead of a table.
    """
    from hybridlm.data.shards import (
        beginnings,
        examine,
        expand,
        inspect_shards,
        known_vocabulary,
        refuse_foreign,
    )
    from hybridlm.data.tokenizer import Tokenizer
    from hybridlm.errors import UsageError

    loaded = None if tokenizer is None else Tokenizer.load(tokenizer, bos_id)
    path, *others = expand(shard)
    if others:
        raise UsageError(f"{shard}: {len(others) + 1} files match; name one of them, such as {path}")
    records = inspect_shards([str(path)])
    if loaded is None:
        vocabulary = known_vocabulary(records, size=None, bos_id=bos_id)
    else:
        made_with = loaded.vocabulary
        vocabulary = known_vocabulary(
            records, size=made_with.size, bos_id=made_with.bos_id, fingerprint=made_with.fingerprint
        )
    if loaded is not None:
        refuse_foreign(records[0], loaded.vocab_size)
    contents = examine(path, loaded, vocabulary.bos_id)
    for warning in contents.warnings:
        log.warning("%s: %s", path, warning)
    numbers = {
        "tokens": contents.tokens,
        "documents": contents.documents,
        "distinct_ids": contents.distinct_ids,
        "max_id": contents.max_id,
        "file_bytes": path.stat().st_size,
        "bos_id": vocabulary.bos_id,
    }
    if contents.text_bytes is not None:
        numbers["bytes"] = contents.text_bytes
    per_token = contents.text_bytes / contents.tokens if contents.text_bytes and contents.tokens else None
    starts = [] if loaded is None else beginnings(path, loaded)
    digests = {"sha256": records[0].sha256, "tokenizer": vocabulary.fingerprint}
    if json:
        print_json(
            {
                **numbers,
                "bytes_per_token": per_token,
                **digests,
                "beginnings": starts,
                "warnings": [*contents.warnings],
            }
        )
        return
    for label, value in numbers.items():
        print(f"{label.replace('_', ' '):14}{value:,}")
    if per_token is not None:
        print(f"{'bytes/token':14}{per_token:.3f}")
    for label, digest in digests.items():
        print(f"{label:14}{digest or 'unknown: no sidecar says it'}")
    for text in starts:
        print(f"| {text}")


def _documents(
    paths: tuple[Path, ...], one_per_file: bool, plain: bool, text_field: str, label: str
) -> "Iterator[Document]":
    """``documents.read`` behind a progress line; refuses missing and repeated files before it returns."""
    from hybridlm.data import text_files
    from hybridlm.data.documents import read

    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress.update(done)

    files = text_files.find(paths)
    documents = read(files, one_per_file=one_per_file, plain=plain, text_field=text_field, on_bytes=advance)
    progress = Progress(label, text_files.total_bytes(files), "B")

    def shown() -> "Iterator[Document]":
        with progress:
            yield from documents

    return shown()
