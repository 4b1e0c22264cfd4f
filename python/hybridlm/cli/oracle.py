"""`hybridlm oracle …`: build, inspect and evaluate n-gram oracles."""

import dataclasses
import logging
import math
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from hybridlm.cli.arguments import Count, Files, Glob, Out, Threads, TokenId, VocabSize
from hybridlm.cli.options import Range
from hybridlm.cli.output import check_output, is_standard, number_of, print_json, read_input, write_output
from hybridlm.errors import InputError, UsageError
from hybridlm.files import is_written_through

if TYPE_CHECKING:
    from rich.table import Table

    from hybridlm._core import NgramCounts, SparseCounts
    from hybridlm.data.vocabulary import Vocabulary
    from hybridlm.oracle.forecast import Forecast
    from hybridlm.oracle.sources import Sources

log = logging.getLogger("hybridlm.oracle")

V = TypeVar("V")


def _one_word(
    metavar: str, kind: type[V], parse: Callable[[str], V], written: Callable[[V], str]
) -> tyro.constructors.PrimitiveConstructorSpec[V]:
    """How a value of one word is read, and written in help. ``parse`` raises ValueError."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [written(value)],
    )


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The rows of one order's table."""

    order: int
    rows: int


def _parse_buckets(word: str) -> Buckets:
    order, equals, rows = word.partition("=")
    if not (equals and order.isdecimal() and rows.isdecimal()):
        raise ValueError(f"{word!r} is not of the form ORDER=ROWS, such as 3=8192")
    if not 3 <= int(order) <= 8:
        raise ValueError(f"rows can be chosen for orders 3 to 8, not for order {order}")
    if not 1 <= int(rows) < 1 << 32:
        raise ValueError(f"order {order} can't have {rows} rows")
    return Buckets(int(order), int(rows))


BucketsOption = Annotated[
    Buckets, _one_word("N=ROWS", Buckets, _parse_buckets, lambda value: f"{value.order}={value.rows}")
]


@dataclasses.dataclass(frozen=True)
class Weight:
    """As how many copies of themselves some files count."""

    pattern: str
    times: int


def _parse_weight(word: str) -> Weight:
    from hybridlm.oracle.sources import MAX_WEIGHT

    pattern, equals, times = word.rpartition("=")
    if not (pattern and equals and times.isdecimal()):
        raise ValueError(f"{word!r} is not of the form GLOB=W, such as 'docs_*.bin=4'")
    if not 1 <= int(times) <= MAX_WEIGHT:
        raise ValueError(f"{word!r}: a document counts from 1 to {MAX_WEIGHT:,} times")
    return Weight(pattern, int(times))


WeightOption = Annotated[
    Weight, _one_word("GLOB=W", Weight, _parse_weight, lambda value: f"{value.pattern}={value.times}")
]


def _parse_size(word: str) -> int:
    """A number of bytes, such as 2G, 500M or 1500000000; G is 2^30."""
    number, unit = word, 1
    if word[-1:].upper() in _UNITS:
        number, unit = word[:-1], _UNITS[word[-1:].upper()]
    try:
        size = float(number) * unit
    except ValueError:
        size = math.nan
    if not 0 <= size < 2**63:
        raise ValueError(f"{word!r} is not a number of bytes, such as 2G or 500M")
    return int(size)


_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

SizeOption = Annotated[
    int,
    _one_word(
        "BYTES", int, _parse_size, lambda value: f"{value >> 30}G" if value % (1 << 30) == 0 else str(value)
    ),
]


