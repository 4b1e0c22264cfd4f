"""What users of n-gram toolkits look for: states, top k, orders used, counts, ARPA."""

import io
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import hybridlm
from hybridlm import _core
from hybridlm.cli.main import main
from hybridlm.errors import FormatError, InputError

V, BOS, ORDER = 12, 1, 4


@pytest.fixture(scope="module")
def stream() -> NDArray[np.uint16]:
    """Documents of a chain in which the last two tokens matter."""
    random = np.random.default_rng(7)
    table = random.dirichlet(np.full(V - 2, 0.2), (V, V))
    tokens = [BOS]
    for at in range(1, 4000):
        if at % 57 == 0:
            tokens.append(BOS)
        else:
            before = tokens[-2] if len(tokens) > 1 else 0
            tokens.append(2 + int(random.choice(V - 2, p=table[before, tokens[-1]])))
    return np.array(tokens, np.uint16)


@pytest.fixture(scope="module", params=["sparse", "dense"])
def oracle(request: pytest.FixtureRequest, stream: NDArray[np.uint16]) -> hybridlm.Oracle:
    builder = hybridlm.OracleBuilder(hybridlm.Vocabulary(V, BOS), estimator=request.param, order=ORDER)
    builder.add(stream[:3000])
    return builder.build(max_bytes=4000 if request.param == "sparse" else None)


@pytest.fixture(scope="module")
def sparse(stream: NDArray[np.uint16]) -> hybridlm.Oracle:
    builder = hybridlm.OracleBuilder(hybridlm.Vocabulary(V, BOS), order=ORDER)
    builder.add(stream[:3000])
    return builder.build(max_bytes=4000)


def test_states_go_through_a_stream_as_look_ups_do(
    oracle: hybridlm.Oracle, stream: NDArray[np.uint16]
) -> None:
    held_out = stream[2964:3200]
    assert held_out[0] == BOS
    expected = oracle.target_log_probs(held_out)
    state = oracle.start()
    for at in range(1, len(held_out)):
        assert oracle.state(held_out[:at]) == state
        log_probs, state = oracle.next(state, int(held_out[at]))
        np.testing.assert_array_equal(log_probs, expected[:, at])
    assert len(state.tokens) < max(oracle.orders)
    with pytest.raises(InputError, match="vocabulary has 12"):
        oracle.next(state, V)


@pytest.mark.parametrize("k", [1, 5, V])
def test_the_top_k_are_the_largest_of_the_row(
    oracle: hybridlm.Oracle, stream: NDArray[np.uint16], k: int
) -> None:
    for end in (1, 2, 100):
        context = stream[:end]
        row = oracle.log_probs(context, [end])[-1, 0]
        expected = sorted(range(V), key=lambda token: (-row[token], token))[:k]
        tokens, log_probs = oracle.top(oracle.state(context), k)
        assert tokens.tolist() == expected
        np.testing.assert_array_equal(log_probs, row[expected])
    with pytest.raises(InputError, match="k must be 1 to 12"):
        oracle.top(oracle.start(), 0)


def test_perplexity(oracle: hybridlm.Oracle, stream: NDArray[np.uint16]) -> None:
    nats = [float(value) for value in oracle.target_log_probs(stream[:500])[-1][1:]]
    assert oracle.perplexity(stream[:500]) == pytest.approx(math.exp(-sum(nats) / len(nats)))
    with pytest.raises(InputError, match="no target"):
        oracle.perplexity(stream[:1])


class Arpa:
    """An ARPA file, read as its definition says."""

    def __init__(self, path: Path) -> None:
        self.log_probs: dict[tuple[str, ...], float] = {}
        self.backoffs: dict[tuple[str, ...], float] = {}
        declared: dict[int, int] = {}
        order = 0
        for line in path.read_text().splitlines():
            if line.startswith("ngram "):
                n, count = line.removeprefix("ngram ").split("=")
                declared[int(n)] = int(count)
            elif line.startswith("\\") and line.endswith("-grams:"):
                order = int(line[1:].removesuffix("-grams:"))
            elif "\t" in line:
                probability, words, *backoff = line.split("\t")
                ngram = tuple(words.split(" "))
                assert len(ngram) == order and ngram not in self.log_probs
                self.log_probs[ngram] = float(probability)
                self.backoffs[ngram] = float(backoff[0]) if backoff else 0.0
        assert Counter(map(len, self.log_probs)) == declared
        assert line == "\\end\\"

    def score(self, context: tuple[str, ...], word: str) -> tuple[float, int]:
        """(log10 p, length of the n-gram it rests on)"""
        ngram = (*context, word)
        if ngram in self.log_probs:
            return self.log_probs[ngram], len(ngram)
        shorter, length = self.score(context[1:], word)
        return self.backoffs.get(context, 0.0) + shorter, length


