"""The picture of docs/worth.md, and what a budget is best spent on, from what worth.py has measured.

    python benches/python/worth_picture.py docs/worth*.json -o docs/worth.svg

Each JSON file is one that ``worth.py --json`` has left. The picture has a line for each text: the least bits
per byte that the network was part of, by those of the network alone. The table says for each budget which of
the networks and oracles that fit have the fewest bits per byte of the first text together, with test-time
training and online experts, and what the best network that fits has with test-time training alone.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from hybridlm.report.chart import Series, line_chart, picture

BUDGETS = (500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 16_000_000)


def lines(results: list[dict[str, Any]]) -> list[Series]:
    alone = sorted({result["rates"]["network"]["bpb"] for result in results})
    series = [Series("network alone", [(bpb, bpb) for bpb in alone])]
    for text in dict.fromkeys(result["text"] for result in results):
        points = [
            (result["rates"]["network"]["bpb"], min(rate["bpb"] for rate in result["rates"].values()))
            for result in results
            if result["text"] == text
        ]
        series.append(Series(f"with everything, {text}", sorted(points)))
    return series


def budgets(results: list[dict[str, Any]]) -> list[str]:
    texts = list(dict.fromkeys(result["text"] for result in results))
    names = list(dict.fromkeys(result["artifact"] for result in results))
    by_text = {(result["artifact"], result["text"]): result for result in results}
    rows = [
        f"| budget | network | oracle | {' | '.join(texts)} | network with test-time training |",
        "|---" * (4 + len(texts)) + "|",
    ]
    for budget in BUDGETS:
        choices, alone = [], []
        for name in names:
            first = by_text[name, texts[0]]
            if first["neural_bytes"] <= budget:
                alone.append(first["rates"]["+ TTT"]["bpb"])
            for label, size in first["oracle_bytes"].items():
                if first["neural_bytes"] + size <= budget:
                    rates = [by_text[name, text]["rates"][f"all, oracle {label}"]["bpb"] for text in texts]
                    choices.append((rates, first["neural_bytes"], size))
        if choices:
            rates, neural, size = min(choices)
            shown = " | ".join(f"{rate:.4f}" for rate in rates)
            rows.append(f"| {budget / 1e6:g} MB | {neural:,} | {size:,} | {shown} | {min(alone):.4f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    results = [result for path in options.json for result in json.loads(path.read_text())]
    chart = line_chart(lines(results), x_label="bits per byte of the network alone", y_label="bits per byte")
    options.out.write_text(picture(chart))
    print("\n".join(budgets(results)))


if __name__ == "__main__":
    main()
