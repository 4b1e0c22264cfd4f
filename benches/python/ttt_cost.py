"""What a step of test-time training costs, against a bare forward, backward and update of the same batch.

    python benches/python/ttt_cost.py [--preset tiny] [--threads 1] [--repeats 30]

The bare step is torch's own: one backward pass of the whole batch, the gradient's norm clipped, SGD with
momentum over all weights. The two take turns, and the ratio is the median of the turns' ratios, by
processor time, so that a busy machine decides little. Micro-batches of other sizes are shown beside: the
smaller they are, the more ranks can share a step.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from hybridlm import config as layers
from hybridlm.distributed import Distributed
from hybridlm.model import GPT
from hybridlm.scoring import ttt
from hybridlm.scoring.config import TTTConfig
from hybridlm.train.config import TrainConfig

BATCH = 8


def bare_step(model: GPT, inputs: torch.Tensor, targets: torch.Tensor) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    preset = layers.resolve(TrainConfig, options.preset)
    length = preset.sequence_length
    values = {**layers.as_dict(preset.model), "vocab_size": options.vocab_size, "sequence_length": length}
    config = type(preset.model)(**values)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, BATCH * length + 1).astype(np.uint16)
    wide = torch.from_numpy(tokens.astype(np.int64))
    bare = bare_step(GPT(config), wide[:-1].view(BATCH, length), wide[1:].view(BATCH, length))
    alone = Distributed(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    default = ttt.MICRO_BATCH
    steps: dict[int, Callable[[], object]] = {}
    for micro_batch in (8, 4, 2, 1):
        chosen = TTTConfig(epochs=1, frozen_blocks=0, batch=BATCH)
        trainer = ttt.TestTimeTrainer(GPT(config), "sgd", chosen, alone, rate=1e-6, sequence_length=length)

        def step(trainer: ttt.TestTimeTrainer = trainer, micro_batch: int = micro_batch) -> None:
            ttt.MICRO_BATCH = micro_batch
            trainer.learn(tokens, 1)

        steps[micro_batch] = step
    ratios: dict[int, list[float]] = {micro_batch: [] for micro_batch in steps}
    bares = []
    for repeat in range(options.repeats + 3):
        base = timed(bare)
        for micro_batch, step in steps.items():
            again = timed(step)
            if repeat >= 3:
                ratios[micro_batch].append(again / base)
        bares.append(base)
    default = 4
    print(f"{options.preset}: bare step {statistics.median(bares):.4f} s of processor time")
    for micro_batch, found in ratios.items():
        mark = " (default)" if micro_batch == default else ""
        print(f"micro-batches of {micro_batch}{mark}: {statistics.median(found):.3f} x bare")


def timed(step: Callable[[], object]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


if __name__ == "__main__":
    main()
