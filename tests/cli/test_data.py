"""`hybridlm data …` as a user calls it."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridlm.cli.main import main
from hybridlm.data.shards import data_folder, read_stream
from hybridlm.data.tokenizer import Tokenizer


@pytest.fixture
def text(tmp_path: Path, corpus: list[str]) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(corpus[:30]))
    return path


def failure(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """The one line on stderr of a command that must fail as the user's mistake."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hybridlm: error: ") and err.count("\n") == 1, err
    return err


def test_text_to_shards_to_numbers(
    tmp_path: Path, text: Path, corpus: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "own.model", tmp_path / "own"
    assert main(["data", "tokenizer", str(text), "-o", str(model), "--vocab-size", "400"]) == 0
    tokenizer = Tokenizer.load(model)
    assert tokenizer.vocab_size == 400
    assert tokenizer.fingerprint in capsys.readouterr().out

    assert main(["data", "shard", str(text), "--tokenizer", str(model), "--out", str(out)]) == 0
    printed, log = capsys.readouterr()
    train, val = data_folder(out)
    assert [line.split(":")[0] for line in printed.splitlines()] == [str(path) for path in [*train, *val]]
    assert log == ""
    documents = "".join(tokenizer.decode(read_stream([path])) for path in [*train, *val])
    assert len(documents) > 0.9 * sum(len(" ".join(text.split())) for text in corpus[:30])

    command = ["data", "inspect", str(val[0]), "--json", "--tokenizer", str(model)]
    assert main(command) == 0
    shown = json.loads(capsys.readouterr().out)
    tokens = read_stream(val)
    assert shown["tokens"] == len(tokens)
    assert shown["documents"] == (tokens == 1).sum()
    assert shown["bytes"] == tokenizer.byte_table.lengths(tokens).sum()
    assert shown["sha256"] == hashlib.sha256(val[0].read_bytes()).hexdigest()
    assert shown["file_bytes"] == val[0].stat().st_size

    assert main(["data", "inspect", str(train[0]), "--tokenizer", str(model)]) == 0
    assert f"{len(read_stream(train[:1])):,}" in capsys.readouterr().out


def test_options_of_shard(
    tmp_path: Path, text: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "more.jsonl"
    records.write_text("\n".join(json.dumps({"text": f"record number {number}"}) for number in range(50)))
    command = ["data", "shard", str(text), str(records), "--tokenizer", str(tokenizer_path)]
    out = str(tmp_path / "out")
    options = ["--val-fraction", "0.3", "--shard-tokens", "20000", "--name", "mine", "--out", out]
    assert main([*command, *options]) == 0
    train, val = data_folder(out)
    assert len(train) > 1 and val and all(path.name.startswith("mine_") for path in [*train, *val])

    assert "--force" in failure(capsys, *command, *options)
    assert main([*command, *options, "--val-fraction", "0", "--force"]) == 0
    assert all("_train_" in path.name for path in Path(out).iterdir())


def test_a_single_document_is_all_for_training(
    tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "one.txt"
    text.write_text("Just one paragraph of text.\n\n\n")
    command = ["data", "shard", str(text), "--tokenizer", str(tokenizer_path), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "no validation shard" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").glob("*.bin")] == ["text_train_000000.bin"]


def test_one_document_a_file(tmp_path: Path, text: Path, tokenizer_path: Path) -> None:
    second = tmp_path / "second.txt"
    second.write_text("a second file\n\nwith a blank line")
    out = tmp_path / "out"
    command = ["data", "shard", text, second, "--tokenizer", tokenizer_path, "--out", out, "--one-per-file"]
    assert main([*map(str, command), "--val-fraction", "0"]) == 0
    assert (read_stream(out.glob("*.bin")) == 1).sum() == 2


@pytest.mark.parametrize("end", [*"\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", "\r\n", "\n"])
def test_no_line_end_glues_words_or_merges_documents(
    tmp_path: Path, tokenizer: Tokenizer, tokenizer_path: Path, end: str
) -> None:
    lines, many = tmp_path / "lines.txt", tmp_path / "many.txt"
    lines.write_bytes(f"alpha beta{end}gamma\x01delta\x1fepsilon\x08zeta{end}".encode())
    many.write_bytes((end * 2).join(f"document {number}" for number in range(60)).encode())
    for text, expected in (
        (lines, "alpha beta gamma delta epsilon zeta"),
        (many, "".join(f"document {number}" for number in range(60))),
    ):
        out = tmp_path / text.stem
        command = ["data", "shard", text, "--tokenizer", tokenizer_path, "--out", out, "--val-fraction", "0"]
        assert main([str(word) for word in command]) == 0
        assert tokenizer.decode(read_stream(out.glob("*.bin"))) == expected
    assert (read_stream((tmp_path / "many").glob("*.bin")) == 1).sum() == 60


def test_json_is_read_by_what_it_is_and_plain_text_on_request(
    tmp_path: Path, tokenizer: Tokenizer, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"text": f"record number {number}"} for number in range(9)]
    pretty = json.dumps(records[0], indent=1)
    for name, content in (
        ("a.ndjson", "\n".join(map(json.dumps, records))),
        ("a.JSONL", "\n".join(map(json.dumps, records))),
        ("a.txt", "\n".join(map(json.dumps, records))),
        ("a.json", json.dumps(records)),
        ("pretty.txt", pretty),
    ):
        text, out = tmp_path / name, tmp_path / f"{name} shards"
        text.write_text(content)
        command = ["data", "shard", text, "--tokenizer", tokenizer_path, "--out", out, "--val-fraction", "0"]
        expected = "".join(record["text"] for record in records)
        if name == "pretty.txt":
            assert "--plain" in failure(capsys, *command)
            command.append("--plain")
            expected = " ".join(pretty.split())
        assert main([str(word) for word in command]) == 0
        assert tokenizer.decode(read_stream(out.glob("*.bin"))) == expected
    assert "--plain" in failure(capsys, "data", "tokenizer", tmp_path / "pretty.txt", "-o", tmp_path / "m")


def test_unknown_characters_are_reported_and_refused_above_a_share(
    tmp_path: Path, text: Path, model_without_fallback: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many, out = tmp_path / "few.txt", tmp_path / "many.txt", tmp_path / "out"
    few.write_text(text.read_text() + "\n\n世界, 世 and ж")
    many.write_text("Hello 世界\n\nand more")
    options = ["--tokenizer", model_without_fallback, "--out", out]
    assert main([str(word) for word in ["data", "shard", few, *options]]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed.startswith("4 unknown characters (0.0") and "3 <unk> tokens: '世' U+4E16 2, " in printed
    before = {path: path.read_bytes() for path in out.glob("*.bin")}
    assert "0.1%" in failure(capsys, "data", "shard", many, *options, "--force")
    assert {path: path.read_bytes() for path in out.glob("*.bin")} == before, (
        "the refusal comes before any change"
    )
    options += ["--force", "--allow-unknown"]
    assert main([str(word) for word in ["data", "shard", many, *options]]) == 0
    assert "2 unknown characters (12" in capsys.readouterr().out


def test_what_may_surprise_draws_a_warning(
    tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, copy = tmp_path / "text.txt", tmp_path / "copy.txt"
    text.write_text("some\x08 text with ▁ in it\n\nand more")
    copy.write_bytes(text.read_bytes())
    options = ["--tokenizer", tokenizer_path, "--out", tmp_path / "out"]
    assert "named twice" in failure(capsys, "data", "shard", text, text, *options)
    assert main([str(word) for word in ["data", "shard", text, copy, *options]]) == 0
    controls, copies, marks = capsys.readouterr().err.splitlines()
    assert controls == "2 control characters, mostly U+0008, were read as blanks"
    assert "copy.txt has the same bytes as" in copies
    assert marks.startswith("2 characters ▁ (U+2581)")


def test_a_tokenizers_sample_has_nothing_that_is_held_out(
    tmp_path: Path, corpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, model, out = tmp_path / "text.txt", tmp_path / "tok.model", tmp_path / "out"
    paragraphs = [" ".join(part.split()) for document in corpus for part in document.split("\n\n")]
    text.write_text("\n\n".join(paragraphs))
    trained_on: list[str] = []
    train = Tokenizer.train

    def overheard(texts: Iterable[str], *rest: Any, **settings: Any) -> Tokenizer:
        trained_on.extend(texts)
        return train(trained_on, *rest, **settings)

    monkeypatch.setattr(Tokenizer, "train", overheard)
    monkeypatch.setattr("hybridlm.cli.data._TOKENIZER_CHARACTERS", len(text.read_text()) // 5)
    assert main(["data", "tokenizer", str(text), "-o", str(model), "--vocab-size", "400"]) == 0
    assert len(trained_on) == pytest.approx(len(paragraphs) / 5, rel=0.2)
    assert main(["data", "shard", str(text), "--tokenizer", str(model), "--out", str(out)]) == 0
    tokenizer = Tokenizer.load(model)
    stream = read_stream(data_folder(out)[1])
    parts = np.split(stream, np.flatnonzero(stream == 1))[1:]
    held_out = {tuple(part[1:].tolist()) for part in parts}
    assert len(held_out) > 10
    assert not held_out & {tuple(tokenizer.encode(document).tolist()) for document in trained_on}


def test_the_users_mistakes(
    tmp_path: Path, text: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, latin, records = tmp_path / "empty.txt", tmp_path / "latin.txt", tmp_path / "records.jsonl"
    short = tmp_path / "short.txt"
    short.write_text("hello")
    empty.write_bytes(b"\n\n")
    latin.write_bytes("Der Fluß".encode("latin-1"))
    records.write_text('{"text": "x"}\n{"body": "y"}\n')
    (tmp_path / "no text").mkdir()
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out"

    def shard(*words: str | Path) -> str:
        return failure(capsys, "data", "shard", "--tokenizer", tokenizer_path, "--out", out, *words)

    assert "none.txt" in shard(tmp_path / "none.txt")
    assert "a folder without files" in shard(tmp_path / "no text")
    assert "no file matches" in shard(tmp_path / "*.parquet")
    assert "no text" in shard(empty)
    assert "latin.txt: not UTF-8 text" in shard(text, latin) and "at byte 7" in shard(latin)
    assert 'records.jsonl:2: no "text"' in shard(records)
    assert "can't name" in shard(text, "--name", "a/b")
    assert "text.txt: not a SentencePiece model" in shard(text, "--tokenizer", text)
    assert "not a folder" in shard(text, "--out", text)

    model = tmp_path / "tok.model"
    assert "smaller --vocab-size" in failure(capsys, "data", "tokenizer", short, "-o", model)
    assert "there is no folder" in failure(
        capsys, "data", "tokenizer", text, "-o", tmp_path / "x" / "tok.model"
    )
    assert "no text" in failure(capsys, "data", "tokenizer", empty, "-o", model)

    assert "latin.txt" in failure(capsys, "data", "inspect", latin)
    assert "name the shards in it" in failure(capsys, "data", "inspect", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before, "nothing half-written"


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "tokenizer"]) == 2
    assert main(["data", "shard", "x.txt", "--out", "y", "--no-such-option"]) == 2
    assert main(["data", "inspect"]) == 2


def test_inspect_wants_one_shard(shard_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = data_folder(shard_dir)[0]
    assert main(["data", "inspect", f"{shard_dir}/{train[0].name}*"]) == 0
    assert main(["data", "inspect", f"{shard_dir}/*.bin"]) == 2
    assert "name one of them" in capsys.readouterr().err


def test_a_shard_of_another_tokenizer(
    tmp_path: Path, text: Path, shard_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "small.model"
    assert main(["data", "tokenizer", str(text), "-o", str(model), "--vocab-size", "400"]) == 0
    shard = data_folder(shard_dir)[0][0]
    assert shard.name in failure(capsys, "data", "inspect", shard, "--tokenizer", model)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, tokenizer_path: Path, number: signal.Signals) -> None:
    """The text comes through a pipe, so that the command is surely still reading when it is interrupted."""
    pipe, out = tmp_path / "text.txt", tmp_path / "out"
    os.mkfifo(pipe)
    command = ["data", "shard", pipe, "--tokenizer", tokenizer_path, "--out", out, "--shard-tokens", "9999"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hybridlm", *map(str, command)], stderr=subprocess.PIPE, text=True
    )
    try:
        with pipe.open("w") as writer:
            writer.writelines(f"document number {number}\n\n" for number in range(300_000))
            writer.flush()
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob("out/.*/*.bin")) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert list(tmp_path.glob("out/.*/*.bin")), "the command writes shards while it reads"
            # Python drops an interrupt that comes while an object is finalised: press the keys again, then.
            for _ in range(3):
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    _, err = process.communicate(timeout=20)
                    break
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not out.exists()
