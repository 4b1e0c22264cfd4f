"""`hybridlm generate`: text from an artifact."""

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
    from hybridlm.artifact import Artifact
    from hybridlm.generation import Generator, TextWriter

    vocabulary = tokenizer.load()
    generator = Generator(Artifact.from_file(artifact), vocabulary)
    text = TextWriter(vocabulary)
    generator.read(text.tokens_of(prompt))
    out = sys.stdout.buffer
    if not shares:
        out.write(text.add_prompt(prompt).encode())
    for sampled in itertools.islice(generator.tokens(sampling, seed), tokens):
        if shares:
            parts = ", ".join(
                f"{name} {share:.2f}" for name, share in sampled.shares.items() if share >= 0.005
            )
            piece = text.piece(sampled.token).decode(errors="replace")
            out.write(f"{piece!r:16} {sampled.probability:.4f}  {parts}\n".encode())
        else:
            out.write(text.add(sampled.token).encode())
        out.flush()
    if not shares:
        out.write(f"{text.finish()}\n".encode())
