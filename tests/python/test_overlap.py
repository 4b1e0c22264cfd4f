"""Overlap of validation and training text, against sets of n-grams."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hybridlm
from hybridlm.cli.main import main
from hybridlm.data.overlap import Overlap, overlap
from hybridlm.errors import InputError

BOS = 1
shards = st.lists(st.lists(st.integers(1, 4), max_size=60), min_size=1, max_size=3)


def documents(shard: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """(where it begins, its tokens) of each document that has any."""
    found, start, text = [], 0, []
    for at, token in enumerate([*shard, BOS]):
        if token == BOS:
            if text:
                found.append((start, tuple(text)))
            start, text = at, []
        else:
            text.append(token)
    return found


def slow_overlap(
    train: Sequence[Sequence[int]], val: Sequence[Sequence[int]], lengths: Sequence[int]
) -> list[tuple[int, int, int, list[int], list[int], tuple[int, int] | None]]:
    def ngrams(text: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
        return [text[at : at + n] for at in range(len(text) - n + 1)]

    seen = {
        n: {gram for shard in train for _, text in documents(shard) for gram in ngrams(text, n)}
        for n in lengths
    }
    places: dict[tuple[int, ...], tuple[int, int]] = {}
    for index, shard in enumerate(train):
        for start, text in documents(shard):
            places.setdefault(text, (index, start))
    return [
        (
            index,
            start,
            len(text),
            [len(ngrams(text, n)) for n in lengths],
            [sum(gram in seen[n] for gram in ngrams(text, n)) for n in lengths],
            places.get(text),
        )
        for index, shard in enumerate(val)
        for start, text in documents(shard)
    ]


def write(folder: Path, kind: str, contents: Sequence[Sequence[int]]) -> list[Path]:
    paths = [folder / f"t_{kind}_{index:06d}.bin" for index in range(len(contents))]
    for path, tokens in zip(paths, contents, strict=True):
        hybridlm.write_shard(path, np.array(tokens, np.uint16))
    return paths


def described(found: Overlap, train: Sequence[Path], val: Sequence[Path]) -> list[object]:
    names, val_names = [*map(str, train)], [*map(str, val)]
    return [
        (
            val_names.index(document.place.shard),
            document.place.position,
            document.tokens,
            [*document.ngrams],
            [*document.found],
            document.copy_of and (names.index(document.copy_of.shard), document.copy_of.position),
        )
        for document in found.documents
    ]


@given(train=shards, val=shards, threads=st.integers(1, 3))
def test_overlap_is_that_of_sets_of_ngrams(
    tmp_path_factory: pytest.TempPathFactory,
    train: list[list[int]],
    val: list[list[int]],
    threads: int,
) -> None:
    # Shards with the same content are refused, and empty ones are of no interest.
    train = [[BOS, 5 + index, BOS, *tokens] for index, tokens in enumerate(train)]
    val = [[BOS, 15 + index, BOS, *tokens] for index, tokens in enumerate(val)]
    folder = tmp_path_factory.mktemp("overlap")
    paths, val_paths = write(folder, "train", train), write(folder, "val", val)
    lengths = (1, 2, 5, 9)
    found = overlap(paths, val_paths, lengths=lengths, threads=threads)
    assert described(found, paths, val_paths) == slow_overlap(train, val, lengths)


def test_ngrams_across_the_pieces_of_a_long_shard_are_found(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    train = random.integers(2, 1000, (1 << 20) + 100).astype(np.uint16)
    train[0] = BOS
    # Around the place where one thread's piece ends and the next begins, and at the very end.
    around, last = train[(1 << 20) - 30 : (1 << 20) + 30], train[-40:]
    val = np.concatenate([[BOS], around, [BOS], last, [BOS], random.integers(2, 1000, 60)]).astype(np.uint16)
    paths, val_paths = write(tmp_path, "train", [train.tolist()]), write(tmp_path, "val", [val.tolist()])
    one, three = (overlap(paths, val_paths, threads=threads) for threads in (1, 3))
    assert one == three
    assert [document.found for document in one.documents] == [
        (53, 48, 41, 29, 11),
        (33, 28, 21, 9, 0),
        (0, 0, 0, 0, 0),
    ]


def test_from_the_command_line(
    tmp_path: Path, example_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = example_folder / "data"
    train = str(data / "text_train_000000.bin")
    common = ["data", "overlap", train, "--val", str(data / "*_val_*.bin")]
    assert main([*common, "--json"]) == 0
    apart = json.loads(capsys.readouterr().out)
    assert apart["copies"] == 0 and 0 < apart["shares"]["8"] < 0.5
    assert list(apart["shares"].values()) == sorted(apart["shares"].values(), reverse=True)
    assert main(["data", "overlap", train, "--val", train, "--json"]) == 0
    same = json.loads(capsys.readouterr().out)
    assert same["copies"] == same["val_documents"] == len(same["documents"])
    assert set(same["shares"].values()) == {1.0}
    assert same["documents"][0]["copy_of"] == f"{train}:0"
    assert main(["data", "overlap", train, "--val", train, "--listed", "3"]) == 0
    out = capsys.readouterr().out
    assert "documents are in training as a whole" in out and out.count("the same as") == 3

    for words, code in (
        (["--lengths", "8", "8"], 1),
        (["--lengths", "0", "8"], 2),
        (["--lengths", "5000"], 1),
    ):
        assert main([*common, *words]) == code
        err = capsys.readouterr().err
        assert err.startswith("hybridlm: error: ") and err.count("\n") == 1
    other = tmp_path / "o_val_000000.bin"
    hybridlm.write_shard(other, np.array([50256, 5], np.uint16))
    with pytest.raises(InputError, match="--bos-id"):
        overlap([other], [other])
    assert len(overlap([other], [other], bos_id=50256).copies) == 1
