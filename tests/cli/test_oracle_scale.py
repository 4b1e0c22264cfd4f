"""Counting apart, merging, building from parts, and builds that were killed."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.cli.main import main
from hybridlm.oracle.dense_counting import read_partial

OPTIONS = ["--vocab-size", "512", "--orders", "5", "--buckets", "4=100"]


def test_counted_apart_and_merged_is_built_at_once(
    shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(shards) > 2
    whole = tmp_path / "whole.ngor"
    assert main(["oracle", "build", *shards, "-o", str(whole), *OPTIONS, "--level", "3"]) == 0
    parts = [str(tmp_path / f"part{index}") for index in range(len(shards))]
    for index, (shard, part) in enumerate(zip(shards, parts, strict=True)):
        command = ["oracle", "count", shard, "-o", part, *OPTIONS, "--threads", str(1 + index % 2)]
        assert main(command) == 0
    all_parts, some_parts, counted = (str(tmp_path / name) for name in ("all", "some", "counted"))
    assert main(["oracle", "merge", *parts[::-1], "-o", all_parts]) == 0
    assert main(["oracle", "merge", *parts[1:], "-o", some_parts]) == 0
    assert main(["oracle", "count", *shards, "-o", counted, *OPTIONS]) == 0
    assert Path(all_parts).read_bytes() == Path(counted).read_bytes()
    for sources in (parts, [all_parts], [some_parts, shards[0]], [str(tmp_path / "part?")]):
        out = tmp_path / "out.ngor"
        assert main(["oracle", "build", *sources, "-o", str(out), "--level", "3"]) == 0
        assert out.read_bytes() == whole.read_bytes()
    assert capsys.readouterr().out == ""


def test_mistakes_are_one_line(shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part, again, other, cut = (str(tmp_path / name) for name in ("part", "again", "other", "cut"))
    assert main(["oracle", "count", shards[0], "-o", part, *OPTIONS]) == 0
    assert main(["oracle", "count", *shards[:2], "-o", again, *OPTIONS]) == 0
    options = ["--estimator", "dense", "--vocab-size", "513"]
    bare = str(tmp_path / Path(shards[2]).name)
    shutil.copyfile(shards[2], bare)
    assert main(["oracle", "count", bare, "-o", other, *options]) == 0
    Path(cut).write_bytes(Path(part).read_bytes()[:200])
    capsys.readouterr()
    out = tmp_path / "out" / "o"
    out.parent.mkdir()
    cases = [
        (["merge", part, again], f"again: shard {Path(shards[0]).name} has been counted already"),
        (["build", shards[0], part], "has been counted already"),
        (
            ["merge", part, other],
            "other: counts of 513 tokens with document token 1 of an unknown tokenizer, with rows 1=1",
        ),
        (["merge", cut], "cut: "),
        (["merge", shards[0]], "not a file of partial counts"),
        (["build", part, "--vocab-size", "1024"], "part: counts of a vocabulary of 512"),
        (["build", part, "--orders", "6"], "part: counts of orders 1 to 5, not 1 to 6"),
        (
            ["count", shards[0], "--vocab-size", "100"],
            "vocabulary's size is 512, but by what is given it is 100",
        ),
    ]
    for (command, *arguments), message in cases:
        assert main(["oracle", command, *arguments, "-o", str(out)]) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("hybridlm: error: ") and shown.count("\n") == 1 and message in shown
        assert not list(out.parent.iterdir())
    assert main(["oracle", "build", shards[0], "--ray-address", "x", *OPTIONS, "-o", str(out)]) == 2
    assert "is for --engine ray" in capsys.readouterr().err
    assert main(["oracle", "count", part, "-o", str(tmp_path / "none" / "o")]) == 1
    assert main(["oracle", "merge", "-o", str(out)]) == 2


def test_a_killed_build_is_resumed_with_the_same_bytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    shards = [str(tmp_path / f"{index}.bin") for index in range(8)]
    for shard in shards:
        _core.write_shard(shard, generator.integers(0, 1024, 2_000_000, np.uint16))
    out = tmp_path / "o.ngor"
    unfinished = tmp_path / "o.ngor.unfinished"
    command = [sys.executable, "-m", "hybridlm", "oracle", "build", *shards, "-o", str(out)]
    command += ["--bos-id", "1", "--layout", "packed", "--checkpoint-seconds", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as build:
        while not unfinished.exists() and build.poll() is None:
            time.sleep(0.005)
        build.kill()
    assert build.returncode != 0 and not out.exists()
    counted = len(read_partial(unfinished).shards)
    assert 1 <= counted < len(shards)

    resumed = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert f"resuming, {counted} of 8 shards are counted" in resumed.stderr
    # Whatever the killed process was writing aside is its own; what this one made is all in place.
    assert not unfinished.exists()
    whole = tmp_path / "whole.ngor"
    assert main(["oracle", "build", *shards, "-o", str(whole), "--bos-id", "1", "--layout", "packed"]) == 0
    assert out.read_bytes() == whole.read_bytes()


SPARSE = ["--estimator", "sparse"]


def test_sparse_counts_are_merged_and_built_from(
    shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--vocab-size", "512", "--orders", "4"]
    whole = tmp_path / "whole.ngsp"
    size = ["--max-bytes", "12000", *SPARSE]
    assert main(["oracle", "build", *shards, "-o", str(whole), *options, *size, "--memory", "512M"]) == 0
    parts = [str(tmp_path / f"part{index}") for index in range(len(shards))]
    for index, (shard, part) in enumerate(zip(shards, parts, strict=True)):
        threads = ["--threads", str(1 + index % 2)]
        assert main(["oracle", "count", shard, "-o", part, *SPARSE, *options, *threads]) == 0
    merged, counted, out = (str(tmp_path / name) for name in ("merged", "counted", "out.ngsp"))
    assert main(["oracle", "merge", *parts[::-1], "-o", merged]) == 0
    command = ["oracle", "count", *shards, "-o", counted, *SPARSE, *options, "--checkpoint-seconds", "0"]
    assert main(command) == 0
    assert Path(merged).read_bytes() == Path(counted).read_bytes()
    for sources in (parts, [merged], [*parts[1:], shards[0]]):
        assert main(["oracle", "build", *sources, "-o", out, *size]) == 0
        assert Path(out).read_bytes() == whole.read_bytes()
    weights = ["--weight", f"{shards[0]}=3"]
    thrice, weighted = ["--weight", f"{tmp_path / 'part[0]'}=3"], str(tmp_path / "weighted")
    assert main(["oracle", "merge", *parts, "-o", weighted, *thrice]) == 0
    assert main(["oracle", "count", *shards, "-o", counted, *SPARSE, *options, *weights]) == 0
    assert Path(weighted).read_bytes() == Path(counted).read_bytes() != Path(merged).read_bytes()
    built = []
    for arguments in ([*shards, *weights, *options], [*parts, *thrice], [weighted]):
        assert main(["oracle", "build", *arguments, "-o", out, *size]) == 0
        built.append(Path(out).read_bytes())
    assert built[0] == built[1] == built[2] != whole.read_bytes()
    assert capsys.readouterr().out == ""

    cases = [
        (["build", parts[0], "--weight", f"{shards[0]}=2"], "is given a weight, but is none of the files"),
        (["build", *shards, *weights, "--estimator", "dense"], "--weight is for sparse counts"),
        (["build", parts[0], "--estimator", "dense"], "counts of the sparse estimator"),
        (["build", parts[0], *size, "--orders", "6"], "counts up to order 4, not 6"),
        (["build", shards[0], parts[0], *size], "has been counted already"),
        (["build", parts[0], *SPARSE, "--max-bytes", "20"], "20 bytes"),
        (["count", *shards, *SPARSE, "--buckets", "3=10"], "--buckets needs"),
        (["merge", parts[0], shards[1]], "not a file of partial counts"),
    ]
    folder = tmp_path / "empty"
    folder.mkdir()
    for (command_name, *arguments), message in cases:
        assert main(["oracle", command_name, *arguments, "-o", str(folder / "o")]) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("hybridlm: error: ") and shown.count("\n") == 1 and message in shown
        assert not list(folder.iterdir())
    capsys.readouterr()
    assert main(["oracle", "build", *shards, *options, *size, "-o", out, "--memory", "1M"]) == 2
    shown = capsys.readouterr().err
    assert "at least 512M of memory" in shown and shown.count("\n") == 1
    assert main(["oracle", "build", *shards, *size, "-o", out, "--memory", "lots"]) == 2
    assert main(["oracle", "build", *shards, *size, "-o", out, "--weight", f"{shards[0]}=some"]) == 2


def test_a_killed_sparse_build_is_resumed_with_the_same_bytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    shards = [str(tmp_path / f"{index}.bin") for index in range(6)]
    for shard in shards:
        _core.write_shard(shard, generator.integers(0, 1024, 300_000, np.uint16))
    out = tmp_path / "o.part"
    unfinished = tmp_path / "o.part.unfinished"
    command = [sys.executable, "-m", "hybridlm", "oracle", "count", *shards, *SPARSE, "--bos-id", "1"]
    resumable = [*command, "-o", str(out), "--checkpoint-seconds", "0"]
    with subprocess.Popen(resumable, stderr=subprocess.PIPE) as count:
        while not list(unfinished.glob("counted*.part")) and count.poll() is None:
            time.sleep(0.002)
        count.kill()
    assert count.returncode != 0 and not out.exists()
    counted = len(list(unfinished.glob("counted*.part")))
    assert 1 <= counted < len(shards)
    resumed = subprocess.run(resumable, stderr=subprocess.PIPE, text=True, check=True)
    assert f"resuming, {counted} of 6 shards are counted" in resumed.stderr
    assert not unfinished.exists()
    whole = tmp_path / "whole.part"
    assert main([*command[3:], "-o", str(whole)]) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for it, which the system tells in the same way."""
    resource = pytest.importorskip("resource")
    shard = str(tmp_path / "shard.bin")
    _core.write_shard(shard, np.random.default_rng(2).integers(0, 1024, 300_000, np.uint16))
    folder = tmp_path / "out"
    folder.mkdir()
    for arguments in (
        ["-o", str(folder / "o.part")],
        ["-o", str(folder / "o.part"), "--checkpoint-seconds", "0"],
    ):
        failed = subprocess.run(
            [
                sys.executable,
                "-m",
                "hybridlm",
                "oracle",
                "count",
                shard,
                "--bos-id",
                "1",
                *SPARSE,
                *arguments,
            ],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
            check=False,
        )
        assert failed.returncode == 1
        assert failed.stderr.startswith("hybridlm: error: ") and failed.stderr.count("\n") == 1
        assert "file too large" in failed.stderr
        assert not list(folder.iterdir())
