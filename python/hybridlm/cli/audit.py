"""`hybridlm audit`: is an artifact's score honest?"""

import json as json_format
import sys
from pathlib import Path

import tyro

from hybridlm.errors import InputError
from hybridlm.scoring.settings import DEFAULT_MIXER


def audit(
    artifact: tyro.conf.Positional[Path],
    *,
    val: str,
    tokenizer: Path,
    mixer: str = DEFAULT_MIXER,
    max_tokens: int = 20_000,
    rows: int = 64,
    changes: int = 6,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Try the rules of an honest score on an artifact: causal, normalised, scored first, in a single pass.

    Exits with 1 where one is broken.

    Args:
        artifact: The artifact's file.
        val: A glob of shards, read as one stream in the order of their names.
        tokenizer: The tokenizer that the shards and the artifact were made with.
        mixer: The mixture.
        max_tokens: Use only the first so many targets.
        rows: Positions at which the whole distribution is looked at.
        changes: Positions after which the future is changed, and cut off.
        seed: Of the positions and the changes.
        json: Print one JSON object.
    """
    from hybridlm.artifact import Artifact
    from hybridlm.data import shards
    from hybridlm.data.tokenizer import Tokenizer
    from hybridlm.scoring.audit import artifact_subject
    from hybridlm.scoring.audit import audit as run

    for name, value in (("--max-tokens", max_tokens), ("--rows", rows), ("--changes", changes)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    vocabulary = Tokenizer.load(tokenizer)
    bundle = Artifact.from_file(artifact)
    bundle.check_tokenizer(vocabulary.fingerprint, vocabulary.vocab_size)
    stream = shards.read_stream(
        shards.expand(val), vocab_size=vocabulary.vocab_size, max_tokens=max_tokens + 1
    )
    report = run(
        artifact_subject(bundle, vocabulary.vocab_size, mixer),
        stream,
        vocabulary.vocab_size,
        artifact=bundle,
        tokenizer=vocabulary,
        rows=rows,
        changes=changes,
        seed=seed,
    )
    if json:
        json_format.dump(report.as_dict(), sys.stdout)
        print()
    else:
        for name, part in report.as_dict().items():
            if isinstance(part, dict):
                found = ", ".join(f"{key} {value}" for key, value in part.items() if key != "passed")
                print(f"{name:12} {'passed' if part['passed'] else 'FAILED'}: {found}")
    if not report.passed:
        raise InputError(f"{artifact}: its score breaks the rules")
