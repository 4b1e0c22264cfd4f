"""Per-document adapters: each document is scored a few targets at a time by a model that has adapted to it.

A document begins with adapters that change nothing. Its targets are scored in *steps* of so many; after each
step but the last, its adapters take one Adam step on that step's mean nll. A document is what follows a
document token, up to and with the next one. Steps are laid out from the document's beginning, and every step
is scored with the same number of tokens of context, whatever documents they are of: they have all been
committed. A document's first step computes a whole window. Later ones compute their own tokens alone: they
see the keys and values of those before as the adapters of their time made them, and gradients end there.

**Order of commitment.** The target at t is scored by weights that depend on the targets before t alone: on
those of its own document, through the adapters; on those of earlier *chunks*, through the A that its adapters
begin with and through the phases of a global pass; on nothing else. So the documents of a chunk can be scored
side by side, and how they are grouped changes nothing: mixture and online experts then meet their scores in
the stream's order, as they meet anybody's. Adapters take a step when the document's next target is asked for
and not before, which is why nothing need be known of where a document ends, and why the last step of each is
never trained on.

Forward passes have one of two shapes, that of first steps and that of later ones, with rows of padding where
there are fewer documents, and every
row of such a pass has the same bits wherever it stands: matrix products add up each row in one order.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hybridlm.distributed import Distributed
from hybridlm.model import GPT
from hybridlm.model.gpt import Cache
from hybridlm.scoring.config import TTTConfig
from hybridlm.scoring.experts import Expert, Scored
from hybridlm.scoring.lora import Adapters
from hybridlm.scoring.neural import healthy_logits, state_hash
from hybridlm.scoring.ttt import DEFAULT_LEARNING_RATE, TestTimeTrainer, deterministic

_TARGETS = 32
_SQUARE_DECAY = 0.99
_EPSILON = 1e-8


@dataclass
class _Memory:
    """Adapters of one document and their optimiser: vectors of ``Adapters.size``, and steps taken.

    past: [tracks, runs, 2, G, M, C], keys and values of the M tokens before the next step; valid: bool
    [tracks, M], those that there are. A document at its first step has none. The first track is the stream,
    and where there are lessons, the second one is theirs.
    """

    vector: torch.Tensor
    square: torch.Tensor
    past: torch.Tensor
    valid: torch.Tensor
    steps: int

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.vector, self.square, self.past, self.valid


@dataclass
class _Document:
    """Targets first … last of the document whose token is at ``origin``, to be scored now.

    steps: those that its adapters have taken; the first pass is over the step after them.
    """

    origin: int
    first: int
    last: int
    memory: _Memory | None
    steps: int


class DocumentExpert(Expert):
    """ln p of each target by adapters of its document; raises ValueError for pieces that don't follow.

    ``context`` tokens are seen at once. ``lessons``: what adapters are trained on in place of the stream, at
    the same places. It is its own trainer: `learn` ends a chunk.
    """

    family = "neural"
    names = ("neural",)

    def __init__(
        self,
        model: GPT,
        config: TTTConfig,
        dist: Distributed,
        *,
        rate: float,
        context: int,
        untrained: GPT,
        lessons: NDArray[np.uint16] | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.vocab_size = model.config.vocab_size
        self.model = model.requires_grad_(False)
        self._bos_id = model.config.bos_id
        self._config = config
        self._dist = dist
        self._rate = rate
        self._context = context
        self._targets = min(config.targets or max(1, min(_TARGETS, context // 2)), context)
        self._untrained = untrained
        self._lessons = lessons
        self._autocast = autocast
        self._adapters = Adapters(model, config.rank, config.alpha)
        self._fresh = self._adapters.fresh().to(dist.device)
        self._begin = self._fresh.clone()
        """What a document's adapters begin with."""
        self._latest = self._fresh[: self._adapters.first_size].clone()
        """The A of the latest document that had a step."""
        self._base = None
        if config.phases:
            self.model.requires_grad_(True)
            self._base = TestTimeTrainer(
                model, "sgd", config, dist,
                rate=DEFAULT_LEARNING_RATE["sgd"], sequence_length=context, autocast=autocast,
            )  # fmt: skip
        self._chunks = 0
        self._seen = 0
        self._origin = 0
        self._open = self._fresh_memory()
        """Of the document that the stream so far ends in."""
        self.updates = 0
        self.undone = 0

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        """A collective: every rank calls it with the same arguments and gets the same result."""
        return self._score(stream, start, None)

    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        return self._score(stream, start, rows[0])

    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        target = len(stream)
        (document,) = self._documents(np.append(stream, self._bos_id).astype(np.uint16), target)
        rows = np.empty((1, self.vocab_size), np.float32)
        with deterministic(self._dist.device):
            _Group(self, stream, [document], target + 1).run(None, rows, target)
        return Scored(rows)

    def learn(self, stream: NDArray[np.uint16], start: int) -> None:
        """The chunk stream[start:] is committed: later documents begin with what it leaves."""
        self._chunks += 1
        if self._config.warm:
            self._begin = torch.cat((self._latest, self._fresh[self._adapters.first_size :]))
        if self._base is not None and self._chunks <= self._config.phases:
            before = self._base.updates
            self._base.learn(stream, start)
            self.updates += self._base.updates - before

    def is_finite(self) -> bool:
        base = self._base is None or self._base.is_finite()
        return base and bool(torch.isfinite(self._begin).all() and torch.isfinite(self._open.vector).all())

    def undo(self) -> None:
        self._begin, self._latest = self._fresh.clone(), self._fresh[: self._adapters.first_size].clone()
        self._open.vector, self._open.square = self._begin.clone(), torch.zeros_like(self._begin)
        # Keys and values are what the adapters have made of the tokens before.
        self._open.valid = torch.zeros_like(self._open.valid)
        if self._base is not None:
            self._base.undo()

    def fingerprint(self) -> bytes:
        """Of the model, of all adapters that are kept, and of the place in the stream."""
        return state_hash([*self.model.state_dict().values(), *self.state().values()])

    def state(self) -> dict[str, torch.Tensor]:
        counts = [self._chunks, self._seen, self._origin, self._open.steps, self.updates, self.undone]
        found = {
            "counts_of_documents": torch.tensor(counts),
            "begin": self._begin,
            "latest": self._latest,
            "open": self._open.vector,
            "open_square": self._open.square,
            "open_past": self._open.past,
            "open_valid": self._open.valid,
        }
        if self._base is not None:
            found |= {f"base_{name}": value for name, value in self._base.state().items()}
        return found

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        counts = map(int, state["counts_of_documents"])
        self._chunks, self._seen, self._origin, steps, self.updates, self.undone = counts
        device = self._dist.device
        self._begin, self._latest = state["begin"].to(device), state["latest"].to(device)
        self._open = _Memory(
            state["open"].to(device),
            state["open_square"].to(device),
            state["open_past"].to(device),
            state["open_valid"].to(device),
            steps,
        )
        if self._base is not None:
            base = {key.removeprefix("base_"): state[key] for key in state if key.startswith("base_")}
            self._base.restore(base)

    def _documents(self, stream: NDArray[np.uint16], start: int) -> list[_Document]:
        """Those that the targets stream[start:] are of, in order; the first may have begun before."""
        if self._seen not in (0, start):
            raise ValueError(f"scored up to {self._seen}, so the next piece can't start at {start}")
        begins = (start - 1 + np.flatnonzero(stream[start - 1 : -1] == self._bos_id)).tolist()
        found = []
        if not begins or begins[0] != start - 1:
            begins.insert(0, self._origin)
        for origin, following in zip(begins, [*begins[1:], len(stream) - 1], strict=True):
            memory = self._open if self._seen and origin == self._origin else None
            first = max(start, origin + 1)
            found.append(_Document(origin, first, following, memory, memory.steps if memory else 0))
        return found

    def _score(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32] | None) -> Scored:
        if len(stream) <= start:
            return Scored(np.empty((1, 0), np.float32))
        documents = self._documents(stream, start)
        steps = {document.origin: self._step_of(document.origin, document.last) for document in documents}
        # Those of like length side by side, so that few rows of a pass are padding.
        order = sorted(documents, key=lambda document: document.steps - steps[document.origin])
        size = self._config.documents
        groups = [order[at : at + size] for at in range(0, len(order), size)]
        found = torch.zeros(len(stream) - start, dtype=torch.float32, device=self._dist.device)
        last, trained = documents[-1], [document for document in documents if steps[document.origin]]
        keep = {document.origin for document in (last, *trained[-1:])}
        kept: dict[int, _Memory] = {}
        owners: dict[int, int] = {}
        undone = torch.zeros(1, dtype=torch.int64, device=self._dist.device)
        with deterministic(self._dist.device):
            for at, documents_of_group in enumerate(groups):
                owner = at % self._dist.world_size if rows is None else self._dist.rank
                owners |= {document.origin: owner for document in documents_of_group}
                if owner == self._dist.rank:
                    group = _Group(self, stream, documents_of_group, len(stream))
                    group.run(found, rows, start)
                    kept |= {origin: group.memory(origin) for origin in keep & group.origins}
                    undone += group.undone
        if rows is None:
            # One rank's score and the others' zeros: their sum is exact in any order.
            self._dist.all_reduce_sum_(found)
            self._dist.all_reduce_sum_(undone)
        for origin in sorted(keep):
            kept[origin] = self._shared(kept.get(origin), steps[origin], owners[origin], rows is None)
        self.undone += int(undone)
        self.updates += sum(steps[document.origin] - document.steps for document in documents)
        if trained:
            self._latest = kept[trained[-1].origin].vector[: self._adapters.first_size].clone()
        self._open, self._origin, self._seen = kept[last.origin], last.origin, len(stream)
        return Scored(found.cpu().numpy()[None])

    def _shared(self, memory: _Memory | None, steps: int, owner: int, spread: bool) -> _Memory:
        """The owner's memory, on every rank."""
        if memory is None:
            memory = self._fresh_memory()
            memory.steps = steps
        if spread:
            for tensor in memory.tensors():
                self._dist.broadcast_(tensor, owner)
        return memory

    def _fresh_memory(self) -> _Memory:
        config, device = self.model.config, self._dist.device
        before = self._context - self._targets
        runs = len(config.layer_order(self.model.recurrent))
        tracks = 1 if self._lessons is None else 2
        past = torch.zeros(tracks, runs, 2, config.kv_heads, before, config.head_width, device=device)
        valid = torch.zeros(tracks, before, dtype=torch.bool, device=device)
        return _Memory(self._begin.clone(), torch.zeros_like(self._begin), past, valid, 0)

    def _step_of(self, origin: int, target: int) -> int:
        """Which of its document's steps scores ``target``: as many come before it."""
        return (target - origin - 1) // self._targets


