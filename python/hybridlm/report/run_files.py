"""What a run has left in its folder, as a report shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridlm.errors import FormatError, InputError
from hybridlm.files import read_json
from hybridlm.scoring.trace import FORMAT as TRACE_FORMAT
from hybridlm.train.metrics import METRICS_FILE, read_metrics

SCORE = "score.json"
SUMMARY, PIPELINE_SETTINGS, TRAINING_SETTINGS = "summary.json", "settings.json", "config.json"
TRACE, AUDIT = "trace.json", "audit.json"
LARGEST = 1 << 26
"""Bytes of a file of JSON that are believed."""
ARTIFACT = "artifact.pgar"
ORACLES = ("oracle.ngsp", "oracle.ngor")


@dataclass(frozen=True)
class RunFiles:
    """What is in a run's folder. Each part may be missing, but not the summary and the metrics both.

    Attributes:
        summary: of `hybridlm run`, as its summary.json holds it, or as much of it as a score.json (what
            `hybridlm eval --json` printed) and an artifact.pgar make up.
        metrics: of training, a dict per logged step.
        settings: the resolved settings, nested.
        trace: what happened along the text (`hybridlm.scoring.trace`), of `run` or `eval --trace`.
        audit: what `hybridlm audit --json` printed, if it was kept as audit.json.
        orders: of the folder's oracle, what each order holds, as `hybridlm oracle inspect` says.
    """

    folder: Path
    summary: Mapping[str, Any] | None
    metrics: list[dict[str, float]]
    settings: Mapping[str, Any]
    trace: Mapping[str, Any] | None
    audit: Mapping[str, Any] | None
    orders: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def read_run(folder: Path) -> RunFiles:
    """Reads a folder that `hybridlm run --out` or `hybridlm train --out` left, or one with a score.json.

    Raises InputError if it is neither, FormatError for a file in it that isn't what it should be.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder; name one that `hybridlm run --out` or `train --out` left"
        )
    summary = _read_object(folder / SUMMARY)
    if summary is None and (score := _read_object(folder / SCORE)) is not None:
        summary = _summary_of(score, folder)
    training = folder / "model" if (folder / "model" / METRICS_FILE).is_file() else folder
    metrics = read_metrics(training) if (training / METRICS_FILE).is_file() else []
    if summary is None and not metrics:
        raise InputError(
            f"{folder} holds no run: there is neither {SUMMARY}, {SCORE} nor a {METRICS_FILE} with a step"
        )
    settings = _read_object(folder / PIPELINE_SETTINGS) or _read_object(training / TRAINING_SETTINGS) or {}
    trace = _read_object(folder / TRACE)
    if trace is not None and trace.get("format") != TRACE_FORMAT:
        raise FormatError(
            f"{folder / TRACE}: format {trace.get('format')!r}, and this version reads {TRACE_FORMAT}; "
            "`hybridlm eval --trace` writes it anew"
        )
    return RunFiles(folder, summary, metrics, settings, trace, _read_object(folder / AUDIT), _orders(folder))


def _summary_of(score: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Raises FormatError for a score that isn't one, and for a damaged artifact."""
    try:
        rates = [(name, rate) for name, rate in score["experts"].items()]
        rates += [(f"mixture ({score['mixer']})", score)]
        named = [
            {"name": name, "bits_per_token": rate["bits_per_token"], "bpb": rate["bpb"]}
            for name, rate in rates
        ]
        summary = {
            "bpb": score["bpb"],
            "tokens": score["tokens"],
            "bytes": score["bytes"],
            "experts": named[:-1],
            "scores": named[-1:],
            "seconds": score["stages"],
            "made_of": score["made_of"],
            "bpb_interval": score.get("bpb_interval"),
            "documents": score.get("documents"),
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{folder / SCORE}: not what `hybridlm eval --json` of this version prints ({error!r})"
        ) from None
    if (folder / ARTIFACT).is_file():
        from hybridlm.artifact import BUDGET_BYTES, Artifact

        artifact = Artifact.from_file(folder / ARTIFACT)
        parts = {
            "header": artifact.header_bytes,
            "neural": artifact.neural_bytes,
            "oracle": artifact.oracle_bytes,
        }
        summary |= {"parts": parts, "total_bytes": artifact.total_bytes, "budget_bytes": BUDGET_BYTES}
    return summary


def _orders(folder: Path) -> list[dict[str, Any]]:
    path = next((folder / name for name in ORACLES if (folder / name).is_file()), None)
    if path is None:
        return []
    from hybridlm.oracle import Oracle

    tables: list[dict[str, Any]] = Oracle.from_file(path).info()["tables"]
    return tables


def _read_object(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    value = read_json(path, LARGEST)
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds no JSON object")
    return value
