"""What a GPT is made of. Free of torch: the command line's help and an artifact's listing stay quick."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from hybridlm.config import check_ranges, shown
from hybridlm.errors import FormatError, InputError
from hybridlm.files import parse_json

# No real model comes near; anything larger would ask for more memory than there is.
_LARGEST = 1 << 24
_RANGES: dict[str, tuple[float, float]] = {
    "layers": (1, 4096),
    "recurrences": (1, 4096),
    "heads": (1, 1 << 16),
    "kv_heads": (1, 1 << 16),
    "width": (1, 1 << 20),
    "mlp_hidden": (1, 1 << 22),
    "vocab_size": (0, 1 << 16),
    "bos_id": (0, (1 << 16) - 1),
    "bigram_width": (-(1 << 20), 1 << 20),
    # What float32 holds, with room for the arithmetic on it.
    "embedding_std": (0, 1000),
    "logit_softcap": (0, 1e6),
    "query_gain_start": (-1e6, 1e6),
    "rope_base": (-1e15, 1e15),
    "leaky_relu_slope": (-1000, 1000),
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of the model. Raises InputError for sizes that don't fit."""

    layers: int = 4
    """Transformer blocks."""
    width: int = 256
    """Channels of the residual stream."""
    heads: int = 4
    """Query heads; each has width / heads channels."""
    kv_heads: int = 2
    """Key and value heads; each serves heads / kv_heads query heads (grouped-query attention)."""
    mlp_hidden: int = 768
    """Hidden units of each block's MLP."""

    vocab_size: int = 0
    """0: as many as the tokenizer has."""
    sequence_length: int = 0
    """Tokens of context in training, the natural window to score with; 0: the training's."""
    bos_id: int = 1
    """The token that starts a document."""

    tied_embeddings: bool = True
    """The output layer is the transposed token embedding."""
    embedding_std: float = 0.005
    """Standard deviation of the token embeddings at the start."""
    logit_softcap: float = 30.0
    """Logits z become c tanh(z / c); 0 leaves them alone."""
    asymmetric_softcap: bool = False
    """Logits from zero up and logits below zero have a cap each, learned; both start at logit_softcap."""
    unet_skips: bool = True
    """Outputs of the first half of the layers are gated into the second half, last out first in."""
    residual_mix: bool = True
    """Each block's input is a learned mix of the stream and of the embedding output."""
    branch_scales: bool = True
    """Learned per-channel scales on what attention and MLP add to the stream."""
    depth_scaled_norm: bool = True
    """A block's normalised inputs are divided by sqrt(layer + 1)."""

    recurrences: int = 1
    """How many times the layers recurrence_first to recurrence_last are run, one after the other."""
    recurrence_first: int = 0
    """The first recurrent layer, counted from 0."""
    recurrence_last: int = 0
    """The last recurrent layer, counted from 0 and included."""
    lane_layers: int = 0
    """In this many last layers, attention and MLP read a stream each; both write to both."""

    qk_norm: bool = True
    """RMS-normalised queries and keys."""
    query_gain: bool = True
    """A learned gain per query head."""
    query_gain_start: float = 1.5
    """That gain at the start."""
    rope_dims: int = 16
    """How many channels of each head rotary embedding turns; 0: no positions but causality."""
    rope_base: float = 10_000.0
    """The rotary embedding's longest wavelength is 2π times nearly this many positions."""
    xsa_layers: int = 4
    """In this many last layers, attention's output loses its component along the position's own value."""
    value_residual: bool = True
    """Values are a learned mix with those of the first layer."""
    gated_attention: bool = True
    """A sigmoid gate per head on attention's output, which reads the whole of attention's input."""
    sparse_gate_channels: int = 0
    """A gate per head that reads this many first channels of attention's input; 0: none."""
    document_attention: bool = False
    """Attention ends at the start of the document."""
    zero_init_projections: bool = True
    """Projections back into the stream start at zero: every block starts as the identity."""

    leaky_relu_slope: float = field(default=0.5, metadata={"environment": "LEAKY_RELU_SLOPE"})
    """The MLP's activation is LeakyReLU(slope) squared."""
    mlp_affine: bool = True
    """Learned scale and bias on the activated hidden units."""

    bigram_rows: int = 8192
    """Rows of the hashed bigram embedding; 0: none."""
    bigram_width: int = 128
    """Channels of the bigram embedding, before they are projected to the width."""
    smear_gate: bool = True
    """Embeddings are blended with the previous position's, per channel, not across a document's start."""
    smear_channels: int = 0
    """The previous embedding is added by a gate that reads this many first channels; 0: it isn't."""

    def __post_init__(self) -> None:
        for field_ in dataclasses.fields(self):
            value = getattr(self, field_.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"model.{field_.name} must be a finite number, not {value}")
            if type(value) is int and abs(value) > _LARGEST:
                raise InputError(f"model.{field_.name} {shown(value)} is beyond {_LARGEST}")
        for name in ("layers", "width", "heads", "kv_heads", "mlp_hidden", "recurrences"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            *("vocab_size", "sequence_length", "bos_id", "xsa_layers", "bigram_rows", "rope_dims"),
            *("recurrence_first", "lane_layers", "sparse_gate_channels", "smear_channels"),
            *("embedding_std", "logit_softcap"),
        ):
            if getattr(self, name) < 0:
                raise InputError(f"model.{name} must not be negative, it is {getattr(self, name)}")
        check_ranges(self, "model.", _RANGES)
        if self.width % self.heads:
            raise InputError(f"model.width {self.width} is not a multiple of model.heads {self.heads}")
        if self.heads % self.kv_heads:
            raise InputError(f"model.heads {self.heads} is not a multiple of model.kv_heads {self.kv_heads}")
        if self.rope_dims % 2 or self.rope_dims > self.head_width:
            raise InputError(
                f"model.rope_dims {self.rope_dims} must be even and at most the head width {self.head_width}"
            )
        if self.bigram_rows and self.bigram_width < 1:
            raise InputError(f"model.bigram_width must be at least 1, not {self.bigram_width}")
        if self.rope_dims and self.rope_base <= 1:
            raise InputError(f"model.rope_base must be above 1, not {self.rope_base}")
        if not self.recurrence_first <= self.recurrence_last < self.layers:
            raise InputError(
                f"model.recurrence_first {self.recurrence_first} to model.recurrence_last "
                f"{self.recurrence_last} are not layers of a model of {self.layers}, counted from 0"
            )
        if self.lane_layers > self.layers:
            raise InputError(f"model.lane_layers {self.lane_layers} is more than model.layers {self.layers}")
        if self.recurrences > 1 and self.lane_layers and self.recurrence_last >= self.first_lane_layer:
            raise InputError(
                f"model.recurrence_last {self.recurrence_last} is among the last {self.lane_layers} layers "
                "(model.lane_layers), which have two lanes: a recurrent layer can't be among them"
            )
        if self.recurrences * self.layers > _LARGEST:
            raise InputError(f"model.recurrences {self.recurrences} makes more than {_LARGEST} layers")
        for name in ("sparse_gate_channels", "smear_channels"):
            if getattr(self, name) > self.width:
                raise InputError(f"model.{name} {getattr(self, name)} is more than model.width {self.width}")
        if self.gated_attention and self.sparse_gate_channels:
            raise InputError(
                "model.gated_attention and model.sparse_gate_channels gate the same: switch one off"
            )
        if self.smear_gate and self.smear_channels:
            raise InputError("model.smear_gate and model.smear_channels blend the same: switch one off")
        if self.asymmetric_softcap and not self.logit_softcap:
            raise InputError("model.asymmetric_softcap needs a model.logit_softcap to start from, not 0")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def first_lane_layer(self) -> int:
        """The first of the layers that have two lanes; ``layers`` if none has."""
        return self.layers - self.lane_layers

    def layer_order(self, recurrent: bool = True) -> list[int]:
        """The layers in the order in which a forward pass runs them, with or without depth recurrence."""
        first, end = self.recurrence_first, self.recurrence_last + 1
        times = self.recurrences if recurrent else 1
        return [*range(first), *(list(range(first, end)) * times), *range(end, self.layers)]

    @property
    def skips(self) -> int:
        """How many U-Net skips the longest layer order has: half of its positions."""
        return len(self.layer_order()) // 2 if self.unet_skips else 0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> "ModelConfig":
        """The inverse of :meth:`to_json`. Raises FormatError, naming ``where``, for anything else."""
        values: Any = parse_json(text, f"{where}: the model's configuration")
        if not isinstance(values, dict):
            raise FormatError(f"{where}: the model's configuration is not a JSON object")
        known = {field.name: field.type for field in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - known.keys()):
            raise FormatError(f"{where}: the model's configuration has unknown entries: {', '.join(unknown)}")
        for name, value in values.items():
            wanted = known[name]
            if type(value) is not wanted and not (wanted is float and type(value) is int):
                raise FormatError(
                    f"{where}: the model's {name} is {shown(value)}, not a value of type {wanted}"
                )
        try:
            return cls(**values)
        except InputError as error:
            raise FormatError(f"{where}: {error}") from None
