"""What can be chosen about a score. Free of torch, like everything that an oracle-only score imports."""

from dataclasses import dataclass, field
from typing import Literal

from hybridlm.config import check_ranges
from hybridlm.errors import InputError
from hybridlm.scoring.mixtures import find_mixture

DEFAULT_MIXER = "stacked"
"""Of scores, the codec and generation."""

TTTOptimizer = Literal["sgd", "adamw", "lora", "documents", "off"]
DEFAULT_TTT: TTTOptimizer = "documents"
Attention = Literal["windows", "rolling"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TTTConfig:
    """Test-time training of the neural model on what has been scored.

    >>> hybridlm.TTTConfig(epochs=1, learning_rates=(0.001,)).batch
    8
    """

    learning_rates: tuple[float, ...] = ()
    """Rates that learn side by side, each with a model of its own; 0: the artifact's unchanged model. Their
    predictions are mixed by how well each has done so far. Unset: 0 and the default, which is 0.002 for sgd,
    0.00005 for adamw, 0.001 for lora and 0.005 for documents."""
    epochs: int = 1
    """Passes over each scored chunk."""
    momentum: float = 0.9
    """Of sgd."""
    output_scale: float = 3.0
    """Times the learning rate, for projections back into the residual stream."""
    input_scale: float = 0.5
    """Times the learning rate, for the MLPs' projections out of the residual stream."""
    batch: int = 8
    """Sequences of a step; a power of two."""
    clip: float = 1.0
    """The gradient's largest norm."""
    frozen_blocks: int = 2
    """How many blocks, from the first, are not trained."""
    margin: float = 0.05
    """Nats a target by which a chunk may cost more than with the artifact's model; beyond it, what was
    learned is forgotten."""
    rank: int = 8
    """Of the adapters of lora and documents."""
    alpha: float = 16.0
    """Adapters count alpha / rank times."""
    documents: int = 8
    """Documents that the model scores at once, each with adapters of its own."""
    targets: int | None = None
    """Targets of a document between two steps of its adapters; unset: 32, or half a window if that's less."""
    weight_decay: float = 0.5
    """Of documents' adapters, times the learning rate."""
    warm: bool = True
    """Documents' adapters begin with the A of the latest document of earlier chunks that had a step."""
    phases: int = 0
    """With documents: after how many chunks, from the first, sgd trains all weights, too."""

    def __post_init__(self) -> None:
        for name in ("epochs", "rank", "documents", "targets"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} of test-time training must be at least 1, not {value}")
        check_ranges(
            self,
            "ttt_options.",
            {
                **dict.fromkeys(("epochs", "rank", "documents", "batch"), (1, 1 << 16)),
                "targets": (1, 1 << 31),
                **dict.fromkeys(("frozen_blocks", "phases"), (0, 10**9)),
                **dict.fromkeys(("output_scale", "input_scale", "weight_decay"), (0, 1000)),
                **dict.fromkeys(("clip", "alpha", "margin"), (0, 1e6)),
            },
        )
        if self.batch < 1 or self.batch & (self.batch - 1):
            raise InputError(f"the batch of test-time training must be a power of two, not {self.batch}")
        for rate in self.learning_rates:
            if not 0 <= rate <= 1000:
                raise InputError(f"{rate} can't be a learning rate of test-time training")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise InputError("a learning rate of test-time training is given twice")
        if not 0 <= self.momentum < 1:
            raise InputError(f"the momentum of test-time training must be in [0, 1), not {self.momentum}")
        for name in ("clip", "alpha", "margin"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} of test-time training must be positive, not {getattr(self, name)}")
        for name in ("output_scale", "input_scale", "frozen_blocks", "weight_decay", "phases"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} of test-time training is {getattr(self, name)}, below 0")


@dataclass(frozen=True)
class ScoringConfig:
    """The protocol's choices. None of them may depend on the text that is scored.

    >>> hybridlm.ScoringConfig(mixer="eg", ttt="off", no_oracle=True).chunk
    32768
    """

    mixer: str = DEFAULT_MIXER
    """The mixture whose BPB is the result: stacked, eg, fixed-share, bayes, hedge or hedge-token; or of whole
    rows, which takes some hundred times as long: geometric, or best, which is that and stacked together."""
    ttt: TTTOptimizer | None = field(default=None, metadata={"environment": "TTT_OPTIMIZER"})
    """Test-time training of the neural model: of its weights (sgd, adamw), or of low-rank adapters, over the
    whole stream (lora) or per document (documents). Unset: TTT_OPTIMIZER, else documents if there is a
    model."""
    no_oracle: bool = False
    """Leave the oracle's experts out."""
    no_neural: bool = False
    """Leave the neural expert out."""
    window: int | None = None
    """Tokens that the model sees at once; unset: as many as it was trained with."""
    stride: int | None = None
    """Targets between two windows; unset: half a window."""
    attention: Attention = "windows"
    """How the model sees its context: windows computes every window afresh; rolling keeps keys and values
    from block to block, at little more than half the cost for the default stride. (With the TTT optimizer
    documents they are always kept.)"""
    chunk: int = 32_768
    """Targets that are scored before the model learns from them."""
    batch: int = 16
    """Windows of one forward pass."""
    precision: Precision | None = None
    """Of the model's matrix products; unset: float32 on a CPU, bfloat16 on a GPU."""
    ttt_options: TTTConfig = field(default_factory=TTTConfig)

    def __post_init__(self) -> None:
        find_mixture(self.mixer)
        for name in ("window", "stride", "chunk", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"the {name} must be at least 1, not {value}")
        # A larger window or chunk than any stream is one of the whole stream, but for what is padded.
        check_ranges(
            self,
            "",
            {
                "window": (1, 1 << 24),
                "stride": (1, 1 << 24),
                "batch": (1, 1 << 16),
                "chunk": (1, 1 << 40),
            },
        )
