"""`oracle tune`: fixed weights of several oracles, found on one text and tried on another."""

import json
from pathlib import Path

import numpy as np
import pytest

import hybridlm
from hybridlm.cli.main import main
from hybridlm.data.byte_table import ByteTable
from hybridlm.errors import InputError
from hybridlm.oracle import Oracle
from hybridlm.oracle.interpolation import columns_of, score, tune

V = 12


def text(seed: int, step: int, length: int = 4000) -> np.ndarray:
    """Tokens that mostly advance by ``step``."""
    random = np.random.default_rng(seed)
    advance = np.where(random.random(length) < 0.8, step, random.integers(1, V - 1, length))
    tokens = (2 + np.cumsum(advance) % (V - 2)).astype(np.uint16)
    tokens[0] = 1
    return tokens


@pytest.fixture(scope="module")
def oracles() -> list[Oracle]:
    """Each knows one kind of text."""
    built = []
    for step in (1, 3):
        builder = hybridlm.OracleBuilder(hybridlm.Vocabulary(V), order=3)
        builder.add(text(step, step))
        built.append(builder.build(max_bytes=2000))
    return built


@pytest.fixture(scope="module")
def table() -> ByteTable:
    one = np.ones(V, np.int32)
    return ByteTable(one, np.zeros(V, np.bool_), np.arange(V) == 1)


def test_the_weights_are_those_of_a_search_through_all(oracles: list[Oracle], table: ByteTable) -> None:
    mixed = np.concatenate([text(7, 1, 3000), text(8, 3, 1000)])
    found = tune(oracles, mixed)
    log_probs = [oracle.target_log_probs(mixed, start=1)[-1].astype(np.float64) for oracle in oracles]

    def cost(weight: float) -> float:
        return -float(np.log(weight * np.exp(log_probs[0]) + (1 - weight) * np.exp(log_probs[1])).sum())

    grid = np.linspace(0.001, 0.999, 999)
    best = grid[np.argmin([cost(weight) for weight in grid])]
    assert found.weights[0] == pytest.approx(best, abs=0.002)
    assert found.weights.sum() == pytest.approx(1)
    result = score(oracles, found, mixed, table)
    assert result.mixture.bits_per_token == pytest.approx(
        cost(found.weights[0]) / np.log(2) / (len(mixed) - 1), rel=1e-6
    )
    assert result.mixture.bpb < min(column.bpb for column in result.columns)
    assert (result.tokens, result.bytes) == (len(mixed) - 1, len(mixed) - 1)


def test_a_dense_oracle_takes_part_with_all_its_orders(oracles: list[Oracle]) -> None:
    builder = hybridlm.OracleBuilder(hybridlm.Vocabulary(V), estimator="dense", order=3)
    builder.add(text(5, 1))
    columns = columns_of([oracles[0], builder.build()])
    assert [(column.oracle, column.order) for column in columns] == [(0, 3), (1, 1), (1, 2), (1, 3)]


def test_what_cannot_be_mixed_is_refused(oracles: list[Oracle]) -> None:
    builder = hybridlm.OracleBuilder(hybridlm.Vocabulary(V + 1), order=3)
    builder.add(text(5, 1))
    with pytest.raises(InputError, match="vocabularies of 12, 13 tokens"):
        tune([oracles[0], builder.build(max_bytes=2000)], text(1, 1))
    with pytest.raises(InputError, match="nothing to score"):
        tune(oracles, text(1, 1)[:1])


def test_a_text_is_not_its_own_test(
    example_folder: Path, shard_dir: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oracle = str(example_folder / "oracle.ngsp")
    (shard,) = map(str, shard_dir.glob("*_val_*.bin"))
    rest = ["--on", shard, "--tokenizer", str(tokenizer_path)]
    assert main(["oracle", "tune", oracle, oracle, *rest, "--val", shard]) == 1
    assert "same content" in capsys.readouterr().err
    assert main(["oracle", "tune", oracle, *rest]) == 2
    assert "at least two" in capsys.readouterr().err
    assert main(["oracle", "tune", oracle, oracle, *rest]) == 0
    assert "mixed" in capsys.readouterr().out
    assert main(["oracle", "tune", oracle, oracle, *rest, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [column["weight"] for column in found["columns"]] == [0.5, 0.5]
