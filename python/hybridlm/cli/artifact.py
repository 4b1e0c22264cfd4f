"""`hybridlm artifact pack` and `hybridlm artifact inspect`."""

from pathlib import Path
from typing import Any

import tyro

from hybridlm.artifact import Artifact, bundle
from hybridlm.cli.arguments import ChosenTokenizer, Count, Out
from hybridlm.cli.output import check_output, is_standard, print_json, read_input, write_output
from hybridlm.errors import InputError, UsageError
from hybridlm.extras import require_torch
from hybridlm.files import read_bytes
from hybridlm.model.grid import Scheme


def pack(
    *,
    tokenizer: ChosenTokenizer,
    out: Out,
    model: Path | None = None,
    oracle: Path | None = None,
    quantise: tuple[str, ...] = (),
    clip: str | None = None,
    calibration: tuple[Path, ...] = (),
    budget: Count | None = None,
    holdout: Path | None = None,
    counts: tuple[Path, ...] = (),
    dry_run: bool = False,
    allow_over_budget: bool = False,
    json: bool = False,
) -> None:
    """Bundle a trained model, an oracle, or both into one artifact.

    Args:
        out: Where the artifact goes; - is standard output, where nothing else is printed then.
        model: A training run's folder; its final weights are quantised.
        oracle: An oracle file.
        quantise: [KIND=][BITS:]RULE, any number of them: the grid of each row of KIND's matrices (attention,
            mlp, embedding, bigram, gate; without KIND, all but gates) has BITS bits (2 to 8, by default 6)
            and ends at RULE: absmax, std:K or percentile:P. A larger K makes the artifact smaller and the
            weights coarser. Unset: 8:std:24, and 8:absmax for embedding and gate. `low-rank=RANK:MATRICES`
            corrects the MATRICES with the largest errors by factors of that rank.
        clip: The old name of `--quantise RULE`.
        calibration: Training shards: the model's matrices are rounded by GPTQ, so that their outputs change
            little on this text.
        budget: Choose grids, low-rank correction and the oracle's size so that the artifact has at most this
            many bytes and the mixture needs the fewest bits for the held-out text. The curve is printed.
        holdout: A training shard to choose by, which is neither counted nor calibrated on. The model should
            not have been trained on it either.
        counts: Shards, or files of sparse counts, to build the oracle of that fits the budget.
        dry_run: Choose and print, and write nothing.
        allow_over_budget: Write the artifact even if it is larger than 16,000,000 bytes.
        json: Print one JSON object, as `hybridlm artifact inspect --json` does, with --budget also `curve`.
    """
    if model is None and oracle is None:
        raise UsageError("an artifact needs a model, an oracle or both: give --model or --oracle")
    quantise += () if clip is None else (clip,)
    for option, given in (("--quantise", quantise), ("--calibration", calibration), ("--budget", budget)):
        if given and model is None:
            raise UsageError(f"{option} concerns a model's weights: give --model, too")
    choosing = (("--holdout", holdout is not None), ("--counts", counts), ("--dry-run", dry_run))
    for option, present in choosing:
        if present and budget is None:
            raise UsageError(f"{option} is for choosing within a budget: give --budget, too")
    if model is not None:
        require_torch("packing a model")
    if not dry_run:
        check_output(out)
    try:
        scheme = Scheme.parse(quantise)
    except InputError as error:
        raise UsageError(str(error)) from None
    curve: dict[str, Any] = {}
    if model is not None and budget is not None:
        if quantise:
            raise UsageError("--budget chooses what --quantise would say: leave one of them out")
        if holdout is None:
            raise UsageError("--budget needs text to choose by: give --holdout")
        if oracle is not None and counts:
            raise UsageError("--counts makes an oracle, and --oracle gives one: leave one of them out")
        from hybridlm.cli.budget import choose_within

        choice, lines = choose_within(
            budget, model, holdout, tokenizer.load(),
            oracle=oracle, counts=counts, calibration=calibration, name=str(out),
        )  # fmt: skip
        artifact = choice.artifact
        if not allow_over_budget:
            artifact.check_budget()
        curve = {"curve": [point.as_dict() for point in choice.curve], "chosen": choice.best.as_dict()}
        if not json and not is_standard(out):
            print("\n".join(lines))
    else:
        artifact = bundle(
            model,
            None if oracle is None else read_bytes(oracle),
            tokenizer.load(),
            name=str(out),
            scheme=scheme,
            calibration=calibration,
            over_budget=allow_over_budget,
        )
    if not dry_run:
        write_output(out, artifact.to_bytes())
        if is_standard(out):
            return
    _show(artifact.summary() | curve, json)


def inspect(artifact: tyro.conf.Positional[Path], *, json: bool = False) -> None:
    """Show what an artifact holds; every byte of it is checked.

    Args:
        artifact: The artifact's file; - is standard input.
        json: Print one JSON object.
    """
    read = (
        Artifact.from_bytes(*read_input(artifact)) if is_standard(artifact) else Artifact.from_file(artifact)
    )
    _show(read.summary(), json)


def _show(summary: dict[str, Any], json: bool) -> None:
    if json:
        print_json(summary)
        return
    total, budget = summary["total_bytes"], summary["budget_bytes"]
    print(f"artifact   version {summary['version']}, {total:,} of {budget:,} bytes ({total / budget:.1%})")
    if summary["neural_bytes"]:
        model, grids = summary["model"], summary["quantisation"]["grids"]
        print(
            f"neural     {summary['neural_bytes']:,} bytes: {summary['parameters']:,} parameters, "
            f"{model.get('layers')} layers of width {model.get('width')}"
        )
        how = summary["quantisation"]["rounding"]
        print(f"quantised  {', '.join(f'{kind} {grid}' for kind, grid in grids.items())}, rounding {how}")
        print(f"tokenizer  {summary['tokenizer']}")
    if summary["oracle_bytes"]:
        orders = ", ".join(map(str, summary["orders"]))
        print(f"oracle     {summary['oracle_bytes']:,} bytes: {summary['estimator']}, orders {orders}")
    print(f"vocabulary {summary['vocab_size']} tokens")
