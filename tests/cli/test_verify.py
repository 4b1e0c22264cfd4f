"""`hybridlm verify`: a reported score is made again from the files that it names, or refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.cli.main import main
from hybridlm.data.shards import data_folder, read_stream
from hybridlm.data.tokenizer import Tokenizer


@pytest.fixture
def files(shard_dir: Path, tokenizer_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: a data folder, a tokenizer, an oracle, and an artifact of it."""
    shutil.copytree(shard_dir, tmp_path / "data")
    shutil.copy(tokenizer_path, tmp_path / "tok.model")
    monkeypatch.chdir(tmp_path)
    counts = _core.NgramCounts(512, 3, {3: 256})
    counts.count_shards(list(map(str, data_folder("data")[0])))
    Path("oracle.ngor").write_bytes(counts.dense_oracle(level=3))
    pack = ["artifact", "pack", "--oracle", "oracle.ngor", "--tokenizer", "tok.model", "-o", "a.pgar"]
    assert main(pack) == 0
    return tmp_path


def json_of(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([*command, "--json"]) == code
    return json.loads(capsys.readouterr().out)


SCORED = ("--val", "data/*_val_*.bin", "--tokenizer", "tok.model")


@pytest.fixture
def score(files: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found = json_of(capsys, "eval", "a.pgar", *SCORED, "--mixer", "eg", "--max-tokens", "8000")
    (files / "score.json").write_text(json.dumps(found))
    return found


def test_a_score_says_what_it_was_made_of(files: Path, score: dict[str, Any]) -> None:
    made_of = score["made_of"]
    (val,) = (files / "data").glob("*_val_*.bin")
    import hashlib

    for record, path in (
        (made_of["scored"], files / "a.pgar"),
        (made_of["tokenizer"], files / "tok.model"),
        (made_of["shards"][0], val),
    ):
        assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (made_of["command"], made_of["max_tokens"], made_of["bos_id"]) == ("eval", 8000, 1)
    assert made_of["settings"]["mixer"] == "eg"
    assert {"hybridlm", "python", "numpy"} <= made_of["versions"].keys()


def test_a_true_score_is_verified(score: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    verdict = json_of(capsys, "verify", "score.json")
    assert verdict["verified"] and verdict["found"] == verdict["reported"] == score["bpb"]
    assert main(["verify", "score.json"]) == 0
    assert "score.json: verified" in capsys.readouterr().out


def test_files_that_have_moved_can_be_named(
    files: Path, score: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    moved = files / "elsewhere"
    moved.mkdir()
    for name in ("a.pgar", "tok.model", "data"):
        (files / name).rename(moved / name)
    capsys.readouterr()
    assert main(["verify", "score.json"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    options = ["--artifact", "elsewhere/a.pgar", "--tokenizer", "elsewhere/tok.model"]
    assert json_of(capsys, "verify", "score.json", *options, "--val", "elsewhere/data/*_val_*.bin")[
        "verified"
    ]


def test_another_number_is_not_verified(
    files: Path, score: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in (("bpb", score["bpb"] - 1e-6), ("tokens", 7999), ("bytes", 1)):
        (files / "score.json").write_text(json.dumps({**score, key: value}))
        verdict = json_of(capsys, "verify", "score.json", code=1)
        assert not verdict["verified"] and len(verdict["problems"]) == 1
        assert verdict["found"] == score["bpb"]


@pytest.mark.parametrize("change", [
    lambda score: score["experts"]["oracle_2"].update(bpb=0.05),
    lambda score: score["experts"].pop("cache"),
    lambda score: score.update(bits_per_token=0.5),
    lambda score: score.update(mixer="bayes"),
    lambda score: score.update(ttt="sgd"),
    lambda score: score.update(ttt=None),
    lambda score: score["documents"].update(bits=[bits / 10 for bits in score["documents"]["bits"]]),
    lambda score: score.update(bpb_interval=[0.1, 0.2]),
    lambda score: score["made_of"].update(settings={}),
])  # fmt: skip
def test_no_other_number_of_an_edited_score_is_verified(
    files: Path, score: dict[str, Any], capsys: pytest.CaptureFixture[str], change: Any
) -> None:
    change(score)
    (files / "score.json").write_text(json.dumps(score))
    verdict = json_of(capsys, "verify", "score.json", code=1)
    assert not verdict["verified"] and verdict["problems"]


def test_a_member_that_is_there_twice_is_refused(
    files: Path, score: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(score)
    (files / "score.json").write_text('{"bpb": 0.5, ' + text[1:])
    capsys.readouterr()
    assert main(["verify", "score.json"]) == 1
    assert "two members 'bpb'" in capsys.readouterr().err


@pytest.mark.parametrize("factor", [0.1, -1])
def test_documents_that_do_not_make_the_score_are_not_compared(
    files: Path, score: dict[str, Any], capsys: pytest.CaptureFixture[str], factor: float
) -> None:
    score["documents"]["bits"] = [bits * factor for bits in score["documents"]["bits"]]
    (files / "other.json").write_text(json.dumps(score))
    capsys.readouterr()
    assert main(["compare", "score.json", "other.json"]) == 1
    assert "don't make its bpb" in capsys.readouterr().err


def test_training_text_that_is_scored_and_validation_text_that_is_counted_draw_a_warning(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = ["--val", "data/*_train_000000.bin", "--tokenizer", "tok.model", "--max-tokens", "500"]
    assert main(["eval", "a.pgar", *trained]) == 0
    assert "training text" in capsys.readouterr().err
    assert main(["eval", "a.pgar", *SCORED, "--max-tokens", "500"]) == 0
    assert "training text" not in capsys.readouterr().err
    (val,) = map(str, (files / "data").glob("*_val_*.bin"))
    assert main(["oracle", "count", val, "-o", "part"]) == 0
    assert "held out for validation" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.pgar", "tok.model", "data/topics_val_000000.bin"])
def test_other_files_are_not_verified(
    files: Path, score: dict[str, Any], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with (files / name).open("ab") as file:
        file.write(b"\0\0")
    capsys.readouterr()
    code = main(["verify", "score.json"])
    out, err = capsys.readouterr()
    assert code == 1 and name in out + err and "Traceback" not in err


def test_the_score_of_an_oracle_is_verified(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score = json_of(capsys, "oracle", "eval", "oracle.ngor", *SCORED)
    (files / "score.json").write_text(json.dumps(score))
    assert json_of(capsys, "verify", "score.json")["verified"]
    (files / "score.json").write_text(json.dumps({**score, "bpb": score["bpb"] * 0.999}))
    assert not json_of(capsys, "verify", "score.json", code=1)["verified"]


@pytest.mark.parametrize("change", [
    lambda score: score.pop("made_of"),
    lambda score: score.pop("bpb"),
    lambda score: score.update(bpb="1.2"),
    lambda score: score["made_of"].pop("shards"),
    lambda score: score["made_of"].update(shards=[{"path": 1}]),
    lambda score: score["made_of"].update(scored=None),
    lambda score: score["made_of"].update(command="rm"),
    lambda score: score["made_of"]["settings"].update(chunk="x"),
    lambda score: score["made_of"]["settings"].update(unheard_of=1),
    lambda score: score["made_of"]["settings"].update(mixer="none"),
])  # fmt: skip
def test_what_is_no_score_is_one_line(
    files: Path, score: dict[str, Any], capsys: pytest.CaptureFixture[str], change: Any
) -> None:
    change(score)
    (files / "score.json").write_text(json.dumps(score))
    capsys.readouterr()
    assert main(["verify", "score.json"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("hybridlm: error: ") and err.count("\n") == 1


def test_every_command_that_reads_a_stream_refuses_a_shard_twice(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "data" / "copy_val_000000.bin").symlink_to("topics_val_000000.bin")
    for command in (
        ["eval", "a.pgar", *SCORED],
        ["oracle", "eval", "oracle.ngor", *SCORED],
        ["audit", "a.pgar", *SCORED],
        ["train", "--data", "data", "--tokenizer", "tok.model", "--out", "run", "--preset", "tiny"],
    ):
        capsys.readouterr()
        assert main(command) == 1
        assert "has the same content as" in capsys.readouterr().err
    (files / "data" / "copy_val_000000.bin").unlink()
    (files / "data" / "copy_train_000000.bin").symlink_to("topics_val_000000.bin")
    assert main(command) == 1
    assert "has the same content as" in capsys.readouterr().err, "validated on what was trained on"


def test_every_command_that_reads_a_stream_refuses_another_tokenizer(
    files: Path, corpus: list[str], tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Tokenizer.train(corpus[:40], files / "other.model", tokenizer.vocab_size)
    scored = ("--val", "data/*_val_*.bin", "--tokenizer", "other.model")
    (files / "text").write_text("text")
    for command in (
        ["eval", "a.pgar", *scored],
        ["audit", "a.pgar", *scored],
        ["oracle", "eval", "oracle.ngor", *scored],
        ["train", "--data", "data", "--tokenizer", "other.model", "--out", "run", "--preset", "tiny"],
        ["compress", "text", "--artifact", "a.pgar", "--tokenizer", "other.model", "-o", "c"],
        ["generate", "--artifact", "a.pgar", "--tokenizer", "other.model"],
    ):
        capsys.readouterr()
        assert main(command) == 1, command
        err = capsys.readouterr().err
        assert other.fingerprint in err and tokenizer.fingerprint in err, err


def test_training_that_never_came_to_an_update_is_not_reported(
    files: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from hybridlm.model import GPT, ModelConfig
    from hybridlm.train.checkpoint import ModelMetadata, save_model

    config = ModelConfig(
        layers=1, width=32, heads=2, kv_heads=1, mlp_hidden=32, vocab_size=512, sequence_length=64,
        bigram_rows=0, zero_init_projections=False,
    )  # fmt: skip
    torch.manual_seed(0)
    (files / "run").mkdir()
    save_model(files / "run", GPT(config).state_dict(), ModelMetadata(config, tokenizer.fingerprint, 1))
    assert main(["artifact", "pack", "--model", "run", "--tokenizer", "tok.model", "-o", "n.pgar"]) == 0
    scored = ("eval", "n.pgar", *SCORED, "--max-tokens", "600", "--ttt", "sgd")
    found = json_of(capsys, *scored)
    assert (found["ttt"], found["ttt_updates"]) == ("off", 0)
    assert found["bpb"] == json_of(capsys, *scored[:-1], "off")["bpb"]
    assert main(list(scored)) == 0
    out, err = capsys.readouterr()
    assert "TTT off" in out and "made no update" in err
    learned = json_of(capsys, *scored, "--chunk", "200")
    assert learned["ttt"] == "sgd" and learned["ttt_updates"] == 2, "two chunks, an epoch of one step each"
    (files / "score.json").write_text(json.dumps(learned))
    assert json_of(capsys, "verify", "score.json")["verified"]


def test_the_audit_names_the_shards(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "audit", "a.pgar", *SCORED, "--max-tokens", "500")
    tokens = len(read_stream(data_folder("data")[1]))
    shards = found["single_pass"]["shards"]
    assert [(shard["path"], shard["tokens"]) for shard in shards] == [("data/topics_val_000000.bin", tokens)]
    assert found["single_pass"]["repeated_tokens"] == 0


def test_a_stream_that_holds_a_shard_twice_fails_the_audit(tokenizer: Tokenizer) -> None:
    from hybridlm.data.shards import ShardRecord, Stream
    from hybridlm.scoring.artifact_experts import ExpertSet
    from hybridlm.scoring.audit import audit
    from hybridlm.scoring.audit_subject import MixtureSubject
    from hybridlm.scoring.experts import online_experts

    tokens = np.arange(60, dtype=np.uint16) % 7
    subject = MixtureSubject(lambda: ExpertSet(online_experts(8)), "eg")
    once = ShardRecord("a", 30, "00"), ShardRecord("b", 30, "11")
    twice = ShardRecord("a", 30, "00"), ShardRecord("b", 30, "00")
    reports = [
        audit(subject, tokens, 8, source=Stream(tokens, tokenizer.vocabulary, shards, 0), rows=4, changes=2)
        for shards in (once, twice)
    ]
    assert [report.single_pass.passed for report in reports] == [True, False]
    assert reports[1].single_pass.problem == "b is a once more" and not reports[1].passed


def test_two_scores_of_one_text_are_compared(
    files: Path, score: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--mixer", "stacked", "--max-tokens", "8000"]
    better = json_of(capsys, "eval", "a.pgar", *SCORED, *options)
    (files / "better.json").write_text(json.dumps(better))
    found = json_of(capsys, "compare", "score.json", "better.json")
    assert found["first"] == pytest.approx(score["bpb"], abs=1e-6)
    assert found["second"] == pytest.approx(better["bpb"], abs=1e-6)
    assert found["difference"] == pytest.approx(better["bpb"] - score["bpb"], abs=1e-6)
    assert main(["compare", "score.json", "better.json"]) == 0
    assert "95% interval" in capsys.readouterr().out
    seeds = ["--first-seeds", "score.json", "--second-seeds", "better.json"]
    assert main(["compare", "score.json", "better.json", *seeds]) == 1
    assert "nothing of how seeds vary" in capsys.readouterr().err
    dearer = (score["bpb"] + 0.001) / score["bpb"]
    documents = {**score["documents"], "bits": [bits * dearer for bits in score["documents"]["bits"]]}
    other = {**score, "bpb": score["bpb"] * dearer, "documents": documents}
    (files / "other.json").write_text(json.dumps(other))
    tested = json_of(
        capsys, "compare", "score.json", "better.json", "--first-seeds", "other.json", *seeds[2:]
    )
    assert tested["difference"] == pytest.approx(better["bpb"] - score["bpb"] - 0.0005)


def test_scores_that_can_not_be_compared_are_refused(
    files: Path, score: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shorter = json_of(capsys, "eval", "a.pgar", *SCORED, "--max-tokens", "1000")
    without = {key: value for key, value in score.items() if key != "documents"}
    wrong = {**score, "documents": {**score["documents"], "bits": ["x"]}}
    for name, found, told in (
        ("shorter", shorter, "different texts"),
        ("without", without, "what each document cost (there are no documents"),
        ("wrong", wrong, "what each document cost"),
    ):
        (files / f"{name}.json").write_text(json.dumps(found))
        capsys.readouterr()
        assert main(["compare", "score.json", f"{name}.json"]) == 1
        err = capsys.readouterr().err
        assert told in err and f"{name}.json" in err and err.count("\n") == 1
    for options in (["--margin", "0.1"], ["--first-seeds", "score.json"]):
        assert main(["compare", "score.json", "score.json", *options]) == 2


def test_bytes_that_a_file_states_are_counted_and_verified(
    files: Path, score: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (val,) = (files / "data").glob("*_val_*.bin")
    tokens = read_stream([val])
    stated = np.random.default_rng(3).integers(0, 400, len(tokens), np.uint16)
    _core.write_shard(str(files / "stated.bin"), stated)
    command = ("eval", "a.pgar", *SCORED, "--mixer", "eg", "--max-tokens", "8000", "--bytes", "stated.bin")
    found = json_of(capsys, *command)
    assert found["bytes"] == int(stated[1:8001].sum())
    assert found["bits_per_token"] == score["bits_per_token"]
    assert found["bpb"] == pytest.approx(score["bpb"] * score["bytes"] / found["bytes"], rel=1e-12)
    assert sum(found["documents"]["bytes"]) == found["bytes"]

    assert main(["eval", *command[1:]]) == 0
    assert "bytes of text as stated.bin state them" in capsys.readouterr().out
    (files / "stated.json").write_text(json.dumps(found))
    assert json_of(capsys, "verify", "stated.json")["verified"]
    _core.write_shard("stated.bin", stated + np.uint16(1))
    (problem,) = json_of(capsys, "verify", "stated.json", code=1)["problems"]
    assert problem.startswith("stated.bin: not the bytes that were stated")


def test_bytes_must_be_stated_of_every_token(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (val,) = (files / "data").glob("*_val_*.bin")
    _core.write_shard("short.bin", read_stream([val])[:-1])
    _core.write_shard("other.bin", read_stream([val]))
    for stated, message in (
        ("short.bin", f"short.bin: states the bytes of {len(read_stream([val])) - 1:,} tokens, and "),
        ("*o[rt][th]*.bin", "2 files, and there are 1 shards"),
        ("none.bin", "none.bin: no such file"),
    ):
        assert main(["eval", "a.pgar", *SCORED, "--bytes", stated]) == 1
        assert message in capsys.readouterr().err
