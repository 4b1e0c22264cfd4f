"""What a GPT is made of. Free of torch: the command line's help and an artifact's listing stay quick."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from hybridlm.errors import FormatError, InputError


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of the model. Raises InputError for sizes that don't fit."""

    layers: int = 4
    width: int = 256
    """Channels of the residual stream."""
    heads: int = 4
    """Query heads; each has width / heads channels."""
    kv_heads: int = 2
    """Key and value heads; each serves heads / kv_heads query heads (grouped-query attention)."""
    mlp_hidden: int = 768

    vocab_size: int = 0
    """0: as many as the tokenizer has."""
    sequence_length: int = 0
    """Tokens of context in training, the natural window to score with; 0: the training's."""
    bos_id: int = 1
    """The token that starts a document."""

    tied_embeddings: bool = True
    """The output layer is the transposed token embedding."""
    embedding_std: float = 0.005
    logit_softcap: float = 30.0
    """Logits z become c tanh(z / c); 0 leaves them alone."""
    unet_skips: bool = True
    """Outputs of the first half of the layers are gated into the second half, last out first in."""
    residual_mix: bool = True
    """Each block's input is a learned mix of the stream and of the embedding output."""
    branch_scales: bool = True
    """Learned per-channel scales on what attention and MLP add to the stream."""
    depth_scaled_norm: bool = True
    """A block's normalised inputs are divided by sqrt(layer + 1)."""

    qk_norm: bool = True
    """RMS-normalised queries and keys."""
    query_gain: bool = True
    """A learned gain per query head, 1.5 at first."""
    rope_dims: int = 16
    """How many channels of each head rotary embedding turns; 0: no positions but causality."""
    rope_base: float = 10_000.0
    xsa_layers: int = 4
    """In this many last layers, attention's output loses its component along the position's own value."""
    value_residual: bool = True
    """Values are a learned mix with those of the first layer."""
    gated_attention: bool = True
    """A sigmoid gate per head on attention's output."""
    zero_init_projections: bool = True
    """Projections back into the stream start at zero: every block starts as the identity."""

    leaky_relu_slope: float = field(default=0.5, metadata={"environment": "LEAKY_RELU_SLOPE"})
    """The MLP's activation is LeakyReLU(slope) squared."""
    mlp_affine: bool = True
    """Learned scale and bias on the activated hidden units."""

    bigram_rows: int = 8192
    """Rows of the hashed bigram embedding; 0: none."""
    bigram_width: int = 128
    smear_gate: bool = True
    """Embeddings are blended with the previous position's, but not across the start of a document."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "mlp_hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("vocab_size", "sequence_length", "xsa_layers", "bigram_rows", "rope_dims"):
            if getattr(self, name) < 0:
                raise InputError(f"model.{name} must not be negative, it is {getattr(self, name)}")
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

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def encoder_layers(self) -> int:
        """Layers of the first half, whose outputs the second half (the decoder) takes up."""
        return self.layers // 2

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> "ModelConfig":
        """The inverse of :meth:`to_json`. Raises FormatError, naming ``where``, for anything else."""
        try:
            values: Any = json.loads(text)
        except ValueError as error:
            raise FormatError(f"{where}: the model's configuration is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise FormatError(f"{where}: the model's configuration is not a JSON object")
        known = {field.name: field.type for field in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - known.keys()):
            raise FormatError(f"{where}: the model's configuration has unknown entries: {', '.join(unknown)}")
        for name, value in values.items():
            wanted = known[name]
            if type(value) is not wanted and not (wanted is float and type(value) is int):
                raise FormatError(f"{where}: the model's {name} is {value!r}, not a value of type {wanted}")
        try:
            return cls(**values)
        except InputError as error:
            raise FormatError(f"{where}: {error}") from None
