"""`hybridlm audit`: is an artifact's score honest?"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hybridlm.cli.arguments import ChosenTokenizer, Count, Glob, Natural
from hybridlm.cli.options import Range
from hybridlm.cli.output import print_json
from hybridlm.errors import UsageError
from hybridlm.progress import Progress
from hybridlm.scoring.config import DEFAULT_TTT, ScoringConfig

if TYPE_CHECKING:
    from hybridlm.scoring.audit import AuditReport

CHUNK = 4096


def audit(
    artifact: tyro.conf.Positional[Path | None] = None,
    *,
    subject: str | None = None,
    val: Glob,
    tokenizer: ChosenTokenizer,
    scoring: Annotated[ScoringConfig, tyro.conf.arg(name="")] = ScoringConfig(chunk=CHUNK),  # noqa: B008 - frozen
    max_tokens: Count = 20_000,
    rows: Count = 64,
    changes: Count = 6,
    skip_world_sizes: bool = False,
    device: str | None = None,
    tolerance: Annotated[float, Range(0)] = 1e-4,
    seed: Natural = 0,
    json: bool = False,
) -> bool:
    """Try the rules of an honest score on an artifact: causal, normalised, scored first, in a single pass.

    Exits with 1 where one is broken. docs/audit.md says what each rule can and can't show, and how to put
    somebody else's scorer in the artifact's place (--subject).

    Args:
        artifact: The artifact's file.
        subject: In an artifact's place a scorer of any kind, module:factory or file.py:factory, which is
            imported and run.
        val: A glob of shards, read as one stream in the order of their names.
        scoring: The protocol.
        max_tokens: How many targets to use, from the first.
        rows: Positions at which the whole distribution is looked at.
        changes: Positions after which the future is changed, and cut off.
        skip_world_sizes: Don't run the scorer of a neural model under torchrun, on 1 and 2 processes.
        device: Where the model runs: cpu or cuda; unset: cuda where there is one.
        tolerance: Nats by which a --subject's scores may differ by rounding; an artifact's may not at all.
        seed: Of the positions and the changes.
        json: Print one JSON object.
    """
    from hybridlm import config as layers
    from hybridlm.artifact import Artifact
    from hybridlm.data import shards
    from hybridlm.scoring import world_sizes
    from hybridlm.scoring.audit import audit as run
    from hybridlm.scoring.audit import check_length
    from hybridlm.scoring.audit_progress import Watched, targets_to_score
    from hybridlm.scoring.audit_subject import artifact_subject
    from hybridlm.scoring.foreign_subject import load_subject

    vocabulary = tokenizer.load()
    if artifact is None or subject is not None:
        if artifact is not None or subject is None:
            raise UsageError("audit takes either an artifact's file or --subject module:factory")
        opened = shards.open_stream(shards.expand(val), vocabulary.vocabulary, max_tokens=max_tokens + 1)
        foreign = load_subject(subject, vocabulary.vocab_size)
        report = run(
            foreign,
            opened.tokens,
            vocabulary.vocab_size,
            source=opened,
            chunk=scoring.chunk,
            other_chunks=not foreign.has_evaluate,
            rows=rows,
            changes=changes,
            seed=seed,
            tolerance=tolerance,
        )
        return _show(report, json)
    bundle = Artifact.from_file(artifact)
    if not scoring.no_neural:
        bundle.require_torch()
    bundle.check_tokenizer(vocabulary.vocabulary)
    opened = shards.open_stream(shards.expand(val), vocabulary.vocabulary, max_tokens=max_tokens + 1)
    stream = opened.tokens
    check_length(stream)  # before processes are started
    neural = bundle.neural_blob is not None and not scoring.no_neural
    if neural and scoring.ttt is None:
        scoring = dataclasses.replace(scoring, ttt=layers.resolve(ScoringConfig).ttt or DEFAULT_TTT)
    dist = None
    if neural:
        from hybridlm.distributed import alone

        dist = alone(device)
    world_size = None
    if neural and not skip_world_sizes:
        world_size = world_sizes.compare(bundle, *world_sizes.prefix(bundle, stream, scoring))
    # What has been trained on is what the chunks say, so other chunks are another score.
    other_chunks = not neural or scoring.ttt == "off"
    scorer = artifact_subject(bundle, vocabulary.vocab_size, scoring, dist)
    targets = targets_to_score(len(stream), changes=changes, other_chunks=other_chunks)
    with Progress("audit", targets, "targets") as progress:
        report = run(
            Watched(scorer, progress.update),
            stream,
            vocabulary.vocab_size,
            artifact=bundle,
            tokenizer=vocabulary,
            source=opened,
            world_size=world_size,
            chunk=scoring.chunk,
            other_chunks=other_chunks,
            rows=rows,
            changes=changes,
            seed=seed,
        )
    return _show(report, json)


def _show(report: "AuditReport", json: bool) -> bool:
    if json:
        print_json(report.as_dict())
    else:
        for field in dataclasses.fields(report):
            part = getattr(report, field.name)
            if field.name != "passed" and part is not None:
                print(f"{field.name:12} {'passed' if part.passed else 'FAILED'}: {part}")
    return report.passed