def words_of(tokens: NDArray[np.uint16]) -> list[str]:
    return ["<s>" if token == BOS else str(token) for token in tokens.tolist()]


def test_an_arpa_file_has_the_probabilities_and_orders_of_the_oracle(
    sparse: hybridlm.Oracle, stream: NDArray[np.uint16], tmp_path: Path
) -> None:
    sparse.save_arpa(tmp_path / "model.arpa")
    arpa = Arpa(tmp_path / "model.arpa")
    held_out = stream[2964:3300]
    words = words_of(held_out)
    found = [arpa.score(tuple(words[max(0, at - ORDER + 1) : at]), words[at]) for at in range(len(words))]
    expected = sparse.target_log_probs(held_out)[-1] / math.log(10)
    np.testing.assert_allclose([log_prob for log_prob, _ in found], expected, atol=2e-6)
    orders = sparse.matched_orders(held_out)
    assert orders.tolist() == [length for _, length in found]
    assert len(set(orders.tolist())) > 2
    np.testing.assert_array_equal(sparse.matched_orders(held_out, start=100), orders[100:])
    with pytest.raises(InputError, match="beyond the stream"):
        sparse.matched_orders(held_out, start=len(held_out) + 1)


def arpa_text(orders: list[dict[str, tuple[float, float | None]]]) -> str:
    """An ARPA file of probabilities and weights, by words."""
    lines = ["\\data\\", *(f"ngram {n}={len(ngrams)}" for n, ngrams in enumerate(orders, start=1))]
    for n, ngrams in enumerate(orders, start=1):
        lines += ["", f"\\{n}-grams:"]
        for words, (p, weight) in ngrams.items():
            log = math.log10(p) if p else -99
            lines.append(f"{log:.9g}\t{words}" + ("" if weight is None else f"\t{math.log10(weight):.9g}"))
    return "\n".join([*lines, "", "\\end\\", ""])


# Three tokens, of which 1 begins documents. As a toolkit has it: </s> is predicted, <s> is a context.
UNIGRAMS = {"</s>": (0.25, None), "<s>": (1.0, 0.4), "0": (0.5, 1.2), "2": (0.25, None)}
BIGRAMS = {"<s> 0": (0.7, 1.0), "0 </s>": (0.1, None)}


def test_a_toolkits_arpa_file_is_looked_up_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "m.arpa"
    # After <s>: 0.7 for 0, and what is left to 0.75 of unigrams by 0.4 · 0.75 = 0.3, of 1, so 1.0 in all but
    # that 0's unigram is 0.5: 0.7 + b · 0.5 = 1, b = 0.6. After 0: 0.1 + b · 0.75 = 1, b = 1.2.
    unigrams = UNIGRAMS | {"<s>": (1.0, 0.6)}
    path.write_text("\n" + arpa_text([unigrams, BIGRAMS]))
    for oracle in (hybridlm.Oracle.from_file(path), hybridlm.Oracle.from_arpa(path, hybridlm.Vocabulary(3))):
        assert (oracle.orders, oracle.vocab_size, oracle.vocabulary.bos_id) == ((1, 2), 3, 1)
        rows = np.exp(oracle.log_probs([1, 0, 2], [1, 2, 3])[-1])
        np.testing.assert_allclose(rows, [[0.7, 0.15, 0.15], [0.6, 0.1, 0.3], [0.5, 0.25, 0.25]], atol=1e-6)
        assert oracle.matched_orders([1, 0, 1, 2]).tolist() == [1, 2, 2, 1]
        tokens = [1, 0, 1, 2, 0]
        targets = np.exp(oracle.target_log_probs(tokens, start=1)[-1])
        np.testing.assert_allclose(targets, [0.7, 0.1, 0.15, 0.5], atol=1e-6)
        assert oracle.to_bytes() == path.read_bytes()
    # Of a larger vocabulary the tokens that are missing share what <unk> has.
    path.write_text(arpa_text([{**unigrams, "2": (0.15, None), "<unk>": (0.1, None)}, BIGRAMS]))
    wider = hybridlm.Oracle.from_arpa(path, hybridlm.Vocabulary(5))
    np.testing.assert_allclose(
        np.exp(wider.log_probs([2], [1])[0, 0]), [0.5, 0.25, 0.15, 0.05, 0.05], atol=1e-6
    )


