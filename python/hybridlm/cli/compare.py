"""`hybridlm compare`: is one score better than another, or is it chance?"""

from dataclasses import asdict
from pathlib import Path

import tyro

from hybridlm.cli.arguments import Margin
from hybridlm.cli.output import number_of, print_json
from hybridlm.errors import UsageError


def compare(
    first: tyro.conf.Positional[Path],
    second: tyro.conf.Positional[Path],
    *,
    first_seeds: tuple[Path, ...] = (),
    second_seeds: tuple[Path, ...] = (),
    margin: Margin = 0.0,
    json: bool = False,
) -> None:
    """Compare two scores of the same text: files that `eval --json` printed.

    With one file of each, documents are resampled, the same for both. With further seeds of each, their bits
    per byte are held against each other by Welch's one-sided test.

    Args:
        first: A score.
        second: Another of the same text, that might be better.
        first_seeds: Scores of the first's kind with other seeds.
        second_seeds: Scores of the second's kind with other seeds.
        margin: Bits per byte by which the second must be better, with seeds.
        json: Print one JSON object.
    """
    from hybridlm.scoring import confidence
    from hybridlm.verify import ScoredDocuments

    if bool(first_seeds) != bool(second_seeds):
        raise UsageError("seeds are compared with seeds: give --first-seeds and --second-seeds, or neither")
    ours = [ScoredDocuments.read(path) for path in (first, *first_seeds)]
    theirs = [ScoredDocuments.read(path) for path in (second, *second_seeds)]
    for score in (*ours[1:], *theirs):
        ours[0].check_same_text(score)
    if first_seeds:
        by_seeds = confidence.welch([s.bpb for s in ours], [s.bpb for s in theirs], margin)
        if json:
            print_json(asdict(by_seeds))
            return
        print(
            f"means {by_seeds.first:.4f} and {by_seeds.second:.4f} bits per byte, {by_seeds.difference:+.4f}"
        )
        print(f"t {by_seeds.t:.3f} with {by_seeds.degrees:.1f} degrees of freedom")
        print(f"p {by_seeds.p_value:.4f} that the second kind is not better by more than {margin:g}")
        return
    if margin:
        raise UsageError("--margin is for seeds")
    found = confidence.compare(ours[0].bits, theirs[0].bits, ours[0].bytes)
    if json:
        print_json(asdict(found))
        return
    interval = ""
    if found.interval is not None:
        interval = f", 95% interval {found.interval[0]:+.4f} to {found.interval[1]:+.4f}"
    print(f"{found.first:.4f} and {found.second:.4f} bits per byte, {found.difference:+.4f}{interval}")
    print(
        f"p {found.p_value:.4f} that the second is not better, over {number_of(found.documents, 'document')}"
    )
