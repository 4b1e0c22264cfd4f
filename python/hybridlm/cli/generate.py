"""`hybridlm generate`: text from an artifact."""

import codecs
import itertools
import sys
from pathlib import Path
from typing import Annotated

import tyro

from hybridlm.cli.arguments import ChosenTokenizer, Count, Natural
from hybridlm.generation import SamplingConfig


def generate(
    *,
    artifact: Path,
    tokenizer: ChosenTokenizer,
    prompt: str = "",
    tokens: Count = 200,
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = SamplingConfig(),  # noqa: B008 - frozen
    seed: Natural = 0,
    shares: bool = False,
) -> None:
    """Write text with an artifact, as it comes, by drawing from the mixture that is scored.

    Args:
        artifact: The artifact's file.
        prompt: What the text begins with.
        tokens: How many tokens to write.
        sampling: How tokens are drawn.
        seed: The same seed gives the same text.
        shares: Print a line per token instead: its probability, and the share of each expert in it.
    """
    import numpy as np

    from hybridlm.artifact import Artifact
    from hybridlm.codec import segmenter
    from hybridlm.generation import Generator

    vocabulary = tokenizer.load()
    generator = Generator(Artifact.from_file(artifact), vocabulary)
    pieces = segmenter(vocabulary)
    start = pieces.encode(prompt.encode())
    generator.read(start)
    out = sys.stdout.buffer
    # Byte pieces may be drawn that are no UTF-8 together: what is printed is text all the same.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    if not shares:
        out.write(prompt.encode())
    for sampled in itertools.islice(generator.tokens(sampling, seed), tokens):
        piece = pieces.decode(np.array([sampled.token], np.uint16))
        if shares:
            parts = ", ".join(
                f"{name} {share:.2f}" for name, share in sampled.shares.items() if share >= 0.005
            )
            out.write(f"{piece.decode(errors='replace')!r:16} {sampled.probability:.4f}  {parts}\n".encode())
        else:
            out.write(decoder.decode(piece).encode())
        out.flush()
    if not shares:
        out.write(f"{decoder.decode(b'', final=True)}\n".encode())
