"""The codec under load: time, memory and size for much text, random bytes and zeros, there and back.

    python benches/python/codec_load.py --artifact A.pgar --tokenizer TOK.model --shards *_val_*.bin \
        --text 100 --random 100 --zeros 10

Sizes are in millions of bytes; the text is what the shards decode to, over and over until it is as long.
Seconds are of processor time. A line is printed for each, after what came back was compared.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

import hybridlm


def text(shards: list[str], tokenizer: hybridlm.Tokenizer, size: int) -> bytes:
    decoded = tokenizer.decode(hybridlm.read_stream(shards)[: size // 2]).encode()
    return (decoded * (size // len(decoded) + 1))[:size]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--shards", required=True, type=Path, nargs="+")
    for name in ("text", "random", "zeros"):
        parser.add_argument(f"--{name}", type=float, default=0, metavar="MB")
    options = parser.parse_args()
    tokenizer = hybridlm.Tokenizer.load(options.tokenizer)
    codec = hybridlm.Codec(hybridlm.Artifact.from_file(options.artifact), tokenizer)
    shards = sorted(map(str, options.shards))
    makers = {
        "text": lambda size: text(shards, tokenizer, size),
        "random": lambda size: np.random.default_rng(1).bytes(size),
        "zeros": bytes,
    }
    columns = f"{'bytes':>13}{'compressed':>13}{'bits/byte':>10}{'in, s':>8}{'out, s':>8}{'peak MB':>9}"
    print(f"{'content':8}{columns}")
    for name, make in makers.items():
        size = int(1e6 * getattr(options, name))
        if not size:
            continue
        content = make(size)
        began = time.process_time()
        compressed = codec.compress(content).data
        between = time.process_time()
        back = codec.decompress(compressed)
        ended = time.process_time()
        assert back == content
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(
            f"{name:8}{size:13,}{len(compressed):13,}{8 * len(compressed) / size:10.4f}{between - began:8.0f}"
            f"{ended - between:8.0f}{peak:9,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
