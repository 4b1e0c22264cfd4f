"""An artifact's experts at their start: what scores it, audits it and compares its world sizes alike."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridlm.artifact import Artifact
from hybridlm.errors import InputError
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.experts import Expert, online_experts
from hybridlm.scoring.experts.oracle import OracleExperts

if TYPE_CHECKING:
    from hybridlm.distributed import Distributed
    from hybridlm.scoring.neural import NeuralExpert
    from hybridlm.scoring.ttt import TestTimeTrainer


@dataclass(frozen=True)
class ArtifactExperts:
    """experts: neural, online and adaptive, oracle, in this order, as far as there are any.
    trainer: what makes the neural one learn between chunks; None without test-time training."""

    experts: list[Expert]
    trainer: "TestTimeTrainer | None"


def experts_of(
    artifact: Artifact,
    vocab_size: int,
    config: ScoringConfig,
    dist: "Distributed | None" = None,
    *,
    threads: int | None = None,
) -> ArtifactExperts:
    """New experts for one score. The artifact stays as it is: the model that learns is a copy.

    ``config.ttt`` None: sgd where a neural model is scored. ``threads`` are those of oracle look-ups.

    Raises InputError for another vocabulary than the artifact's, for settings that can't be, and for a neural
    model where there is no PyTorch; FormatError for a damaged artifact.
    """
    experts: list[Expert] = []
    trainer: TestTimeTrainer | None = None
    if artifact.neural_blob is not None and not config.no_neural:
        neural, trainer = load_neural(artifact, config, dist)
        _check_vocabulary("model", neural.vocab_size, vocab_size)
        experts.append(neural)
    elif config.ttt not in (None, "off"):
        raise InputError(f"test-time training ({config.ttt}) needs a neural model, and none is scored")
    experts += online_experts(vocab_size)
    oracle = None if config.no_oracle else artifact.load_oracle()
    if oracle is not None:
        _check_vocabulary("oracle", oracle.vocab_size, vocab_size)
        experts.append(OracleExperts(oracle, threads))
    return ArtifactExperts(experts, trainer)


def load_neural(
    artifact: Artifact, config: ScoringConfig, dist: "Distributed | None"
) -> "tuple[NeuralExpert, TestTimeTrainer | None]":
    """The artifact's neural expert, and what makes it learn; raises as `experts_of` does."""
    artifact.require_torch()
    import torch

    from hybridlm.distributed import Distributed, pick_device
    from hybridlm.scoring.neural import NeuralExpert
    from hybridlm.scoring.ttt import TestTimeTrainer
    from hybridlm.scoring.windows import WindowGrid

    dist = dist or Distributed(rank=0, world_size=1, local_rank=0, device=pick_device(None))
    model = artifact.load_model()
    if model is None:
        raise ValueError("the artifact has no neural part")
    model.to(dist.device)
    window = config.window or model.config.sequence_length
    if not window:
        raise InputError(f"{artifact.name}: the model names no sequence length; give --window")
    grid = WindowGrid(window, config.stride or max(1, window // 2))
    precision = config.precision or ("bfloat16" if dist.device.type == "cuda" else "float32")
    autocast = torch.bfloat16 if precision == "bfloat16" else None
    expert = NeuralExpert(model, grid, dist, group=config.batch, autocast=autocast)
    optimizer = config.ttt or "sgd"
    if optimizer == "off":
        return expert, None
    trainer = TestTimeTrainer(
        model, optimizer, config.ttt_options, dist, sequence_length=window, autocast=autocast
    )
    return expert, trainer


def _check_vocabulary(part: str, found: int, vocab_size: int) -> None:
    if found != vocab_size:
        raise InputError(
            f"the artifact's {part} has a vocabulary of {found} tokens and the tokenizer one of "
            f"{vocab_size}: use the tokenizer that it was made with"
        )
