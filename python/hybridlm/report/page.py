"""A run, or two side by side, as one HTML page.

The page loads nothing and runs nothing: it can be mailed, archived, or opened without a network. It is read
on a phone and on a wide screen, light and dark, with a keyboard alone, and by a screen reader: every bar and
line stands beside its numbers.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from hybridlm import __version__
from hybridlm.errors import FormatError
from hybridlm.report.chart import COLOURS, Series, line_chart
from hybridlm.report.html import STYLE, columns, details, figure, note, row, section, side_by_side, table
from hybridlm.report.passage import passage
from hybridlm.report.run_files import AUDIT, SUMMARY, TRACE, RunFiles
from hybridlm.scoring.confidence import compare

_MOST_LINES = len(COLOURS)


def render(*runs: RunFiles) -> str:
    """The HTML of one run or of two. Raises FormatError if a file of theirs lacks something."""
    names = names_of(runs)
    sections = [
        _scores,
        _along,
        _passages,
        _bytes,
        _orders,
        _training,
        _audits,
        _time,
        _made_of,
        _settings,
    ]
    found = [part for make in sections for part in _guarded(make, runs, names)]
    title = escape("hybridlm: " + " and ".join(names))
    contents = "".join(f'<li><a href="#{name}">{escape(label)}</a></li>' for name, label, _ in found)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title>",
            f"<style>{STYLE}</style></head>",
            f'<body><a class="skip" href="#main">Skip to the results</a><header><h1>{title}</h1>'
            f'<nav aria-label="on this page"><ul>{contents}</ul></nav></header>',
            f'<main id="main">{"".join(body for _, _, body in found)}</main>',
            f"<footer><p>Written by hybridlm {escape(__version__)}.</p></footer></body></html>\n",
        ]
    )


_MANY_DOCUMENTS = 20
"""From which on resampling documents gives about the interval that it should."""

Part = tuple[str, str, str]
"""The name of a section, what the table of contents calls it, and its HTML."""


def _guarded(
    make: Callable[[Sequence[RunFiles], list[str]], Iterable[Part]],
    runs: Sequence[RunFiles],
    names: list[str],
) -> list[Part]:
    try:
        return list(make(runs, names))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        file = {"_along": TRACE, "_passages": TRACE, "_audits": AUDIT}.get(make.__name__, SUMMARY)
        where = " or ".join(str(run.folder / file) for run in runs)
        raise FormatError(
            f"{where} is not of this version ({error!r}); make it again with this one"
        ) from None


def names_of(runs: Sequence[RunFiles]) -> list[str]:
    """What each run is called: its folder's name, numbered if both have the same."""
    names = [run.name for run in runs]
    return (
        [f"{name} ({index})" for index, name in enumerate(names, 1)] if len({*names}) < len(names) else names
    )


def _with_summary(runs: Sequence[RunFiles], names: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, run.summary) for name, run in zip(names, runs, strict=True) if run.summary is not None]


def _scores(runs: Sequence[RunFiles], names: list[str]) -> Iterable[Part]:
    found = _with_summary(runs, names)
    if not found:
        return
    tables = [
        {score["name"]: score for score in [*summary["experts"], *summary["scores"]]} for _, summary in found
    ]
    results = [summary["scores"][-1]["name"] for _, summary in found]
    # A result stands last, whatever it is called in either.
    predictors = [
        name for name in dict.fromkeys(name for one in tables for name in one) if name not in results
    ]
    predictors += dict.fromkeys(results)
    worst = max(score["bpb"] for one in tables for score in one.values())
    rows = []
    for name in predictors:
        scores = [one.get(name) for one in tables]
        numbers = [text for score in scores for text in _score_texts(score, len(found))]
        if len(found) == 2:
            first, second = scores
            numbers.append("" if first is None or second is None else f"{second['bpb'] - first['bpb']:+.4f}")
        bars = [0.0 if score is None else score["bpb"] / worst for score in scores]
        rows.append(row(name, *numbers, bars=bars, result=name in results))
    if len(found) == 1:
        (_, summary) = found[0]
        heading = f"{summary['bpb']:.4f} bits per byte"
        head: tuple[str, ...] = ("predictor", "bits/token", "BPB", "shorter is better")
    else:
        (one, first_), (other, second_) = found
        heading = f"{first_['bpb']:.4f} and {second_['bpb']:.4f} bits per byte"
        head = (
            "predictor",
            f"BPB of {one}",
            f"BPB of {other}",
            "difference",
            f"{one} above {other}: shorter is better",
        )
    texts = [
        f"{summary['tokens']:,} targets, {summary['bytes']:,} bytes of decoded validation text"
        + (f" of {name}" if len(found) == 2 else "")
        for name, summary in found
    ]
    explained = (
        "; ".join(texts) + ". Fewer bits per byte are better. An expert's row is that expert alone; a row in "
        "bold is a result."
    )
    if len(found) == 2 and len({(summary["tokens"], summary["bytes"]) for _, summary in found}) == 2:
        explained += " The texts differ, so the scores can't be held against each other."
    certain = _certainty(found)
    above = [note(certain)] if certain else []
    yield "scores", "scores", section("scores", heading, *above, table(head, rows), note(explained))


