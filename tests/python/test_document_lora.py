"""Adapters per document: equal to a slow loop, the same however they are grouped, and audited."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hybridlm.distributed import Distributed
from hybridlm.model import GPT, ModelConfig, gpt
from hybridlm.scoring import document_lora
from hybridlm.scoring.artifact_experts import ExpertSet
from hybridlm.scoring.asked import Asked
from hybridlm.scoring.audit import AuditReport, audit
from hybridlm.scoring.audit_subject import MixtureSubject
from hybridlm.scoring.config import TTTConfig
from hybridlm.scoring.document_lora import DocumentExpert
from hybridlm.scoring.experts import Scored
from hybridlm.scoring.experts.counts import AdaptiveCounts
from hybridlm.scoring.learning import Arm, LearningExpert
from hybridlm.scoring.lora import Adapters
from hybridlm.scoring.neural import NeuralExpert
from hybridlm.scoring.rates import RateMixture
from hybridlm.scoring.windows import WindowGrid

V, CONTEXT, STEP = 20, 16, 6
ALONE = Distributed(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
OPTIONS = TTTConfig(targets=STEP, documents=3, rank=2, alpha=4.0, warm=False, weight_decay=0.5, margin=100.0)
RATE = 0.05

Tokens = NDArray[np.uint16]


def documents(lengths: list[int], seed: int = 0) -> Tokens:
    random = np.random.default_rng(seed)
    return np.concatenate([[1, *random.integers(2, V, length - 1)] for length in lengths]).astype(np.uint16)


# One that a step divides, one shorter than a step, one without any text.
STREAM = documents([30, 3, 1, 40, 13, 7, 22])


pytestmark = pytest.mark.usefixtures("one_thread")


SMALL = ModelConfig(
    layers=2, width=16, heads=2, kv_heads=1, mlp_hidden=16, vocab_size=V, rope_dims=4,
    sequence_length=CONTEXT, bigram_rows=16, bigram_width=8, zero_init_projections=False,
    embedding_std=0.3,
)  # fmt: skip


def small_model(config: ModelConfig = SMALL) -> GPT:
    torch.manual_seed(0)
    return GPT(config).eval()


@pytest.fixture(params=["plain", "recipe"])
def config(request: pytest.FixtureRequest, recipe: ModelConfig) -> ModelConfig:
    """Of a small model: without and with every piece of the recipe."""
    if request.param == "plain":
        return SMALL
    return replace(
        recipe,
        vocab_size=V,
        sequence_length=CONTEXT,
        bos_id=1,
        zero_init_projections=False,
        embedding_std=0.3,
    )


def make_expert(
    options: TTTConfig = OPTIONS, kind: type[DocumentExpert] = DocumentExpert, config: ModelConfig = SMALL
) -> DocumentExpert:
    untrained = small_model(config)
    return kind(small_model(config), options, ALONE, rate=RATE, context=CONTEXT, untrained=untrained)


def test_fresh_adapters_change_nothing_and_each_row_has_its_own(config: ModelConfig) -> None:
    model, plain = small_model(config), small_model(config)
    adapters = Adapters(model, rank=2, alpha=4.0)
    tokens = torch.from_numpy(STREAM[: 3 * CONTEXT].astype(np.int64)).view(3, CONTEXT)
    fresh = adapters.fresh()
    with torch.no_grad(), adapters.applied(fresh.repeat(3, 1)):
        torch.testing.assert_close(model(tokens), plain(tokens), rtol=0, atol=0)
    vectors = torch.randn(3, adapters.size, generator=torch.Generator().manual_seed(1)) * 0.2
    with torch.no_grad():
        with adapters.applied(vectors):
            together = model(tokens)
        for row in range(3):
            with adapters.applied(vectors[row : row + 1]):
                torch.testing.assert_close(together[row], model(tokens)[row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(tokens), plain(tokens), rtol=0, atol=0)
    assert not torch.allclose(together, plain(tokens), atol=0.01)


def test_adapters_are_what_their_matrices_say(config: ModelConfig) -> None:
    """W + scale · B A in the place of W, in every matrix that is adapted."""
    model, merged = small_model(config), small_model(config)
    adapters = Adapters(model, rank=2, alpha=4.0)
    vector = torch.randn(1, adapters.size, generator=torch.Generator().manual_seed(1)) * 0.2
    names = [f"blocks.{block}.{matrix}.weight" for block in range(config.layers) for matrix in (
        "attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down",
    )]  # fmt: skip
    shapes = [dict(merged.named_parameters())[name].shape for name in names] + [torch.Size([V, config.width])]
    firsts = vector[0, : adapters.first_size].split([2 * shape[1] for shape in shapes])  # type: ignore[no-untyped-call]
    seconds = vector[0, adapters.first_size :].split([2 * shape[0] for shape in shapes])  # type: ignore[no-untyped-call]
    deltas = [2.0 * b.view(-1, 2) @ a.view(2, -1) for a, b in zip(firsts, seconds, strict=True)]
    tokens = torch.from_numpy(STREAM[:CONTEXT].astype(np.int64))[None]
    with torch.no_grad():
        for name, delta in zip(names, deltas, strict=False):
            dict(merged.named_parameters())[name].add_(delta)
        # The head is tied to the embedding, which isn't adapted.
        merged.head_adapter = lambda x, logits: logits + F.linear(x, deltas[-1])
        with adapters.applied(vector):
            torch.testing.assert_close(model(tokens), merged(tokens), rtol=1e-4, atol=1e-4)


class Remembering:
    """`gpt.attend` in passes over whole windows, in which the first ``old`` tokens have the keys and values
    that an earlier pass gave them; keys are turned to their new places."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._run = 0
        self.old = 0

    def next_pass(self, old: int) -> None:
        self._run, self.old = 0, old

    def forget(self) -> None:
        self._kept = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: gpt.AttentionMask) -> Tensor:
        if self.old:
            kept_key, kept_value = self._kept[self._run]
            moved = kept_key.shape[2] - self.old
            cos, sin = gpt.rotary_angles(
                moved + 1, self._config.rope_dims, self._config.rope_base, key.device
            )
            turned = gpt.rotate(kept_key[:, :, moved:], cos[-1:], -sin[-1:])
            key = torch.cat((turned, key[:, :, self.old :]), dim=2)
            value = torch.cat((kept_value[:, :, moved:], value[:, :, self.old :]), dim=2)
        if self._run == len(self._kept):
            self._kept.append((key.detach(), value.detach()))
        else:
            self._kept[self._run] = key.detach(), value.detach()
        self._run += 1
        return PLAIN_ATTEND(query, key, value, mask)


