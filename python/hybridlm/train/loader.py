"""Training batches as a pure function of the step number: nothing to save, nothing to restore."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridlm import _core
from hybridlm.data.shards import ShardRecord, inspect_shards, known_vocabulary, refuse_repeated
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.distributed import Distributed
from hybridlm.errors import FormatError, InputError
from hybridlm.train.complementary import ComplementaryWeights

_SCAN_TOKENS = 1 << 24


@dataclass(frozen=True)
class Batch:
    """A rank's share of one step.

    tokens: int64 [B, T + 1]; all but a row's first are targets. weights: float32 [B, T], of the targets.
    """

    tokens: Tensor
    weights: Tensor


class TokenLoader:
    """Shards cut into sequences of T targets, in an order that is shuffled anew in each epoch.

    Sequences don't span shards and don't overlap, but for the one token that is the target of one and the
    context of the next. Step s takes the s-th run of ``sequences_per_step`` from the epochs' concatenation,
    and each rank an even share of it, so the global batch doesn't depend on the number of ranks. Raises
    InputError when no shard is long enough for one sequence, or when there are more ranks than sequences.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        *,
        sequence_length: int,
        sequences_per_step: int,
        seed: int,
        distributed: Distributed,
        weights: ComplementaryWeights | None = None,
    ) -> None:
        if sequences_per_step < distributed.world_size:
            raise InputError(
                f"a step of {sequences_per_step} sequences can't be shared by {distributed.world_size} "
                "ranks; raise batch_tokens"
            )
        self._length = sequence_length
        self._sequences_per_step = sequences_per_step
        self._seed = seed
        self._distributed = distributed
        self._weights = weights
        sizes = [_core.shard_tokens(str(path)) for path in shards]
        self.tokens = sum(sizes)
        # _ends[i]: sequences in the shards 0..i.
        self._ends = np.cumsum([max(0, size - 1) // sequence_length for size in sizes])
        self.sequences = int(self._ends[-1]) if sizes else 0
        if not self.sequences:
            longest = max(sizes, default=0)
            raise InputError(
                f"{shards[0].parent if shards else 'no shards'}: too little text: the longest training shard "
                f"has {longest} tokens, and a sequence needs {sequence_length + 1}; give more text or lower "
                "sequence_length"
            )
        self._shards = [str(path) for path in shards]
        # Two, because a step may reach from one epoch into the next.
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, epoch]).permutation(self.sequences)

    def sequence_numbers(self, step: int) -> NDArray[np.int64]:
        """int64 [sequences_per_step]: which sequences make up the global batch of ``step``."""
        drawn = np.arange(step * self._sequences_per_step, (step + 1) * self._sequences_per_step)
        epochs, places = np.divmod(drawn, self.sequences)
        return np.array(
            [self._order(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)], np.int64
        )

    def batch(self, step: int) -> Batch:
        """This rank's share of the batch of ``step``, on the CPU (pinned where a GPU will take it).

        Raises FormatError or OSError for a shard that is no longer what it was.
        """
        share = np.array_split(self.sequence_numbers(step), self._distributed.world_size)[
            self._distributed.rank
        ]
        tokens = np.empty((len(share), self._length + 1), np.int64)
        weights = np.ones((len(share), self._length), np.float32)
        for row, number in enumerate(share):
            shard = int(np.searchsorted(self._ends, number, side="right"))
            first = int(number - (self._ends[shard - 1] if shard else 0)) * self._length
            # Read, not mapped: the system ends a process that reads a mapping of a file that has shrunk.
            before = 0 if self._weights is None else max(0, min(first, self._weights.context - 1))
            span = _core.read_shard(self._shards[shard], first - before, before + self._length + 1)
            tokens[row] = span[before:]
            if self._weights is not None:
                weights[row] = self._weights.of_targets(span, before + 1)
        batch = Batch(torch.from_numpy(tokens), torch.from_numpy(weights))
        if self._distributed.device.type == "cuda":
            return Batch(batch.tokens.pin_memory(), batch.weights.pin_memory())
        return batch

    def batches(self, first_step: int) -> Generator[Batch]:
        """The batches of ``first_step`` and all after it, each prepared while the one before is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as background:
            coming = background.submit(self.batch, first_step)
            step = first_step
            while True:
                batch = coming.result()
                step += 1
                coming = background.submit(self.batch, step)
                yield batch


def check_shards(shards: Sequence[Path], vocabulary: Vocabulary, distributed: Distributed) -> None:
    """Reads every shard once, each rank some of them, before training relies on them.

    Raises on all ranks alike: OSError for a shard that one of them can't read; FormatError for one that is
    foreign, truncated, or has an id that is not below the vocabulary's size; InputError for one that another
    tokenizer made, as its sidecar says, and for one with the content of another, which would be trained on
    twice, or trained on and validated on.
    """
    problem: Exception | None = None
    records: list[ShardRecord] = []
    try:
        for path in shards[distributed.rank :: distributed.world_size]:
            records += inspect_shards([str(path)])
            size = _core.shard_tokens(str(path))
            for start in range(0, size, _SCAN_TOKENS):
                _core.read_shard(str(path), start, min(_SCAN_TOKENS, size - start), vocabulary.size)
    except (OSError, FormatError) as error:
        problem = error
    for found in distributed.all_gather_object(problem):
        if found is not None:
            raise found
    gathered = {record.path: record for part in distributed.all_gather_object(records) for record in part}
    inspected = [gathered[str(path)] for path in shards]
    refuse_repeated(inspected)
    known_vocabulary(
        inspected, size=vocabulary.size, bos_id=vocabulary.bos_id, fingerprint=vocabulary.fingerprint
    )
