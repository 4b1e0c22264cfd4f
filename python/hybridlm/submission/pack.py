"""Makes a record's folder of runs that differ in their seeds."""

import json
import math
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridlm import __version__
from hybridlm.artifact import BUDGET_BYTES, Artifact
from hybridlm.errors import FormatError, InputError
from hybridlm.files import atomic_write_text, read_json, scratch_folder
from hybridlm.provenance import FileRecord
from hybridlm.submission.code_bytes import CODE_SUFFIXES, code_bytes, library_bytes
from hybridlm.submission.record import SUBMISSION
from hybridlm.train.metrics import METRICS_FILE, read_metrics
from hybridlm.verify import LARGEST, Reported

SECONDS = 600
"""What the challenge gives training, and evaluation, on its machine."""


@dataclass(frozen=True)
class About:
    """Who submits what: date as YYYY-MM-DD."""

    author: str
    github_id: str
    name: str
    date: str
    blurb: str


@dataclass(frozen=True)
class Run:
    """One run of one seed, read from its folder."""

    folder: Path
    seed: int
    score: Reported
    bits_per_token: float
    artifact: Path
    artifact_bytes: int
    log: Path
    train_seconds: float
    audit: Mapping[str, bool]
    """By rule that `hybridlm audit` has tried, whether it holds; empty where the run wasn't audited."""

    @property
    def eval_seconds(self) -> float | None:
        """Of the score; None for a whole pipeline's, which counts other work, too."""
        seconds = self.score.fields.get("seconds")
        return float(seconds) if isinstance(seconds, int | float) else None

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """A folder that `hybridlm run --out` left, or one with score.json (of `eval --json`) in its place.

        The artifact must be the one that was scored. Raises InputError, FormatError, OSError."""
        if not folder.is_dir():
            raise InputError(f"{folder}: not a folder; name those that `hybridlm run --out` left")
        names = ("score.json", "summary.json")
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise InputError(
                f"{folder}: neither score.json (what `hybridlm eval --json` prints) nor summary.json is there"
            )
        score = Reported.read(path)
        try:
            bits = (score.fields["scores"][-1] if score.is_summary else score.fields)["bits_per_token"]
        except (LookupError, TypeError):
            bits = None
        if type(bits) is not float:
            raise FormatError(f"{path}: no score: it has no bits_per_token")
        artifact = folder / "artifact.pgar"
        if FileRecord.of(artifact).sha256 != score.made_of.scored.sha256:
            raise InputError(f"{artifact}: not the artifact that {path} is the score of, by its SHA-256")
        training = folder / "model" if (folder / "model").is_dir() else folder
        config = read_json(training / "config.json", LARGEST)
        seed = config.get("training", {}).get("seed") if isinstance(config, dict) else None
        if type(seed) is not int:
            raise FormatError(f"{training / 'config.json'}: names no seed of a training run")
        metrics = read_metrics(training)
        return cls(
            folder=folder,
            seed=seed,
            score=score,
            bits_per_token=bits,
            artifact=artifact,
            artifact_bytes=Artifact.from_file(artifact).total_bytes,
            log=training / METRICS_FILE,
            train_seconds=max((line.get("seconds", 0.0) for line in metrics), default=0.0),
            audit=_audited(folder / "audit.json"),
        )


def _audited(path: Path) -> dict[str, bool]:
    """What `hybridlm audit --json` found, by rule; empty where there is no such file. Raises FormatError."""
    if not path.is_file():
        return {}
    report = read_json(path, LARGEST)
    try:
        found = {rule: part["passed"] for rule, part in report.items() if isinstance(part, dict)}
    except (AttributeError, KeyError):
        found = {"": None}
    if not all(type(passed) is bool for passed in found.values()):
        raise FormatError(f"{path}: not what `hybridlm audit --json` prints")
    return found


