import json
import math
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.artifact import Artifact
from hybridlm.cli.main import main
from hybridlm.data.shards import open_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import FormatError, InputError
from hybridlm.report.chart import Series, line_chart, tick_step
from hybridlm.report.page import render
from hybridlm.report.run_files import RunFiles, read_run
from hybridlm.score import score_artifact
from hybridlm.scoring.confidence import bpb_interval, compare
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import ScoreFiles, evaluate
from hybridlm.scoring.mixtures import create_mixture
from hybridlm.scoring.trace import Trace

NAME = '<script>alert("x")</script>'
SUMMARY: dict[str, Any] = {
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
        assert not {"src", "onload"} & {name for name, _ in attrs}
        assert all((value or "").startswith("#") for name, value in attrs if name == "href")
        if tag not in ("meta", "wbr"):
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


def test_a_folder_whose_name_is_not_text_has_a_page(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"run \xff")
    folder.mkdir()
    write_run(folder, SUMMARY, METRICS)
    assert main(["report", str(folder)]) == 0
    assert "<h1>hybridlm: run \\udcff</h1>" in (folder / "report.html").read_text()


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
    with pytest.raises(FormatError, match=r"summary\.json: not UTF-8"):
        read_run(tmp_path)
    for spoiled in ({"scores": None}, {"bpb": "much"}, {"experts": [{"name": 1}]}, {"budget_bytes": 0}):
        run = read_run(write_run(tmp_path, SUMMARY | spoiled))
        with pytest.raises(FormatError, match="is not of this version"):
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
    legend_end = max(
        float(line.attrib["y2"]) for line in root.iter(f"{svg}line") if "stroke-width" in line.attrib
    )
    lines = list(root.iter(f"{svg}polyline"))
    assert len(lines) == 2
    for pair in " ".join(line.attrib["points"] for line in lines).split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= width
        assert legend_end <= y <= height


def test_a_chart_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        line_chart([Series("a", [(1.0, float("nan"))])], x_label="x", y_label="y")


@given(st.floats(1e-9, 1e9), st.integers(1, 12))
def test_ticks_are_few_but_enough(span: float, most: int) -> None:
    assert most / 3 < span / tick_step(span, most) <= most + 1e-6


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, oracle_artifact: Path, shard_dir: Path, tokenizer_path: Path
) -> Path:
    """A folder as `hybridlm run` leaves it, with a real trace and a real oracle."""
    folder = write_run(tmp_path_factory.mktemp("run"), SUMMARY, METRICS)
    shards = sorted(shard_dir.glob("*_val_*.bin"))
    score_artifact(oracle_artifact, shards, tokenizer_path, max_tokens=3000, trace=folder / "trace.json")
    (folder / "oracle.ngor").write_bytes(Artifact.from_file(oracle_artifact).oracle_blob or b"")
    (folder / "audit.json").write_text(
        json.dumps(
            {
                "passed": False,
                "causal": {"passed": False, "positions": 6, "first_difference": 17},
                "world_size": None,
            }
        )
    )
    return folder


