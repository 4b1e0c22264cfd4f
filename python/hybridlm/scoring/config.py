"""What can be chosen about a score. Free of torch, like everything that an oracle-only score imports."""

from dataclasses import dataclass, field
from typing import Literal

from hybridlm.errors import InputError

DEFAULT_MIXER = "stacked"
"""Of scores, the codec and generation."""

TTTOptimizer = Literal["sgd", "adamw", "off"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TTTConfig:
    """Test-time training of the neural model on what has been scored.

    >>> hybridlm.TTTConfig(epochs=1, learning_rate=0.001).batch
    8
    """

    epochs: int = 3
    """Passes over each scored chunk."""
    learning_rate: float | None = None
    """None: 0.002 for sgd, 0.00005 for adamw."""
    momentum: float = 0.9
    """Of sgd."""
    output_scale: float = 3.0
    """Times the learning rate, for projections back into the residual stream."""
    input_scale: float = 0.5
    """Times the learning rate, for the MLPs' projections out of the residual stream."""
    batch: int = 8
    """Sequences of a step; a multiple of 8."""
    clip: float = 1.0
    """The gradient's largest norm."""
    frozen_blocks: int = 2
    """The first so many blocks are not trained."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"test-time training needs at least one epoch, not {self.epochs}")
        if self.batch < 1 or self.batch % 8:
            raise InputError(f"the batch of test-time training must be a multiple of 8, not {self.batch}")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise InputError(f"{self.learning_rate} can't be the learning rate of test-time training")
        if not 0 <= self.momentum < 1:
            raise InputError(f"the momentum of test-time training must be in [0, 1), not {self.momentum}")
        if not self.clip > 0:
            raise InputError(f"the clip of test-time training must be positive, not {self.clip}")
        for name in ("output_scale", "input_scale", "frozen_blocks"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} of test-time training is {getattr(self, name)}, below 0")


@dataclass(frozen=True)
class ScoringConfig:
    """The protocol's choices. None of them may depend on the text that is scored.

    >>> hybridlm.ScoringConfig(mixer="eg", ttt="off", no_oracle=True).chunk
    32768
    """

    mixer: str = DEFAULT_MIXER
    """The mixture whose BPB is the result: stacked, eg, fixed-share, bayes, hedge or hedge-token; or
    geometric, which mixes whole rows and takes some hundred times as long."""
    ttt: TTTOptimizer | None = field(default=None, metadata={"environment": "TTT_OPTIMIZER"})
    """Test-time training of the neural model; unset: TTT_OPTIMIZER, else sgd if there is such a model."""
    no_oracle: bool = False
    """Leave the oracle's experts out."""
    no_neural: bool = False
    """Leave the neural expert out."""
    window: int | None = None
    """Tokens that the model sees at once; unset: as many as it was trained with."""
    stride: int | None = None
    """Targets between two windows; unset: half a window."""
    chunk: int = 32_768
    """Targets that are scored before the model learns from them."""
    batch: int = 16
    """Windows of one forward pass."""
    precision: Precision | None = None
    """Of the model's matrix products; unset: float32 on a CPU, bfloat16 on a GPU."""
    ttt_options: TTTConfig = field(default_factory=TTTConfig)

    def __post_init__(self) -> None:
        for name in ("window", "stride", "chunk", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"the {name} must be at least 1, not {value}")