def _vocabulary(
    sources: "Sources", vocab_size: int | None, bos_id: int | None, tokenizer: Path | None
) -> "Vocabulary | None":
    """What the ids mean, by options, tokenizer and sidecars; None: as partial counts among them say."""
    from hybridlm.data.shards import known_vocabulary
    from hybridlm.data.tokenizer import Tokenizer

    fingerprint = None
    if tokenizer is not None:
        made_with = Tokenizer.load(tokenizer, bos_id).vocabulary
        if vocab_size not in (None, made_with.size):
            raise InputError(f"--vocab-size is {vocab_size}, but {tokenizer} has {made_with.size} pieces")
        vocab_size, bos_id, fingerprint = made_with.size, made_with.bos_id, made_with.fingerprint
    if sources.estimator is not None and vocab_size is None:
        if bos_id is not None:
            raise InputError("with partial counts --bos-id needs --vocab-size or --tokenizer")
        return None
    return known_vocabulary(sources.heads(), size=vocab_size, bos_id=bos_id, fingerprint=fingerprint)


def _sources(patterns: tuple[Path, ...], weights: tuple[Weight, ...] = ()) -> "Sources":
    from hybridlm.data.shards import expand
    from hybridlm.oracle.sources import Sources

    sources = Sources.of([path for pattern in patterns for path in expand(os.fspath(pattern))])
    return sources.weighted([(weight.pattern, weight.times) for weight in weights])


Estimator = Literal["dense", "sparse"]


def _unfinished(out: Path) -> Path | None:
    """What an interrupted run leaves; nothing beside a stream or a device. Raises as `check_output` does."""
    check_output(out)
    if is_standard(out) or is_written_through(out):
        return None
    return out.with_name(f"{out.name}.unfinished")


