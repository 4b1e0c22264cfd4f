"""`hybridlm submission …`: records of the parameter-golf challenge."""

from dataclasses import asdict
from pathlib import Path

import tyro

from hybridlm.cli.arguments import Files, Margin, Out
from hybridlm.cli.output import print_json
from hybridlm.errors import UsageError


def pack(
    runs: Files,
    *,
    code: tuple[Path, ...],
    author: str,
    github_id: str,
    name: str,
    date: str,
    out: Out,
    blurb: str = "",
    json: bool = False,
) -> None:
    """Make a record's folder of runs that differ in their seeds.

    It holds README.md, submission.json, the code, and of each seed its log, artifact and score. More than
    16,000,000 bytes of code and artifact are refused. Code counts as the challenge counts it: the files as
    they are, without libraries and tokenizer; what hybridlm itself would take is stated besides.

    Args:
        runs: Folders that `hybridlm run --out` left, or folders with score.json (what `eval --json` printed),
            artifact.pgar and the training run in model/. An audit.json (of `audit --json`) is taken in.
        code: The files that train and score it.
        author: Who submits it.
        github_id: Their name on GitHub.
        name: What the submission is called.
        date: As 2026-01-31.
        out: The folder to make.
        blurb: What it does, in a sentence or two.
        json: Print what submission.json says.
    """
    from hybridlm.submission.pack import About, Run
    from hybridlm.submission.pack import pack as write

    if not code:
        raise UsageError("a record must run from its folder: name the files that do so with --code")
    about = About(author, github_id, name, date, blurb)
    fields = write([Run.read(folder) for folder in runs], about, code, out)
    if json:
        print_json(fields)
        return
    print(f"{out}: {fields['val_bpb']:.5f} bits per byte, {fields['bytes_total']:,} of 16,000,000 bytes")
    print(f"hybridlm itself, which the rules don't count: {fields['bytes_hybridlm_xz']:,} bytes by xz")
    if broken := [rule for rule, holds in fields["compliance"].items() if not holds]:
        print(f"not kept: {', '.join(broken)}")


def check(record: tyro.conf.Positional[Path], *, json: bool = False) -> bool:
    """Check a record's folder, of hybridlm's making or any other of the challenge.

    Is it complete, do its numbers agree with each other and with its files, does it fit? Exits with 1 where
    something fails. It believes the scores: `hybridlm verify` makes them again.

    Args:
        record: A folder with a submission.json, or that file.
        json: Print one JSON object.
    """
    from hybridlm.submission.check import check as examine
    from hybridlm.submission.record import Record

    findings = list(examine(Record.read(record)))
    ok = all(finding.outcome != "failed" for finding in findings)
    if json:
        print_json({"ok": ok, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print(f"{finding.outcome:8} {finding.name:14} {finding.found}")
    return ok


def compare(
    candidate: tyro.conf.Positional[Path],
    record: tyro.conf.Positional[Path],
    *,
    margin_bpb: Margin | None = None,
    json: bool = False,
) -> bool:
    """Does a record beat another by the challenge's rules: by 0.005 nats per token, with p below 0.01?

    Seeds are held against seeds by Welch's one-sided test; a record of a single score is taken for exact.
    Exits with 1 where the claim doesn't stand.

    Args:
        candidate: A folder with a submission.json of at least two seeds.
        record: The folder of the score to beat.
        margin_bpb: Bits per byte by which it must be better; unset: 0.005 nats per token, converted by the
            candidate's own ratio of loss and score.
        json: Print one JSON object.
    """
    from hybridlm.submission.against import LEVEL, against
    from hybridlm.submission.record import Record

    found = against(Record.read(candidate), Record.read(record), margin_bpb)
    if json:
        print_json(asdict(found))
        return found.passed
    print(f"{found.candidate:.5f} against {found.record:.5f} bits per byte: {found.difference:+.5f}")
    print(f"{found.test} test, one-sided: t {found.t:.3f} with {found.degrees:.1f} degrees of freedom")
    print(f"p {found.p_value:.2g} that it is not better by {found.margin:.5f}, {LEVEL} at most is asked for")
    print("the claim stands" if found.passed else "the claim does NOT stand")
    return found.passed
