"""Makes an artifact's experts for a score, for the audit and for the comparison of world sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.errors import InputError
from hybridlm.scoring.asked import Network
from hybridlm.scoring.config import DEFAULT_TTT, ScoringConfig
from hybridlm.scoring.experts import Expert, Learner, online_experts
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.tilted import has_ngrams, tilted

if TYPE_CHECKING:
    from hybridlm.distributed import Distributed
    from hybridlm.model import GPT
    from hybridlm.scoring.learning import Arm
    from hybridlm.scoring.neural import NeuralExpert


_NATURAL_WINDOW = 1 << 16
"""The longest window that is taken from a model's header: a file of a few kilobytes can claim any."""


@dataclass(frozen=True)
class ExpertSet:
    """What one score needs, at its start.

    experts: neural, tilted, online and adaptive, oracle, control, in this order, as far as there are any.
    learners: what makes the neural one, and the control, learn between chunks; empty without test-time
    training.
    """

    experts: Sequence[Expert]
    learners: Sequence[Learner] = ()

    def learn(self, stream: NDArray[np.uint16], start: int) -> None:
        """Called when the chunk stream[start:] has been committed and more follows."""
        for learner in self.learners:
            learner.learn(stream, start)


def experts_of(
    artifact: Artifact,
    vocab_size: int,
    config: ScoringConfig,
    dist: "Distributed | None" = None,
    *,
    threads: int | None = None,
    control: NDArray[np.uint16] | None = None,
) -> ExpertSet:
    """New experts for one score. The artifact stays as it is: the model that learns is a copy.

    ``config.ttt`` None: `DEFAULT_TTT` where a neural model is scored. ``threads`` are those of oracle
    look-ups. ``control``, training tokens as long as the stream: one more expert, of the family ``control``,
    is the neural one trained on them instead; None: there is none.

    Raises InputError for another vocabulary than the artifact's, for impossible settings, and for a neural
    model where there is no PyTorch; FormatError for a damaged artifact.
    """
    experts: list[Expert] = []
    learners: list[Learner] = []
    oracle = None if config.no_oracle else artifact.load_oracle()
    if oracle is not None:
        _check_vocabulary("oracle", oracle.vocab_size, vocab_size)
    if artifact.neural_blob is not None and not config.no_neural:
        neural, learner = load_neural(artifact, config, dist)
        learners += [] if learner is None else [learner]
        _check_vocabulary("model", neural.vocab_size, vocab_size)
        if oracle is not None and has_ngrams(oracle):
            experts += tilted(neural, oracle)
        else:
            experts.append(neural)
    elif config.ttt not in (None, "off"):
        raise InputError(f"test-time training ({config.ttt}) needs a neural model, and none is scored")
    experts += online_experts(vocab_size)
    if oracle is not None:
        experts.append(OracleExperts(oracle, threads))
    if control is not None:
        if not learners:
            raise InputError("a control needs test-time training to be held against")
        expert, learner = load_neural(artifact, config, dist, control=control)
        experts.append(expert)
        learners += [] if learner is None else [learner]
    return ExpertSet(experts, learners)


def load_neural(
    artifact: Artifact,
    config: ScoringConfig,
    dist: "Distributed | None",
    *,
    control: NDArray[np.uint16] | None = None,
) -> tuple[Network, Learner | None]:
    """The artifact's neural expert, and what makes it learn; raises as `experts_of` does."""
    artifact.require_torch()
    import torch

    from hybridlm.distributed import alone
    from hybridlm.model.gpt import Rolling
    from hybridlm.scoring.learning import LearningExpert
    from hybridlm.scoring.neural import NeuralExpert
    from hybridlm.scoring.ttt import DEFAULT_LEARNING_RATE
    from hybridlm.scoring.windows import laid_out

    dist = dist or alone()
    untrained = _model(artifact, dist)
    window = config.window or untrained.config.sequence_length
    if not window:
        raise InputError(f"{artifact.name}: the model names no sequence length; give --window")
    if config.window is None and window > _NATURAL_WINDOW:
        raise InputError(
            f"{artifact.name}: the model names a sequence length of {window:,}; that would take much memory: "
            "give --window to say how many tokens it may see at once"
        )
    stride = config.stride or max(1, window // 2)
    grid, group = laid_out(window, stride, config.attention, config.batch)
    rolling = Rolling(window, stride) if config.attention == "rolling" else None
    precision = config.precision or ("bfloat16" if dist.device.type == "cuda" else "float32")
    autocast = torch.bfloat16 if precision == "bfloat16" else None
    expert = NeuralExpert(untrained, grid, dist, group=group, autocast=autocast, rolling=rolling)
    if config.ttt == "off":
        return expert, None
    options = config.ttt_options
    rates = options.learning_rates or (0.0, DEFAULT_LEARNING_RATE[config.ttt or DEFAULT_TTT])
    if control is not None:
        rates = tuple(rate for rate in rates if rate)
    arms = [_arm(artifact, config, dist, rate, expert, window, control) for rate in rates]
    if not any(rates):
        raise InputError("no learning rate of test-time training is above 0: that is --ttt off")
    learning = LearningExpert(
        arms,
        expert,
        margin=options.margin,
        probe=config.batch * stride,
        family="neural" if control is None else "control",
        lessons=control,
    )
    return learning, learning


def _arm(
    artifact: Artifact,
    config: ScoringConfig,
    dist: "Distributed",
    rate: float,
    untrained: "NeuralExpert",
    window: int,
    lessons: NDArray[np.uint16] | None,
) -> "Arm":
    from hybridlm.scoring.document_lora import DocumentExpert
    from hybridlm.scoring.learning import Arm
    from hybridlm.scoring.lora import Adapters
    from hybridlm.scoring.ttt import TestTimeTrainer

    if not rate:
        return Arm(rate, untrained, None)
    kind, options, autocast = config.ttt or DEFAULT_TTT, config.ttt_options, untrained.autocast
    model = _model(artifact, dist)
    if kind == "documents":
        documents = DocumentExpert(
            model, options, dist,
            rate=rate, context=window, untrained=untrained.model, lessons=lessons, autocast=autocast,
        )  # fmt: skip
        return Arm(rate, documents, documents)
    if kind == "off":
        raise ValueError("nothing to train")
    adapters = Adapters(model, options.rank, options.alpha) if kind == "lora" else None
    trainer = TestTimeTrainer(
        model, kind, options, dist,
        rate=rate, sequence_length=window, adapters=adapters, autocast=autocast,
    )  # fmt: skip
    expert = untrained.learning(model, trainer.applied)
    return Arm(rate, expert, trainer)


def _model(artifact: Artifact, dist: "Distributed") -> "GPT":
    model = artifact.load_model()
    if model is None:
        raise ValueError("the artifact has no neural part")
    return model.to(dist.device)


def _check_vocabulary(part: str, found: int, vocab_size: int) -> None:
    if found != vocab_size:
        raise InputError(
            f"the artifact's {part} has a vocabulary of {found} tokens and the tokenizer one of "
            f"{vocab_size}: use the tokenizer that it was made with"
        )
