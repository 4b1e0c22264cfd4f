"""Reads what `hybridlm artifact pack --budget` chooses from, and sees that the texts are apart."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from hybridlm import _core
from hybridlm.budget import Choice, Oracles, choose, curve_table
from hybridlm.calibration import draw
from hybridlm.data.shards import is_validation_shard, open_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.files import read_bytes
from hybridlm.oracle.build import estimate_sparse
from hybridlm.oracle.sparse_counting import Ngrams, counted
from hybridlm.train.checkpoint import load_model

HOLDOUT_TOKENS = 50_000
"""From the beginning of the held-out shard."""

_LEAST_ORACLE = 4_000
"""Bytes below which no oracle is tried."""


def choose_within(
    budget: int,
    run: Path,
    holdout: Path,
    tokenizer: Tokenizer,
    *,
    oracle: Path | None,
    counts: Sequence[Path],
    calibration: Sequence[Path],
    name: str,
) -> tuple[Choice, list[str]]:
    """The choice, and a table of what it was made from.

    Raises InputError for a validation shard to hold out, for one that is calibrated on or counted, and where
    nothing fits.
    """
    if is_validation_shard(holdout):
        raise InputError(f"{holdout}: a validation shard; an artifact that is chosen by one has seen it")
    (held_out,) = (content for _, _, content in _core.identify_shards([str(holdout)]))
    if held_out in {content for _, _, content in _core.identify_shards(list(map(str, calibration)))}:
        raise InputError(f"{holdout}: both held out and calibrated on")
    model, metadata = load_model(run)
    if metadata.tokenizer != tokenizer.fingerprint:
        raise InputError(
            f"{run}: trained with the tokenizer of SHA-256 {metadata.tokenizer}, not {tokenizer.fingerprint}"
        )
    text = (
        draw(calibration, tokenizer.vocabulary, length=model.config.sequence_length) if calibration else None
    )
    stream = open_stream([holdout], tokenizer.vocabulary, max_tokens=HOLDOUT_TOKENS).tokens
    with contextlib.ExitStack() as stack:
        oracles = _given(None if oracle is None else read_bytes(oracle))
        if counts:
            found = stack.enter_context(counted(list(counts), Ngrams(tokenizer.vocabulary)))
            if held_out in {content for _, _, content in found.shards}:
                raise InputError(f"{holdout}: both held out and counted")
            oracles = _of_counts(found)
        choice = choose(model, oracles, tokenizer, stream, budget, calibration=text, name=name)
    return choice, curve_table(choice)


def _given(oracle: bytes | None) -> Oracles:
    return lambda most: oracle


def _of_counts(counts: _core.SparseCounts) -> Oracles:
    return lambda most: estimate_sparse(counts, max_bytes=most) if most >= _LEAST_ORACLE else None