def build(
    shards: Files,
    out: Out,
    estimator: Estimator | None = None,
    orders: Annotated[int, Range(1, 8)] | None = None,
    max_bytes: Count | None = None,
    buckets: tuple[BucketsOption, ...] = (),
    vocab_size: VocabSize | None = None,
    bos_id: TokenId | None = None,
    tokenizer: Path | None = None,
    layout: Literal["reference", "packed"] = "reference",
    level: Annotated[int, Range(1, 22)] | None = None,
    threads: Threads | None = None,
    memory: SizeOption = 4 << 30,
    checkpoint_seconds: Annotated[float, Range(0)] = 60.0,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    dry_run: bool = False,
    json: bool = False,
    weight: tuple[WeightOption, ...] = (),
) -> None:
    """Build a frozen oracle from training shards, from files of partial counts, or from both.

    Interrupted, it leaves the counts so far in OUT.unfinished, and goes on from there when it is run again.

    Args:
        shards: Training shards, or what `oracle count` made of them (globs are understood too).
        out: The oracle's file; - is standard output.
        estimator: sparse: the n-grams that gain most per byte, interpolated. dense: the reference's
            Laplace-smoothed int8 rows of hashed contexts. By default that of the partial counts, dense with
            --buckets, --layout or --level, and else sparse.
        orders: The highest n-gram order, up to 8; by default as in the partial counts, or else 8 (dense) or 6
            (sparse).
        max_bytes: The largest file that sparse may make, 4,000,000 by default; it comes just within.
        buckets: Rows of single orders' tables, from order 3 on (dense).
        vocab_size: Tokens in the vocabulary; by default as the shards' sidecars or the partial counts say, or
            else 1024.
        bos_id: The token that every document begins with; by default as the tokenizer, the sidecars or the
            partial counts say, or else 1 if all shards begin with it.
        tokenizer: The tokenizer of the shards, where no sidecar names it. What is made carries its
            fingerprint, by which other tokenizers are refused later.
        layout: The dense file's layout. reference: NGOR version 1, which other programs read too. packed:
            NGOR version 2, a fifth smaller and built many times faster.
        level: zstd's level for a dense file, 1 to 22; by default 22 for the reference layout and 1 for the
            packed one, where higher ones gain next to nothing.
        threads: Threads to use; all cores by default, with Ray one per task. The bytes don't depend on it.
        memory: About how much memory sparse may use, such as 2G (G is 2^30). With less, more goes to files in
            the folder OUT.unfinished while it runs. The bytes don't depend on it.
        checkpoint_seconds: How often OUT.unfinished is written; 0 for after every shard. Sparse writes it
            whenever as many shards have been counted as fit the memory.
        engine: local: this machine. ray: tasks on a Ray cluster, whose nodes must all see the shards under
            the same path. The bytes are the same.
        ray_address: The Ray cluster; by default RAY_ADDRESS, or else the one on this machine.
        dry_run: Write nothing, but say what memory, disk and time a sparse build on this machine will need.
            Takes some seconds, in which a sample of the shards is counted and built from.
        json: With --dry-run, one JSON object instead of a table.
        weight: Files of a domain that matters more, and how often each document in them counts, from 1 to
            1000 times (sparse).
    """
    from hybridlm.oracle.build import estimate_dense, estimate_sparse
    from hybridlm.oracle.dense_counting import Checkpoint, Tables, count
    from hybridlm.oracle.sparse_counting import Ngrams, Task, counted

    if ray_address is not None and engine != "ray":
        raise UsageError("--ray-address is for --engine ray")
    if json and not dry_run:
        raise UsageError("--json is for --dry-run")
    unfinished = _unfinished(out)
    sources = _sources(shards, weight)
    vocabulary = _vocabulary(sources, vocab_size, bos_id, tokenizer)
    dense_options = bool(buckets) or layout != "reference" or level is not None
    estimator = estimator or sources.estimator or ("dense" if dense_options else "sparse")
    if estimator == "sparse":
        if dense_options:
            raise InputError(
                "--buckets, --layout and --level need --estimator dense; a sparse oracle has no tables"
            )
        ngrams = Ngrams(vocabulary, orders)
        max_bytes = 4_000_000 if max_bytes is None else max_bytes
        if dry_run:
            from hybridlm.oracle.forecast import forecast

            if engine == "ray":
                raise UsageError("--dry-run is for builds on this machine; docs/scaling.md has Ray's costs")
            task = Task.of(sources, ngrams)
            _show_forecast(forecast(task, max_bytes=max_bytes, memory=memory, threads=threads), json)
            return
        if engine == "ray":
            from hybridlm.oracle.ray_building import build_on_ray

            data = build_on_ray(
                Task.of(sources, ngrams),
                max_bytes=max_bytes,
                memory=memory,
                address=ray_address,
                threads=threads,
            )
            write_output(out, data)
        else:
            with counted(
                sources,
                ngrams,
                threads=threads,
                memory=memory,
                unfinished=unfinished,
                every_shard=checkpoint_seconds == 0,
            ) as sparse_counts:
                data = estimate_sparse(sparse_counts, max_bytes=max_bytes, threads=threads, memory=memory)
                write_output(out, data)
        log.info("%s: %s bytes, sparse estimator", out, f"{len(data):,}")
        return
    _refuse_weights(sources)
    if dry_run:
        raise InputError("--dry-run is for the sparse estimator; a dense oracle takes what its tables do")
    if max_bytes is not None:
        raise InputError("--max-bytes needs --estimator sparse; --buckets sets a dense oracle's size")
    checkpoint = None if unfinished is None else Checkpoint(unfinished, checkpoint_seconds)
    with nullcontext() if checkpoint is None else checkpoint.held():
        counts = count(
            sources,
            Tables(vocabulary, orders, {bucket.order: bucket.rows for bucket in buckets}),
            threads=threads,
            checkpoint=checkpoint,
            engine=engine,
            ray_address=ray_address,
        )
        data = estimate_dense(counts, layout=layout, level=level, threads=threads)
        write_output(out, data)
    log.info("%s: %s bytes, orders 1 to %d, dense estimator", out, f"{len(data):,}", len(counts.orders))


