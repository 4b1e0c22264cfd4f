"""`hybridlm eval`: the score of an artifact."""

import dataclasses
import json as json_format
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hybridlm.errors import InputError
from hybridlm.scoring.settings import ScoringSettings

if TYPE_CHECKING:
    from hybridlm.scoring.evaluate import EvaluationResult


def evaluate(
    artifact: tyro.conf.Positional[Path],
    *,
    val: str,
    tokenizer: Path,
    scoring: Annotated[ScoringSettings, tyro.conf.arg(name="")] = ScoringSettings(),  # noqa: B008 - frozen
    max_tokens: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Score an artifact on a stream of tokens: bits per byte of the decoded text.

    Under torchrun (`torchrun --nproc-per-node N -m hybridlm eval …`) the model's work is shared out; the
    score is the same.

    Args:
        artifact: The artifact's file.
        val: A glob of shards, read as one stream in the order of their names.
        tokenizer: The tokenizer that the shards and the artifact were made with.
        scoring: The protocol.
        max_tokens: Score only the first so many targets.
        device: Where the model runs: cpu or cuda; unset: cuda where there is one.
        threads: Of oracle look-ups; unset: HYBRIDLM_NUM_THREADS, else this process's share of the cores.
        json: Print one JSON object.
    """
    from hybridlm import settings
    from hybridlm.artifact import Artifact
    from hybridlm.data import shards
    from hybridlm.data.tokenizer import Tokenizer
    from hybridlm.scoring.evaluate import evaluate as score

    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"--max-tokens must be at least 1, not {max_tokens}")
    vocabulary = Tokenizer.load(tokenizer)
    bundle = Artifact.from_file(artifact)
    bundle.check_tokenizer(vocabulary.fingerprint, vocabulary.vocab_size)
    stream = shards.read_stream(
        shards.expand(val),
        vocab_size=vocabulary.vocab_size,
        max_tokens=None if max_tokens is None else max_tokens + 1,
    )
    neural = bundle.neural_blob is not None and not scoring.no_neural
    if neural and scoring.ttt is None:
        scoring = dataclasses.replace(scoring, ttt=settings.resolve(ScoringSettings).ttt)
    dist = None
    if neural:
        from hybridlm.distributed import initialise

        dist = initialise(device)
    try:
        result = score(bundle, stream, vocabulary.byte_table, scoring, dist, threads=threads)
    finally:
        if dist is not None:
            dist.close()
    # Without a neural model there is no group to ask, and torch isn't needed to know who prints.
    if os.environ.get("RANK", "0") == "0":
        _show(result, json)


def _show(result: "EvaluationResult", json: bool) -> None:
    if json:
        json_format.dump(result.as_dict(), sys.stdout)
        print()
        return
    from rich.console import Console
    from rich.table import Table

    print(f"{result.tokens:,} targets, {result.bytes:,} bytes of decoded text, TTT {result.ttt}")
    table = Table()
    table.add_column("expert")
    table.add_column("bits/token", justify="right")
    table.add_column("bits/byte", justify="right")
    for name, rate in result.experts.items():
        table.add_row(name, f"{rate.bits_per_token:.4f}", f"{rate.bpb:.4f}")
    table.add_section()
    table.add_row(f"mixture: {result.mixer}", f"{result.bits_per_token:.4f}", f"{result.bpb:.4f}")
    Console().print(table)
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.stages.items())
    print(f"{result.seconds:.1f} s ({stages})")
