import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.artifact import Artifact, pack
from hybridlm.data.byte_table import ByteTable
from hybridlm.distributed import Distributed
from hybridlm.errors import InputError
from hybridlm.model import GPT, ModelConfig, neural_blob
from hybridlm.oracle.build import build_sparse
from hybridlm.scoring.config import ScoringConfig, TTTConfig
from hybridlm.scoring.evaluate import (
    EvaluationResult,
    Rate,
    ScoredChunk,
    evaluate,
    score_chunks,
)
from hybridlm.scoring.experts import Expert, Scored
from hybridlm.scoring.experts.counts import AdaptiveCounts, OnlineCounts
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.mixing import Mixers, MixtureSpec, expert_names, gather, rows_of
from hybridlm.scoring.mixtures import mixture_names, row_mixture_names
from hybridlm.scoring.neural import NeuralExpert
from hybridlm.scoring.ttt import TestTimeTrainer
from hybridlm.scoring.windows import WindowGrid

ALONE = Distributed(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
V = 24
WINDOW, STRIDE = 16, 4
LEARNING = TTTConfig(epochs=2, learning_rates=(0.05,), frozen_blocks=1)


pytestmark = pytest.mark.usefixtures("one_thread")


def text_like(n: int, seed: int = 0) -> NDArray[np.uint16]:
    """Tokens with a first-order structure that experts can learn; starts with BOS (1)."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(V, 0.15), V)
    tokens = [1]
    for _ in range(n - 1):
        tokens.append(int(rng.choice(V, p=table[tokens[-1]])))
    return np.array(tokens, np.uint16)


STREAM = text_like(400)


def make_artifact(neural: bool = True, oracle: bool = True) -> Artifact:
    torch.manual_seed(0)
    config = ModelConfig(
        layers=2, width=32, heads=2, kv_heads=1, mlp_hidden=32, vocab_size=V, sequence_length=WINDOW,
        rope_dims=8, bigram_rows=16, bigram_width=32, zero_init_projections=False, embedding_std=0.5,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "x_train_0.bin"
        _core.write_shard(str(shard), text_like(3000, seed=1))
        blob = build_sparse([shard], V, max_bytes=10_000, order=3)
    return Artifact.from_bytes(
        pack(
            neural_blob.encode(GPT(config), tokenizer="ab" * 32) if neural else None, blob if oracle else None
        )
    )


ARTIFACT = make_artifact()


def byte_table(vocab_size: int = V) -> ByteTable:
    lengths = np.arange(vocab_size, dtype=np.int32) % 4
    boundary = np.zeros(vocab_size, np.bool_)
    boundary[:4] = True
    lengths[:4] = 0
    return ByteTable(lengths, np.zeros(vocab_size, np.bool_), boundary)


def settings(**changes: object) -> ScoringConfig:
    return ScoringConfig(
        **{
            "stride": STRIDE,
            "chunk": 64,
            "batch": 4,
            "ttt": "off",
            "mixer": "hedge",
            "ttt_options": LEARNING,
            **changes,
        }  # type: ignore[arg-type]
    )


def all_experts(group: int = 4) -> tuple[NeuralExpert, list[Expert]]:
    """The neural one, and all in the order of a score."""
    model, oracle = ARTIFACT.load_model(), ARTIFACT.load_oracle()
    assert model is not None and oracle is not None
    neural = NeuralExpert(model, WindowGrid(WINDOW, STRIDE), ALONE, group=group)
    return neural, [neural, OnlineCounts(V), AdaptiveCounts(V), OracleExperts(oracle)]


def score(
    stream: NDArray[np.uint16], *, chunk: int = 64, ttt: bool = False, mixer: str = "hedge", group: int = 4
) -> list[ScoredChunk]:
    """The protocol's chunks, with all experts."""
    neural, experts = all_experts(group)
    trainer = TestTimeTrainer(neural.model, "sgd", LEARNING, ALONE, rate=0.05, sequence_length=WINDOW)
    learn = trainer.learn if ttt else None
    return list(score_chunks(stream, experts, {"all": MixtureSpec(mixer)}, chunk=chunk, learn=learn))


def joined(chunks: list[ScoredChunk]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    return (
        np.concatenate([chunk.log_probs for chunk in chunks], axis=1),
        np.concatenate([chunk.nll["all"] for chunk in chunks]),
    )


def slow_log_probs(stream: NDArray[np.uint16]) -> NDArray[np.float64]:
    """All experts, one target at a time, each from its definition."""
    model, oracle = ARTIFACT.load_model(), ARTIFACT.load_oracle()
    assert model is not None and oracle is not None
    counts = {name: np.ones((rows, V)) for name, rows in [("unigram", 1), ("bigram", V), ("trigram", 8192)]}
    columns = []
    for t in range(1, len(stream)):
        previous, before = int(stream[t - 1]), int(stream[t - 2]) if t >= 2 else 0
        token = int(stream[t])
        # The last-window rule: the window whose end is the first of T, T + S, T + 2S … to reach t.
        end = WINDOW if t <= WINDOW else WINDOW + -(-(t - WINDOW) // STRIDE) * STRIDE
        context = torch.from_numpy(stream[max(0, end - WINDOW) : t].astype(np.int64))
        with torch.no_grad():
            column = [float(torch.log_softmax(model(context[None])[0, -1].double(), 0)[token])]
        rows = {"unigram": 0, "bigram": previous, "trigram": ((1000003 * before) ^ (1009 * previous)) % 8192}
        if t == 1:
            # The first token is context that was seen, though never scored.
            counts["unigram"][0, previous] += 1
            counts["bigram"][0, previous] += 1
            counts["trigram"][0, previous] += 1
            decayed = np.zeros(V)
            decayed[previous] = 1
        for name, row in rows.items():
            column.append(np.log(counts[name][row, token] / counts[name][row].sum()))
            counts[name][row, token] += 1
        column.append(np.log((decayed[token] + 1) / (decayed.sum() + V)))
        decayed *= 0.999
        decayed[token] += 1
        column += [float(row[0, token]) for row in oracle.log_probs(stream[:t], np.array([t]))]
        columns.append(column)
    return np.array(columns).T


def test_every_expert_equals_a_slow_loop() -> None:
    log_probs, _ = joined(score(STREAM))
    # The adaptive ones, rows 5 to 7, have their slow loops in tests/rust/experts.rs.
    np.testing.assert_allclose(np.delete(log_probs, slice(5, 8), 0), slow_log_probs(STREAM), atol=3e-5)


@pytest.mark.parametrize("mixer", [*mixture_names(), *row_mixture_names()])
def test_without_learning_chunks_change_no_bit(mixer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whole rows come in pieces of their own, which must change nothing either.
    monkeypatch.setattr("hybridlm.scoring.mixing.ROW_VALUES", 50 * V)
    whole = joined(score(STREAM, chunk=1000, mixer=mixer))
    for chunk in (1, 7, 64, 150):
        pieces = score(STREAM, chunk=chunk, mixer=mixer)
        assert [piece.start for piece in pieces] == list(range(1, len(STREAM), chunk))
        for part, expected in zip(joined(pieces), whole, strict=True):
            np.testing.assert_array_equal(part, expected)


def test_windows_of_one_forward_pass_change_rounding_at_most() -> None:
    a, b = joined(score(STREAM, group=1))[0], joined(score(STREAM, group=16))[0]
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("changed", [30, 129, 200])
@pytest.mark.parametrize(
    ("ttt", "mixer"),
    [(False, "hedge"), (True, "hedge"), (True, "stacked"), (False, "geometric"), (True, "best")],
)
def test_a_later_token_changes_no_earlier_score(ttt: bool, mixer: str, changed: int) -> None:
    other = STREAM.copy()
    other[changed:] = (other[changed:] + 1) % V
    for one, two in [(STREAM, other), (STREAM, STREAM[:changed])]:
        first, second = (joined(score(stream, ttt=ttt, mixer=mixer)) for stream in (one, two))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a[..., : changed - 1], b[..., : changed - 1])
            assert b.shape[-1] == len(two) - 1
    # It does change its own: the test would notice a comparison of nothing.
    second = joined(score(other, ttt=ttt, mixer=mixer))
    assert not np.array_equal(second[1][changed - 1 :], first[1][changed - 1 :])


def test_learning_changes_what_comes_after_the_first_chunk_only() -> None:
    still, learning = joined(score(STREAM))[0], joined(score(STREAM, ttt=True))[0]
    np.testing.assert_array_equal(still[:, :64], learning[:, :64])
    assert (still[0, 64:] != learning[0, 64:]).mean() > 0.9
    np.testing.assert_array_equal(still[1:], learning[1:])


def test_a_chunk_is_learned_from_once_after_it_is_committed_and_the_last_never() -> None:
    committed: list[int] = []
    learned: list[tuple[int, int]] = []

    def learn(seen: NDArray[np.uint16], start: int) -> None:
        assert committed[-1] == start
        learned.append((start, len(seen)))

    chunks = score_chunks(STREAM, [OnlineCounts(V)], {"all": MixtureSpec("hedge")}, chunk=150, learn=learn)
    for chunk in chunks:
        committed.append(chunk.start)
    assert committed == [1, 151, 301]
    assert learned == [(1, 151), (151, 301)]


@pytest.mark.parametrize("position", [1, 17, 64, 70])
@pytest.mark.parametrize("mixer", ["hedge", "stacked", "geometric", "best"])
def test_experts_and_mixture_sum_to_one_over_the_vocabulary(mixer: str, position: int) -> None:
    """Every token is tried as the next one; the probabilities of all of them must be a distribution."""
    log_probs, nll = [], []
    for token in range(V):
        stream = np.append(STREAM[:position], np.uint16(token))
        a, b = joined(score(stream, ttt=True, mixer=mixer))
        log_probs.append(a[:, -1])
        nll.append(b[-1])
    np.testing.assert_allclose(np.exp(np.array(log_probs, np.float64)).sum(axis=0), 1, atol=1e-5)
    assert np.exp(-np.array(nll)).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("mixer", [*mixture_names(), *row_mixture_names()])
def test_a_row_is_what_every_next_token_would_score(mixer: str) -> None:
    _, experts = all_experts()
    mixers = Mixers({"": MixtureSpec(mixer)}, experts)
    mixers.score(STREAM[:20], 1)
    for start, end in [(20, 21), (21, 150), (150, 151)]:
        row = mixers[""].row(STREAM[:start])
        assert np.exp(row).sum() == pytest.approx(1, abs=1e-6)
        nll = mixers.score(STREAM[:end], start)[1][""]
        assert -row[STREAM[start]] == pytest.approx(nll[0], abs=1e-5)


def test_whole_rows_are_those_of_the_next_token() -> None:
    _, experts = all_experts()
    _, looking = all_experts()
    plain = np.concatenate([scored.log_probs for scored in gather(experts, STREAM[:100], 1)])
    for start, end in [(1, 30), (30, 31), (31, 100)]:
        rows = rows_of(looking, end - start)
        shown = [expert.predict(STREAM[:start]).log_probs for expert in looking if start > 1]
        found = np.concatenate(
            [scored.log_probs for scored in gather(looking, STREAM[:end], start, rows=rows)]
        )
        np.testing.assert_allclose(found, plain[:, start - 1 : end - 1], atol=1e-6)
        np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(axis=2), 1, atol=1e-5)
        np.testing.assert_array_equal(
            np.take_along_axis(rows, STREAM[None, start:end, None].astype(np.int64), axis=2)[..., 0], found
        )
        if shown:
            np.testing.assert_allclose(np.exp(rows[:, 0]), np.exp(np.concatenate(shown)), atol=1e-6)


def test_the_default_beats_what_it_is_made_of() -> None:
    """On text with a structure that counts find."""
    stream = text_like(6000, seed=5)
    oracle = ARTIFACT.load_oracle()
    assert oracle is not None
    experts: list[Expert] = [AdaptiveCounts(V), OracleExperts(oracle)]
    specs = {mixer: MixtureSpec(mixer) for mixer in ("stacked", "eg", "bayes")}
    chunks = list(score_chunks(stream, experts, specs, chunk=6000))
    total = {mixer: chunks[0].nll[mixer].sum() for mixer in specs}
    best = -chunks[0].log_probs.sum(axis=1, dtype=np.float64).max()
    assert total["stacked"] < total["eg"] < best + 0.002 * len(stream)


def test_an_expert_without_whole_rows_is_refused() -> None:
    class Hidden(Expert):
        family = "adaptive"
        names = ("hidden",)
        vocab_size = V

        def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
            return Scored(np.full((1, len(stream) - start), -np.log(V), np.float32))

        def fingerprint(self) -> bytes:
            return b""

    with pytest.raises(InputError, match="adaptive expert has no whole rows"):
        Mixers({"": MixtureSpec("geometric")}, [Hidden()]).score(STREAM[:9], 1)
    mixers = Mixers({"": MixtureSpec("stacked")}, [Hidden()])
    np.testing.assert_allclose(mixers.score(STREAM[:9], 1)[1][""], np.log(V), rtol=1e-6)
    with pytest.raises(InputError, match="no whole rows"):
        mixers[""].row(STREAM[:9])


def test_result_adds_up_what_the_chunks_say() -> None:
    result = evaluate(ARTIFACT, STREAM, byte_table(), settings(), mixtures={
        "without oracle": MixtureSpec("hedge", ("neural", "online")),
        "tokenwise": MixtureSpec("hedge-token"),
    })  # fmt: skip
    log_probs, nll = joined(score(STREAM))
    assert result.tokens == len(STREAM) - 1
    assert result.bytes == int(byte_table().lengths(STREAM).sum())
    assert result.bits_per_token == pytest.approx(nll.sum() / np.log(2) / result.tokens, rel=1e-9)
    assert result.bpb == pytest.approx(nll.sum() / np.log(2) / result.bytes, rel=1e-9)
    assert list(result.experts) == [
        "neural", "tilted", "unigram", "bigram", "trigram", "decay", "backoff", "match", "cache",
        "oracle_1", "oracle_2", "oracle_3",
    ]  # fmt: skip
    # The tilted one stands with tests of its own.
    names = [name for name in result.experts if name != "tilted"]
    for name, row in zip(names, log_probs, strict=True):
        assert result.experts[name].bpb == pytest.approx(
            -row.sum(dtype=np.float64) / np.log(2) / result.bytes
        )
    alone = evaluate(ARTIFACT, STREAM, byte_table(), settings(no_oracle=True))
    assert result.mixtures["without oracle"] == Rate(alone.bits_per_token, alone.bpb)
    assert result.mixtures["tokenwise"].bpb == pytest.approx(
        joined(score(STREAM, mixer="hedge-token"))[1].sum() / np.log(2) / result.bytes, rel=1e-9
    )
    assert (result.mixer, result.ttt) == ("hedge", "off")
    assert result.seconds > 0 and {"neural", "online", "oracle", "mixture"} <= result.stages.keys()


def without_times(result: EvaluationResult) -> dict[str, object]:
    return {key: value for key, value in result.as_dict().items() if key not in ("seconds", "stages")}


def test_chunks_change_no_digit_of_the_result() -> None:
    results = [evaluate(ARTIFACT, STREAM, byte_table(), settings(chunk=chunk)) for chunk in (1, 50, 5000)]
    assert without_times(results[0]) == without_times(results[1]) == without_times(results[2])


def test_scoring_leaves_the_artifact_as_it_was() -> None:
    before = ARTIFACT.to_bytes()
    first = evaluate(ARTIFACT, STREAM, byte_table(), settings(ttt="adamw"))
    second = evaluate(ARTIFACT, STREAM, byte_table(), settings(ttt="adamw"))
    assert without_times(first) == without_times(second) and first.ttt == "adamw"
    assert ARTIFACT.to_bytes() == before


def test_learning_helps_on_text_that_the_model_was_not_trained_on() -> None:
    off = evaluate(ARTIFACT, STREAM, byte_table(), settings())
    sgd = evaluate(ARTIFACT, STREAM, byte_table(), settings(ttt="sgd"))
    assert sgd.experts["neural"].bpb < off.experts["neural"].bpb


@pytest.mark.parametrize(("neural", "oracle"), [(False, True), (True, False), (False, False)])
def test_parts_can_be_left_out(neural: bool, oracle: bool) -> None:
    flags = settings(no_neural=not neural, no_oracle=not oracle, ttt=None)
    left_out = evaluate(ARTIFACT, STREAM, byte_table(), flags)
    missing = evaluate(make_artifact(neural, oracle), STREAM, byte_table(), settings(ttt=None))
    assert without_times(left_out) == without_times(missing)
    assert ("neural" in left_out.experts, "oracle_1" in left_out.experts) == (neural, oracle)
    assert left_out.ttt == ("documents" if neural else "off")


@pytest.mark.parametrize("length", [2, 3, WINDOW, WINDOW + 1, WINDOW + 2, 65, 66])
def test_short_streams(length: int) -> None:
    result = evaluate(ARTIFACT, STREAM[:length], byte_table(), settings(ttt="sgd"))
    assert result.tokens == length - 1 and np.isfinite(result.bpb)


def test_input_that_cannot_be_scored_is_refused() -> None:
    table = byte_table()
    cases = [
        (lambda: evaluate(ARTIFACT, STREAM[:1], table, settings()), "no target"),
        (lambda: evaluate(ARTIFACT, np.full(9, 1, np.uint16), table, settings()), "no text"),
        (lambda: evaluate(ARTIFACT, STREAM, byte_table(V + 1), settings()), f"vocabulary of {V} .* {V + 1}"),
        (lambda: evaluate(ARTIFACT, STREAM, table, settings(mixer="nosuch")), "no mixer"),
        (lambda: evaluate(ARTIFACT, STREAM, table, settings(stride=WINDOW + 1)), "stride"),
        (lambda: evaluate(ARTIFACT, STREAM, table, settings(no_neural=True, ttt="sgd")), "needs a neural"),
        (lambda: settings(chunk=0), "chunk"),
    ]  # fmt: skip
    for attempt, message in cases:
        with pytest.raises(InputError, match=message):
            attempt()


def test_without_a_neural_model_torch_is_never_imported(tmp_path: Path) -> None:
    (tmp_path / "a.pgar").write_bytes(make_artifact(neural=False).to_bytes())
    np.save(tmp_path / "stream.npy", STREAM)
    program = f"""
        import sys
        import numpy as np
        from hybridlm.artifact import Artifact
        from hybridlm.data.byte_table import ByteTable
        from hybridlm.scoring.evaluate import evaluate
        table = ByteTable(np.ones({V}, np.int32), np.zeros({V}, bool), np.zeros({V}, bool))
        artifact = Artifact.from_file({str(tmp_path / "a.pgar")!r})
        result = evaluate(artifact, np.load({str(tmp_path / "stream.npy")!r}), table)
        assert result.tokens == {len(STREAM) - 1} and result.ttt == "off"
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_native_experts_score_the_next_chunk_while_the_model_scores_this_one() -> None:
    """The model says nothing of its first chunk before they have scored the second."""
    ahead = threading.Event()

    class Early(AdaptiveCounts):
        def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
            scored = super().score(stream, start)
            if start > 1:
                ahead.set()
            return scored

    class Waiting(Expert):
        family, names, vocab_size = "neural", ("neural",), V

        def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
            assert ahead.wait(30), "nothing was done meanwhile"
            return Scored(np.full((1, len(stream) - start), -np.log(V), np.float32))

        def fingerprint(self) -> bytes:
            return b""

    experts: list[Expert] = [Waiting(), Early(V)]
    chunks = list(score_chunks(STREAM, experts, {"all": MixtureSpec("eg")}, chunk=64))
    assert [chunk.start for chunk in chunks] == list(range(1, len(STREAM), 64))


def test_pieces_of_a_stream_must_follow_each_other() -> None:
    online = OnlineCounts(V)
    online.score(STREAM[:50], 1)
    with pytest.raises(ValueError, match="can't start at 60"):
        online.score(STREAM[:100], 60)
    assert expert_names([online]) == ("unigram", "bigram", "trigram", "decay")
