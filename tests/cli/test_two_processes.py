"""Two processes at one output: refused where they would share more than the last step, which is a rename."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hybridlm.cli.main import main
from hybridlm.errors import InputError
from hybridlm.files import exclusive

HOLD = """
import sys
from hybridlm.files import exclusive
with exclusive(sys.argv[1], folder=sys.argv[2] == "folder"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(path: Path) -> Iterator[int]:
    """Another process, whose number this is, is at work on ``path``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), "folder" if path.is_dir() else "file"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.communicate()


def commands(
    shards: list[str], shard_dir: Path, tokenizer: Path, artifact: Path, out: Path
) -> dict[str, tuple[list[str], Path]]:
    """Arguments, and the path that nobody else may be at work on."""
    text = out / "text.txt"
    text.write_text("one\n\ntwo\n\nthree\n")
    val = next(shard_dir.glob("*_val_*.bin"))
    folder = out / "folder"
    folder.mkdir()
    tok = ["--tokenizer", str(tokenizer)]
    return {
        "dense": (
            ["oracle", "build", *shards, "-o", str(out / "o"), "--estimator", "dense"],
            out / "o.unfinished",
        ),
        "sparse": (["oracle", "build", *shards, "-o", str(out / "o")], out / "o.unfinished"),
        "count": (
            ["oracle", "count", *shards, "-o", str(out / "o"), "--estimator", "dense"],
            out / "o.unfinished",
        ),
        "shard": (["data", "shard", str(text), *tok, "--out", str(folder)], folder),
        "train": (
            ["train", "--data", str(shard_dir), *tok, "--out", str(folder), "--preset", "tiny"],
            folder,
        ),
        "eval": (
            ["eval", str(artifact), "--val", str(val), *tok, "--state", str(out / "state")],
            out / "state",
        ),
        "run": (["run", "--text", str(text), "--out", str(folder)], folder),
    }


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
@pytest.mark.parametrize("name", ["dense", "sparse", "count", "shard", "train", "eval", "run"])
def test_what_another_process_is_at_work_on_is_refused(
    name: str,
    shards: list[str],
    shard_dir: Path,
    tokenizer_path: Path,
    oracle_artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in ("train", "run"):
        pytest.importorskip("torch")
    arguments, path = commands(shards, shard_dir, tokenizer_path, oracle_artifact, tmp_path)[name]
    with held_elsewhere(path) as other:
        before = sorted(tmp_path.rglob("*"))
        assert main(arguments) == 1
        complaint = capsys.readouterr().err.splitlines()[-1]
        assert complaint.startswith(f"hybridlm: error: {path}: another process, {other}, is at work on it")
        assert sorted(tmp_path.rglob("*")) == before
    assert not path.exists() or list(path.iterdir()) == []


def test_a_dense_build_is_alone_until_its_oracle_is_in_place(
    shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hybridlm.cli.output as output

    write = output.write_output
    seen: list[str] = []

    def watched(path: Path, data: bytes) -> None:
        with (
            pytest.raises(InputError, match="another process"),
            exclusive(path.with_name("o.unfinished")),
        ):
            pass
        seen.append(path.name)
        write(path, data)

    monkeypatch.setattr("hybridlm.cli.oracle.write_output", watched)
    arguments: list[Any] = ["--estimator", "dense", "--orders", "2", "--level", "1"]
    assert main(["oracle", "build", *shards, "-o", str(tmp_path / "o"), *arguments]) == 0
    assert seen == ["o"]
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


WRITE = """
import sys
from hybridlm.files import atomic_write_bytes
for _ in range(300):
    atomic_write_bytes(sys.argv[1], sys.argv[2].encode() * 20_000)
"""


def test_of_two_that_write_one_file_each_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "result"
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(path), letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_bytes())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {b"a" * 20_000, b"b" * 20_000}
    assert list(tmp_path.iterdir()) == [path]
