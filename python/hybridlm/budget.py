"""How an artifact's bytes are best spent: which grids, which low-rank correction, how large an oracle.

A matrix whose rows are rounded to steps of t deviations loses, to second order, c·t² in nats and costs
n·log2(1/t) bits. So the least loss at given bytes has t_k² in proportion to n_k / c_k over the kinds k of
matrix. c_k is measured once for each kind; what is left to search is one number, how coarse all of them are
together. Each coarseness is tried with the oracle that fits into the bytes that it leaves, by the mixture's
bits per byte on text that was held out.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hybridlm.artifact import Artifact, pack
from hybridlm.calibration import Calibration
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.model import GPT, neural_blob
from hybridlm.model.gptq import input_products
from hybridlm.model.grid import KINDS, MAX_BITS, ClipRule, Grid, Kind, LowRankRule, Scheme, kind_of
from hybridlm.model.quantise import quantise
from hybridlm.model.quantised import dequantise
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import evaluate
from hybridlm.scoring.neural import target_log_probs

log = logging.getLogger("hybridlm.artifact")

Oracles = Callable[[int], bytes | None]
"""From a number of bytes, the best oracle of at most that size, or None.

Where there is only one oracle it may be larger; the artifact then doesn't fit."""

STEPS = tuple(0.08 * 2 ** (index / 2) for index in range(9))
"""Coarsenesses: means over all weights, in deviations, from a twelfth to 1.3."""
_PROBE = 0.4
"""The step that a kind's loss is measured at: coarse enough to be seen on a short text."""
_REACH = 12.0
"""In deviations: a grid that would end sooner ends at each row's largest weight instead."""
_LARGEST_SHARE = 5.0
_LOW_RANK = LowRankRule(4, 3)


@dataclass(frozen=True)
class Point:
    """A way to spend the bytes. step: the coarseness; bpb: of the mixture on the held-out text."""

    step: float
    scheme: Scheme
    neural_bytes: int
    oracle_bytes: int
    total_bytes: int
    bpb: float

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "step": self.step,
            "grids": self.scheme.words(),
            "low_rank": str(self.scheme.low_rank),
            "neural_bytes": self.neural_bytes,
            "oracle_bytes": self.oracle_bytes,
            "total_bytes": self.total_bytes,
            "bpb": self.bpb,
        }


@dataclass(frozen=True)
class Choice:
    """curve: all that was tried, by coarseness. best: the one with the fewest bits, as ``artifact``."""

    curve: list[Point]
    best: Point
    artifact: Artifact


def choose(
    model: GPT,
    oracles: Oracles,
    tokenizer: Tokenizer,
    holdout: NDArray[np.uint16],
    budget: int,
    *,
    calibration: Calibration | None = None,
    name: str = "artifact",
    steps: tuple[float, ...] = STEPS,
) -> Choice:
    """The artifact of at most ``budget`` bytes whose mixture is best on ``holdout``, uint16 [N].

    Raises InputError where nothing that is tried fits, with the fewest bytes that were needed.
    """
    products = None if calibration is None else input_products(model, calibration.batches())
    rounded = _Rounded(model, tokenizer, products, calibration)
    shares = step_shares(model, _losses(rounded, holdout))
    empty = len(pack(None, None, tokenizer.vocabulary))
    tried: dict[tuple[float, LowRankRule], tuple[Point, Artifact]] = {}
    fewest = math.inf

    def attempt(step: float, low_rank: LowRankRule) -> float:
        """The bits per byte of a coarseness, infinite where it doesn't fit."""
        nonlocal fewest
        if (step, low_rank) in tried:
            return tried[step, low_rank][0].bpb
        scheme = Scheme(
            {**Scheme().grids, **{kind: grid_of(step * share) for kind, share in shares.items()}}, low_rank
        )
        blob = rounded.blob(scheme)
        oracle = oracles(max(0, budget - empty - len(blob)))
        artifact = Artifact.from_bytes(pack(blob, oracle, tokenizer.vocabulary), name)
        fewest = min(fewest, artifact.total_bytes)
        if artifact.total_bytes > budget:
            return math.inf
        bpb = evaluate(artifact, holdout, tokenizer.byte_table, ScoringConfig(ttt="off")).bpb
        found = Point(step, scheme, len(blob), len(oracle or b""), artifact.total_bytes, bpb)
        log.info("step %.3f: %s bytes of weights, %s of oracle, %.4f bits per byte", step,
                 f"{found.neural_bytes:,}", f"{found.oracle_bytes:,}", bpb)  # fmt: skip
        tried[step, low_rank] = found, artifact
        return bpb

    plain = LowRankRule()
    if not math.isfinite(min(attempt(step, plain) for step in steps)):
        raise InputError(
            f"{name}: the coarsest weights tried make an artifact of {int(fewest):,} bytes, and the budget "
            f"is {budget:,}"
        )

    def best() -> tuple[Point, Artifact]:
        return min(tried.values(), key=lambda found: found[0].bpb)

    middle = best()[0].step
    ratio = 2 ** (1 / 4)
    for step in (middle / ratio, middle * ratio):
        attempt(step, plain)
    attempt(best()[0].step, _LOW_RANK)
    point, artifact = best()
    curve = sorted((found for found, _ in tried.values()), key=lambda found: (found.step, found.bpb))
    return Choice(curve, point, artifact)