class _Group:
    """Documents that go through the model together, each with adapters of its own."""

    def __init__(
        self, expert: DocumentExpert, stream: NDArray[np.uint16], documents: list[_Document], end: int
    ) -> None:
        self.origins = {document.origin for document in documents}
        self.undone = 0
        self._expert = expert
        self._stream = stream
        self._documents = documents
        self._end = end
        size = expert._config.documents
        memories = [document.memory or expert._fresh_memory() for document in documents]
        memories += [expert._fresh_memory()] * (size - len(documents))
        self._vectors = torch.stack([memory.vector for memory in memories])
        self._squares = torch.stack([memory.square for memory in memories])
        self._past = torch.stack([memory.past for memory in memories], dim=3)
        self._valid = torch.stack([memory.valid for memory in memories], dim=1)
        self._steps = [document.steps for document in documents]

    def memory(self, origin: int) -> _Memory:
        row = next(row for row, document in enumerate(self._documents) if document.origin == origin)
        return _Memory(
            self._vectors[row].clone(),
            self._squares[row].clone(),
            self._past[:, :, :, row].clone(),
            self._valid[:, row].clone(),
            self._steps[row],
        )

    def run(self, found: torch.Tensor | None, rows: NDArray[np.float32] | None, start: int) -> None:
        """Scores all documents' targets, step by step: ln p into ``found`` [n], and into ``rows`` [n, V] that
        of every token, from target ``start`` on."""
        expert = self._expert
        last = [expert._step_of(document.origin, document.last) for document in self._documents]
        while True:
            active = [row for row, step in enumerate(self._steps) if step <= last[row]]
            if not active:
                break
            # Documents that go on from an earlier piece may stand beside such as begin.
            for first in (True, False):
                now = [row for row in active if (self._steps[row] == 0) == first]
                if now:
                    self._step(now, [row for row in now if self._steps[row] < last[row]], found, rows, start)
            for row in active:
                # A document's last step isn't trained on; it is over here, but may go on in the next piece.
                self._steps[row] += 1
        for row, step in enumerate(last):
            self._steps[row] = step

    def _step(
        self,
        active: list[int],
        onwards: list[int],
        found: torch.Tensor | None,
        rows: NDArray[np.float32] | None,
        start: int,
    ) -> None:
        """Scores the rows ``active``, all of which or none are at their first step; trains ``onwards``."""
        expert = self._expert
        # Always with gradients: without them attention may be another kernel, of other bits.
        vectors = self._vectors.detach().requires_grad_()
        inputs = self._inputs(active, self._stream)
        cache = self._cache(active, 0)
        logits = self._logits(vectors, inputs, cache)
        healthy = healthy_logits(logits.detach(), inputs, expert._untrained, expert._autocast)
        for row in active:
            self._write(row, healthy[row], found, rows, start)
        if not onwards:
            return
        caches = [cache]
        if expert._lessons is not None:
            caches.append(self._cache(onwards, 1))
            logits = self._logits(vectors, self._inputs(onwards, expert._lessons), caches[1])
        self._train(vectors, logits, onwards)
        for track, cache in enumerate(caches):
            self._keep(onwards, track, cache)

    def _cache(self, active: list[int], track: int) -> Cache:
        """What the rows' next step sees of the tokens before. At the first step, nothing is kept yet; what
        stands for tokens before the stream's beginning is not to be seen."""
        if self._steps[active[0]]:
            return Cache(self._past[track], self._valid[track])
        begins = torch.zeros(len(self._vectors), 1, dtype=torch.int64)
        for row in active:
            begins[row] = -self._place(row)[2]
        columns = torch.arange(self._expert._context, device=self._vectors.device)
        return Cache(valid=columns >= begins.to(columns.device))

    def _keep(self, onwards: list[int], track: int, cache: Cache) -> None:
        """Moves the past of the rows ``onwards`` up to their next step."""
        kept, valid = cache.found(), cache.valid
        assert valid is not None
        if cache.past is not None:
            kept = torch.cat((cache.past, kept), dim=4)
            valid = F.pad(valid, (0, kept.shape[4] - valid.shape[1]), value=True)
        first = kept.shape[4] - self._past.shape[5]
        kept, valid = kept[:, :, onwards, :, first:], valid[onwards, first:]
        # What isn't finite would stay with the document after its adapters have begun anew.
        sound = torch.isfinite(kept).all(dim=-1).all(dim=3).all(dim=1).all(dim=0)
        self._past[track][:, :, onwards] = torch.where(sound[:, None, :, None], kept, 0.0)
        self._valid[track][onwards] = valid & sound

    def _place(self, row: int) -> tuple[int, int, int]:
        """Of the row's current step: its first target, the end of its targets, and its context's beginning,
        below 0 where the stream begins later than that."""
        expert, document = self._expert, self._documents[row]
        first = document.origin + 1 + self._steps[row] * expert._targets
        return first, first + expert._targets, first - 1 + expert._targets - expert._context

    def _inputs(self, active: list[int], tokens: NDArray[np.uint16]) -> torch.Tensor:
        """int64 [documents, context]: what each row's step sees, token 0 before the stream's beginning; rows
        that aren't active are padding."""
        expert = self._expert
        inputs = np.zeros((expert._config.documents, expert._context), np.int64)
        for row in active:
            begin = self._place(row)[2]
            seen = tokens[max(0, begin) : min(begin + expert._context, self._end, len(tokens))]
            at = max(0, -begin)
            inputs[row, at : at + len(seen)] = seen
        return torch.from_numpy(inputs).to(expert._dist.device)

    @torch.enable_grad()
    def _logits(self, vectors: torch.Tensor, inputs: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Of the last positions of ``inputs`` [documents, context]: those that the cache doesn't hold."""
        expert = self._expert
        with (
            torch.autocast(inputs.device.type, dtype=expert._autocast, enabled=expert._autocast is not None),
            expert._adapters.applied(vectors),
        ):
            logits: torch.Tensor = expert.model(inputs, cache=cache)
        return logits

    def _write(
        self,
        row: int,
        logits: torch.Tensor,
        found: torch.Tensor | None,
        rows: NDArray[np.float32] | None,
        start: int,
    ) -> None:
        document, (first, end, _) = self._documents[row], self._place(row)
        begin = end - 1 - len(logits)
        first, last = max(first, document.first), min(end - 1, document.last)
        if first > last:
            return
        wanted = logits[first - 1 - begin : last - begin].float()
        if rows is not None:
            shown = wanted.double().log_softmax(dim=-1).float().cpu().numpy()
            rows[first - start : last + 1 - start] = shown
        if found is not None:
            targets = torch.from_numpy(self._stream[first : last + 1].astype(np.int64)).to(wanted.device)
            found[first - start : last + 1 - start] = -F.cross_entropy(wanted, targets, reduction="none")

    def _train(self, vectors: torch.Tensor, logits: torch.Tensor, onwards: list[int]) -> None:
        """One Adam step of the rows ``onwards``, each on its own step's mean nll."""
        expert = self._expert
        tokens = self._stream if expert._lessons is None else expert._lessons
        losses = []
        for row in onwards:
            first, end, _ = self._place(row)
            targets = torch.from_numpy(tokens[first:end].astype(np.int64)).to(logits.device)
            losses.append(F.cross_entropy(logits[row, -len(targets) :].float(), targets))
        (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), vectors)
        at = torch.tensor(onwards, device=logits.device)
        gradient, square, before = gradient[at], self._squares[at], self._vectors[at]
        square.lerp_(gradient.square(), 1 - _SQUARE_DECAY)
        taken = torch.tensor([self._steps[row] + 1.0 for row in onwards], device=logits.device)[:, None]
        deviation = (square / (1 - _SQUARE_DECAY**taken)).sqrt() + _EPSILON
        after = (
            before * (1 - expert._rate * expert._config.weight_decay) - expert._rate * gradient / deviation
        )
        broken = ~torch.isfinite(after).all(dim=1)
        if broken.any():
            self.undone += int(broken.sum())
            after[broken], square[broken] = expert._begin, 0.0
        self._vectors[at], self._squares[at] = after, square