def _show_forecast(found: "Forecast", json: bool) -> None:
    if json:
        print_json(dataclasses.asdict(found))
        return
    megabytes = "{:,.0f} MB".format
    disk = "none: counts stay in memory" if found.disk_bytes == 0 else megabytes(found.disk_bytes / 1e6)
    parts = "one part" if found.groups == 1 else f"{found.groups:,} parts"
    for name, value in [
        ("tokens", f"{found.tokens:,}, counted in {parts}"),
        ("n-grams of order 2 and above", f"{found.ngrams:,}, candidates at most {found.candidates:,}"),
        ("memory", f"{megabytes(found.memory_bytes / 1e6)}; --memory {found.allowed_bytes} or more"),
        ("disk for counts", disk),
        ("time", f"{found.seconds:,.0f} s, {found.processor_seconds:,.0f} s of all cores together"),
    ]:
        print(f"{name:<29} {value}")


def count(
    shards: Files,
    out: Out,
    estimator: Estimator | None = None,
    orders: Annotated[int, Range(1, 8)] | None = None,
    buckets: tuple[BucketsOption, ...] = (),
    vocab_size: VocabSize | None = None,
    bos_id: TokenId | None = None,
    tokenizer: Path | None = None,
    threads: Threads | None = None,
    memory: SizeOption = 4 << 30,
    checkpoint_seconds: Annotated[float, Range(0)] = 60.0,
    weight: tuple[WeightOption, ...] = (),
) -> None:
    """Count shards into a file of partial counts, for `oracle merge` and `oracle build`.

    Interrupted, it leaves the counts so far in OUT.unfinished, and goes on from there when it is run again.

    Args:
        shards: Training shards (globs are understood too), or files of partial counts to add to theirs.
        out: The file of partial counts; - is standard output.
        estimator: What the counts are for. Those of dense have a fixed size, those of sparse all n-grams. By
            default as in the partial counts, dense with --buckets, and else sparse.
        orders: The highest n-gram order, up to 8; by default as in the partial counts, or else 8 (dense) or 6
            (sparse).
        buckets: Rows of single orders' tables, from order 3 on (dense).
        vocab_size: Tokens in the vocabulary; by default as the shards' sidecars or the partial counts say, or
            else 1024.
        bos_id: The token that every document begins with; by default as the tokenizer, the sidecars or the
            partial counts say, or else 1 if all shards begin with it.
        tokenizer: The tokenizer of the shards, where no sidecar names it. What is made carries its
            fingerprint, by which other tokenizers are refused later.
        threads: Threads to use; all cores by default. The bytes don't depend on it.
        memory: About how much memory sparse may use, such as 2G (G is 2^30). The bytes don't depend on it.
        checkpoint_seconds: How often OUT.unfinished is written; 0 for after every shard. Sparse writes it
            whenever as many shards have been counted as fit the memory.
        weight: Files of a domain that matters more, and how often each document in them counts, from 1 to
            1000 times (sparse).
    """
    from hybridlm.oracle.dense_counting import Checkpoint, Tables
    from hybridlm.oracle.dense_counting import count as count_shards
    from hybridlm.oracle.sparse_counting import Ngrams, counted

    unfinished = _unfinished(out)
    sources = _sources(shards, weight)
    vocabulary = _vocabulary(sources, vocab_size, bos_id, tokenizer)
    estimator = estimator or sources.estimator or ("dense" if buckets else "sparse")
    if estimator == "sparse":
        if buckets:
            raise InputError("--buckets needs --estimator dense; a sparse oracle has no tables")
        every_shard = checkpoint_seconds == 0
        with counted(
            sources,
            Ngrams(vocabulary, orders),
            threads=threads,
            memory=memory,
            unfinished=unfinished,
            every_shard=every_shard,
        ) as sparse_counts:
            if is_standard(out):
                write_output(out, sparse_counts.to_bytes())
            else:
                sparse_counts.save(out)
            _log_counts(sparse_counts, sparse_counts.nbytes, out)
        return
    _refuse_weights(sources)
    tables = Tables(vocabulary, orders, {bucket.order: bucket.rows for bucket in buckets})
    checkpoint = None if unfinished is None else Checkpoint(unfinished, checkpoint_seconds)
    with nullcontext() if checkpoint is None else checkpoint.held():
        counts = count_shards(sources, tables, threads=threads, checkpoint=checkpoint)
        _save_counts(counts, out, threads)