def grid_of(step: float) -> Grid:
    """The grid of eight bits whose steps are ``step`` standard deviations.

    Where they would end before `_REACH` deviations, it is absmax, with the finest steps that clip nothing.
    """
    end = step * Grid(MAX_BITS).ends[1]
    rule = ClipRule("absmax") if end < _REACH else ClipRule("std", float(f"{end:.4g}"))
    return Grid(MAX_BITS, rule)


def step_shares(model: GPT, losses: Mapping[Kind, float]) -> dict[Kind, float]:
    """By kind, its step over the coarseness, from what each kind lost at the same step.

    In proportion to √(n / loss), with a mean, geometric and over all weights, of one. A loss of nothing,
    which is within the noise of a short text, counts as a hundredth of the largest.
    """
    weights: dict[Kind, int] = {}
    for name, parameter in model.named_parameters():
        kind = kind_of(name, parameter.shape)
        if kind is not None and kind in losses:
            weights[kind] = weights.get(kind, 0) + parameter.numel()
    floor = max(max(losses.values(), default=0.0) / 100, 1e-9)
    raw = {kind: math.sqrt(size / max(losses[kind], floor)) for kind, size in weights.items()}
    total = sum(weights.values())
    mean = math.exp(sum(size * math.log(raw[kind]) for kind, size in weights.items()) / max(1, total))
    return {kind: min(max(value / mean, 1 / _LARGEST_SHARE), _LARGEST_SHARE) for kind, value in raw.items()}


def _losses(rounded: "_Rounded", holdout: NDArray[np.uint16]) -> dict[Kind, float]:
    """Nats a token that each kind of matrix, rounded alone, loses; gates are few and left out."""
    probe = Scheme(dict.fromkeys(KINDS, grid_of(_PROBE)))
    state = rounded.model.state_dict()
    coarse = rounded.state(probe)
    kinds = {name: kind_of(name, weight.shape) for name, weight in state.items()}
    before = _nats(rounded.model, holdout)
    losses: dict[Kind, float] = {}
    changed = GPT(rounded.model.config)
    for kind in KINDS:
        if kind != "gate" and kind in kinds.values():
            changed.load_state_dict(
                {name: coarse[name] if kinds[name] == kind else weight for name, weight in state.items()}
            )
            losses[kind] = _nats(changed, holdout) - before
            log.info("%s at a step of %g: %+.4f nats a token", kind, _PROBE, losses[kind])
    return losses


@torch.no_grad()
def _nats(model: GPT, stream: NDArray[np.uint16]) -> float:
    """The model's mean loss in windows without overlap."""
    length = min(model.config.sequence_length, len(stream) - 1)
    rows = np.lib.stride_tricks.sliding_window_view(stream.astype(np.int64), length + 1)[::length]
    total = 0.0
    for start in range(0, len(rows), 32):
        batch = torch.from_numpy(rows[start : start + 32].copy())
        total -= float(target_log_probs(model(batch[:, :-1]), batch).double().sum())
    return total / (len(rows) * length)


@dataclass(frozen=True)
class _Rounded:
    """A model, and the ways it can be rounded."""

    model: GPT
    tokenizer: Tokenizer
    products: Mapping[str, torch.Tensor] | None
    calibration: Calibration | None

    def state(self, scheme: Scheme) -> dict[str, torch.Tensor]:
        quantised = quantise(self.model.state_dict(), scheme, self.products)
        return {name: torch.from_numpy(values) for name, values in dequantise(quantised).items()}

    def blob(self, scheme: Scheme) -> bytes:
        quantised = quantise(self.model.state_dict(), scheme, self.products)
        return neural_blob.write(
            quantised,
            model=json.loads(self.model.config.to_json()),
            tokenizer=self.tokenizer.vocabulary.fingerprint or "",
            quantisation=neural_blob.quantisation_of(quantised, scheme, self.calibration),
        )


def curve_table(choice: Choice) -> list[str]:
    """Lines for people: all that was tried, the chosen one marked."""
    lines = ["   step     neural     oracle      total   low-rank      BPB"]
    for point in choice.curve:
        mark = "*" if point is choice.best else " "
        lines.append(
            f"{mark} {point.step:5.3f} {point.neural_bytes:10,} {point.oracle_bytes:10,} "
            f"{point.total_bytes:10,} {point.scheme.low_rank!s:>10} {point.bpb:8.4f}"
        )
    return lines
