"""A file of one kind where another is asked for: the error says which it is."""

from pathlib import Path

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.cli import main as cli

# What is given, and how the error calls it.
GIVEN = {
    "text.txt": "text",
    "oracle.ngsp": "an oracle",
    "artifact.pgar": "an artifact",
    "data/text_val_000000.bin": "a token shard",
    "counts.part": "partial counts",
    "tok.model": "a SentencePiece model",
    "net.npy": "a NumPy array",
}

SHARD = "data/text_val_000000.bin"
TOKENIZER = ["--tokenizer", "tok.model"]

# Commands, with what they take in the place of FILE.
ASKED = {
    "data inspect FILE": "a token shard",
    "oracle build FILE -o out.ngsp --max-bytes 10000": "a token shard or partial counts",
    f"eval artifact.pgar --val FILE {' '.join(TOKENIZER)}": "a token shard",
    "oracle inspect FILE": "an oracle",
    f"oracle eval FILE --val {SHARD} {' '.join(TOKENIZER)}": "an oracle",
    "artifact inspect FILE": "an artifact",
    f"eval FILE --val {SHARD} {' '.join(TOKENIZER)}": "an artifact",
    f"compress text.txt --artifact FILE -o out.hlm {' '.join(TOKENIZER)}": "an artifact",
    "data tokenizer FILE -o out.model --vocab-size 300": "text",
    "verify FILE": "text",
    f"mix --log-probs FILE --tokens {SHARD} {' '.join(TOKENIZER)}": "a NumPy array",
}


@pytest.fixture(scope="module")
def folder(example_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    for path in example_folder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "text.txt").write_text("Prose, of “several” words.\n\n" * 100, encoding="utf-8")
    np.save(folder / "net.npy", np.zeros(3, np.float32))
    shard = str(folder / SHARD)
    assert (
        cli.main(["oracle", "count", shard, "-o", str(folder / "counts.part"), "--estimator", "sparse"]) == 0
    )
    return folder


@pytest.mark.parametrize("command", ASKED)
def test_the_error_says_what_was_given(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for name, kind in GIVEN.items():
        if kind in ASKED[command]:
            continue
        capsys.readouterr()
        assert cli.main([name if word == "FILE" else word for word in command.split()]) == 1
        errors = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("hybridlm: error: ")
        ]
        assert len(errors) == 1
        assert errors[0].startswith(f"hybridlm: error: {name}: ") and kind in errors[0], errors[0]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", None),
        (b"\x00\x01", None),
        ("naïve".encode(), "text"),
    ],
)
def test_what_bytes_look_like(data: bytes, kind: str | None) -> None:
    assert _core.looks_like(data) == kind


def test_text_is_known_by_its_beginning_wherever_that_is_cut() -> None:
    text = ("a" * 511 + "é" + "b").encode()
    assert _core.looks_like(text) == _core.looks_like(text[:512]) == "text"
    assert _core.looks_like(text[:100] + b"\xff" + text) is None
    assert _core.looks_like(b"bell \x07") is None


def test_a_folder_is_asked_for_by_that_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert cli.main(["train", "--data", "text.txt", *TOKENIZER, "--out", "model", "--preset", "tiny"]) == 1
    assert "text.txt: not a folder; `hybridlm data shard`" in capsys.readouterr().err
    assert cli.main(["report", "text.txt"]) == 1
    assert "text.txt is not a folder" in capsys.readouterr().err


def test_tokens_without_a_header_are_told_how_to_become_a_shard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As nanoGPT writes them."""
    path = tmp_path / "train.bin"
    np.arange(2000, dtype=np.uint16).tofile(path)
    assert cli.main(["data", "inspect", str(path)]) == 1
    assert "`hybridlm.write_shard`" in capsys.readouterr().err
