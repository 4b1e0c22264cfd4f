"""`hybridlm run` as a user meets it, on real text but with a training run of a few steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybridlm.cli.main import main
from hybridlm.files import read_json

pytestmark = pytest.mark.slow

QUICK = [
    "--vocab-size=400",
    "--val-fraction=0.05",
    "--training.iterations=3",
    "--training.batch-tokens=512",
    "--training.model.layers=2",
    "--training.sequence-length=64",
    "--training.model.width=32",
    "--training.model.heads=2",
    "--training.model.mlp-hidden=64",
    "--training.model.bigram-rows=64",
    "--training.model.bigram-width=16",
]


@pytest.fixture(scope="module")
def text_file(corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus))
    return path


@pytest.fixture(scope="module")
def finished(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A run's folder and what it printed, from a process of its own."""
    out = tmp_path_factory.mktemp("run") / "out"
    command = [sys.executable, "-m", "hybridlm", "run", "--text", str(text_file), "--out", str(out), "--json"]
    command += QUICK
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_says_what_it_scored(finished: tuple[Path, dict[str, object]]) -> None:
    out, summary = finished
    assert [score["name"] for score in summary["scores"]] == [  # type: ignore[attr-defined]
        "neural",
        "neural + TTT (documents)",
        "mixture without oracle + TTT (documents)",
        "mixture with oracle + TTT (documents)",
    ]
    assert {score["name"] for score in summary["experts"]} >= {  # type: ignore[attr-defined]
        "unigram",
        "bigram",
        "trigram",
        "decay",
        "oracle_1",
        "oracle_6",
    }
    assert summary["total_bytes"] == (out / "artifact.pgar").stat().st_size
    assert summary == read_json(out / "summary.json", 1 << 20)
    assert list(json.loads((out / "summary.json").read_text()))[-1] == "checksum"


def test_single_commands_go_on_from_its_files(
    finished: tuple[Path, dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, summary = finished
    again = out / "again.ngsp"
    train = sorted(str(path) for path in (out / "data").glob("*_train_*.bin"))
    assert main(["oracle", "build", *train, "-o", str(again), "--max-bytes", "1500000"]) == 0
    assert again.read_bytes() == (out / "oracle.ngsp").read_bytes()
    assert again.read_bytes()[:4] == b"NGSP" and not (out / "oracle.ngor").exists()

    capsys.readouterr()
    val = str(out / "data" / "*_val_*.bin")
    tokenizer = str(out / "tokenizer.model")
    arguments = ["--val", val, "--tokenizer", tokenizer, "--json"]
    assert main(["eval", str(out / "artifact.pgar"), *arguments]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["bpb"] == summary["bpb"]
    assert scored["tokens"] == summary["tokens"]
    assert main(["verify", str(out / "summary.json")]) == 0


def test_what_reads_an_artifact_takes_that_of_a_run(
    finished: tuple[Path, dict[str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = finished
    text, packed, back = out / "settings.json", tmp_path / "packed", tmp_path / "back"
    common = ["--artifact", str(out / "artifact.pgar"), "--tokenizer", str(out / "tokenizer.model")]
    assert main(["compress", str(text), *common, "-o", str(packed)]) == 0
    assert packed.stat().st_size < text.stat().st_size
    assert main(["decompress", str(packed), *common, "-o", str(back)]) == 0
    assert back.read_bytes() == text.read_bytes()

    capsys.readouterr()
    assert main(["generate", *common, "--tokens", "5", "--shares"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert any("neural" in line for line in lines)


def test_becomes_a_page(
    finished: tuple[Path, dict[str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, summary = finished
    page = tmp_path / "page.html"
    assert main(["report", str(out), "-o", str(page)]) == 0
    html = page.read_text().replace("<wbr>", "")  # where a long word may be broken
    assert f"{summary['bpb']:.4f} bits per byte" in html
    for word in (
        "mixture with oracle",
        "16,000,000",
        "oracle_6",
        "SHA-256",
        "<polyline",
        "training.model.layers",
    ):
        assert word in html

    # The folder of the training alone is a run too, without scores.
    assert main(["report", str(out / "model")]) == 0
    html = (out / "model" / "report.html").read_text()
    assert "<polyline" in html
    assert f"{summary['bpb']:.4f}" not in html


def test_prints_a_table_and_keeps_nothing_unasked(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    # PyTorch makes a folder for its compiler wherever it is first imported.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(text_file.parent / "inductor"))
    assert main(["run", "--text", str(text_file), "--ttt", "off", "--estimator", "dense", *QUICK]) == 0
    table = capsys.readouterr().out
    for word in ("neural", "mixture with oracle", "16,000,000", "tokenizer", "train", "score"):
        assert word in table
    assert list(tmp_path.iterdir()) == []


def test_refuses_what_it_cannot_use(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*arguments: str, code: int = 1) -> str:
        assert main(["run", *arguments]) == code
        return capsys.readouterr().err

    single = tmp_path / "single.txt"
    single.write_text("One document, and nothing to hold out.\n")
    assert "single document" in error("--text", str(single), "--out", str(tmp_path / "a"))
    assert "no such file" in error("--text", str(tmp_path / "none.txt"), "--out", str(tmp_path / "b"))
    (tmp_path / "c" / "data").mkdir(parents=True)
    assert "earlier run" in error("--text", str(text_file), "--out", str(tmp_path / "c"))
    assert "preset" in error("--preset", "huge", code=2)


def test_an_interrupted_run_goes_on_with_what_it_has_made(
    finished: tuple[Path, dict[str, object]],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    command = ["run", "--text", str(text_file), "--out", str(out), *QUICK]

    def interrupted(name: str) -> None:
        def stop(*arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(f"hybridlm.pipeline.{name}", stop)
            assert main(command) == 130
        assert "the same command goes on" in capsys.readouterr().err

    interrupted("write_shards")
    assert main([*command, "--val-fraction=0.1"]) == 1
    assert "another val_fraction: it was 0.05, and is 0.1" in capsys.readouterr().err
    interrupted("build_sparse")
    interrupted("bundle")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    # What a kill, rather than an interrupt, would leave beside the results.
    (out / ".hybridlm-1-0.part").write_bytes(b"half of a file")
    assert main(command) == 0
    made = ("tokenizer.model", "oracle.ngsp", "model/model.safetensors", "data/text_train_000000.bin")
    for name in made:
        assert (out / name).stat().st_mtime_ns == before[out / name], f"{name} was made once"
    for name in (*made, "artifact.pgar"):
        assert (out / name).read_bytes() == (finished[0] / name).read_bytes(), name
    files = {path.relative_to(out) for path in out.rglob("*")}
    # Other tests have left files of their own in the folder of the run that was not interrupted.
    others = {Path("model/report.html"), Path("again.ngsp"), Path("again.pgar")}
    assert files - others == {path.relative_to(finished[0]) for path in finished[0].rglob("*")} - others
    assert main(command) == 1, "a finished run is not written over"
