"""`hybridlm eval`: the score of an artifact."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hybridlm.cli.arguments import ChosenTokenizer, Count, Glob, OptionalGlob, Threads
from hybridlm.cli.output import number_of, number_table, print_json, print_provenance, print_table
from hybridlm.scoring.config import ScoringConfig

if TYPE_CHECKING:
    from hybridlm.score import Score
    from hybridlm.scoring.evaluate import EvaluationResult


def evaluate(
    artifact: tyro.conf.Positional[Path],
    *,
    val: Glob,
    tokenizer: ChosenTokenizer,
    scoring: Annotated[ScoringConfig, tyro.conf.arg(name="")] = ScoringConfig(),  # noqa: B008 - frozen
    max_tokens: Count | None = None,
    control: OptionalGlob = None,
    bytes: OptionalGlob = None,
    state: Path | None = None,
    per_document: Path | None = None,
    per_token: Path | None = None,
    trace: Path | None = None,
    device: str | None = None,
    threads: Threads | None = None,
    json: bool = False,
) -> None:
    """Score an artifact on a stream of tokens: bits per byte of the decoded text.

    Under torchrun (`torchrun --nproc-per-node N -m hybridlm eval …`) the model's work is shared out; the
    score is the same.

    Args:
        artifact: The artifact's file.
        val: A glob of shards, read as one stream in the order of their names.
        scoring: The protocol.
        max_tokens: How many targets to score, from the first; unset: all.
        control: A glob of training shards, as long as what is scored. One more model learns from them as the
            first does from the text, and is scored beside it: what it gains is not due to the text.
        bytes: A glob of files that state how many bytes of the original text each token stands for, one for
            each shard and in its form: for text that was rewritten before it was tokenized. The score is only
            as good as these files; unset: the bytes of the decoded text.
        state: A file that a long score is kept in while it runs. Ctrl-C and SIGTERM end the score after a
            chunk, and the same command goes on from there, to the same bits.
        per_document: Write a table of each document's start, tokens, bytes and bits: a .csv file, or a
            .parquet file with the extra parquet.
        per_token: Write the mixture's bits of each target, float32: a .npy file.
        trace: Write what happens along the text as JSON, which `hybridlm report` shows if it is trace.json in
            the run's folder: bits per byte by expert, shares of experts, and a passage token by token.
        device: Where the model runs: cpu or cuda; unset: cuda where there is one.
        threads: Of oracle look-ups; unset: HYBRIDLM_NUM_THREADS, else this process's share of the cores.
        json: Print one JSON object.
    """
    from hybridlm.data.shards import expand
    from hybridlm.score import score_artifact
    from hybridlm.scoring.evaluate import ScoreFiles

    score = score_artifact(
        artifact,
        expand(val),
        tokenizer.tokenizer,
        scoring,
        bos_id=tokenizer.bos_id,
        max_tokens=max_tokens,
        control=None if control is None else expand(control),
        stated_bytes=None if bytes is None else expand(bytes),
        files=ScoreFiles(state, per_document, per_token),
        trace=trace,
        device=device,
        threads=threads,
    )
    # Without a neural model there is no group to ask, and torch isn't needed to know who prints.
    if os.environ.get("RANK", "0") == "0":
        _show(score, json)


def _learning(result: "EvaluationResult") -> str:
    if result.ttt == "off":
        return "off"
    undone = f", {result.ttt_undone:,} times undone as it had diverged" if result.ttt_undone else ""
    return f"{result.ttt} ({result.ttt_updates:,} updates{undone})"


def _show(score: "Score[EvaluationResult]", json: bool) -> None:
    result, made_of = score.result, score.made_of
    if json:
        print_json(score.as_dict())
        return
    ttt = _learning(result)
    counted = "decoded text"
    if made_of.stated_bytes:
        counted = f"text as {', '.join(file.path for file in made_of.stated_bytes)} state them"
    print(f"{result.tokens:,} targets, {result.bytes:,} bytes of {counted}, TTT {ttt}")
    table = number_table("expert", "bits/token", "BPB")
    for name, rate in result.experts.items():
        table.add_row(name, f"{rate.bits_per_token:.4f}", f"{rate.bpb:.4f}")
    if len(result.ttt_rates) > 1:
        for arm in result.ttt_rates:
            table.add_row(
                f"neural, rate {arm.learning_rate:g}", f"{arm.bits_per_token:.4f}", f"{arm.bpb:.4f}"
            )
    if result.control is not None:
        table.add_row("control", f"{result.control.bits_per_token:.4f}", f"{result.control.bpb:.4f}")
    table.add_section()
    table.add_row(f"mixture: {result.mixer}", f"{result.bits_per_token:.4f}", f"{result.bpb:.4f}")
    print_table(table)
    if result.bpb_interval is not None:
        low, high = result.bpb_interval
        documents = number_of(len(result.documents.tokens), "document")
        print(f"95% interval over {documents}: {low:.4f} to {high:.4f} BPB")
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.stages.items())
    print(f"{result.seconds:.1f} s ({stages})")
    print_provenance(made_of)