def _certainty(found: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """How sure the results and their difference are, as far as that is known. Seeds are another matter."""
    told = []
    for name, summary in found:
        documents, interval = summary.get("documents"), summary.get("bpb_interval")
        if documents and interval:
            (low, high), count = interval, len(documents["bytes"])
            of = f" of {name}" if len(found) == 2 else ""
            told.append(f"95% interval{of} over {count:,} documents: {low:.4f} to {high:.4f}.")
    if len(found) == 2 and len(told) == 2:
        other, (one, two) = found[1][0], (summary["documents"] for _, summary in found)
        if all(one[key] == two[key] for key in ("tokens", "bytes")):
            first, second = (np.array(documents["bits"], np.float64) for documents in (one, two))
            compared = compare(first, second, np.array(one["bytes"], np.float64))
            if compared.interval is not None:
                low, high = compared.interval
                told.append(
                    f"The difference, {compared.difference:+.4f}, has {low:+.4f} to {high:+.4f}, with "
                    f"the same documents drawn for both; p {compared.p_value:.4f} that {other} is not better."
                )
    if told:
        told.append("It is the choice of documents that varies there, not the seed of training.")
        if any(
            len(summary["documents"]["bytes"]) < _MANY_DOCUMENTS
            for _, summary in found
            if summary.get("documents")
        ):
            told.append("Of so few documents, intervals are narrower than they should be.")
    return " ".join(told)


def _score_texts(score: Mapping[str, Any] | None, runs: int) -> list[str]:
    if score is None:
        return [""] * (2 if runs == 1 else 1)
    bpb = f"{score['bpb']:.4f}"
    return [f"{score['bits_per_token']:.4f}", bpb] if runs == 1 else [bpb]


def _along(runs: Sequence[RunFiles], names: list[str]) -> Iterable[Part]:
    traced = [(name, run.trace) for name, run in zip(names, runs, strict=True) if run.trace is not None]
    if not traced:
        return
    body = [
        _chart(
            along_lines(runs, names),
            ("target", "bits per byte (lower is better)"),
            "Bits per byte along the text, in pieces. The mixture, and the experts that are best alone.",
        )
    ]
    if any(trace["shares"] for _, trace in traced):
        body.append(side_by_side((name, _shares(trace)) for name, trace in traced if trace["shares"]))
    yield "along", "along the text", section("along", "along the text", *body)


def _chart(lines: Sequence[Series], labels: tuple[str, str], caption: str) -> str:
    large, small = (
        line_chart(lines, x_label=labels[0], y_label=labels[1], width=width) for width in (560, 340)
    )
    return figure(large, small, caption)


def along_lines(runs: Sequence[RunFiles], names: list[str]) -> list[Series]:
    """Bits per byte along the text, of the mixture and of the experts that are best alone."""
    traced = [(name, run.trace) for name, run in zip(names, runs, strict=True) if run.trace is not None]
    lines = []
    for name, trace in traced:
        rates = trace["bits_per_byte"]
        shown = ["mixture", *(["neural"] if "neural" in rates else []), *_best(rates, 3 - len(traced))]
        for line in dict.fromkeys(shown):
            points = [
                (end, rate) for end, rate in zip(trace["ends"], rates[line], strict=True) if rate is not None
            ]
            lines.append(Series(f"{name}: {line}" if len(traced) == 2 else line, points))
    return lines


def _best(rates: Mapping[str, Sequence[float | None]], count: int) -> list[str]:
    def mean(name: str) -> float:
        known = [rate for rate in rates[name] if rate is not None]
        return sum(known) / len(known) if known else float("inf")

    return sorted((name for name in rates if name not in ("mixture", "neural")), key=mean)[:count]


def _shares(trace: Mapping[str, Any]) -> str:
    names, shares = trace["share_names"], trace["shares"]
    known = [one for one in shares if one is not None]
    means = [sum(column) / len(known) for column in zip(*known, strict=True)]
    rows = [
        row(names[index], f"{means[index]:.1%}", bars=[means[index]])
        for index in sorted(range(len(names)), key=lambda index: -means[index])
        if means[index] >= 0.0005
    ]
    weights = _chart(
        share_lines(trace, "weights"),
        ("target", "weight in the mixture"),
        "The mixture's weights, as they were before each token: what it had learned to trust. after_N: what "
        "has followed the last N tokens earlier in this text, which has no say where that is unknown.",
    )
    parts = _chart(
        share_lines(trace),
        ("target", "share of the mixture"),
        "What part of the probability of the token that came was which expert's: its weight times the "
        "probability that it gave.",
    )
    return columns((weights, parts)) + details(
        "All experts' mean shares", table(("expert", "mean share", ""), rows, "mean shares")
    )


def share_lines(trace: Mapping[str, Any], of: str = "shares") -> list[Series]:
    """The largest shares or weights along the text, a line each; empty where the mixture tells none."""
    names, shares, ends = trace["share_names"], trace[of], trace["ends"]
    known = [one for one in shares if one is not None]
    means = [sum(column) for column in zip(*known, strict=True)]
    return [
        Series(
            names[index],
            # A running mean of five pieces: single ones look at eight targets each.
            [
                (ends[at], sum(one[index] for one in window) / len(window))
                for at in range(len(ends))
                if (window := [one for one in shares[max(0, at - 2) : at + 3] if one is not None])
            ],
        )
        for index in sorted(range(len(means)), key=lambda index: -means[index])[:_MOST_LINES]
    ]


def score_bars(runs: Sequence[RunFiles], names: list[str]) -> dict[str, dict[str, float]]:
    """By run and predictor, bits per byte."""
    return {
        name: {score["name"]: score["bpb"] for score in [*summary["experts"], *summary["scores"]]}
        for name, summary in _with_summary(runs, names)
    }


def bytes_of_parts(runs: Sequence[RunFiles], names: list[str]) -> dict[str, dict[str, float]]:
    """By run and part of the artifact, its bytes; and all together."""
    return {
        name: {**summary["parts"], "total": summary["total_bytes"]}
        for name, summary in _with_summary(runs, names)
        if _has_bytes(summary)
    }


def _has_bytes(summary: Mapping[str, Any]) -> bool:
    return not summary.keys().isdisjoint(("parts", "total_bytes", "budget_bytes"))


_LOSS = (("training", "train_loss"), ("validation", "val_loss"))
_BPB = (("training", "train_bpb"), ("validation", "val_bpb"))


def loss_lines(runs: Sequence[RunFiles], names: list[str]) -> list[Series]:
    """Loss in nats per token by step, in training and in validation."""
    return _logged(runs, names, _LOSS)


def _logged(runs: Sequence[RunFiles], names: list[str], keys: Sequence[tuple[str, str]]) -> list[Series]:
    lines = [
        Series(
            f"{name}: {label}" if len(runs) == 2 else label,
            [(line["step"], line[key]) for line in run.metrics if "step" in line and key in line],
        )
        for name, run in zip(names, runs, strict=True)
        for label, key in keys
    ]
    return [line for line in lines if line.points]


def _passages(runs: Sequence[RunFiles], names: list[str]) -> Iterable[Part]:
    bodies = [
        (name, passage(run.trace, f"passage-{index}"))
        for index, (name, run) in enumerate(zip(names, runs, strict=True))
        if run.trace is not None
    ]
    if bodies:
        body = side_by_side(bodies)
        yield "passage", "a passage", section("passage", "a passage, token by token", body)


def _bytes(runs: Sequence[RunFiles], names: list[str]) -> Iterable[Part]:
    # A score without its artifact has none.
    found = [(name, summary) for name, summary in _with_summary(runs, names) if _has_bytes(summary)]
    if not found:
        return
    parts = dict.fromkeys(part for _, summary in found for part in summary["parts"])
    budget = max(summary["budget_bytes"] for _, summary in found)
    rows = []
    for part in [*parts, "total"]:
        sizes = [
            summary["total_bytes"] if part == "total" else summary["parts"].get(part, 0)
            for _, summary in found
        ]
        numbers = [text for size in sizes for text in (f"{size:,}", f"{size / budget:.1%}")]
        rows.append(row(part, *numbers, bars=[size / budget for size in sizes], result=part == "total"))
    head = ["part of the artifact"]
    for name, _ in found:
        head += [f"bytes of {name}" if len(found) == 2 else "bytes", "of the budget"]
    totals = " and ".join(f"{summary['total_bytes']:,}" for _, summary in found)
    yield (
        "bytes",
        "bytes",
        section(
            "bytes",
            f"{totals} of {budget:,} bytes",
            table((*head, "a full bar is the budget"), rows, "the artifact's bytes by part"),
        ),
    )


def _orders(runs: Sequence[RunFiles], names: list[str]) -> Iterable[Part]:
    parts = []
    for name, run in zip(names, runs, strict=True):
        if not run.orders:
            continue
        rates = {score["name"]: score["bpb"] for score in (run.summary or {}).get("experts", [])}
        columns = {
            "n-grams": "ngrams",
            "contexts": "contexts",
            "rows": "rows",
            "rows used": "used_rows",
            "bytes": "bytes",
            "bytes in a file": "packed_bytes",
        }
        shown = {label: key for label, key in columns.items() if key in run.orders[0]}
        worst = max(rates.values(), default=0.0)
        rows = []
        for order in run.orders:
            bpb = rates.get(f"oracle_{order['order']}")
            numbers = [f"{order[key]:,}" for key in shown.values()]
            rows.append(
                row(
                    f"order {order['order']}",
                    *numbers,
                    "" if bpb is None else f"{bpb:.4f}",
                    bars=[] if bpb is None or not worst else [bpb / worst],
                )
            )
        head = ("order", *shown, "BPB alone", *(["shorter is better"] if rates else []))
        parts.append((name, table(head, rows, "what each order of the oracle holds")))
    if parts:
        body = side_by_side(parts)
        yield "oracle", "the oracle's orders", section("oracle", "the oracle's orders", body)


def _training(runs: Sequence[RunFiles], names: list[str]) -> Iterable[Part]:
    trained = [(name, run.metrics) for name, run in zip(names, runs, strict=True) if run.metrics]
    if not trained:
        return

    charts = []
    for keys, label, caption in (
        (_LOSS, "loss, nats per token", "The loss while training; lower is better."),
        (_BPB, "bits per byte", "The same in bits per byte of text; lower is better."),
        ((("learning rate", "lr_scale"),), "times the base rate", "The learning rate's course."),
    ):
        found = _logged(runs, names, keys)
        if any(len(line.points) > 1 for line in found):
            charts.append(_chart(found, ("step", label), caption))
    facts = dict.fromkeys(key for _, metrics in trained for key in metrics[-1])
    rows = [
        row(key.replace("_", " "), *(_number(metrics[-1].get(key)) for _, metrics in trained))
        for key in facts
    ]
    head = ("at the end", *(name if len(runs) == 2 else "" for name, _ in trained))
    numbers = details("Numbers at the end", table(head, rows, "training at its last step"))
    yield "training", "training", section("training", "training", columns(charts), numbers)


def _number(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, int | float) else ""


def _audits(runs: Sequence[RunFiles], names: list[str]) -> Iterable[Part]:
    if not any(run.summary is not None for run in runs) and not any(run.audit for run in runs):
        return
    parts = [(name, _audit(run)) for name, run in zip(names, runs, strict=True)]
    body = side_by_side(parts)
    yield "audit", "audit", section("audit", "audit: is the score honest?", body)


def _audit(run: RunFiles) -> str:
    if run.audit is None:
        folder = run.folder
        files = [f"{folder}/artifact.pgar", f"{folder}/data/*_val_*.bin", f"{folder}/tokenizer.model"]
        made_of = (run.summary or {}).get("made_of")
        if made_of and not (folder / "data").is_dir():
            shards = [shard["path"] for shard in made_of["shards"]]
            val = shards[0] if len(shards) == 1 else str(Path(shards[0]).with_name("*_val_*.bin"))
            files = [made_of["scored"]["path"], val, made_of["tokenizer"]["path"]]
        artifact, val, tokenizer, kept = map(quote, [*files, f"{folder}/{AUDIT}"])
        command = f"hybridlm audit {artifact} --val {val} --tokenizer {tokenizer} --json > {kept}"
        return note(f"It has not been tried. This does so, and this page shows it then: {command}")
    from hybridlm.scoring.audit import told

    rows = []
    for rule, found in run.audit.items():
        if isinstance(found, Mapping):
            passed = found["passed"]
            mark = f'<td class="{"passed" if passed else "failed"}">{"passed" if passed else "failed"}</td>'
            name, text = escape(rule.replace("_", " ")), escape(told(rule, found))
            rows.append(f'<tr><th scope="row">{name}</th>{mark}<td>{text}</td></tr>')
    verdict = "All rules hold." if run.audit["passed"] else "A rule is broken: the score doesn't count."
    return note(verdict) + table(("rule", "", "what was tried"), rows, "the rules that were tried")


def _time(runs: Sequence[RunFiles], names: list[str]) -> Iterable[Part]:
    found = _with_summary(runs, names)
    if not found:
        return
    stages = dict.fromkeys(stage for _, summary in found for stage in summary["seconds"])
    totals = [sum(summary["seconds"].values()) for _, summary in found]
    longest = max(totals)
    rows = []
    for stage in stages:
        times = [summary["seconds"].get(stage, 0.0) for _, summary in found]
        rows.append(row(stage, *(f"{time:.1f}" for time in times), bars=[time / longest for time in times]))
    rows.append(row("total", *(f"{total:.1f}" for total in totals), "", result=True))
    head = ("stage", *(f"seconds of {name}" if len(found) == 2 else "seconds" for name, _ in found), "")
    heading = " and ".join(f"{total:.{int(total < 10)}f}" for total in totals) + " seconds"
    yield "time", "time", section("time", heading, table(head, rows, "wall-clock seconds by stage"))


def _made_of(runs: Sequence[RunFiles], names: list[str]) -> Iterable[Part]:
    parts = []
    for name, summary in _with_summary(runs, names):
        if "made_of" not in summary:
            continue
        made_of = summary["made_of"]
        files = [("scored", made_of["scored"]), ("tokenizer", made_of["tokenizer"])]
        files += [("shard", shard) for shard in made_of["shards"]]
        rows = [row(f"{role} {str(file['path']).rpartition('/')[2]}", file["sha256"]) for role, file in files]
        rows += [row(f"version of {package}", version) for package, version in made_of["versions"].items()]
        parts.append((name, table(("file", "SHA-256"), rows, "files and versions")))
    if parts:
        body = side_by_side(parts)
        yield (
            "made-of",
            "files",
            section("made-of", "what the score is made of", details("Files and versions", body)),
        )


def _settings(runs: Sequence[RunFiles], names: list[str]) -> Iterable[Part]:
    flat = [dict(_flatten(run.settings)) for run in runs]
    if not any(flat):
        return
    keys = dict.fromkeys(key for one in flat for key in one)
    if len(runs) == 2:
        keys = dict.fromkeys(key for key in keys if flat[0].get(key) != flat[1].get(key))
    rows = [row(key, *(one.get(key, "") for one in flat)) for key in keys]
    head = ("setting", *(names if len(runs) == 2 else ["value"]))
    label = "Settings that differ" if len(runs) == 2 else "All settings"
    yield "settings", "settings", section("settings", "settings", details(label, table(head, rows, label)))


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value)