def _refuse_weights(sources: "Sources") -> None:
    if sources.weights:
        raise InputError("--weight is for sparse counts; those of the dense estimator have none")


def merge(
    parts: Files, out: Out, threads: Threads | None = None, weight: tuple[WeightOption, ...] = ()
) -> None:
    """Add up files of partial counts, all of the dense estimator or all of the sparse one.

    They must have been counted with the same options, and no shard twice. The bytes are those of counting
    all the shards at once, however they were divided.

    Args:
        parts: Files that `oracle count` or `oracle merge` made (globs are understood too).
        out: The file of their sum; - is standard output.
        threads: Threads to use; all cores by default. The bytes don't depend on it.
        weight: Files of a domain that matters more, and how often each document in them counts, from 1 to
            1000 times (sparse).
    """
    from hybridlm.files import scratch_folder
    from hybridlm.oracle.dense_counting import merge as merge_dense
    from hybridlm.oracle.sparse_counting import merge as merge_sparse

    check_output(out)
    sources = _sources(parts, weight)
    if sources.shards:
        raise InputError(f"{sources.shards[0]}: not a file of partial counts; `oracle count` makes them")
    if sources.sparse_counts and sources.dense_counts:
        raise InputError(
            f"{sources.dense_counts[0]}: counts of the dense estimator, which can't be added to those of the "
            f"sparse one in {sources.sparse_counts[0]}"
        )
    if sources.sparse_counts and (is_standard(out) or is_written_through(out)):
        with scratch_folder() as folder:
            merged = merge_sparse(
                sources.sparse_counts, folder / "merged", weights=sources.weights, threads=threads
            )
            write_output(out, merged.to_bytes())
        _log_counts(merged, merged.nbytes, out)
    elif sources.sparse_counts:
        merged = merge_sparse(sources.sparse_counts, out, weights=sources.weights, threads=threads)
        _log_counts(merged, merged.nbytes, out)
    else:
        _refuse_weights(sources)
        _save_counts(merge_dense(sources.dense_counts, threads=threads), out, threads)


def _save_counts(counts: "NgramCounts", out: Path, threads: int | None) -> None:
    from hybridlm.threads import thread_count

    data = counts.to_bytes(thread_count(threads))
    write_output(out, data)
    _log_counts(counts, len(data), out)


def _log_counts(counts: "NgramCounts | SparseCounts", size: int, out: Path) -> None:
    of = number_of(len(counts.shards), "shard")
    log.info("%s: %s bytes, %s tokens in %s", out, f"{size:,}", f"{counts.tokens:,}", of)


def inspect(oracle: tyro.conf.Positional[Path], json: bool = False) -> None:
    """Show what an oracle holds: how full each order is, and what it knows beyond the unigram.

    Args:
        oracle: The oracle's file; - is standard input.
        json: One JSON object instead of a table.
    """
    from hybridlm.oracle import Oracle

    loaded = Oracle.from_bytes(*read_input(oracle))
    info: dict[str, Any] = {
        "estimator": loaded.estimator,
        "vocab_size": loaded.vocab_size,
        "orders": list(loaded.orders),
        "bos_id": loaded.vocabulary.bos_id,
        "tokenizer": loaded.fingerprint,
        "bytes": loaded.nbytes,
        **loaded.info(),
    }
    if json:
        print_json(info)
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(
        f"{oracle}: {loaded.estimator} estimator, {loaded.vocab_size} tokens, {loaded.nbytes:,} bytes",
        highlight=False,
    )
    console.print(
        f"tokenizer {loaded.fingerprint or 'not known'}, document token {loaded.vocabulary.bos_id}",
        highlight=False,
    )
    if loaded.estimator == "dense":
        console.print(_dense_picture(info))
    else:
        console.print(_sparse_picture(info))


