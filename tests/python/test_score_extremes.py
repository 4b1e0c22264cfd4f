"""Whatever the options, a score is finite and that of distributions, or is refused with the reason."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridlm import _core
from hybridlm.artifact import Artifact, pack
from hybridlm.data.byte_table import ByteTable
from hybridlm.errors import InputError
from hybridlm.model import GPT, ModelConfig, neural_blob
from hybridlm.scoring.config import ScoringConfig, TTTConfig
from hybridlm.scoring.evaluate import ScoredChunk, evaluate
from hybridlm.scoring.mixtures import mixture_names, row_mixture_names

V = 12
STREAM = np.random.default_rng(0).integers(1, V, 60).astype(np.uint16)
STREAM[::11] = 1
TABLE = ByteTable(np.full(V, 2, np.int32), np.zeros(V, np.bool_), np.arange(V) == 1)


pytestmark = pytest.mark.usefixtures("one_thread")


def made(scale: float) -> Artifact:
    """A tiny model whose weights are ``scale`` times what they begin with, and an oracle."""
    torch.manual_seed(0)
    config = ModelConfig(
        layers=1, width=16, heads=2, kv_heads=1, mlp_hidden=16, vocab_size=V, sequence_length=8,
        rope_dims=4, bigram_rows=16, bigram_width=16, zero_init_projections=False,
    )  # fmt: skip
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    counts = _core.NgramCounts(V, 2)
    counts.count_tokens(STREAM[::-1].copy())
    blob = neural_blob.encode(model, tokenizer="ab" * 32)
    return Artifact.from_bytes(pack(blob, counts.dense_oracle(level=1)))


ARTIFACTS = {scale: made(scale) for scale in (0.0, 1.0, 1e3)}
"""A model that knows nothing, an ordinary one, and one that is as sure as can be."""

WHOLE = [-(2**63), -1, 0, 1, 2, 3, 8, 16, 59, 60, 2**16, 2**16 + 1, 2**31, 2**40, 2**40 + 1, 2**64]
REAL = [-1.0, 0.0, -0.0, 5e-324, 1e-300, 1e-38, 1e-8, 0.5, 1.0, 1000.0, 1001.0, 1e6, 1e7, 3e38, 1e39, 1e308]
REAL += [float("inf"), float("nan"), -float("inf")]

# The largest values of these make a score of 60 tokens take long or much memory; they are no extremes of
# arithmetic.
MODERATE: dict[str, Sequence[Any]] = {
    "epochs": (-1, 0, 1, 3, 2**16 + 1),
    **dict.fromkeys(("window", "stride"), (-1, 0, 1, 2, 7, 8, 59, 60, 100, 2**24 + 1)),
    **dict.fromkeys(("batch", "rank", "documents"), (-1, 0, 1, 3, 4, 64, 2**16 + 1)),
}


def extremes(cls: type) -> dict[str, Sequence[Any]]:
    """For each field that is a number, extremes of its kind."""
    found: dict[str, Sequence[Any]] = {}
    for field in dataclasses.fields(cls):
        kind = str(field.type)
        if "Literal" in kind:
            continue
        if field.name in MODERATE:
            found[field.name] = MODERATE[field.name]
        elif "bool" in kind:
            found[field.name] = [False, True]
        elif "tuple" in kind:
            rates = [(), (0.0,), (0.0, 1e-3), (1000.0,), (1e-300, 1000.0), (1e-3, 1e-3)]
            found[field.name] = [*rates, (float("nan"),), (-1.0,)]
        elif "float" in kind:
            found[field.name] = REAL
        elif "int" in kind:
            found[field.name] = WHOLE
    return found


TTT, SCORING = extremes(TTTConfig), extremes(ScoringConfig)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_score_is_finite_or_refused(data: st.DataObject) -> None:
    # A few at a time: with many, one of them is refused nearly always.
    changed = data.draw(st.lists(st.sampled_from([*TTT, *SCORING]), max_size=4, unique=True))
    values = {name: data.draw(st.sampled_from((TTT | SCORING)[name]), name) for name in changed}
    try:
        ttt = TTTConfig(**{name: value for name, value in values.items() if name in TTT and name != "batch"})
        config = ScoringConfig(
            **{"chunk": 20} | {name: value for name, value in values.items() if name in SCORING},
            mixer=data.draw(st.sampled_from([*mixture_names(), *row_mixture_names()])),
            ttt=data.draw(st.sampled_from(["sgd", "adamw", "lora", "documents", "off"])),
            precision=data.draw(st.sampled_from([None, "float32", "bfloat16"])),
            ttt_options=ttt,
        )
    except InputError as error:
        assert str(error)
        return
    check(data.draw(st.sampled_from(list(ARTIFACTS))), config)


@pytest.mark.parametrize("scale", ARTIFACTS)
@pytest.mark.parametrize("ttt", ["sgd", "adamw", "lora", "documents"])
def test_the_largest_steps_are_undone(scale: float, ttt: Any) -> None:
    steps = TTTConfig(
        learning_rates=(1000.0,), epochs=3, clip=1e6, alpha=1e6, margin=1e6, momentum=0.999999,
        output_scale=1000.0, input_scale=1000.0, weight_decay=1000.0, frozen_blocks=0, targets=1, batch=1,
    )  # fmt: skip
    check(scale, ScoringConfig(chunk=7, ttt=ttt, ttt_options=steps))


def check(scale: float, config: ScoringConfig) -> None:
    chunks: list[ScoredChunk] = []
    try:
        result = evaluate(ARTIFACTS[scale], STREAM, TABLE, config, threads=1, on_chunk=chunks.append)
    except InputError as error:
        assert str(error)
        return
    told = [chunk.log_probs for chunk in chunks] + [nll for chunk in chunks for nll in chunk.nll.values()]
    assert all(np.isfinite(values).all() for values in told)
    assert all((chunk.log_probs <= 1e-6).all() for chunk in chunks)
    assert sum(chunk.log_probs.shape[1] for chunk in chunks) == len(STREAM) - 1
    rates = [*result.experts.values(), *result.ttt_rates]
    for value in (result.bpb, result.bits_per_token, *(rate.bpb for rate in rates)):
        assert np.isfinite(value) and value >= 0