def test_an_exported_oracle_comes_back(
    sparse: hybridlm.Oracle, stream: NDArray[np.uint16], tmp_path: Path
) -> None:
    path = tmp_path / "model.arpa"
    sparse.save_arpa(path)
    back = hybridlm.Oracle.from_file(path)
    assert back.vocabulary.bos_id == BOS and back.orders == sparse.orders
    held_out = stream[2964:3300]
    np.testing.assert_allclose(back.target_log_probs(held_out), sparse.target_log_probs(held_out), atol=1e-5)
    np.testing.assert_array_equal(back.matched_orders(held_out), sparse.matched_orders(held_out))
    rows = back.log_probs(held_out, np.arange(len(held_out)))
    np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(axis=-1), 1, atol=2e-6)
    scorer = hybridlm.Scorer(V, first=BOS, oracle=back, models=())
    assert np.isfinite(scorer.score(held_out[1:]).nll).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ngram 2=2", "ngram 2=3"), r"\[4, 2\] where \[4, 3\] are declared: is the file cut off"),
        (("\\end\\", ""), "is the file cut off"),
        (("\t2", "\ttwo"), "line 9: a word that is no token id"),
        (("\t2", "\t0"), "line 9: an n-gram that is there already"),
        (("\\2-grams:", "\\3-grams:"), "line 11: not the next section"),
        (("\t<s> 0\t0", "\t<s>"), "line 12: too few words"),
        (("\t0 </s>", "\t0 </s> 1 1"), "line 13: too many words"),
        (("-0.602059991\t2", "-0.2\t2"), "the unigrams sum to"),
        (("-0.602059991\t2", "0.5\t2"), "line 9: a probability above 1"),
        (("-0.602059991\t2", "nan\t2"), "line 9: not a number"),
        (("-1\t0 </s>", "-0.5\t0 </s>"), r"what follows \[0\] sums to"),
        (("ngram 1=4", "ngram 2=4"), "line 2: orders must ascend"),
        (("\\data\\", "\\data\\\nword"), "line 2: an n-gram before the first section"),
    ],
)
def test_damaged_arpa_files_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "m.arpa"
    text = arpa_text([UNIGRAMS | {"<s>": (1.0, 0.6)}, BIGRAMS])
    assert text.count(change[0]) >= 1
    path.write_text(text.replace(change[0], change[1], 1))
    with pytest.raises(FormatError, match=rf"m\.arpa: .*{message}"):
        hybridlm.Oracle.from_file(path)


@given(
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), st.binary(max_size=4)), max_size=4),
    cut=st.integers(0, 250),
)
def test_no_arpa_file_does_worse_than_an_error(edits: list[tuple[int, int, bytes]], cut: int) -> None:
    data = bytearray(arpa_text([UNIGRAMS | {"<s>": (1.0, 0.6)}, BIGRAMS]).encode())
    for at, length, new in edits:
        data[at : at + length] = new
    for content in (bytes(data), bytes(data[:cut])):
        try:
            oracle = hybridlm.Oracle.from_bytes(content, "m.arpa")
        except FormatError as error:
            assert str(error).startswith("m.arpa: ")
        else:
            rows = oracle.log_probs([0], [0, 1]).astype(np.float64)
            np.testing.assert_allclose(np.exp(rows).sum(axis=-1), 1, atol=2e-3)


def test_ids_that_an_arpa_file_leaves_open_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.arpa"
    path.write_text(arpa_text([{"<s>": (0.5, None), "0": (0.25, None), "5": (0.25, None)}]))
    with pytest.raises(FormatError, match=r"4 token ids have no unigram.*Oracle\.from_arpa"):
        hybridlm.Oracle.from_file(path)
    with pytest.raises(FormatError, match="token 2 has no unigram, and <unk> no probability"):
        hybridlm.Oracle.from_arpa(path, hybridlm.Vocabulary(6))
    with pytest.raises(FormatError, match="line 7: a token outside the vocabulary"):
        hybridlm.Oracle.from_arpa(path, hybridlm.Vocabulary(5))