def _bar(share: float, width: int = 16) -> str:
    """``share`` of 1 as a bar of eighths of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + ("" if part == 0 else chr(0x2590 - part))).ljust(width, "·")


def _dense_picture(info: dict[str, Any]) -> "Table":
    """How full and how useful each order is; ``info`` is what ``Oracle.info`` gives for a dense oracle.

    Entropy and gain are means over the rows, weighted by the tokens that each saw; bytes are those in a
    packed file.
    """
    from rich.table import Table

    tables = info["tables"]
    most = max((table.get("gain_over_unigram_bits", 0.0) for table in tables), default=0.0)
    known = info.get("tokens")
    shown = Table(box=None, pad_edge=False)
    for column in ("order", "rows", "rows used", "tokens seen", "bytes", "entropy"):
        shown.add_column(column, justify="right")
    shown.add_column("cells above the floor")
    shown.add_column("bits gained over the unigram")
    for table in tables:
        full = table["used_cells"] / table["cells"]
        gain = table.get("gain_over_unigram_bits", 0.0)
        # A version 1 file doesn't say; its rows' floors do, unless they are at the clamp.
        seen = f"≥ {table['tokens_estimate']:,}" if known is None else f"{known:,}"
        shown.add_row(
            str(table["order"]),
            f"{table['rows']:,}",
            f"{table['used_rows'] / table['rows']:.0%}",
            seen,
            f"{table['packed_bytes']:,}",
            f"{table['entropy_bits']:.2f}",
            f"{_bar(full)} {full:4.0%}",
            f"{_bar(gain / most if most else 0.0)} {gain:.2f}",
        )
    return shown


def _sparse_picture(info: dict[str, Any]) -> "Table":
    """What each order holds and takes; ``info`` is what ``Oracle.info`` gives for a sparse oracle."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for column in ("order", "n-grams", "contexts", "bytes", "bits per n-gram"):
        shown.add_column(column, justify="right")
    for table in info["tables"]:
        counts = (f"{table[key]:,}" for key in ("order", "ngrams", "contexts"))
        # An ARPA file's lines are not told apart by order.
        size = (f"{table['bytes']:,}", f"{table['bits_per_ngram']:.2f}") if table["bytes"] else ("", "")
        shown.add_row(*counts, *size)
    return shown


def evaluate(
    oracle: tyro.conf.Positional[Path],
    val: Glob,
    tokenizer: Path,
    bos_id: TokenId | None = None,
    threads: Threads | None = None,
    json: bool = False,
) -> None:
    """Score validation shards with an oracle alone, order by order.

    Bytes are those of the decoded text: the tokenizer normalises, so they are not in general those of the
    original files.

    Args:
        oracle: The oracle's file.
        val: Validation shards: a glob, taken as one stream in the order of their names.
        tokenizer: The tokenizer of the shards, for their bytes.
        bos_id: The token that documents begin with, where the tokenizer has no BOS piece.
        threads: Threads to use; all cores by default.
        json: One JSON object instead of a table.
    """
    from hybridlm.cli.output import print_provenance
    from hybridlm.data.shards import expand
    from hybridlm.score import score_oracle

    score = score_oracle(oracle, expand(val), tokenizer, bos_id=bos_id, threads=threads)
    result = score.result
    if json:
        print_json(score.as_dict())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("expert", "bits/token", "BPB", "weight in the mix"):
        table.add_column(column, justify="left" if column == "expert" else "right")
    for order, bits in result.orders.items():
        weight = result.best_static_weights[order]
        table.add_row(f"order {order}", f"{bits.bits_per_token:.4f}", f"{bits.bpb:.4f}", f"{weight:.3f}")
    mix = result.best_static_mix
    table.add_row("best static mix", f"{mix.bits_per_token:.4f}", f"{mix.bpb:.4f}", "")
    console = Console()
    console.print(table)
    console.print(
        f"{result.tokens:,} tokens, {result.bytes:,} bytes of decoded text, "
        f"rows sum to 1 within {result.max_row_sum_error:.1e}",
        highlight=False,
    )
    print_provenance(score.made_of)
