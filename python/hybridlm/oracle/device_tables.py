"""A dense oracle's tables on a torch device, for look-ups next to a model."""

import torch
from torch import Tensor, nn

from hybridlm import _core
from hybridlm.errors import InputError
from hybridlm.oracle.context_hash import torch_context_buckets, verify_hash_twins

STEP = 10.0 / 127.0


class OracleTables(nn.Module):
    """The look-ups of ``Oracle`` over tensors; no call synchronises the host with the device.

    Tables stay int8 on the device (9 MB for the default eight orders and 1024 tokens). Raises InputError
    unless the oracle is dense.
    """

    def __init__(self, oracle: _core.FrozenOracle, device: torch.device | str = "cpu") -> None:
        super().__init__()
        verify_hash_twins(with_torch=True)
        tables = oracle.dense_tables()
        if tables is None:
            raise InputError(f"an oracle of the {oracle.estimator} estimator has no dense tables")
        self.orders = oracle.orders
        self.vocab_size = oracle.vocab_size
        for order, cells, log_sums in tables:
            self.register_buffer(f"cells{order}", torch.from_numpy(cells).to(device))
            self.register_buffer(f"log_sums{order}", torch.from_numpy(log_sums).to(device))

    def _table(self, order: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"cells{order}"), self.get_buffer(f"log_sums{order}")

    def target_log_probs(self, tokens: Tensor, *, start: int = 0) -> Tensor:
        """float32 [K, N − start] for integer ``tokens`` [N]; see ``Oracle.target_log_probs``.

        Tokens must be below ``vocab_size``, which is not checked here.
        """
        tokens = tokens.long()
        found = []
        for order in self.orders:
            cells, log_sums = self._table(order)
            rows = torch_context_buckets(tokens, order, len(cells))[start:]
            found.append(cells[rows, tokens[start:]].float() * STEP - log_sums[rows])
        return torch.stack(found)

    def log_probs(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """float32 [K, M, V] for integer ``positions`` [M] in 0..=N; see ``Oracle.log_probs``."""
        tokens = tokens.long()
        # The row of position N is that of one more token, whichever.
        extended = torch.cat([tokens, tokens.new_zeros(1)])
        found = []
        for order in self.orders:
            cells, log_sums = self._table(order)
            rows = torch_context_buckets(extended, order, len(cells))[positions]
            found.append(cells[rows].float() * STEP - log_sums[rows, None])
        return torch.stack(found)
