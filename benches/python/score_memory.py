"""What memory and time a long score takes: peak resident bytes and seconds of one thread, by tokens.

    python benches/python/score_memory.py --artifact A.pgar --val V.bin --tokenizer T.model [--tokens N ...]

The stream is the shard's tokens again and again, each size scored in a process of its own. The artifact is
scored without its network; ``--network`` adds a stand-in for one, whose log-probabilities are read from a
file, and which takes ``--sleep`` microseconds a token, as if a device computed them: native
experts work meanwhile, so as long as they take less, seconds are what the stand-in sleeps. Peak memory is
shown with and without the stream itself, two bytes a token.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.data.shards import expand, open_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.scoring import evaluate as module
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.experts import Expert, Scored


class Recorded(Expert):
    """A network's log-probabilities, float32, one after the other in a file."""

    family = "neural"
    names = ("neural",)

    def __init__(self, path: Path, vocab_size: int, sleep: float) -> None:
        """sleep: microseconds a token."""
        self.vocab_size = vocab_size
        self.path = path
        self.sleep = sleep

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        count = len(stream) - start
        time.sleep(1e-6 * self.sleep * count)
        return Scored(np.fromfile(self.path, np.float32, count, offset=4 * (start - 1))[None])

    def fingerprint(self) -> bytes:
        return b""


def measure(options: argparse.Namespace, tokens: int) -> dict[str, float]:
    tokenizer = Tokenizer.load(options.tokenizer)
    artifact = Artifact.from_file(options.artifact)
    text = open_stream(expand(options.val), tokenizer.vocabulary).tokens
    stream = np.resize(text, tokens + 1)
    del text
    with tempfile.TemporaryDirectory() as folder:
        if options.network:
            path = Path(folder) / "log_probs"
            random = np.random.default_rng(0)
            with path.open("wb") as file:
                for at in range(0, tokens, 1 << 16):
                    nats = random.exponential(3.0, min(1 << 16, tokens - at))
                    file.write((-nats).astype("<f4").tobytes())
            experts_of = module.experts_of

            def with_network(*arguments: object, **named: object) -> object:
                parts = experts_of(*arguments, **named)  # type: ignore[arg-type]
                parts.experts.insert(0, Recorded(path, tokenizer.vocab_size, options.sleep))
                return parts

            module.experts_of = with_network  # type: ignore[assignment]
        began, cpu = time.perf_counter(), time.process_time()
        config = ScoringConfig(no_neural=True)
        result = module.evaluate(artifact, stream, tokenizer.byte_table, config, threads=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "tokens": tokens,
        "peak_bytes": peak,
        "without_stream": peak - stream.nbytes,
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - cpu,
        "bpb": result.bpb,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[5_000_000, 10_000_000, 20_000_000])
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--sleep", type=float, default=0.0, help="microseconds a token, of the stand-in")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options, options.one)))
        return
    print("| tokens | peak | without the stream | seconds | of processor time | for 62 M tokens |")
    print("|---|---|---|---|---|---|")
    for tokens in options.tokens:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", str(tokens)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        whole, rest = (found[key] / 1e6 for key in ("peak_bytes", "without_stream"))
        cpu = found["processor_seconds"]
        print(
            f"| {tokens:,} | {whole:.0f} MB | {rest:.0f} MB | {found['seconds']:.1f} | {cpu:.1f} "
            f"| {cpu * 62e6 / tokens:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
