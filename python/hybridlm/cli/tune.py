"""`hybridlm oracle tune`: the static interpolation of several oracles."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from hybridlm.cli.arguments import ChosenTokenizer, Glob, OptionalGlob, Threads
from hybridlm.cli.output import number_table, print_json, print_table
from hybridlm.errors import UsageError

if TYPE_CHECKING:
    from hybridlm.oracle.interpolation import Interpolation, InterpolationScore


def tune(
    oracles: tyro.conf.Positional[tuple[Path, ...]],
    *,
    on: Glob,
    val: OptionalGlob = None,
    tokenizer: ChosenTokenizer,
    threads: Threads | None = None,
    json: bool = False,
) -> None:
    """Find the weights by which several oracles, mixed, predict a text best; score another text by them.

    The weights are fixed, as in SRILM's best mix. A sparse oracle takes part with its highest order, a dense
    one with all of its orders. The weights fit the text that they were found on, so only `--val`, another
    text, gives a score.

    Args:
        oracles: Files of oracles of one tokenizer; at least two.
        on: A glob of shards to find the weights on; not the oracles' training text.
        val: A glob of shards to score with these weights.
        threads: Of look-ups; all cores by default.
        json: One JSON object instead of a table.
    """
    from hybridlm.data.shards import expand, inspect_shards, open_stream
    from hybridlm.oracle import Oracle
    from hybridlm.oracle.interpolation import score
    from hybridlm.oracle.interpolation import tune as find

    if len(oracles) < 2:
        raise UsageError("oracle tune mixes several oracles: name at least two files")
    loaded = tokenizer.load()
    frozen = [Oracle.from_file(path) for path in oracles]
    for oracle, path in zip(frozen, oracles, strict=True):
        oracle.check_tokenizer(loaded.vocabulary, str(path))
    tuned_on = expand(on)
    texts = {"tuned_on": tuned_on} if val is None else {"tuned_on": tuned_on, "val": expand(val)}
    # All of them together: a text can't be its own test.
    inspect_shards([str(path) for paths in texts.values() for path in paths])
    streams = {name: open_stream(paths, loaded.vocabulary).tokens for name, paths in texts.items()}
    weights = find(frozen, streams["tuned_on"], threads=threads)
    scores = {
        name: score(frozen, weights, stream, loaded.byte_table, threads=threads)
        for name, stream in streams.items()
    }
    if json:
        print_json(_as_dict(oracles, weights, scores))
        return
    _show(oracles, weights, scores)


def _as_dict(
    oracles: tuple[Path, ...], found: "Interpolation", scores: "Mapping[str, InterpolationScore]"
) -> dict[str, Any]:
    columns = [
        {
            "oracle": str(oracles[column.oracle]),
            "order": column.order,
            "weight": float(weight),
            **{name: asdict(score.columns[at]) for name, score in scores.items()},
        }
        for at, (column, weight) in enumerate(zip(found.columns, found.weights, strict=True))
    ]
    texts = {
        name: {"tokens": score.tokens, "bytes": score.bytes, **asdict(score.mixture)}
        for name, score in scores.items()
    }
    return {"columns": columns, "val": None, **texts}


def _show(
    oracles: tuple[Path, ...], found: "Interpolation", scores: "Mapping[str, InterpolationScore]"
) -> None:
    heads = {"tuned_on": "BPB, tuned on", "val": "BPB"}
    table = number_table("oracle", "order", "weight", *(heads[name] for name in scores))
    for at, (column, weight) in enumerate(zip(found.columns, found.weights, strict=True)):
        alone = [f"{score.columns[at].bpb:.4f}" for score in scores.values()]
        table.add_row(str(oracles[column.oracle]), str(column.order), f"{weight:.4f}", *alone)
    table.add_section()
    table.add_row("mixed", "", "1", *(f"{score.mixture.bpb:.4f}" for score in scores.values()))
    print_table(table)