def test_kenlm_reads_the_arpa_file(
    sparse: hybridlm.Oracle, stream: NDArray[np.uint16], tmp_path: Path
) -> None:
    kenlm = pytest.importorskip("kenlm")
    sparse.save_arpa(tmp_path / "model.arpa")
    model = kenlm.Model(str(tmp_path / "model.arpa"))
    assert model.order == ORDER
    held_out = stream[2965:3020]
    assert BOS not in held_out
    found = list(model.full_scores(" ".join(words_of(held_out)), bos=True, eos=False))
    with_start = np.append(np.uint16(BOS), held_out)
    expected = sparse.target_log_probs(with_start, start=1)[-1] / math.log(10)
    np.testing.assert_allclose([score for score, _, _ in found], expected, atol=1e-5)
    assert [length for _, length, _ in found] == sparse.matched_orders(with_start, start=1).tolist()
    assert not any(unknown for _, _, unknown in found)


def test_a_dense_oracle_has_no_arpa_file_and_every_order(stream: NDArray[np.uint16], tmp_path: Path) -> None:
    builder = hybridlm.OracleBuilder(hybridlm.Vocabulary(V, BOS), estimator="dense", order=3)
    builder.add(stream)
    dense = builder.build()
    assert set(dense.matched_orders(stream[:50]).tolist()) == {3}
    with pytest.raises(InputError, match="a dense oracle has no n-grams"):
        dense.save_arpa(tmp_path / "model.arpa")
    assert list(tmp_path.iterdir()) == []


@given(
    contents=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=80), min_size=1, max_size=3),
    order=st.integers(2, 5),
)
def test_counts_and_continuations_are_those_of_a_counter(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[int]], order: int
) -> None:
    folder = tmp_path_factory.mktemp("counts")
    contents = [[*tokens, 5 + index] for index, tokens in enumerate(contents)]
    paths = [folder / f"t_{index}.bin" for index in range(len(contents))]
    for path, tokens in zip(paths, contents, strict=True):
        hybridlm.write_shard(path, np.array(tokens, np.uint16))
    _core.SparseCounts.count(paths, 8, order, 1 << 20, folder / "t.part")
    counts = hybridlm.NgramCounts.from_file(folder / "t.part")
    assert counts.order == order and counts.tokens == sum(map(len, contents))

    expected: Counter[tuple[int, ...]] = Counter()
    for tokens in contents:
        for start in range(len(tokens)):
            for end in range(start + 1, min(start + order, len(tokens)) + 1):
                expected[tuple(tokens[start:end])] += 1
                # An n-gram ends where the next document begins.
                if tokens[end - 1] == BOS and end - 1 > start:
                    break
                if tokens[end - 1] == BOS:
                    continue
    asked = [*expected, *itertools.product(range(5), repeat=2)]
    for ngram in asked[:200]:
        assert counts.count(ngram) == expected[ngram], ngram
        if len(ngram) < order:
            after = {
                gram[-1]: n
                for gram, n in expected.items()
                if len(gram) == len(ngram) + 1 and gram[:-1] == ngram
            }
            assert dict(zip(*map(np.ndarray.tolist, counts.continuations(ngram)), strict=True)) == after
    everything = counts.continuations([])
    assert dict(zip(*map(np.ndarray.tolist, everything), strict=True)) == {
        gram[0]: n for gram, n in expected.items() if len(gram) == 1
    }
    for wrong in ([], [0] * (order + 1), [8]):
        with pytest.raises(InputError):
            counts.count(wrong)
    with pytest.raises(InputError, match="a context has fewer"):
        counts.continuations([0] * order)


def test_a_count_in_one_of_many_chunks(tmp_path: Path) -> None:
    """More n-grams that begin with one token than a chunk of the file holds."""
    random = np.random.default_rng(2)
    tokens = random.integers(3, 1000, 200_000).astype(np.uint16)
    tokens[::2] = 2
    hybridlm.write_shard(tmp_path / "t.bin", tokens)
    _core.SparseCounts.count([tmp_path / "t.bin"], 1024, 4, 1 << 24, tmp_path / "t.part")
    counts = hybridlm.NgramCounts.from_file(tmp_path / "t.part")
    for start in (0, 1000, 99_998, 150_001):
        for length in (1, 2, 3):
            ngram = tokens[start : start + length]
            windows = np.lib.stride_tricks.sliding_window_view(tokens, length)
            assert counts.count(ngram.tolist()) == (windows == ngram).all(axis=1).sum()
    after, times = counts.continuations([2])
    np.testing.assert_array_equal(after, np.unique(tokens[1::2]))
    np.testing.assert_array_equal(times, np.unique(tokens[1::2], return_counts=True)[1])


