"""Whether bfloat16 autocast makes training faster on this machine's CPU, by width.

    python benches/python/precision.py [--widths 128 192 256 384 512] [--threads 1] [--pairs 5]

Forward and backward of one micro-batch of 2,048 tokens, four layers deep and otherwise as the preset
``small``, in float32 and in bfloat16 by turns. Prints the medians of both, in seconds of processor time, and
of the pairs' ratio. `hybridlm.train.loop.activation_dtype` has its threshold from here.
"""

import argparse
import dataclasses
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from hybridlm.config import resolve
from hybridlm.model import GPT
from hybridlm.train.config import TrainConfig

TOKENS = 2048


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 192, 256, 384, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    small = resolve(TrainConfig, "small")
    for width in options.widths:
        config = dataclasses.replace(
            small.model, vocab_size=1024, width=width, heads=width // 64, kv_heads=1, mlp_hidden=3 * width
        )
        model = GPT(config)
        tokens = torch.randint(0, 1024, (TOKENS // small.sequence_length, small.sequence_length + 1))
        weights = torch.ones(tokens.shape[0], small.sequence_length)

        def seconds(
            dtype: torch.dtype,
            model: GPT = model,
            tokens: torch.Tensor = tokens,
            weights: torch.Tensor = weights,
        ) -> float:
            began = time.process_time()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                loss, _ = model.loss(tokens, weights, weights.sum())
            loss.backward()
            model.zero_grad()
            return time.process_time() - began

        both = (torch.float32, torch.bfloat16)
        for dtype in both:
            seconds(dtype)
        pairs = [tuple(seconds(dtype) for dtype in both) for _ in range(options.pairs)]
        single, half = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"width {width:4}: float32 {single:.3f} s, bfloat16 {half:.3f} s, {ratio:.2f}×", flush=True)


if __name__ == "__main__":
    main()
