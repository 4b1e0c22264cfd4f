"""`hybridlm oracle score`, `ngrams` and `export`: what users of n-gram toolkits look for."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from hybridlm.cli.arguments import ChosenTokenizer, Natural, Out, TokenId
from hybridlm.cli.output import (
    check_output,
    is_standard,
    number_table,
    output_file,
    print_json,
    print_table,
)
from hybridlm.errors import InputError, UsageError

if TYPE_CHECKING:
    from hybridlm.data.tokenizer import Tokenizer

log = logging.getLogger("hybridlm.oracle")


def score(
    oracle: tyro.conf.Positional[Path],
    text: tyro.conf.Positional[tuple[Path, ...]] = (Path("-"),),
    *,
    tokenizer: ChosenTokenizer,
    by: Literal["line", "document"] = "line",
    text_field: str = "text",
    plain: bool = False,
    json: bool = False,
) -> None:
    """Score text with an oracle's highest order, line by line or document by document.

    Each begins with the document token and knows nothing of the one before. Beside bits and perplexity it
    shows how many tokens the n-grams have, on average, that the oracle knew them by.

    Args:
        oracle: The oracle's file.
        text: Text files, folders, globs, or - for stdin, which is the default.
        by: What is scored as one: a line of a text, or a document as `data shard` cuts them. Each text in
            JSON or Parquet has lines of its own.
        text_field: The member of JSON objects, or the column of Parquet files, that holds the text.
        plain: Take every file for prose, even one that looks like JSON.
        json: One JSON object, with the ln p and the order of each token.
    """
    import numpy as np

    from hybridlm.oracle import Oracle

    loaded = tokenizer.load()
    frozen = Oracle.from_file(oracle)
    frozen.check_tokenizer(loaded.vocabulary, str(oracle))
    scored: list[dict[str, Any]] = []
    for source, content in _texts(text, by, text_field, plain):
        tokens = np.append(np.uint16(loaded.bos_id), loaded.encode(content))
        if len(tokens) < 2:
            continue
        log_probs = frozen.target_log_probs(tokens, start=1)[-1]
        nats = -float(log_probs.sum(dtype=np.float64))
        scored.append(
            {
                "source": source,
                "tokens": len(log_probs),
                "bytes": int(loaded.byte_table.lengths(tokens).sum()),
                "bits": nats / np.log(2),
                "perplexity": float(np.exp(nats / len(log_probs))),
                "log_probs": log_probs.astype(np.float64).round(6).tolist(),
                "orders": frozen.matched_orders(tokens, start=1).tolist(),
            }
        )
    if not scored:
        raise InputError("no line has any token, so there is nothing to score")
    count, bits, size = (sum(one[key] for one in scored) for key in ("tokens", "bits", "bytes"))
    total = {
        "tokens": count,
        "bytes": size,
        "bits": bits,
        "perplexity": 2 ** (bits / count),
        "bpb": bits / size if size else None,
    }
    if json:
        print_json({**total, "texts": scored})
        return
    table = number_table(by, "tokens", "bits", "bits/token", "perplexity", "mean order")
    for one in scored:
        table.add_row(
            one["source"],
            f"{one['tokens']:,}",
            f"{one['bits']:.2f}",
            f"{one['bits'] / one['tokens']:.3f}",
            f"{one['perplexity']:.2f}",
            f"{sum(one['orders']) / one['tokens']:.2f}",
        )
    table.add_section()
    orders = sum(sum(one["orders"]) for one in scored) / count
    table.add_row(
        "all",
        f"{count:,}",
        f"{bits:.2f}",
        f"{bits / count:.3f}",
        f"{total['perplexity']:.2f}",
        f"{orders:.2f}",
    )
    print_table(table)


def _texts(paths: tuple[Path, ...], by: str, text_field: str, plain: bool) -> Iterator[tuple[str, str]]:
    """(where it stands, text)"""
    from hybridlm.data import text_files
    from hybridlm.data.documents import read

    files = ["stdin" if file == text_files.STDIN else str(file) for file in text_files.find(paths)]
    for document in read(paths, one_per_file=by == "line", plain=plain, text_field=text_field):
        if by == "document":
            yield document.source, document.text
            continue
        alone = files == [document.source]
        # As `documents.clean` leaves them: only "\n" ends a line.
        for number, line in enumerate(document.text.split("\n"), start=1):
            yield str(number) if alone else f"{document.source}:{number}", line


def ngrams(
    counts: tyro.conf.Positional[Path],
    *,
    ids: tuple[TokenId, ...] = (),
    text: str | None = None,
    tokenizer: Path | None = None,
    bos_id: TokenId | None = None,
    top: Natural = 10,
    json: bool = False,
) -> None:
    """Look an n-gram up in a file of sparse counts: how often it occurs, and what follows it.

    Args:
        counts: A file that `oracle count` has written.
        ids: The n-gram as token ids; none is the empty context, which everything follows.
        text: The n-gram as text in their place, with the space before its first word that a word has unless
            a document begins with it; needs --tokenizer.
        tokenizer: The tokenizer of the counts, to show what tokens stand for.
        bos_id: The token that documents begin with, where the tokenizer doesn't say.
        top: How many continuations to show, most frequent first; --json shows all.
        json: One JSON object.
    """
    from hybridlm.data.tokenizer import Tokenizer
    from hybridlm.oracle.ngram_counts import NgramCounts
    from hybridlm.oracle.vocabularies import check_asked

    loaded = None if tokenizer is None else Tokenizer.load(tokenizer, bos_id)
    opened = NgramCounts.from_file(counts)
    if loaded is not None:
        check_asked(loaded.vocabulary, opened.vocabulary, str(counts))
    if text is not None:
        if loaded is None or ids:
            raise UsageError("--text stands in place of --ids and needs --tokenizer")
        ids = _ngram_of(text, loaded)
    count = opened.count(ids) if ids else opened.tokens
    if text and not count and not text.startswith(" "):
        log.warning("%r is what a document begins with; within a text it is %r", text, f" {text}")
    found: list[tuple[int, int]] = []
    if len(ids) < opened.order:
        after = opened.continuations(ids)
        found = sorted(zip(*(column.tolist() for column in after), strict=True), key=lambda one: -one[1])
    if json:
        print_json({"tokens": [*ids], "count": count, "continuations": dict(found)})
        return
    shown = "" if loaded is None else f" {_shown(loaded, ids)}"
    print(f"{' '.join(map(str, ids)) or 'all tokens'}{shown}: {count:,} times, {len(found):,} continuations")
    for token, times in found[:top]:
        print(f"{token:>6} {times:>12,}{'' if loaded is None else f'  {_shown(loaded, (token,))}'}")


def _ngram_of(text: str, tokenizer: "Tokenizer") -> tuple[int, ...]:
    """The tokens of ``text`` within a text if it begins with a space, else at a document's beginning.

    SentencePiece drops the space that a text begins with. Raises InputError for a tokenizer whose pieces go
    across spaces.
    """
    before = tokenizer.encode(".").tolist() if text.startswith(" ") else []
    tokens = tokenizer.encode("." + text if before else text).tolist()
    if tokens[: len(before)] != before:
        raise InputError(f"{text!r} has no tokens of its own in this tokenizer; give --ids")
    return tuple(tokens[len(before) :])


def _shown(tokenizer: "Tokenizer", tokens: tuple[int, ...]) -> str:
    return repr(b"".join(tokenizer.pieces[token].whole for token in tokens).decode(errors="replace"))


def export(
    oracle: tyro.conf.Positional[Path],
    out: Out,
) -> None:
    """Write a sparse oracle as an ARPA file, which KenLM, SRILM and others read.

    Words are token ids, and <s> is the document token. The probabilities are the oracle's, to the rounding of
    their logarithms.

    Args:
        oracle: The oracle's file.
        out: The ARPA file to write; - is standard output.
    """
    from hybridlm.oracle import Oracle

    check_output(out)
    with output_file(out) as file:
        Oracle.from_file(oracle).save_arpa(file)
    if not is_standard(out):
        print(f"{out}: {out.stat().st_size:,} bytes")