def test_from_the_command_line(
    tmp_path: Path,
    example_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    oracle, model = str(example_folder / "oracle.ngsp"), str(example_folder / "tok.model")
    text = tmp_path / "text.txt"
    text.write_text("The value of the expression.\n\nThe object itself is returned.\n")
    assert main(["oracle", "score", oracle, str(text), "--tokenizer", model, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [one["source"] for one in shown["texts"]] == ["1", "3"]
    tokenizer, loaded = hybridlm.Tokenizer.load(model), hybridlm.Oracle.from_file(oracle)
    for one, line in zip(shown["texts"], text.read_text().split("\n\n"), strict=True):
        tokens = np.append(np.uint16(tokenizer.bos_id), tokenizer.encode(line))
        assert one["perplexity"] == pytest.approx(loaded.perplexity(tokens))
        assert one["orders"] == loaded.matched_orders(tokens, start=1).tolist()
        assert sum(one["log_probs"]) == pytest.approx(-one["bits"] * math.log(2), abs=1e-4)
    assert shown["bits"] == pytest.approx(sum(one["bits"] for one in shown["texts"]))
    assert shown["bpb"] == pytest.approx(shown["bits"] / sum(map(len, text.read_text().split("\n"))))
    assert main(["oracle", "score", oracle, str(text), "--tokenizer", model, "--by", "document"]) == 0
    assert "text.txt#2" in capsys.readouterr().out
    # The texts in JSON are read for what they are, as everywhere: their markup is no text.
    lines = tmp_path / "text.jsonl"
    lines.write_text("".join(json.dumps({"body": line}) + "\n" for line in text.read_text().split("\n\n")))
    options = ["--tokenizer", model, "--text-field", "body", "--json"]
    assert main(["oracle", "score", oracle, str(lines), *options]) == 0
    from_json = json.loads(capsys.readouterr().out)
    assert [one["source"] for one in from_json["texts"]] == [f"{lines}:1:1", f"{lines}:2:1"]
    assert [one["log_probs"] for one in from_json["texts"]] == [one["log_probs"] for one in shown["texts"]]
    assert main(["oracle", "score", oracle, str(lines), "--tokenizer", model, "--plain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] > from_json["tokens"]
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(text.read_bytes())))  # type: ignore[arg-type]
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["oracle", "score", oracle, "--tokenizer", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == shown["texts"]
    # What else a reader has at hand in place of counts, and of shards.
    for file, complaint in {oracle: "it looks like an oracle", str(text): "it looks like text"}.items():
        assert main(["oracle", "ngrams", file, "--ids", "5"]) == 1
        told = capsys.readouterr().err
        assert complaint in told and "oracle count" in told and told.count("\n") == 1
    folder = str(example_folder / "data")
    assert main(["oracle", "eval", oracle, "--val", folder, "--tokenizer", model]) == 1
    assert f"{folder}/*_val_*.bin" in capsys.readouterr().err

    assert main(["oracle", "export", oracle, "-o", str(tmp_path / "o.arpa")]) == 0
    assert "bytes" in capsys.readouterr().out
    assert Arpa(tmp_path / "o.arpa").score((), "<s>")[0] < 0

    part = str(tmp_path / "t.part")
    shard = str(example_folder / "data" / "text_train_000000.bin")
    assert main(["oracle", "count", shard, "-o", part, "--estimator", "sparse", "--tokenizer", model]) == 0
    capsys.readouterr()
    command = ["oracle", "ngrams", part, "--text", " the", "--tokenizer", model]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    tokens = hybridlm.read_stream([shard]).tolist()
    ngram = found["tokens"]
    at = [i for i in range(len(tokens)) if tokens[i : i + len(ngram)] == ngram]
    assert found["count"] == len(at) > 10
    assert [tokenizer.pieces[token].whole for token in ngram] == [b" the"]
    after = Counter(str(tokens[i + len(ngram)]) for i in at if i + len(ngram) < len(tokens))
    assert found["continuations"] == after
    assert main(command) == 0
    assert f"{len(at):,} times" in capsys.readouterr().out
    capsys.readouterr()
    assert main(["oracle", "ngrams", part, "--text", "of the", "--tokenizer", model]) == 0
    said = capsys.readouterr()
    assert ": 0 times" in said.out and "within a text it is ' of the'" in said.err
    assert main(["oracle", "ngrams", part, "--text", " of the", "--tokenizer", model, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    pieces = [tokenizer.pieces[token].whole for token in tokens]
    assert found["count"] == sum(pair == (b" of", b" the") for pair in itertools.pairwise(pieces)) > 0
    assert main(["oracle", "ngrams", part, "--text", "the"]) == 2
    assert "needs --tokenizer" in capsys.readouterr().err
