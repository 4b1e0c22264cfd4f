"""Complementary training: tokens that the oracle predicts well weigh less in the neural model's loss."""

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError
from hybridlm.oracle import Oracle
from hybridlm.train.config import ComplementaryConfig


class ComplementaryWeights:
    """Weights of targets, w = max(1 − α · max over orders n ≤ max_order of p_n(target), floor).

    Raises InputError for an oracle of another vocabulary or without any such order.
    """

    def __init__(self, oracle: Oracle, config: ComplementaryConfig, vocab_size: int) -> None:
        if oracle.vocab_size != vocab_size:
            raise InputError(
                f"the oracle knows {oracle.vocab_size} tokens, the tokenizer has {vocab_size}: "
                "build the oracle from shards of this tokenizer"
            )
        self._rows = [row for row, order in enumerate(oracle.orders) if order <= config.max_order]
        if not self._rows:
            raise InputError(
                f"the oracle has orders {', '.join(map(str, oracle.orders))}, none of them up to "
                f"complementary.max_order {config.max_order}"
            )
        self._oracle = oracle
        self._config = config
        self.context = max(oracle.orders) - 1
        """Tokens before a target that its weight depends on, at most."""

    def of_targets(self, tokens: NDArray[np.uint16], first: int) -> NDArray[np.float32]:
        """float32 [N − first]: the weights of tokens[first:], each given what precedes it."""
        # One thread: the look-up runs beside the training step, which has its own use for the cores.
        log_probs = self._oracle.target_log_probs(tokens, start=first, threads=1)
        likeliest = np.exp(log_probs[self._rows].max(axis=0))
        weights: NDArray[np.float32] = np.maximum(1 - self._config.alpha * likeliest, self._config.floor)
        return weights.astype(np.float32, copy=False)
