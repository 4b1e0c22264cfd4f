"""The scored mixture, one token at a time, as the codec and generation need it.

The rows are those of `hybridlm eval --ttt off`: the default mixture over the neural model's windows, the
adaptive experts and the oracle. A neural model runs step by step on the CPU, in float32 and on one thread,
so that the same tokens give the same bits in every run on one machine. torch is loaded for it alone.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridlm._core import Predictor
from hybridlm.arguments import check_kind
from hybridlm.artifact import Artifact
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.scoring.config import DEFAULT_MIXER

if TYPE_CHECKING:
    from hybridlm.model import GPT

Step = Callable[[int], NDArray[np.float32]]


class Prediction:
    """What an artifact predicts.

    Raises InputError for an artifact of another tokenizer, or of a neural model where there is no PyTorch.
    """

    def __init__(self, artifact: Artifact, tokenizer: Tokenizer) -> None:
        check_kind(artifact, Artifact, "artifact")
        check_kind(tokenizer, Tokenizer, "tokenizer")
        artifact.require_torch()
        artifact.check_tokenizer(tokenizer.vocabulary)
        self.artifact = artifact
        self._vocab_size = tokenizer.vocab_size
        self._first = tokenizer.bos_id

    @property
    def has_neural(self) -> bool:
        return self.artifact.neural_blob is not None

    def predictor(self) -> Predictor:
        """A predictor at its start: it has seen the token that begins a document.

        Raises InputError for a model that names no sequence length, FormatError for a damaged artifact.
        """
        oracle = self.artifact.load_oracle()
        return Predictor(
            self._vocab_size,
            neural=self._step() if self.has_neural else None,
            oracle=None if oracle is None else oracle.native,
            mixture=DEFAULT_MIXER,
            first=self._first,
        )

    def arithmetic(self) -> str:
        """What decides, beside this program and the kind of machine, how a neural model's sums are rounded:
        the version of PyTorch and the vector instructions that it uses. Empty without such a model."""
        if not self.has_neural:
            return ""
        import torch

        return f"{torch.__version__.split('+')[0]} {torch.backends.cpu.get_cpu_capability()}"

    @cached_property
    def _model(self) -> "GPT":
        model = self.artifact.load_model()
        if model is None:
            raise ValueError("the artifact has no neural part")
        return model

    def _step(self) -> Step:
        """Given the token that came, the probability of each possible next one, [V]; from the start on."""
        import torch

        from hybridlm.model.incremental import IncrementalGPT

        window = self._model.config.sequence_length
        if not window:
            raise InputError(
                f"{self.artifact.name}: the model names no sequence length, so it has no windows"
            )
        steps = IncrementalGPT(self._model, window, max(1, window // 2))

        def step(token: int) -> NDArray[np.float32]:
            threads = torch.get_num_threads()
            # Here and not once: each thread of this process has its own number.
            torch.set_num_threads(1)
            try:
                row: NDArray[np.float32] = steps.step(token).exp().numpy()
                return row
            finally:
                torch.set_num_threads(threads)

        return step
