import json
import math
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.errors import FormatError, InputError
from hybridlm.report.chart import Series, line_chart, tick_step
from hybridlm.report.page import read_run, render

NAME = '<script>alert("x")</script>'
SUMMARY = {
    "bpb": 1.5,
    "tokens": 1000,
    "bytes": 2500,
    "experts": [{"name": NAME, "bits_per_token": 8.0, "bpb": 3.0}],
    "scores": [{"name": "neural", "bits_per_token": 4.0, "bpb": 1.5}],
    "parts": {"header": 16, "neural": 1000},
    "total_bytes": 1016,
    "budget_bytes": 16_000_000,
    "seconds": {"train": 10.0},
}
METRICS = [
    {"step": 1, "train_loss": 6.9, "lr_scale": 0.1},
    {"step": 2, "train_loss": float("nan"), "lr_scale": 1.0},
    {"step": 3, "train_loss": 5.0, "lr_scale": 0.5, "val_loss": 5.5},
]


def write_run(folder: Path, summary: Any = None, metrics: list[dict[str, float]] | None = None) -> Path:
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    if metrics is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return folder


class Tags(HTMLParser):
    """What elements a page really has, and whether each that is opened is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {"src", "href", "onload"} & {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


def test_a_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page = render(read_run(write_run(tmp_path, SUMMARY, METRICS)))
    tags = Tags(page)
    assert {"table", "svg", "polyline"} <= tags.seen
    assert not {"script", "link", "img", "iframe"} & tags.seen
    assert "1.5000 bits per byte" in page


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, metrics=METRICS)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 4, "train_l')
    assert [line["step"] for line in read_run(tmp_path).metrics] == [1, 2, 3]


def test_says_what_is_wrong_with_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        read_run(tmp_path / "none")
    with pytest.raises(InputError, match="holds no run"):
        read_run(tmp_path)
    with pytest.raises(FormatError, match=r"summary\.json holds no JSON object"):
        read_run(write_run(tmp_path, summary=[1]))
    (tmp_path / "summary.json").write_bytes(b"\xff{")
    with pytest.raises(FormatError, match=r"summary\.json is not JSON"):
        read_run(tmp_path)
    for spoiled in ({"scores": None}, {"bpb": "much"}, {"experts": [{"name": 1}]}, {"budget_bytes": 0}):
        run = read_run(write_run(tmp_path, SUMMARY | spoiled))
        with pytest.raises(FormatError, match="not a summary of this version"):
            render(run)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n["step"]\n')
    with pytest.raises(FormatError, match=r"metrics\.jsonl: line 2"):
        read_run(tmp_path)


@given(
    st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=40),
    st.booleans(),
)
def test_a_chart_stays_within_its_frame(points: list[tuple[float, float]], logarithmic: bool) -> None:
    # Spans beyond these overflow; nothing that is measured comes near.
    points = [point for point in points if not any(1e150 < abs(value) < math.inf for value in point)]
    points.append((1.0, 2.0))
    series = [Series("a & b", points), Series("c", points[-1:])]
    chart = line_chart(series, x_label="x", y_label="y", logarithmic_x=logarithmic)
    root = ElementTree.fromstring(chart)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    svg = "{http://www.w3.org/2000/svg}"
    legend_end = max(float(box.attrib["y"]) + float(box.attrib["height"]) for box in root.iter(f"{svg}rect"))
    lines = list(root.iter(f"{svg}polyline"))
    assert len(lines) == 2
    for pair in " ".join(line.attrib["points"] for line in lines).split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= width
        assert legend_end <= y <= height


def test_a_chart_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        line_chart([Series("a", [(1.0, float("nan"))])], x_label="x", y_label="y")


@given(st.floats(1e-9, 1e9))
def test_ticks_are_few_but_enough(span: float) -> None:
    assert 2 < span / tick_step(span) <= 8.000001
