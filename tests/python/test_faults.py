"""System calls that fail at every place of a command: one error that names a file, nothing half-written, and
the same command again gives what it always gives."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hybridlm.cli.main import main

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="makes system calls fail by LD_PRELOAD"
)

DRIVER = Path(__file__).with_name("failing_commands.py")


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("stub") / "failing_calls.so"
    source = Path(__file__).with_name("failing_calls.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, corpus: list[str]) -> Path:
    """A text, a tokenizer, shards, counts and an artifact without a network, all small."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "text.txt").write_text("\n\n".join(corpus[:12])[:60_000])
    for command in (
        "data tokenizer {}/text.txt -o {}/tok.model --vocab-size 400",
        "data shard {}/text.txt --tokenizer {}/tok.model --out {}/data --shard-tokens 3000 "
        "--val-fraction 0.3",
        "oracle count {}/data/*_train_*.bin -o {}/counts --orders 3",
        "oracle build {}/counts -o {}/o.ngsp --max-bytes 20000",
        "artifact pack --oracle {}/o.ngsp --tokenizer {}/tok.model -o {}/a.pgar",
    ):
        assert main(command.replace("{}", str(folder)).split()) == 0, command
    (folder / "small.txt").write_text(corpus[0][:300])
    return folder


COMMANDS = {
    "tokenizer": "data tokenizer {in}/text.txt -o {out}/x --vocab-size 400",
    "shard": "data shard {in}/text.txt --tokenizer {in}/tok.model --out {out} --shard-tokens 3000 --force",
    "sparse": "oracle build {in}/data/*_train_*.bin -o {out}/x --max-bytes 20000 --checkpoint-seconds 0",
    "dense": "oracle build {in}/data/*_train_*.bin -o {out}/x --estimator dense --orders 3 --level 1 "
    "--checkpoint-seconds 0",
    "count": "oracle count {in}/data/*_train_*.bin -o {out}/x --orders 3",
    "merge": "oracle merge {in}/counts -o {out}/x",
    "pack": "artifact pack --oracle {in}/o.ngsp --tokenizer {in}/tok.model -o {out}/x",
    "compress": "compress {in}/small.txt --artifact {in}/a.pgar --tokenizer {in}/tok.model -o {out}/x",
    "eval": "eval {in}/a.pgar --val {in}/data/*_val_*.bin --tokenizer {in}/tok.model --max-tokens 600 "
    "--chunk 200 --per-token {out}/x.npy --state {out}/state",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_call_that_fails_is_one_line_and_leaves_nothing(
    name: str, stub: Path, inputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [
        word.replace("{in}", str(inputs)).replace("{out}", str(out)) for word in COMMANDS[name].split()
    ]
    done = subprocess.run(
        [sys.executable, DRIVER, str(stub), str(inputs), str(out), *command],
        capture_output=True, text=True, env={**os.environ, "LD_PRELOAD": str(stub)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["call"] for one in rounds} == {"write", "fsync", "rename", "read"}
    wrong = [one for one in rounds if one["wrong"]]
    assert not wrong, json.dumps(wrong, indent=1)


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def test_a_folder_that_is_read_only_is_refused_before_the_work(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    isolated = ["unshare", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*isolated, READ_ONLY, out, "true"]).returncode:
        pytest.skip("can't mount a folder here")
    for name, template in COMMANDS.items():
        words = [word.replace("{in}", str(inputs)).replace("{out}", str(out)) for word in template.split()]
        done = subprocess.run(
            [*isolated, READ_ONLY, out, sys.executable, "-m", "hybridlm", *words],
            capture_output=True, text=True,
        )  # fmt: skip
        lines = done.stderr.splitlines()
        assert done.returncode == 1 and "Traceback" not in done.stderr, (name, done.stderr)
        assert lines[-1].startswith(f"hybridlm: error: {out}"), (name, done.stderr)
        assert "read-only" in lines[-1] or "permission denied" in lines[-1], (name, done.stderr)
    assert list(out.iterdir()) == []
