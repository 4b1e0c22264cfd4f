"""`hybridlm audit`, `compress`, `decompress`, `generate` and `baseline` from the command line."""

import json
from pathlib import Path

import pytest

from hybridlm.cli.main import main


def options(artifact: Path, tokenizer_path: Path) -> list[str]:
    return ["--artifact", str(artifact), "--tokenizer", str(tokenizer_path)]


def test_audit(
    oracle_artifact: Path, tokenizer_path: Path, shard_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = str(shard_dir / "*_val_*.bin")
    command = [
        "audit",
        str(oracle_artifact),
        "--val",
        val,
        "--tokenizer",
        str(tokenizer_path),
        "--max-tokens",
        "2000",
    ]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["normalised"]["max_error"] < 1e-6
    for part in ("causal", "normalised", "score_first", "single_pass", "bytes_exact"):
        assert report[part]["passed"]
    assert main(command) == 0
    assert capsys.readouterr().out.count("passed:") == 5


@pytest.mark.slow
def test_audit_with_a_neural_model(
    neural_artifact: Path, tokenizer_path: Path, shard_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["audit", str(neural_artifact), "--val", str(shard_dir / "*_val_*.bin")]
    command += ["--tokenizer", str(tokenizer_path), "--max-tokens", "150", "--rows", "6", "--changes", "2"]
    command += ["--chunk", "60", "--batch", "2", "--device", "cpu"]
    command += ["--ttt-options.frozen-blocks", "0", "--ttt-options.epochs", "1"]
    assert main([*command, "--ttt", "sgd", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["single_pass"]["chunks"] == [60]
    assert report["score_first"]["learns"]["optimizer"] == "chunk"
    world_size = report["world_size"]
    assert world_size["passed"] and world_size["world_sizes"] == [1, 2] and world_size["ttt"] == "sgd"
    assert main([*command, "--ttt", "off", "--skip-world-sizes"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("passed:") == 5 and "world_size" not in shown and "neural never" in shown


def test_compress_and_back(
    oracle_artifact: Path, tokenizer_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"The sequence is\titerated  over.\r\n\xff\xfe" * 40 + bytes(range(256))
    (tmp_path / "raw").write_bytes(content)
    given = options(oracle_artifact, tokenizer_path)
    assert main(["compress", str(tmp_path / "raw"), *given, "-o", str(tmp_path / "z"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bytes"] == len(content)
    assert result["compressed_bytes"] == (tmp_path / "z").stat().st_size < len(content)
    assert main(["decompress", str(tmp_path / "z"), *given, "-o", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back").read_bytes() == content

    (tmp_path / "cut").write_bytes((tmp_path / "z").read_bytes()[:-5])
    assert main(["decompress", str(tmp_path / "cut"), *given, "-o", str(tmp_path / "wrong")]) == 1
    assert "cut: damaged" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_compress_with_a_neural_model(neural_artifact: Path, tokenizer_path: Path, tmp_path: Path) -> None:
    content = b"The sequence is\titerated  over.\r\n\xff\xfe" * 3
    (tmp_path / "raw").write_bytes(content)
    given = options(neural_artifact, tokenizer_path)
    assert main(["compress", str(tmp_path / "raw"), *given, "-o", str(tmp_path / "z")]) == 0
    assert main(["decompress", str(tmp_path / "z"), *given, "-o", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back").read_bytes() == content


def test_generate_with_a_neural_model(
    neural_artifact: Path, tokenizer_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    command = ["generate", *options(neural_artifact, tokenizer_path), "--tokens", "20", "--shares"]
    assert main(command) == 0
    first = capfdbinary.readouterr().out
    assert first.count(b"\n") == 20 and b"neural 0." in first
    assert main(command) == 0
    assert capfdbinary.readouterr().out == first


def test_generate(
    oracle_artifact: Path, tokenizer_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    command = [
        "generate",
        *options(oracle_artifact, tokenizer_path),
        "--prompt",
        "The list",
        "--tokens",
        "30",
    ]
    texts = []
    for seed in ("1", "1", "2"):
        assert main([*command, "--seed", seed]) == 0
        texts.append(capfdbinary.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith(b"The list") and len(texts[0]) > 30
    assert main([*command, "--shares"]) == 0
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert len(lines) == 30 and all(" 0." in line for line in lines)
    assert any("backoff 0." in line for line in lines) and any("oracle_3 0." in line for line in lines)


def test_generated_bytes_that_are_no_text_are_replaced(
    oracle_artifact: Path, tokenizer_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    # So hot that byte pieces are drawn as often as others, and follow each other as UTF-8 doesn't.
    command = [
        "generate",
        *options(oracle_artifact, tokenizer_path),
        "--tokens",
        "100",
        "--temperature",
        "50",
    ]
    assert main(command) == 0
    assert "\N{REPLACEMENT CHARACTER}" in capfdbinary.readouterr().out.decode("utf-8", errors="strict")


@pytest.mark.parametrize("method", ["ctw", "kn"])
def test_baseline(method: str, corpus: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(corpus).encode()
    train, test, model = tmp_path / "train", tmp_path / "test", tmp_path / "model"
    train.write_bytes(text[:200_000])
    test.write_bytes(text[200_000:250_000])
    command = ["baseline", method, "--test", str(test)]
    assert main([*command, "--train", str(train), "-o", str(model), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["method"] == method and result["bytes"] == 50_000 and 1 < result["bpb"] < 3
    assert result["bits"] == pytest.approx(50_000 * result["bpb"])
    assert result["model_bytes"] == model.stat().st_size < 100_000

    # The stored model gives the same score to the last bit, and a small one scores worse.
    assert main([*command, "--model", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits"] == result["bits"]
    assert main([*command, "--train", str(train), "--max-train-bytes", "20000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits"] > result["bits"]

    data = model.read_bytes()
    for damaged in (b"", data[:7], b"nope" + data[4:], data[:5] + b"\x09" + data[6:], data[:-3]):
        model.write_bytes(damaged)
        assert main([*command, "--model", str(model)]) == 1
        assert str(model) in capsys.readouterr().err
    other = "kn" if method == "ctw" else "ctw"
    model.write_bytes(data)
    # The old name of kn.
    assert main(["baseline", "ppm", "--test", str(test), "--model", str(model)]) == (method == "ctw")
    assert main(["baseline", other, "--test", str(test), "--model", str(model)]) == 1
    for wrong in (
        ["--train", str(train), "--model", str(model)],
        [],
    ):
        assert main([*command, *wrong]) == 2
