"""The best fixed weights of several experts, in hindsight."""

import numpy as np
from numpy.typing import NDArray


def best_static_weights(
    log_probs: NDArray[np.float32], *, tolerance: float = 1e-7, max_rounds: int = 1000
) -> NDArray[np.float64]:
    """float64 [K], summing to 1: the weights w that maximise Σ_t ln Σ_k w_k p_k(x_t).

    ``log_probs`` [K, N] are ln p_k(x_t) in nats. The objective is concave, and expectation maximisation
    (Dempster, Laird and Rubin 1977) climbs it from equal weights; it stops once a round gains less than
    ``tolerance`` nats per target.
    """
    experts, targets = log_probs.shape
    weights = np.full(experts, 1.0 / experts)
    if targets == 0 or experts == 1:
        return weights
    # Scaled by each target's largest probability, nothing underflows and the maximiser stays where it is.
    scaled = np.exp(log_probs - log_probs.max(axis=0))
    before = -np.inf
    for _ in range(max_rounds):
        mixed = weights.astype(np.float32) @ scaled
        objective = float(np.log(mixed).mean(dtype=np.float64))
        if objective - before < tolerance:
            break
        before = objective
        weights *= (scaled @ (1.0 / mixed)).astype(np.float64) / targets
        weights /= weights.sum()
    return weights