def test_a_trace_agrees_with_the_score(
    traced: Path, oracle_artifact: Path, shard_dir: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Its pieces add up to the score, its shares to one, and its passage is the stream's."""
    trace = json.loads((traced / "trace.json").read_text())
    stream = open_stream(sorted(shard_dir.glob("*_val_*.bin")), tokenizer.vocabulary, max_tokens=3001).tokens
    bits_file = tmp_path / "bits.npy"
    result = evaluate(
        Artifact.from_file(oracle_artifact),
        stream,
        tokenizer.byte_table,
        ScoringConfig(ttt="off"),
        files=ScoreFiles(per_token=bits_file),
    )
    bits = np.load(bits_file)
    lengths = tokenizer.byte_table.lengths(stream)
    begin = 0
    for end, rate in zip(trace["ends"], trace["bits_per_byte"]["mixture"], strict=True):
        size = lengths[begin:end].sum()
        assert (rate is None) == (size == 0)
        if rate is not None:
            assert rate == pytest.approx(bits[begin:end].sum() / size, abs=1e-4)
        begin = end
    assert begin == len(stream) - 1
    assert set(trace["bits_per_byte"]) == {*result.experts, "mixture"}
    for shares in [*trace["weights"], *trace["shares"]]:
        assert shares is None or sum(shares) == pytest.approx(1, abs=1e-3)
    assert sum(shares is not None for shares in trace["shares"]) == len(trace["ends"])
    passage = trace["passage"]
    first, tokens = passage["start"], passage["tokens"]
    assert [token["bits"] for token in tokens] == pytest.approx(bits[first - 1 :][: len(tokens)], abs=1e-3)
    pieces = [tokenizer.model.id_to_piece(int(token)) for token in stream[first : first + len(tokens)]]
    assert [token["text"] for token in tokens] == [piece.replace("▁", " ") for piece in pieces]
    for token in tokens:
        # Each share is rounded, and the smallest are left out.
        assert sum(token["shares"].values()) == pytest.approx(1, abs=0.0005 * len(trace["share_names"]))


@pytest.mark.parametrize("mixer", ["stacked", "eg", "fixed-share", "bayes", "hedge", "hedge-token"])
def test_watching_changes_no_bit(
    mixer: str, oracle_artifact: Path, shard_dir: Path, tokenizer: Tokenizer
) -> None:
    stream = open_stream(sorted(shard_dir.glob("*_val_*.bin")), tokenizer.vocabulary, max_tokens=1001).tokens
    artifact = Artifact.from_file(oracle_artifact)
    config = ScoringConfig(ttt="off", mixer=mixer, chunk=300)
    results = [
        evaluate(artifact, stream, tokenizer.byte_table, config, trace=trace)
        for trace in (None, Trace(stream, tokenizer.bos_id))
    ]
    assert results[0].bits_per_token == results[1].bits_per_token
    assert results[0].documents == results[1].documents


def test_weights_are_those_of_bayes_rule() -> None:
    """Bayes' mixture has weights that can be worked out from the experts' losses before each target."""
    random = np.random.default_rng(5)
    stream = random.integers(1, 9, 41).astype(np.uint16)
    log_probs = np.log(random.dirichlet(np.ones(3), 40).T).astype(np.float32)
    trace = Trace(stream)
    mixture = create_mixture("bayes", ["one", "two", "three"])
    for target in trace.wanted(1, 41).tolist():
        column = np.ascontiguousarray(log_probs[:, target - 1 : target])
        weights = mixture.weights()
        before = np.exp(log_probs[:, : target - 1].astype(np.float64).sum(axis=1))
        assert weights == pytest.approx(before / before.sum(), rel=1e-5)
        trace.observe(target, ["one", "two", "three"], weights, column[:, 0])
        after = np.exp(log_probs[:, :target].astype(np.float64).sum(axis=1))
        assert trace._shares[target] == pytest.approx(after / after.sum(), rel=1e-5)
        mixture.mix(column)


def test_a_passage_can_begin_anywhere_in_the_stream() -> None:
    stream = np.array([1, 5, 6, 1, 7], np.uint16)
    assert Trace(stream, 1).wanted(1, 5).tolist() == [1, 2, 3, 4]
    for start in (0, 5, -1):
        with pytest.raises(InputError, match="can't begin"):
            Trace(stream, 1, passage_start=start)
    assert len(Trace(np.array([1, 5], np.uint16), 1).wanted(1, 2)) == 1


def test_a_page_shows_all_that_a_run_has(traced: Path) -> None:
    page = render(read_run(traced))
    tags = Tags(page)
    assert not {"script", "link", "img", "iframe"} & tags.seen
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert '<html lang="en">' in page and "color-scheme: light dark" in page
    for name in ("scores", "along", "passage", "bytes", "oracle", "training", "audit", "time"):
        assert f'<section id="{name}">' in page and f'<a href="#{name}">' in page
    assert "shorter is better" in page and "A rule is broken" in page and "world size" not in page
    # Every name that something on the page refers to is there, once.
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    for reference in re.findall(r'(?:aria-describedby="|href="#)([^"]+)"', page):
        assert reference in identifiers
    assert page.count('role="tooltip"') == len(
        json.loads((traced / "trace.json").read_text())["passage"]["tokens"]
    )


def test_a_score_is_shown_without_a_run(
    oracle_artifact: Path, shard_dir: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    shards = sorted(shard_dir.glob("*_val_*.bin"))
    score = score_artifact(
        oracle_artifact, shards, tokenizer_path, max_tokens=500, trace=tmp_path / "trace.json"
    )
    (tmp_path / "score.json").write_text(json.dumps(score.as_dict()))
    page = render(read_run(tmp_path))
    Tags(page)
    assert f"{score.result.bpb:.4f} bits per byte" in page and 'id="passage"' in page
    assert 'id="bytes"' not in page
    (tmp_path / "artifact.pgar").write_bytes(oracle_artifact.read_bytes())
    assert f"{oracle_artifact.stat().st_size:,} of 16,000,000 bytes" in render(read_run(tmp_path))
    (tmp_path / "score.json").write_text('{"bpb": 1.5}')
    with pytest.raises(FormatError, match=r"score\.json: not what"):
        read_run(tmp_path)


def test_two_runs_stand_side_by_side(traced: Path, tmp_path: Path) -> None:
    other = write_run(
        tmp_path, SUMMARY | {"bpb": 1.25, "scores": [{**SUMMARY["scores"][0], "bpb": 1.25}]}, METRICS
    )
    page = render(read_run(traced), read_run(other))
    Tags(page)
    assert "1.5000 and 1.2500 bits per byte" in page and "-0.2500" in page
    assert f"{traced.name}: training" in page and f"{tmp_path.name}: training" in page
    assert "It has not been tried" in page
    page = render(read_run(other), read_run(write_run(tmp_path, SUMMARY | {"bytes": 7})))
    assert f"{tmp_path.name} (1)" in page and "The texts differ" in page


def test_the_page_says_how_sure_a_score_and_a_difference_are(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    sizes = random.integers(500, 1500, 40)
    bits = sizes * random.normal(1.5, 0.2, 40)
    better = bits - sizes * random.normal(0.02, 0.02, 40)

    def run(name: str, bits: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any]) -> RunFiles:
        (tmp_path / name).mkdir()
        interval = bpb_interval(bits, sizes.astype(np.float64))
        documents = {"tokens": sizes.tolist(), "bytes": sizes.tolist(), "bits": bits.tolist()}
        summary = SUMMARY | {"bpb_interval": interval, "documents": documents}
        return read_run(write_run(tmp_path / name, summary))

    one, two = run("one", bits, sizes), run("two", better, sizes)
    assert one.summary is not None
    low, high = one.summary["bpb_interval"]
    assert f"95% interval over 40 documents: {low:.4f} to {high:.4f}." in render(one)
    expected = compare(bits, better, sizes.astype(np.float64))
    assert expected.interval is not None
    low, high = expected.interval
    page = render(one, two)
    assert f"The difference, {expected.difference:+.4f}, has {low:+.4f} to {high:+.4f}" in page
    assert f"p {expected.p_value:.4f} that two is not better" in page
    assert "The difference" not in render(one, run("other text", better, sizes + 1))
    assert "95% interval" not in render(read_run(write_run(tmp_path, SUMMARY)))
    few = "narrower than they should be"
    assert few not in page and few in render(run("few", bits[:19], sizes[:19]))


def test_the_page_says_how_to_audit_what_was_scored_elsewhere(tmp_path: Path) -> None:
    def file(path: str) -> dict[str, str]:
        return {"path": path, "sha256": "0" * 64}

    made_of = {"scored": file("my a.pgar"), "tokenizer": file("tok.model"), "shards": [file("x/v_val_0.bin")]}
    summary = SUMMARY | {"made_of": made_of | {"versions": {}}, "seconds": {"oracle": 0.24}}
    page = unescape(render(read_run(write_run(tmp_path, summary))))
    assert "hybridlm audit 'my a.pgar' --val x/v_val_0.bin --tokenizer tok.model --json > " in page
    assert "0.2 seconds" in page


def test_a_broken_trace_or_audit_is_named(traced: Path, tmp_path: Path) -> None:
    write_run(tmp_path, SUMMARY)
    (tmp_path / "trace.json").write_text('{"format": 99}')
    with pytest.raises(FormatError, match=r"trace\.json: format 99"):
        read_run(tmp_path)
    (tmp_path / "trace.json").write_text('{"format": 1}')
    with pytest.raises(FormatError, match=r"trace\.json is not of this version"):
        render(read_run(tmp_path))
    (tmp_path / "trace.json").unlink()
    (tmp_path / "audit.json").write_text('{"causal": {}}')
    with pytest.raises(FormatError, match=r"audit\.json is not of this version"):
        render(read_run(tmp_path))
    (tmp_path / "audit.json").write_text("[" * 100_000)
    with pytest.raises(FormatError, match=r"audit\.json: not JSON"):
        read_run(tmp_path)


def test_the_same_run_gives_the_same_page(traced: Path) -> None:
    assert render(read_run(traced)) == render(read_run(traced))


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_figures_for_papers(kind: str, traced: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from hybridlm.report.figures import write_figures

    begins = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[kind]
    runs = [read_run(traced)]
    paths = write_figures(runs, tmp_path / "one", kind)
    assert {path.name for path in paths} == {
        f"{name}.{kind}" for name in ("scores", "bytes", "training", "along", "weights", "shares")
    }
    for path in paths:
        assert path.read_bytes().startswith(begins)
    for path in write_figures(runs, tmp_path / "two", kind):
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Runs in the page; what it finds goes into the page's title, which --dump-dom shows.
MEASURE = """
<script>
addEventListener("load", () => {
  const wide = document.documentElement.scrollWidth, page = document.documentElement.clientWidth;
  const token = document.querySelector(".token");
  const hidden = getComputedStyle(token.querySelector(".told")).display;
  token.focus();
  const shown = token.querySelector(".told");
  const style = getComputedStyle(document.body);
  document.title = JSON.stringify({
    wide, page, hidden, focused: getComputedStyle(shown).display, told: shown.textContent,
    edges: [...document.querySelectorAll(".told")].flatMap(e => {
      e.style.display = "block"; const box = e.getBoundingClientRect(); return [box.left, box.right]; }),
    font: parseFloat(style.fontSize),
    charts: [...document.querySelectorAll("figure")].map(e => [...e.querySelectorAll("svg")]
      .filter(svg => svg.checkVisibility()).map(svg => [
        svg.getBoundingClientRect().left, svg.getBoundingClientRect().right,
        12 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width])),
    clipped: [...document.querySelectorAll("figure, figure div, #scores .scroll, #bytes .scroll")]
      .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth).map(e => e.outerHTML.slice(0, 80)),
    outside: [...document.querySelectorAll("svg")].filter(svg => svg.checkVisibility()).flatMap(svg => {
      const frame = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("text")].filter(text => { const box = text.getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1; }).map(text => text.textContent); }),
  });
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize(("width", "runs"), [(360, 1), (360, 2), (768, 1), (1650, 2)])
def test_a_browser_shows_it_on_a_phone_and_on_a_wide_screen(
    width: int, runs: int, traced: Path, tmp_path: Path
) -> None:
    assert CHROMIUM is not None
    page = tmp_path / "page.html"
    folders = [traced, tmp_path / "a-longer-name-of-a-run_of_the_day"]
    shutil.copytree(*folders)
    # A window narrower than 500 pixels is not to be had, but a frame is.
    inner = render(*map(read_run, folders[:runs]))
    (tmp_path / "inner.html").write_text(inner.replace("</body>", f"{MEASURE}</body>"))
    page.write_text(
        f'<iframe src="inner.html" width="{width}" height="900" style="border:0"></iframe>'
        "<script>addEventListener('load', () => setTimeout(() => { "
        "document.title = document.querySelector('iframe').contentDocument.title; }, 300));</script>"
    )
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=4000", "--window-size=1800,1000",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(unescape(re.findall(r"<title>(.*?)</title>", done.stdout)[0]))
    assert found["wide"] <= found["page"] <= width
    assert (found["hidden"], found["focused"]) == ("none", "block")
    assert "bits" in found["told"]
    assert min(found["edges"]) >= 0 and max(found["edges"]) <= width
    assert found["font"] >= 15
    assert len(found["charts"]) >= 4
    for shown in found["charts"]:
        ((left, right, letters),) = shown  # one of the two is shown
        assert 0 <= left < right <= width
        assert 10 <= letters <= 17
    assert found["clipped"] == []
    assert found["outside"] == []
