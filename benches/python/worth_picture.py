"""The tables and pictures of docs/worth.md, and what a budget is best spent on, from what has been measured.

    python benches/python/worth_picture.py docs/worth_1024.json docs/worth_8192.json -o docs/worth.svg \\
        [--foreign 'web text=docs/worth_foreign.json'] \\
        [--costs docs/worth_costs.json --peers docs/worth_peers.json --costs-out docs/worth_costs.svg]

Each JSON file is one that ``worth.py --json`` has left. The picture has a line for each text: the least bits
per byte that the network was part of, by those of the network alone. The table says for each budget which of
the networks and oracles that fit have the fewest bits per byte of the first text together, with test-time
training and online experts (without an oracle, with whichever of the two is better), and what the best
network that fits has with test-time training alone.

The second picture is of the first text alone, by the processor seconds that a model takes to make. Of models
of a kind, only those are shown that no cheaper one equals. --costs is {"networks": {artifact: seconds},
"oracles": {bytes: seconds}}, --peers what ``budget_peers.py --json`` has left: of it, what is estimated or
primed from the same training text.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from hybridlm.report.chart import Series, line_chart, picture
from hybridlm.scoring.config import DEFAULT_MIXER

Results = list[dict[str, Any]]
Points = list[tuple[float, float]]

SECONDS = (100, 1000)
BUDGETS = (500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 16_000_000)


def lines(results: Results, foreign: dict[str, dict[str, float]]) -> list[Series]:
    """``foreign``: for texts, bits per byte of the network and of mixtures by name."""
    networks = {result["rates"]["network"]["bpb"] for result in results}
    alone = sorted(networks | {bpb["network"] for bpb in foreign.values()})
    series = [Series("network alone", [(bpb, bpb) for bpb in alone])]
    for text in dict.fromkeys(result["text"] for result in results):
        points = [
            (result["rates"]["network"]["bpb"], min(rate["bpb"] for rate in result["rates"].values()))
            for result in results
            if result["text"] == text
        ]
        if text in foreign:
            points.append((foreign[text]["network"], foreign[text][f"{DEFAULT_MIXER}, online and oracle"]))
        series.append(Series(f"with everything, {text}", sorted(points)))
    return series


def gains(results: Results, text: str) -> list[str]:
    """A column for each network, the strongest last."""
    chosen = by_strength(results, text)
    names = [result["artifact"].removesuffix(".pgar") for result in chosen]
    alone = [result["rates"]["network"] for result in chosen]
    rows = [
        [text, *names],
        ["---"] * (1 + len(names)),
        ["network alone", *(f"{rate['bpb']:.4f}" for rate in alone)],
        ["95% interval", *("{:.2f} to {:.2f}".format(*rate["interval"]) for rate in alone)],
    ]
    # Those of the first; "after TEXT" is of one text only.
    labels = [label for label in chosen[0]["rates"] if label != "network"]
    for label in sorted(labels, key=lambda label: (label.startswith("all"), "online" in label)):
        rates = [result["rates"].get(label) for result in chosen]
        gained = [
            rate and f"{rate['bpb'] - base['bpb']:+.4f}" for rate, base in zip(rates, alone, strict=True)
        ]
        rows.append([label, *(one or "" for one in gained)])
    return [f"| {' | '.join(row)} |" for row in rows]


def by_strength(results: Results, text: str) -> Results:
    chosen = [result for result in results if result["text"] == text]
    return sorted(chosen, key=lambda result: -result["rates"]["network"]["bpb"])


def sources(results: Results, text: str) -> list[str]:
    """Where the gain of online experts and the largest oracle comes from: a row for each bucket."""
    chosen = by_strength(results, text)
    names = [result["artifact"].removesuffix(".pgar") for result in chosen]
    rows = [f"| {text} | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for division, buckets in chosen[-1]["gain"].items():
        for bucket in buckets:
            found = [result["gain"][division].get(bucket) for result in chosen]
            cells = ["" if one is None else f"{one['gain']:+.3f} ({one['part']:.0%})" for one in found]
            rows.append(f"| {division}: {bucket} | {' | '.join(cells)} |")
    return rows


def budgets(results: Results, costs: dict[str, float]) -> list[str]:
    """``costs``: processor seconds by network, for rows in which no network took more than so many."""
    texts = list(dict.fromkeys(result["text"] for result in results))
    names = list(dict.fromkeys(result["artifact"] for result in results))
    by_text = {(result["artifact"], result["text"]): result for result in results}
    rows = [
        f"| network's time | budget | network | oracle | {' | '.join(texts)} | network with TTT alone |",
        "|---" * (5 + len(texts)) + "|",
    ]
    for seconds in (*(SECONDS if costs else ()), None):
        allowed = [name for name in names if seconds is None or costs[name] <= seconds]
        limit = "any" if seconds is None else f"up to {seconds:,} s"
        for budget in BUDGETS:
            choices, alone = [], []
            for name in allowed:
                neural = by_text[name, texts[0]]["neural_bytes"]
                sizes = by_text[name, texts[0]]["oracle_bytes"]
                labels = {f"all, oracle {label}": size for label, size in sizes.items()}
                for label, size in {"+ TTT": 0, "+ online": 0, **labels}.items():
                    if neural + size <= budget:
                        rates = [by_text[name, text]["rates"][label]["bpb"] for text in texts]
                        choices.append((rates, neural, size))
                        alone += rates[:1] if label == "+ TTT" else []
            if choices:
                rates, neural, size = min(choices)
                cells = [limit, f"{budget / 1e6:g} MB", f"{neural:,}", f"{size:,}" if size else "none"]
                cells += [f"{rate:.4f}" for rate in (*rates, min(alone))]
                rows.append(f"| {' | '.join(cells)} |")
    return rows


def frontier(points: Points) -> Points:
    """Those that have fewer bits per byte than any cheaper one."""
    found: Points = []
    for seconds, bpb in sorted(points):
        if not found or bpb < found[-1][1]:
            found.append((seconds, bpb))
    return found


def by_costs(
    results: Results, without: Results, costs: dict[str, Any], peers: dict[str, Any]
) -> list[Series]:
    text = results[0]["text"]
    alone, hybrid, oracles, mixtures = [], [], [], []
    for result in without:
        if result["text"] == text:
            for label, size in result["oracle_bytes"].items():
                seconds = costs["oracles"][str(size)]
                oracles.append((seconds, result["rates"][f"oracle {label}"]["bpb"]))
                mixtures.append((seconds, result["rates"][f"online, oracle {label}"]["bpb"]))
    for result in results:
        if result["text"] == text:
            seconds = costs["networks"][result["artifact"]]
            alone.append((seconds, result["rates"]["network"]["bpb"]))
            for label, size in result["oracle_bytes"].items():
                rate = result["rates"][f"all, oracle {label}"]
                hybrid.append((seconds + costs["oracles"][str(size)], rate["bpb"]))
    series = {
        "network alone": alone,
        "network, test-time training, online experts and oracle": hybrid,
        "oracle alone": oracles,
        "oracle and online experts": mixtures,
    }
    # A dictionary costs nothing to make, which a logarithmic axis has no place for.
    shown = [row for row in peers["rows"] if row["make_seconds"] and text in row["texts"]]
    for counts in (True, False):
        rows = [row for row in shown if row["method"].startswith("KenLM") == counts]
        name = "; ".join(f"{row['method']}, {row['bytes_shipped'] / 1e6:.1f} MB" for row in rows)
        series[name] = [(row["make_seconds"], row["texts"][text]["bits_per_byte"]) for row in rows]
    return [Series(name, frontier(points)) for name, points in series.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--foreign", nargs="*", default=[], help="text=JSON")
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--costs-out", type=Path)
    options = parser.parse_args()
    found: Results = [result for path in options.json for result in json.loads(path.read_text())]
    results = [result for result in found if result["artifact"] is not None]
    foreign = {}
    for value in options.foreign:
        name, _, path = value.partition("=")
        foreign[name] = json.loads(Path(path).read_text())["bpb"]
    chart = line_chart(
        lines(results, foreign), x_label="bits per byte of the network alone", y_label="bits per byte"
    )
    options.out.write_text(picture(chart))
    all_costs = json.loads(options.costs.read_text()) if options.costs else {"networks": {}}
    if options.costs_out is not None:
        without = [result for result in found if result["artifact"] is None]
        chart = line_chart(
            by_costs(
                results, without, *(json.loads(path.read_text()) for path in (options.costs, options.peers))
            ),
            x_label="processor seconds to make",
            y_label=f"bits per byte, {results[0]['text']}",
            logarithmic_x=True,
        )
        options.costs_out.write_text(picture(chart))
    for text in dict.fromkeys(result["text"] for result in results):
        print("\n".join([*gains(results, text), "", *sources(results, text), ""]))
    print("\n".join(budgets(results, all_costs["networks"])))


if __name__ == "__main__":
    main()
