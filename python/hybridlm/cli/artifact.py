"""`hybridlm artifact pack` and `hybridlm artifact inspect`."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from hybridlm.artifact import Artifact, bundle
from hybridlm.cli.arguments import ChosenTokenizer
from hybridlm.cli.output import print_json
from hybridlm.errors import InputError
from hybridlm.extras import require_torch
from hybridlm.files import atomic_write_bytes


def pack(
    *,
    tokenizer: ChosenTokenizer,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: Path | None = None,
    oracle: Path | None = None,
    clip: str | None = None,
    allow_over_budget: bool = False,
    json: bool = False,
) -> None:
    """Bundle a trained model, an oracle, or both into one artifact.

    Args:
        out: Where the artifact goes.
        model: A training run's folder; its final weights are quantised to six bits.
        oracle: An oracle file.
        clip: Where a row's grid of six-bit values ends: absmax, std:K or percentile:P. A larger K makes the
            artifact smaller and the weights coarser.
        allow_over_budget: Write the artifact even if it is larger than 16,000,000 bytes.
        json: Print one JSON object, as `hybridlm artifact inspect --json` does.
    """
    if model is None and oracle is None:
        raise InputError("an artifact needs a model, an oracle or both: give --model or --oracle")
    if clip is not None and model is None:
        raise InputError("--clip is about a model's weights: give --model, too")
    if model is not None:
        require_torch("packing a model")
    rule = None
    if clip is not None:
        from hybridlm.model.quantise import ClipRule  # brings torch

        rule = ClipRule.parse(clip)
    artifact = bundle(
        model,
        None if oracle is None else oracle.read_bytes(),
        tokenizer.load(),
        name=str(out),
        clip=rule,
        over_budget=allow_over_budget,
    )
    atomic_write_bytes(out, artifact.to_bytes())
    _show(artifact.summary(), json)


def inspect(artifact: tyro.conf.Positional[Path], *, json: bool = False) -> None:
    """Show what an artifact holds; every byte of it is checked.

    Args:
        artifact: The artifact's file.
        json: Print one JSON object.
    """
    _show(Artifact.from_file(artifact).summary(), json)


def _show(summary: dict[str, Any], json: bool) -> None:
    if json:
        print_json(summary)
        return
    total, budget = summary["total_bytes"], summary["budget_bytes"]
    print(f"artifact   version {summary['version']}, {total:,} of {budget:,} bytes ({total / budget:.1%})")
    if summary["neural_bytes"]:
        model = summary["model"]
        print(
            f"neural     {summary['neural_bytes']:,} bytes: {summary['parameters']:,} parameters, "
            f"{model.get('layers')} layers of width {model.get('width')}, int6 clipped at {summary['clip']}"
        )
        print(f"tokenizer  {summary['tokenizer']}")
    if summary["oracle_bytes"]:
        orders = ", ".join(map(str, summary["orders"]))
        print(f"oracle     {summary['oracle_bytes']:,} bytes: {summary['estimator']}, orders {orders}")
    print(f"vocabulary {summary['vocab_size']} tokens")