PLAIN_ATTEND = gpt.attend


def slow_scores(
    stream: Tokens, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> tuple[NDArray[np.float64], int]:
    """One document after the other, one step after the other, each with an optimiser of its own."""
    remembering = Remembering(config)
    monkeypatch.setattr(gpt, "attend", remembering)
    nll, updates = np.full(len(stream) - 1, np.nan), 0
    begins = [*np.flatnonzero(stream[:-1] == 1).tolist(), len(stream) - 1]
    model = small_model(config)
    model.requires_grad_(False)
    adapters = Adapters(model, OPTIONS.rank, OPTIONS.alpha)
    for origin, end in itertools.pairwise(begins):
        vector, square = adapters.fresh()[None].requires_grad_(), torch.zeros(1, adapters.size)
        remembering.forget()
        for step, first in enumerate(range(origin + 1, end + 1, STEP), 1):
            context = max(0, first - 1 + STEP - CONTEXT)
            last = min(first + STEP - 1, end)
            tokens = torch.from_numpy(stream[context : last + 1].astype(np.int64))
            if step == 1 and context < origin:
                remembering.next_pass(0)
                model(tokens[None, : origin - context])
            remembering.next_pass(first - 1 - context)
            with adapters.applied(vector):
                logits = model(tokens[None, :-1])[0, first - 1 - context :]
            losses = F.cross_entropy(logits, tokens[first - context :], reduction="none")
            nll[first - 1 : last] = losses.detach().numpy()
            if last < end:
                updates += 1
                (gradient,) = torch.autograd.grad(losses.mean(), vector)
                square = 0.99 * square + 0.01 * gradient**2
                with torch.no_grad():
                    moved = RATE * gradient / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
                    vector = (vector * (1 - RATE * 0.5) - moved).requires_grad_()
    monkeypatch.undo()
    return nll, updates


def test_equal_to_a_slow_loop(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    expert = make_expert(config=config)
    found = expert.score(STREAM, 1).log_probs[0]
    expected, updates = slow_scores(STREAM, config, monkeypatch)
    np.testing.assert_allclose(-found, expected, atol=2e-4)
    assert expert.updates == updates > 10
    untrained = make_expert(config=config)
    untrained._rate = 0.0
    assert np.abs(untrained.score(STREAM, 1).log_probs[0] - found).max() > 0.05, "there is something to see"


@pytest.mark.parametrize("grouped", [1, 3, 8])
def test_no_bit_depends_on_how_the_stream_is_cut(grouped: int, config: ModelConfig) -> None:
    options = replace(OPTIONS, documents=grouped)
    whole, updates = make_expert(options, config=config), 0
    expected = whole.score(STREAM, 1).log_probs
    for cut in (1, 5, 33):
        expert = make_expert(options, config=config)
        pieces = [expert.score(STREAM[: at + cut], at).log_probs for at in range(1, len(STREAM), cut)]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), expected)
        assert expert.fingerprint() == whole.fingerprint()
        updates = expert.updates
    assert updates == whole.updates
    with pytest.raises(ValueError, match="can't start at 9"):
        expert.score(STREAM[:20], 9)


