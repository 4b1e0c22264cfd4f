"""What a training run will take, computed without doing any of it.

Parameters and activations are counted on a model of fake tensors, which runs the same code as the real one
but has no storage.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hybridlm.model.config import ModelConfig
from hybridlm.model.gpt import GPT
from hybridlm.model.grid import Scheme, kind_of
from hybridlm.train.config import TrainConfig
from hybridlm.train.optimizer import parameter_groups

ASSUMED_VOCABULARY = 1024
"""Where neither the tokenizer nor the preset says how many pieces there are."""

_SCHEMES = ("", "8:std:48 embedding=8:std:24")
"""Ways of rounding that are estimated: as `artifact pack --quantise` takes them."""

_PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Estimate:
    """Of one run.

    Attributes:
        parameters: trained numbers.
        flops_per_token: floating-point operations, forward and backward, with depth recurrence on.
        state_bytes: weights, their gradients, the optimisers' state and the average, on every rank.
        activation_bytes: what one micro-batch keeps for its backward pass, without torch.compile, by the
            precision of activations.
        packed_bytes: of the neural part of an artifact, by the grids of its matrices.
        steps_per_second: that ``iterations`` need to fit into ``max_seconds``; 0 without a limit.
    """

    parameters: int
    flops_per_token: float
    state_bytes: int
    activation_bytes: dict[str, int]
    packed_bytes: dict[str, float]
    steps_per_second: float


def estimate(config: TrainConfig) -> Estimate:
    """For a configuration whose vocabulary is known. Takes a second and next to no memory."""
    with FakeTensorMode():
        model = GPT(config.model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    groups = parameter_groups(model, config.optimizer)
    by_muon = sum(
        parameter.numel()
        for name, group in groups.items()
        if name.endswith("matrices")
        for parameter in group["params"]
    )
    # Weights, gradients and average are a float32 each; Muon keeps one moment, AdamW two.
    state = 4 * (3 * parameters + by_muon + 2 * (parameters - by_muon))
    return Estimate(
        parameters,
        flops_per_token(config.model),
        state,
        {name: activation_bytes(model, config, dtype) for name, dtype in _PRECISIONS.items()},
        {
            words or "the default grids": packed_bytes(model, Scheme.parse(words.split()))
            for words in _SCHEMES
        },
        config.iterations / config.max_seconds if config.max_seconds else 0.0,
    )


def flops_per_token(config: ModelConfig, recurrent: bool = True) -> float:
    """Operations of matrix products in training, per token: a multiplication and an addition count two.

    Each product of the forward pass costs two more in the backward pass. Attention counts the whole square
    of positions, as is the convention (PaLM, appendix B), though causal kernels skip half of it.
    """
    width, kv_width = config.width, config.kv_heads * config.head_width
    gates = config.heads * (width * config.gated_attention + config.sparse_gate_channels)
    block = 2 * width * width + 2 * width * kv_width + gates + 2 * width * config.mlp_hidden
    attention = 2 * config.sequence_length * width
    layers = len(config.layer_order(recurrent))
    bigram = config.bigram_width * width if config.bigram_rows else 0
    forward = layers * (block + attention) + bigram + config.smear_channels + width * config.vocab_size
    return 3.0 * 2.0 * forward


def activation_bytes(model: GPT, config: TrainConfig, precision: torch.dtype) -> int:
    """Bytes that autograd keeps from a micro-batch's forward pass; ``model`` has fake parameters.

    Attention counts as what fused kernels keep of it, which is no square of positions.
    """
    length = config.sequence_length
    rows = min(max(1, config.micro_batch_tokens // length), config.sequences_per_step)
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in parameters:
            kept[storage] = tensor
        return tensor

    mode = next(model.parameters()).fake_mode  # type: ignore[attr-defined]
    with (
        mode,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32),
    ):
        tokens = torch.zeros(rows, length + 1, dtype=torch.int64)
        model.loss(tokens, torch.ones(rows, length), torch.ones(()))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def packed_bytes(model: GPT, scheme: Scheme) -> float:
    """Bytes of the neural part after compression, for weights whose rows are normally distributed.

    A row of n weights on a grid whose K-th step is at the end E, in deviations, has an entropy of
    ½ log2(2πe) − log2(E / K) bits a weight, and zstd comes within 0.2% of what trained weights have. The end
    of absmax is about √(2 ln n) deviations. Other tensors are half-precision numbers.
    """
    total = 0.0
    for name, parameter in model.named_parameters():
        kind = kind_of(name, parameter.shape)
        if kind is None:
            total += 2 * parameter.numel()
            continue
        grid = scheme.grids[kind]
        end = grid.clip.value or math.sqrt(2 * math.log(parameter.shape[1]))
        bits = 0.5 * math.log2(2 * math.pi * math.e) - math.log2(end / grid.ends[1])
        total += parameter.numel() * bits / 8 + 2 * parameter.shape[0]
    return total
