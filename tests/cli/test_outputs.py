"""Where results go: files, folders by mistake, devices, standard output."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridlm.cli.main import main
from hybridlm.cli.output import number_table, print_table

Arguments = Callable[..., list[str]]


@pytest.fixture
def given(
    tmp_path: Path, shard_dir: Path, oracle_artifact: Path, tokenizer_path: Path
) -> dict[str, list[str]]:
    """A command line for each command that writes one file, but for ``-o FILE``."""
    train = sorted(map(str, shard_dir.glob("*_train_*.bin")))
    parts = []
    for number, shard in enumerate(train[:2]):
        part = str(tmp_path / f"part{number}")
        assert main(["oracle", "count", shard, "-o", part, "--orders", "2"]) == 0
        parts.append(part)
    text = tmp_path / "text"
    text.write_text("the value of the function " * 40)
    codec = ["--artifact", str(oracle_artifact), "--tokenizer", str(tokenizer_path)]
    small = str(tmp_path / "small.hlm")
    assert main(["compress", str(text), *codec, "-o", small]) == 0
    oracle = str(tmp_path / "small.ngsp")
    assert main(["oracle", "build", *parts, "-o", oracle, "--max-bytes", "20000"]) == 0
    return {
        "oracle build": [*parts, "--max-bytes", "20000"],
        "oracle count": [train[0], "--orders", "2"],
        "oracle merge": parts,
        "artifact pack": ["--oracle", oracle, "--tokenizer", str(tokenizer_path)],
        "compress": [str(text), *codec],
        "decompress": [small, *codec],
        "oracle export": [oracle],
        "baseline kn": ["--train", str(text), "--test", str(text)],
        "data tokenizer": [str(text), "--vocab-size", "300"],
    }


def test_a_folder_as_output_is_refused_before_the_work(
    given: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    for name, arguments in given.items():
        # Without their input: had the work begun, that would be what they complain of.
        for file in (*arguments, "") if name.startswith("compress") else arguments:
            if file.startswith(str(tmp_path)) and Path(file).is_file():
                arguments = [one if one != file else file + " gone" for one in arguments]
        capsys.readouterr()
        assert main([*name.split(), *arguments, "-o", str(folder)]) == 1, name
        assert capsys.readouterr().err == f"hybridlm: error: {folder}: is a directory\n", name
        assert main([*name.split(), *arguments, "-o", str(tmp_path / "none" / "x")]) == 1, name
        assert "there is no folder" in capsys.readouterr().err, name
    assert list(folder.iterdir()) == []


def test_files_beside_a_score_are_refused_before_the_work(
    oracle_artifact: Path,
    tokenizer_path: Path,
    shard_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for scorer in ("hybridlm.scorer.Scorer.score", "hybridlm.score.evaluate_stream"):
        monkeypatch.setattr(scorer, lambda *_, **__: pytest.fail("the work has begun"))
    shards, tokenizer = str(shard_dir / "*_val_*.bin"), ["--tokenizer", str(tokenizer_path)]
    folder = tmp_path / "a folder.npy"
    folder.mkdir()
    for command in (
        ["mix", "--tokens", shards, "--per-token"],
        ["eval", str(oracle_artifact), "--val", shards, *tokenizer, "--max-tokens", "100", "--trace"],
    ):
        assert main([*command, str(folder)]) == 1, command
        assert capsys.readouterr().err.endswith(f"hybridlm: error: {folder}: is a directory\n"), command
        assert main([*command, str(tmp_path / "none" / "x.npy")]) == 1, command
        assert "there is no folder" in capsys.readouterr().err, command


def test_a_dash_is_standard_output_and_standard_input(given: dict[str, list[str]], tmp_path: Path) -> None:
    for name, arguments in given.items():
        if name == "baseline kn":
            continue
        to_file = tmp_path / "to file"
        assert main([*name.split(), *arguments, "-o", str(to_file)]) == 0, name
        done = subprocess.run(
            [sys.executable, "-m", "hybridlm", *name.split(), *arguments, "-o", "-"], capture_output=True
        )
        assert (done.returncode, done.stdout) == (0, to_file.read_bytes()), name
        assert not (Path.cwd() / "-").exists()
        through = subprocess.run(
            [sys.executable, "-m", "hybridlm", *name.split(), *arguments, "-o", "/dev/stdout"],
            capture_output=True,
        )
        assert through.returncode == 0, through.stderr
        assert through.stdout.startswith(to_file.read_bytes()), name
    for name in ("compress", "decompress"):
        file, *rest = given[name]
        piped = subprocess.run(
            [sys.executable, "-m", "hybridlm", name, "-", *rest, "-o", "-"],
            input=Path(file).read_bytes(), capture_output=True,
        )  # fmt: skip
        assert main([name, file, *rest, "-o", str(to_file)]) == 0
        assert piped.stdout == to_file.read_bytes(), name


def test_a_device_stays_a_device_and_a_full_one_is_an_error(
    given: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, arguments in given.items():
        capsys.readouterr()
        assert main([*name.split(), *arguments, "-o", "/dev/full"]) == 1, name
        assert capsys.readouterr().err.splitlines()[-1].endswith("error: /dev/full: no space left on device")
        assert Path("/dev/full").is_char_device()


def test_a_long_path_in_a_table_is_not_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(f"folder{index}" for index in range(40))
    table = number_table("text", "bits")
    table.add_row(path, "1.5")
    print_table(table)
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(cells[1].strip() for cells in lines) == path
    assert "".join(cells[2].strip() for cells in lines) == "1.5"