def test_passes_are_shorter_only_where_rows_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(OPTIONS, documents=8)
    shrinking = make_expert(options)
    assert shrinking._sizes[-1] == 8
    monkeypatch.setattr(DocumentExpert, "_equal_sizes", lambda expert: [8])
    expected = make_expert(options).score(STREAM, 1).log_probs
    np.testing.assert_array_equal(shrinking.score(STREAM, 1).log_probs, expected)
    monkeypatch.undo()

    def kernel(model: torch.nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        return logits * (1 + 1e-6 * (len(logits) == 2))

    model = small_model()
    model.register_forward_hook(kernel)
    odd = DocumentExpert(model, options, ALONE, rate=RATE, context=CONTEXT, untrained=small_model())
    assert odd._sizes == [size for size in shrinking._sizes if size != 2]


def test_rows_and_predictions_are_those_of_the_scores() -> None:
    expert, shown, looking = make_expert(), make_expert(), make_expert()
    log_probs = expert.score(STREAM, 1).log_probs[0]
    rows = np.empty((1, len(STREAM) - 1, V), np.float32)
    np.testing.assert_allclose(shown.score_rows(STREAM, 1, rows).log_probs[0], log_probs, atol=1e-6)
    np.testing.assert_allclose(np.exp(rows).sum(axis=2), 1, atol=1e-6)
    for end in (1, 6, 7, 8, 13, 30, 31, 33, 35, 60):
        if end > 1:
            looking.score(STREAM[:end], max(1, looking._seen))
        before = looking.fingerprint()
        np.testing.assert_allclose(looking.predict(STREAM[:end]).log_probs[0], rows[0, end - 1], atol=2e-5)
        assert looking.fingerprint() == before


def test_warm_adapters_and_phases_reach_later_chunks_alone() -> None:
    cut = 80
    for options in (replace(OPTIONS, warm=True), replace(OPTIONS, phases=1)):
        plain, learned = make_expert(), make_expert(options)
        for expert in (plain, learned):
            expert.score(STREAM[:cut], 1)
        assert torch.equal(plain._open.vector, learned._open.vector)
        for expert in (plain, learned):
            expert.learn(STREAM[:cut], 1)
        a, b = (expert.score(STREAM, cut).log_probs[0] for expert in (plain, learned))
        assert not np.array_equal(a, b)
        assert learned._open.valid.any()
        learned.undo()
        assert torch.equal(learned._begin, plain._begin)
        assert not learned._open.valid.any(), "what the adapters have made is forgotten with them"


def parts_with(
    options: TTTConfig = OPTIONS, spoil: Callable[[DocumentExpert], None] = lambda expert: None,
    rates: type[RateMixture] = RateMixture, kind: type[DocumentExpert] = DocumentExpert,
) -> Callable[[], ExpertSet]:  # fmt: skip
    def parts() -> ExpertSet:
        untrained = NeuralExpert(small_model(), WindowGrid(CONTEXT, 8), ALONE, group=2)
        expert = make_expert(options, kind)
        spoil(expert)
        arms = [Arm(0.0, untrained, None), Arm(RATE, expert, expert)]
        learning = LearningExpert(arms, untrained, margin=100.0, probe=8)
        learning._rates = rates(2)
        return ExpertSet([learning, AdaptiveCounts(V)], [learning])

    return parts


def audited(parts: Callable[[], ExpertSet], *, chunk: int = 60, other_chunks: bool = False) -> AuditReport:
    return audit(
        MixtureSubject(parts, "eg"), STREAM, V,
        chunk=chunk, other_chunks=other_chunks, rows=14, changes=5,
    )  # fmt: skip


@pytest.mark.parametrize("kept", [{}, {"warm": True}, {"warm": True, "phases": 2}])
def test_adapters_per_document_pass_the_audit(kept: dict[str, int]) -> None:
    report = audited(parts_with(replace(OPTIONS, **kept)), other_chunks=not kept)  # type: ignore[arg-type]
    assert report.passed, report
    learns = report.score_first.learns
    assert learns["neural"] == learns["rates"] == "target" and learns["optimizer"] == "target"


class TrainsFirst(DocumentExpert):
    """Adapters begin a piece as they are after training on it."""

    def score_asked(self, stream: Tokens, start: int, asked: Asked) -> tuple[Scored, NDArray[np.float32]]:
        if len(stream) > start:
            seen, origin, opened = self._seen, self._origin, self._open
            super().score_asked(stream, start, asked)
            self._begin = self._open.vector.clone()
            self._seen, self._origin, self._open = seen, origin, opened
        return super().score_asked(stream, start, asked)


def test_adapters_trained_on_what_they_score_are_caught() -> None:
    report = audited(parts_with(kind=TrainsFirst))
    assert not report.passed and not report.causal.passed and not report.score_first.passed


class Leaking(document_lora._Passes):
    """One adapter for all documents that happen to be side by side."""

    def _train(self, gradient: Tensor, onwards: list[int]) -> None:
        super()._train(gradient, onwards)
        self._vectors[:] = self._vectors.mean(dim=0)


def test_adapters_that_leak_between_documents_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_lora, "_Passes", Leaking)
    report = audited(parts_with(), chunk=len(STREAM))
    assert not report.passed and not report.causal.passed


def test_a_phase_over_documents_that_are_not_committed_is_caught() -> None:
    def spoil(expert: DocumentExpert) -> None:
        score = expert.score_asked

        def trained_score(stream: Tokens, start: int, asked: Asked) -> tuple[Scored, NDArray[np.float32]]:
            assert expert._base is not None
            if len(stream) > start:
                expert._base.learn(stream, start)
            return score(stream, start, asked)

        expert.score_asked = trained_score  # type: ignore[method-assign]

    report = audited(parts_with(replace(OPTIONS, phases=9), spoil))
    assert not report.passed and not report.causal.passed and not report.normalised.passed


class Hindsight(RateMixture):
    """Takes the rate that turns out best for the piece."""

    def mix(self, log_probs: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        super().mix(log_probs)
        best = int(log_probs.sum(axis=1).argmax())
        weights = np.full(log_probs.shape, -np.inf)
        weights[best] = 0.0
        return log_probs[best].astype(np.float64), weights


def test_a_rate_chosen_by_the_chunk_that_it_scores_is_caught() -> None:
    report = audited(parts_with(rates=Hindsight))
    assert not report.passed and not report.causal.passed and not report.normalised.passed
