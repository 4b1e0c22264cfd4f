"""A run as one HTML page: its scores, its bytes, its time, its training curve and its settings.

The page loads nothing else, so it can be mailed, archived, or opened on a machine without a network.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from hybridlm import __version__
from hybridlm.errors import FormatError, InputError
from hybridlm.files import read_json
from hybridlm.report.chart import Series, line_chart
from hybridlm.train.metrics import METRICS_FILE, read_metrics

SUMMARY, PIPELINE_SETTINGS, TRAINING_SETTINGS = "summary.json", "settings.json", "config.json"

_LARGEST = 1 << 26

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 760px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: .15rem .6rem; text-align: left; border-bottom: 1px solid #8884; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.bar { width: 45%; } td.bar div { background: #0072b2; height: .7rem; min-width: 1px; }
tr.result { font-weight: 600; }
p.note, footer { opacity: .75; font-size: .9em; }
"""


@dataclass(frozen=True)
class RunFiles:
    """What is in a run's folder. Each part may be missing, but not the summary and the metrics both.

    Attributes:
        summary: of `hybridlm run`, as its summary.json holds it.
        metrics: of training, a dict per logged step.
        settings: the resolved settings, nested.
    """

    folder: Path
    summary: Mapping[str, Any] | None
    metrics: list[dict[str, float]]
    settings: Mapping[str, Any]


def read_run(folder: Path) -> RunFiles:
    """Reads a folder that `hybridlm run --out` or `hybridlm train --out` left.

    Raises InputError if it is neither, FormatError for a file in it that isn't what it should be.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder; name one that `hybridlm run --out` or `train --out` left"
        )
    summary = _read_object(folder / SUMMARY)
    training = folder / "model" if (folder / "model" / METRICS_FILE).is_file() else folder
    metrics = read_metrics(training) if (training / METRICS_FILE).is_file() else []
    if summary is None and not metrics:
        raise InputError(
            f"{folder} holds no run: there is neither {SUMMARY} nor a {METRICS_FILE} with a step"
        )
    settings = _read_object(folder / PIPELINE_SETTINGS) or _read_object(training / TRAINING_SETTINGS) or {}
    return RunFiles(folder, summary, metrics, settings)


def render(run: RunFiles) -> str:
    """The page's HTML. Raises FormatError if the summary lacks something."""
    sections = []
    try:
        if run.summary is not None:
            sections += [_scores(run.summary), _artifact(run.summary), _time(run.summary)]
            sections += [_made_of(run.summary["made_of"])] if "made_of" in run.summary else []
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise FormatError(
            f"{run.folder / SUMMARY} is not a summary of this version ({error!r}); run `hybridlm run` again"
        ) from None
    if run.metrics:
        sections.append(_training(run.metrics))
    if run.settings:
        sections.append(_settings(run.settings))
    title = escape(f"hybridlm: {run.folder.resolve().name}")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f"<style>{STYLE}</style></head>",
            f"<body><h1>{title}</h1>",
            *sections,
            f"<footer><p>Written by hybridlm {escape(__version__)}.</p></footer></body></html>\n",
        ]
    )


def _read_object(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    value = read_json(path, _LARGEST)
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds no JSON object")
    return value


def _scores(summary: Mapping[str, Any]) -> str:
    scores = [*summary["experts"], *summary["scores"]]
    worst = max(score["bpb"] for score in scores)
    rows = [
        _row(
            score["name"],
            f"{score['bits_per_token']:.4f}",
            f"{score['bpb']:.4f}",
            bar=score["bpb"] / worst,
            result=score is scores[-1],
        )
        for score in scores
    ]
    note = (
        f"{summary['tokens']:,} targets, {summary['bytes']:,} bytes of decoded validation text. "
        "Each expert's row is that expert alone; the last row is the result."
    )
    return _section(
        f"{summary['bpb']:.4f} bits per byte",
        _table(("predictor", "bits/token", "BPB", ""), rows) + f'<p class="note">{note}</p>',
    )


def _artifact(summary: Mapping[str, Any]) -> str:
    budget, total = summary["budget_bytes"], summary["total_bytes"]
    rows = [
        _row(part, f"{size:,}", f"{size / budget:.1%}", bar=size / budget, result=part == "total")
        for part, size in [*summary["parts"].items(), ("total", total)]
    ]
    return _section(
        f"{total:,} of {budget:,} bytes", _table(("part of the artifact", "bytes", "of the budget", ""), rows)
    )


def _time(summary: Mapping[str, Any]) -> str:
    seconds = summary["seconds"]
    total = sum(seconds.values())
    rows = [
        _row(stage, f"{elapsed:.1f}", f"{elapsed / total:.0%}", bar=elapsed / total)
        for stage, elapsed in seconds.items()
    ]
    return _section(f"{total:.0f} seconds", _table(("stage", "seconds", "share", ""), rows))


def _made_of(made_of: Mapping[str, Any]) -> str:
    files = [("scored", made_of["scored"]), ("tokenizer", made_of["tokenizer"])]
    files += [("shard", shard) for shard in made_of["shards"]]
    rows = [_row(role, str(Path(file["path"]).name), file["sha256"]) for role, file in files]
    rows += [_row("version", name, version) for name, version in made_of["versions"].items()]
    return _section("what the score is made of", _table(("", "", "SHA-256"), rows))


def _training(metrics: list[dict[str, float]]) -> str:
    def series(name: str, key: str) -> Series:
        return Series(name, [(line["step"], line[key]) for line in metrics if "step" in line and key in line])

    losses = [series("training", "train_loss"), series("validation", "val_loss")]
    charts = []
    if any(line.points for line in losses):
        charts.append(line_chart(losses, x_label="step", y_label="loss, nats per token"))
    rates = series("learning rate, times its base", "lr_scale")
    if len(rates.points) > 1:
        charts.append(line_chart([rates], x_label="step", y_label="scale"))
    last = metrics[-1]
    facts = [
        _row(name.replace("_", " "), f"{value:,.6g}")
        for name, value in last.items()
        if isinstance(value, int | float)
    ]
    return _section("training", "\n".join(charts) + _table(("at the end", ""), facts))


def _settings(settings: Mapping[str, Any]) -> str:
    rows = [_row(name, value) for name, value in _flatten(settings)]
    return _section("settings", _table(("setting", "value"), rows))


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value)


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>\n{body}</section>"


def _table(head: Iterable[str], rows: Iterable[str]) -> str:
    first, *others = map(escape, head)
    cells = f"<th>{first}</th>" + "".join(f'<th class="number">{name}</th>' for name in others)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>\n" + "\n".join(rows) + "</tbody></table>"


def _row(name: str, *numbers: str, bar: float | None = None, result: bool = False) -> str:
    cells = f"<td>{escape(name)}</td>"
    cells += "".join(f'<td class="number">{escape(number)}</td>' for number in numbers)
    if bar is not None:
        cells += f'<td class="bar"><div style="width:{bar:.2%}"></div></td>'
    return f'<tr class="result">{cells}</tr>' if result else f"<tr>{cells}</tr>"
