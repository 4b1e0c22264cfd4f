"""`hybridlm oracle` as a user types it."""

import json
import shutil
from pathlib import Path

import pytest

from hybridlm.cli.main import main
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle import Oracle


def build(*arguments: str) -> int:
    return main(["oracle", "build", "--vocab-size", "512", "--level", "1", *arguments])


def test_build_inspect_eval(
    shards: list[str],
    shard_dir: Path,
    tokenizer_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "o.ngor"
    assert build(*shards, "-o", str(out), "--buckets", "3=1000", "4=64", "--orders", "5") == 0
    assert capsys.readouterr().out == ""
    assert main(["oracle", "inspect", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["orders"], shown["bytes"]) == ([1, 2, 3, 4, 5], out.stat().st_size)
    assert [table["rows"] for table in shown["tables"]] == [1, 512, 1000, 64, 1024]
    arguments = ["--val", str(shard_dir / "*_val_*.bin"), "--tokenizer", str(tokenizer_path)]
    assert main(["oracle", "eval", str(out), *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["orders"]) == {"1", "2", "3", "4", "5"}
    assert result["bpb"] == result["best_static_mix"]["bpb"] < result["orders"]["1"]["bpb"]
    # The tables that people read.
    assert main(["oracle", "inspect", str(out)]) == 0
    assert main(["oracle", "eval", str(out), *arguments]) == 0
    assert "best static mix" in capsys.readouterr().out


def test_a_glob_and_a_tokenizer_say_the_same(
    shards: list[str], shard_dir: Path, tokenizer_path: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert build(*shards[::-1], "-o", str(one), "--threads", "2") == 0
    glob = str(shard_dir / "*_train_*.bin")
    command = ["oracle", "build", glob, "-o", str(two), "--tokenizer", str(tokenizer_path), "--level", "1"]
    assert main(command) == 0
    assert one.read_bytes() == two.read_bytes()


def test_the_estimator_follows_from_what_is_given(shards: list[str], tmp_path: Path) -> None:
    out, dense_part, sparse_part = (str(tmp_path / name) for name in ("o", "dense.part", "sparse.part"))
    vocabulary = ["--vocab-size", "512"]
    for part, options in ((dense_part, ["--estimator", "dense"]), (sparse_part, [])):
        assert main(["oracle", "count", shards[0], "-o", part, *vocabulary, *options]) == 0
    for sources, options, estimator in (
        ([shards[1]], [*vocabulary, "--max-bytes", "50000"], "sparse"),
        ([shards[1]], [*vocabulary, "--level", "1"], "dense"),
        ([shards[1], sparse_part], ["--max-bytes", "50000"], "sparse"),
        ([shards[1], dense_part], [], "dense"),
    ):
        assert main(["oracle", "build", *sources, "-o", out, *options]) == 0
        assert Oracle.from_file(out).estimator == estimator
    assert main(["oracle", "build", sparse_part, "-o", out, "--estimator", "dense"]) == 1


def test_mistakes_are_one_line_and_leave_nothing_behind(
    shards: list[str], tokenizer_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "o.ngor"
    out.parent.mkdir()
    cut = tmp_path / "cut.bin"
    cut.write_bytes(Path(shards[0]).read_bytes()[:-3])
    cases = [
        ([str(cut)], "cut.bin: "),
        ([*shards, "--vocab-size", "300"], "vocabulary's size is 512, but by what is given it is 300"),
        ([str(tmp_path / "none_*.bin")], "none_*.bin: no file matches"),
        ([*shards, "--tokenizer", str(tokenizer_path), "--vocab-size", "700"], "has 512 pieces"),
    ]
    for arguments, message in cases:
        assert build(*arguments, "-o", str(out)) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("hybridlm: error: ") and shown.count("\n") == 1 and message in shown
        assert not list(out.parent.iterdir())
    assert build(*shards, "-o", str(tmp_path / "no" / "o.ngor")) == 1
    for buckets in ("three", "2=4", "3=0"):
        assert build(*shards, "-o", str(out), "--buckets", buckets) == 2
    assert main(["oracle", "inspect", shards[0]]) == 1


def test_an_oracle_is_held_to_its_tokenizer(
    shards: list[str],
    shard_dir: Path,
    tokenizer_path: Path,
    corpus: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other.model"
    Tokenizer.train([text[:3000] for text in corpus], other, vocab_size=512)
    out, part = str(tmp_path / "o.ngsp"), str(tmp_path / "part")
    tokenizer = ["--tokenizer", str(tokenizer_path)]
    assert main(["oracle", "count", shards[0], "-o", part, *tokenizer]) == 0
    assert main(["oracle", "build", part, "-o", out, "--max-bytes", "9000"]) == 0
    capsys.readouterr()
    assert main(["oracle", "inspect", out, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    fingerprint = Tokenizer.load(tokenizer_path).fingerprint
    assert (shown["tokenizer"], shown["bos_id"]) == (fingerprint, 1)
    assert main(["oracle", "inspect", out]) == 0
    assert fingerprint in capsys.readouterr().out
    val = ["--val", str(shard_dir / "*_val_*.bin")]
    assert main(["oracle", "eval", out, *val, *tokenizer, "--json"]) == 0
    assert "doesn't say" not in capsys.readouterr().err
    assert main(["oracle", "eval", out, *val, "--tokenizer", str(other)]) == 1
    assert "but the one given is" in capsys.readouterr().err
    # Of a vocabulary by its size nobody knows, which is said.
    bare = str(tmp_path / "without_a_sidecar.bin")
    shutil.copyfile(shards[0], bare)
    numbers = ["--vocab-size", "512", "--bos-id", "5"]
    assert main(["oracle", "build", bare, "-o", out, "--max-bytes", "9000", *numbers]) == 0
    assert "token 5 begins no document" in capsys.readouterr().err
    assert main(["oracle", "inspect", out, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["tokenizer"], shown["bos_id"]) == (None, 5)
    assert main(["oracle", "eval", out, *val, *tokenizer, "--json"]) == 0
    assert capsys.readouterr().err.count("doesn't say which tokenizer") == 1
    for options, message in (
        ([*tokenizer, "--bos-id", "5"], "--bos-id is 5, but in "),
        (["--bos-id", "5"], "with partial counts --bos-id needs --vocab-size or --tokenizer"),
        (["--vocab-size", "512", "--bos-id", "2"], "counts with document token 1, but 2 is asked for"),
    ):
        assert main(["oracle", "build", part, "-o", out, *options]) == 1
        assert message in capsys.readouterr().err
