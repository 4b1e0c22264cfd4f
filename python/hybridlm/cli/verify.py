"""`hybridlm verify`: a reported score, made again."""

import dataclasses
from pathlib import Path

import tyro

from hybridlm.cli.arguments import OptionalGlob, Threads
from hybridlm.cli.output import print_json


def verify(
    score: tyro.conf.Positional[Path],
    *,
    artifact: Path | None = None,
    val: OptionalGlob = None,
    tokenizer: Path | None = None,
    device: str | None = None,
    threads: Threads | None = None,
    json: bool = False,
) -> bool:
    """Make a reported score again from its files, and compare.

    The score is a file of what `hybridlm eval --json` or `hybridlm oracle eval --json` printed. It names its
    artifact (or oracle), tokenizer and shards with their hashes, and its settings. Exits with 1 where a
    file is another one or the score isn't the same.

    Args:
        score: The score's file.
        artifact: Where the artifact or oracle is now; unset: where it was.
        val: A glob of the shards as they are now; unset: where they were.
        tokenizer: Where the tokenizer is now; unset: where it was.
        device: Where a neural model runs: cpu or cuda; unset: cuda where there is one.
        threads: Of oracle look-ups; unset: HYBRIDLM_NUM_THREADS, else this process's share of the cores.
        json: Print one JSON object.
    """
    from hybridlm.data.shards import expand
    from hybridlm.verify import Reported
    from hybridlm.verify import verify as score_again

    verdict = score_again(
        Reported.read(score),
        scored=artifact,
        shards=None if val is None else expand(val),
        tokenizer=tokenizer,
        device=device,
        threads=threads,
    )
    if json:
        print_json(dataclasses.asdict(verdict))
        return verdict.verified
    for problem in verdict.problems:
        print(problem)
    if verdict.found is not None:
        print(f"reported {verdict.reported:.6f} bits per byte, made again {verdict.found:.6f}")
    print(f"{score}: {'verified' if verdict.verified else 'NOT verified'}")
    return verdict.verified