def pack(runs: Sequence[Run], about: About, code: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes the folder ``out`` and returns what its submission.json says.

    ``code`` are the files that run it, the first of which a reader begins with. Raises InputError for an
    ``out`` that is there, runs of the same seed or of different texts, and more than 16,000,000 bytes of code
    and artifact together; OSError.
    """
    if out.exists():
        raise InputError(f"{out}: there already; name another folder, or remove it")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", about.date):
        raise InputError(f"--date must be as 2026-01-31, not {about.date!r}")
    seeds = [run.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"two runs have the same seed, of {', '.join(map(str, seeds))}")
    texts = {tuple(shard.sha256 for shard in run.score.made_of.shards) for run in runs}
    if len(texts) > 1 or len({run.score.fields["bytes"] for run in runs}) > 1:
        raise InputError("the runs are scored on different texts, so they have no mean")
    names = [path.name for path in code]
    if len(set(names)) < len(names):
        raise InputError("two files of code have the same name")
    for path in code:
        if path.suffix not in CODE_SUFFIXES:
            raise InputError(f"{path}: not code, by its name; it would not be counted")
    with scratch_folder(out.absolute().parent) as scratch:
        folder = scratch / "record"
        folder.mkdir()
        for path in code:
            shutil.copyfile(path, folder / path.name)
        fields = _fields(runs, about, code_bytes(folder))
        if fields["bytes_total"] > BUDGET_BYTES:
            raise InputError(
                f"{fields['bytes_total']:,} bytes of code and artifact; the rules allow {BUDGET_BYTES:,}"
            )
        for run in runs:
            shutil.copyfile(run.log, folder / f"train_seed{run.seed}.log")
            shutil.copyfile(run.artifact, folder / f"artifact_seed{run.seed}.pgar")
            atomic_write_text(
                folder / f"score_seed{run.seed}.json", json.dumps(run.score.fields, indent=2) + "\n"
            )
        atomic_write_text(folder / "requirements.txt", f"hybridlm[train]=={__version__}\n")
        atomic_write_text(folder / SUBMISSION, json.dumps(fields, indent=2) + "\n")
        atomic_write_text(folder / "README.md", _readme(runs, about, code, fields))
        folder.rename(out)
    return fields


def _fields(runs: Sequence[Run], about: About, code: int) -> dict[str, Any]:
    bpbs = [run.score.bpb for run in runs]
    losses = [run.bits_per_token * math.log(2) for run in runs]
    total = max(run.artifact_bytes for run in runs) + code
    fields: dict[str, Any] = {
        "author": about.author,
        "github_id": about.github_id,
        "name": about.name,
        "date": about.date,
        "blurb": about.blurb,
        "val_bpb": round(statistics.fmean(bpbs), 8),
        "val_loss": round(statistics.fmean(losses), 8),
        "bytes_total": total,
        "bytes_code": code,
        "bytes_hybridlm_xz": library_bytes(),
        "seeds": [run.seed for run in runs],
        "seed_results": {
            str(run.seed): {
                "val_bpb": round(run.score.bpb, 8),
                "val_loss": round(loss, 8),
                "artifact_bytes": run.artifact_bytes + code,
                "train_seconds": round(run.train_seconds, 1),
            }
            for run, loss in zip(runs, losses, strict=True)
        },
    }
    if len(runs) > 1:
        fields["val_bpb_std"] = round(statistics.stdev(bpbs), 8)
    compliance = {
        "artifact_under_16mb": total <= BUDGET_BYTES,
        "train_under_600s": all(run.train_seconds <= SECONDS for run in runs),
        "three_seeds": len(runs) >= 3,
    }
    times = [run.eval_seconds for run in runs]
    known = [time for time in times if time is not None]
    if len(known) == len(runs):
        compliance["eval_under_600s"] = max(known) <= SECONDS
    for rule in ("causal", "normalised", "score_first", "single_pass", "bytes_exact"):
        # Only what has been tried on every run is claimed.
        if all(rule in run.audit for run in runs):
            compliance[rule] = all(run.audit[rule] for run in runs)
    return fields | {"compliance": compliance}


def _readme(runs: Sequence[Run], about: About, code: Sequence[Path], fields: Mapping[str, Any]) -> str:
    rows = "\n".join(
        f"| {seed} | {result['val_bpb']:.5f} | {result['val_loss']:.5f} | {result['artifact_bytes']:,} "
        f"| {result['train_seconds']:,.0f} |"
        for seed, result in fields["seed_results"].items()
    )
    kept = "\n".join(f"- {rule}: {'yes' if holds else 'NO'}" for rule, holds in fields["compliance"].items())
    spread = f" ± {fields['val_bpb_std']:.5f}" if "val_bpb_std" in fields else ""
    audited = "tried by `hybridlm audit`" if "causal" in fields["compliance"] else "not audited"
    seed = runs[0].seed
    return f"""# {about.name}

{about.blurb}

**{fields["val_bpb"]:.5f}{spread} bits per byte** (mean of {len(runs)} seeds and sample standard deviation).

| seed | bits per byte | loss, nats per token | bytes of code and artifact | seconds of training |
|---|---|---|---|---|
{rows}

## Bytes

Code is {fields["bytes_code"]:,} bytes: {", ".join(path.name for path in code)}, as they lie here,
uncompressed. With the largest artifact that makes {fields["bytes_total"]:,} of
{BUDGET_BYTES:,} bytes. The tokenizer and the libraries in requirements.txt are not counted, by
the challenge's rules. hybridlm is one of these libraries; its own Python and native code take
{fields["bytes_hybridlm_xz"]:,} bytes as a tar archive compressed by xz.

## Rules

The score's rules were {audited}.

{kept}

## Check it

    pip install -r requirements.txt
    hybridlm submission check .
    hybridlm verify score_seed{seed}.json --artifact artifact_seed{seed}.pgar \\
        --tokenizer TOKENIZER --val 'SHARDS'
"""
