"""Per-document adapters: each document is scored a few targets at a time by a model that has adapted to it.

A document begins with adapters that change nothing. Its targets are scored in *steps* of a fixed size; after
each step but the last, its adapters take one Adam step on that step's mean nll. A document is what follows a
document token, up to and with the next one. Steps are laid out from the document's beginning, and every step
is scored with the same number of tokens of context, whatever documents they are of: they have all been
committed. A step computes its own tokens alone: it sees the keys and values of those before as the adapters
of their time made them, and gradients end there. Those of the tokens before the document are computed once,
without adapters, when it begins.

**Order of commitment.** The target at t is scored by weights that depend on the targets before t alone: on
those of its own document, through the adapters; on those of earlier *chunks*, through the A that its adapters
begin with and through the phases of a global pass; on nothing else. So the documents of a chunk can be scored
side by side, and how they are grouped changes nothing: mixture and online experts then meet their scores in
the stream's order, like those of any other expert. Adapters take a step only when the document's next target
is asked for. So nothing need be known of where a document ends, and the last step of each is never trained
on.

A row of a forward pass has the same bits wherever it stands: matrix products add up each row in one order.
Whether it also has them in a pass of fewer rows depends on the machine's kernels, and is tested when an
expert is made: where it does, a pass has only as many rows as there are documents left; else it is padded.
"""

import itertools
from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hybridlm.distributed import Distributed
from hybridlm.model import GPT
from hybridlm.model.gpt import Cache
from hybridlm.scoring.asked import Asked, Network, nothing_asked
from hybridlm.scoring.config import TTTConfig
from hybridlm.scoring.experts import Scored
from hybridlm.scoring.lora import Adapters
from hybridlm.scoring.neural import (
    autocasting,
    healthy_logits,
    log_probs_at,
    normalisers,
    row_log_probs,
    state_hash,
    tell,
)
from hybridlm.scoring.ttt import DEFAULT_LEARNING_RATE, TestTimeTrainer, deterministic

_TARGETS = 32
_SQUARE_DECAY = 0.99
_EPSILON = 1e-8


@dataclass
class _Memory:
    """Adapters of one document and their optimiser: vectors of ``Adapters.size``, and steps taken.

    past: [tracks, runs, 2, G, M, C], keys and values of the M tokens before the next step; valid: bool
    [tracks, M], those that there are. The first track is the stream, and where there are lessons, the second
    one is theirs.
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

    steps: those that its adapters have taken; the first pass is over the step after them. end: the step
    that scores its last target.
    """

    origin: int
    first: int
    last: int
    memory: _Memory | None
    steps: int
    end: int


class DocumentExpert(Network):
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
        with deterministic(dist.device):
            self._sizes = self._equal_sizes()
        self.updates = 0
        self.undone = 0

    def score_asked(
        self, stream: NDArray[np.uint16], start: int, asked: Asked
    ) -> tuple[Scored, NDArray[np.float32]]:
        """A collective: every rank calls it with the same arguments and gets the same result."""
        return self._score(stream, start, None, asked)

    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        return self._score(stream, start, rows[0], nothing_asked(len(stream) - start))[0]

    def predict(self, stream: NDArray[np.uint16]) -> Scored:
        target = len(stream)
        (document,) = self._documents(np.append(stream, self._bos_id).astype(np.uint16), target)
        rows = np.empty((1, self.vocab_size), np.float32)
        with deterministic(self._dist.device):
            _Passes(self, stream, None, rows, target, nothing_asked(1)).run([document])
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
            steps = memory.steps if memory else 0
            found.append(_Document(origin, first, following, memory, steps, self._step_of(origin, following)))
        return found

    def _score(
        self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32] | None, asked: Asked
    ) -> tuple[Scored, NDArray[np.float32]]:
        if len(stream) <= start:
            return Scored(np.empty((1, 0), np.float32)), np.empty(0, np.float32)
        documents = self._documents(stream, start)
        # The longest first, so that little is left for one row of the last passes.
        order = sorted(documents, key=lambda document: document.steps - document.end)
        shares: list[list[_Document]] = [[] for _ in range(self._dist.world_size)]
        loads = [0] * self._dist.world_size
        owners: dict[int, int] = {}
        for document in order:
            owner = loads.index(min(loads)) if rows is None else self._dist.rank
            loads[owner] += 1 + document.end - document.steps
            shares[owner].append(document)
            owners[document.origin] = owner
        found = torch.zeros(len(stream) - start, dtype=torch.float32, device=self._dist.device)
        last, trained = documents[-1], [document for document in documents if document.end]
        keep = {document.origin for document in (last, *trained[-1:])}
        with deterministic(self._dist.device):
            passes = _Passes(self, stream, found, rows, start, asked)
            kept = passes.run(shares[self._dist.rank], keep)
        undone = passes.undone
        if rows is None:
            # One rank's score and the others' zeros: their sum is exact in any order.
            self._dist.all_reduce_sum_(found)
            self._dist.all_reduce_sum_(passes.told)
            self._dist.all_reduce_sum_(undone)
        for document in documents:
            if document.origin in keep:
                memory = self._shared(
                    kept.get(document.origin), document.end, owners[document.origin], rows is None
                )
                kept[document.origin] = memory
        self.undone += int(undone)
        self.updates += sum(document.end - document.steps for document in documents)
        if trained:
            self._latest = kept[trained[-1].origin].vector[: self._adapters.first_size].clone()
        self._open, self._origin, self._seen = kept[last.origin], last.origin, len(stream)
        return Scored(found.cpu().numpy()[None]), passes.told.cpu().numpy()

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

    def _equal_sizes(self) -> list[int]:
        """How many rows a pass may have, ascending: powers of two with which each row of random input has the
        bits, forward and backward, that it has in a pass of all rows."""
        full, device = self._config.documents, self._dist.device
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(self.vocab_size, (full, self._context), generator=generator)
        vectors = self._fresh.cpu() + 0.01 * torch.randn(full, self._adapters.size, generator=generator)
        memory = self._fresh_memory()
        shape = list(memory.past[0].shape)
        past = torch.randn([*shape[:2], full, *shape[2:]], generator=generator).to(device)
        valid = torch.ones(full, shape[3], dtype=torch.bool, device=device)

        def tried(rows: int) -> tuple[torch.Tensor, ...]:
            inputs = tokens[:rows].to(device)
            before = Cache(valid=valid[:rows])
            if valid.numel():
                self.keep_past(inputs[:, : valid.shape[1]], before)
            adapted = vectors[:rows].to(device).requires_grad_()
            cache = Cache(past[:, :, :rows], valid[:rows])
            logits = self.adapted_logits(adapted, inputs, cache)
            targets = inputs[:, -logits.shape[1] :]
            gradient = mean_gradient(logits, targets, adapted)
            found = [cache.found()] + ([before.found()] if valid.numel() else [])
            return logits.detach(), gradient, *(each.movedim(2, 0) for each in found)

        whole = tried(full)
        sizes = [1 << power for power in range(full.bit_length()) if 1 << power < full]
        return [
            rows
            for rows in sizes
            if all(torch.equal(part, all_[:rows]) for part, all_ in zip(tried(rows), whole, strict=True))
        ] + [full]

    @torch.no_grad()
    def keep_past(self, inputs: torch.Tensor, cache: Cache) -> None:
        """Into the cache: what the model without adapters makes of ``inputs`` [rows, T]."""
        with autocasting(inputs.device, self._autocast):
            self.model.hidden(inputs, cache=cache)

    def adapted_logits(self, vectors: torch.Tensor, inputs: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Of the last positions of ``inputs`` [rows, context]: those that the cache doesn't hold."""
        with torch.enable_grad(), autocasting(inputs.device, self._autocast), self._adapters.applied(vectors):
            logits: torch.Tensor = self.model(inputs, cache=cache)
        return logits

    def _step_of(self, origin: int, target: int) -> int:
        """Which of its document's steps scores ``target``: as many come before it."""
        return (target - origin - 1) // self._targets


class _Passes:
    """Documents on their way through the model, some of them at a time, each with adapters of its own.

    A pass has a row for each; a document that is over makes room for the next, or for the last one's.
    """

    def __init__(
        self,
        expert: DocumentExpert,
        stream: NDArray[np.uint16],
        found: torch.Tensor | None,
        rows: NDArray[np.float32] | None,
        start: int,
        asked: Asked,
    ) -> None:
        """Scores go, from target ``start`` on, into ``found`` [n], ln p of the targets, into ``rows`` [n, V],
        ln p of every token, and into ``told`` [m], ln p of what is asked."""
        self.told = torch.zeros(len(asked.tokens), dtype=torch.float32, device=expert._dist.device)
        self._asked = asked
        self.undone = torch.zeros(1, dtype=torch.int64, device=expert._dist.device)
        self._expert = expert
        self._stream = stream
        self._found, self._rows, self._start = found, rows, start
        self._tracks = [stream] if expert._lessons is None else [stream, expert._lessons]
        self._documents: list[_Document] = []
        """Of the first rows; the other rows are padding."""
        self._steps: list[int] = []
        size, memory = expert._config.documents, expert._fresh_memory()
        self._vectors = memory.vector.repeat(size, 1)
        self._squares = memory.square.repeat(size, 1)
        self._past = memory.past.unsqueeze(3).repeat(1, 1, 1, size, 1, 1, 1)
        self._valid = memory.valid.unsqueeze(1).repeat(1, size, 1)

    def run(self, documents: list[_Document], keep: Container[int] = ()) -> dict[int, _Memory]:
        """Scores all ``documents``; what is left of those whose origins are in ``keep``."""
        size = self._expert._config.documents
        lots = [documents[at : at + size] for at in range(0, len(documents), size)]
        prepared = itertools.chain.from_iterable(map(self._prepared, lots))
        kept: dict[int, _Memory] = {}
        while True:
            for document, memory in itertools.islice(prepared, size - len(self._documents)):
                self._enter(document, memory)
            if not self._documents:
                return kept
            # A document's last step isn't trained on; it is over here, but may go on in the next piece.
            over = [row for row, document in enumerate(self._documents) if self._steps[row] == document.end]
            for row in over:
                if self._documents[row].origin in keep:
                    kept[self._documents[row].origin] = self._memory(row)
            self._step([row for row in range(len(self._documents)) if row not in over])
            self._steps = [step + 1 for step in self._steps]
            for row in reversed(over):
                self._leave(row)

    def _enter(self, document: _Document, memory: _Memory) -> None:
        row = len(self._documents)
        self._documents.append(document)
        self._steps.append(memory.steps)
        self._vectors[row], self._squares[row] = memory.vector, memory.square
        self._past[:, :, :, row], self._valid[:, row] = memory.past, memory.valid

    def _leave(self, row: int) -> None:
        """The last row takes the place of this one."""
        document, steps = self._documents.pop(), self._steps.pop()
        last = len(self._documents)
        if row < last:
            self._documents[row], self._steps[row] = document, steps
            self._vectors[row], self._squares[row] = self._vectors[last], self._squares[last]
            self._past[:, :, :, row], self._valid[:, row] = self._past[:, :, :, last], self._valid[:, last]

    def _memory(self, row: int) -> _Memory:
        return _Memory(
            self._vectors[row].clone(),
            self._squares[row].clone(),
            self._past[:, :, :, row].clone(),
            self._valid[:, row].clone(),
            self._steps[row],
        )

    def _prepared(self, documents: list[_Document]) -> list[tuple[_Document, _Memory]]:
        """Documents, at most a pass of them, with what each goes on from. For one that begins, these are the
        keys and values of the tokens before it, which adapters that change nothing make."""
        expert = self._expert
        memories = [document.memory or expert._fresh_memory() for document in documents]
        before, device = expert._context - expert._targets, expert._dist.device
        fresh = [at for at, document in enumerate(documents) if document.memory is None]
        if fresh and before:
            begins = np.zeros(self._size(len(fresh)), np.int64)
            begins[: len(fresh)] = [documents[at].origin - before for at in fresh]
            columns = torch.arange(before, device=device)
            valid = columns >= torch.from_numpy(-begins).to(device)[:, None]
            for track, tokens in enumerate(self._tracks):
                cache = Cache(valid=valid)
                expert.keep_past(self._seen(tokens, begins, before), cache)
                past, sound = _sound(cache.found())
                for row, at in enumerate(fresh):
                    memories[at].past[track] = past[:, :, row]
                    memories[at].valid[track] = sound[row] & valid[row]
        return list(zip(documents, memories, strict=True))

    def _size(self, rows: int) -> int:
        """Of a pass that has room for them."""
        return next(size for size in self._expert._sizes if size >= rows)

    def _seen(self, tokens: NDArray[np.uint16], begins: NDArray[np.int64], length: int) -> torch.Tensor:
        """int64 [rows, length]: of each row, the tokens from its beginning on; 0 outside the stream."""
        at = begins[:, None] + np.arange(length)
        inside = (at >= 0) & (at < min(len(tokens), len(self._stream)))
        seen = np.where(inside, tokens[np.where(inside, at, 0)], 0).astype(np.int64)
        return torch.from_numpy(seen).to(self._expert._dist.device)

    def _step(self, onwards: list[int]) -> None:
        """Scores the next step of all rows, and trains on it; only those of ``onwards`` are used again."""
        expert, stream = self._expert, self._stream
        size, used = self._size(len(self._documents)), len(self._documents)
        firsts = np.zeros(size, np.int64)
        """Each row's first target."""
        firsts[:used] = [document.origin + 1 for document in self._documents]
        firsts[:used] += np.array(self._steps) * expert._targets
        begins = firsts - 1 + expert._targets - expert._context
        targets = firsts[:, None] + np.arange(expert._targets)
        wanted = np.zeros((size, 2), np.int64)
        """The targets to be scored: from the first to before the second."""
        wanted[:used] = [(document.first, document.last + 1) for document in self._documents]
        scored = (targets >= wanted[:, :1]) & (targets < wanted[:, 1:])

        # Always with gradients: without them attention may be another kernel, of other bits.
        vectors = self._vectors[:size].detach().requires_grad_()
        inputs = self._seen(stream, begins, expert._context)
        caches = [Cache(self._past[0][:, :, :size], self._valid[0][:size])]
        logits = expert.adapted_logits(vectors, inputs, caches[0])
        healthy = healthy_logits(logits.detach(), inputs, expert._untrained, expert._autocast)
        self._write(healthy.flatten(0, 1), np.flatnonzero(scored), targets[scored])
        if not onwards:
            return
        if expert._lessons is not None:
            caches.append(Cache(self._past[1][:, :, :size], self._valid[1][:size]))
            inputs = self._seen(expert._lessons, begins, expert._context)
            logits = expert.adapted_logits(vectors, inputs, caches[1])
        learned = self._seen(self._tracks[-1], firsts, expert._targets)
        self._train(mean_gradient(logits, learned, vectors), onwards)
        for track, cache in enumerate(caches):
            self._keep(track, cache)

    def _write(self, logits: torch.Tensor, chosen: NDArray[np.intp], targets: NDArray[np.int64]) -> None:
        """``targets`` [n] are scored by the ``chosen`` [n] of logits [N, V]."""
        device = logits.device
        wanted = logits[torch.from_numpy(chosen).to(device)].float()
        if self._rows is not None:
            self._rows[targets - self._start] = row_log_probs(wanted).cpu().numpy()
        if self._found is not None:
            normal = normalisers(wanted)
            tokens = torch.from_numpy(self._stream[targets].astype(np.int64)).to(device)
            at = torch.from_numpy(targets - self._start).to(device)
            self._found[at] = log_probs_at(wanted, normal, tokens)
            if len(self.told):
                cells = np.arange(len(targets))
                tell(wanted, normal, cells, targets - self._start, self._asked, self.told)

    def _train(self, gradient: torch.Tensor, onwards: list[int]) -> None:
        """One Adam step of the first rows, by ``gradient`` [rows, size]."""
        expert, rows = self._expert, len(gradient)
        vectors, squares = self._vectors[:rows], self._squares[:rows]
        taken = torch.ones(rows, 1)
        taken[: len(self._steps), 0] += torch.tensor(self._steps)
        # √(square / c) + ε, of which c is the row's: divided by it, once, is the gradient and not the square.
        scale = (1 - _SQUARE_DECAY**taken).sqrt().to(gradient.device)
        squares.mul_(_SQUARE_DECAY).addcmul_(gradient, gradient, value=1 - _SQUARE_DECAY)
        deviation = squares.sqrt().add_(_EPSILON * scale)
        vectors.mul_(1 - expert._rate * expert._config.weight_decay)
        vectors.addcdiv_(gradient * scale, deviation, value=-expert._rate)
        # One sum tells it, of numbers that are far from the largest.
        broken = ~torch.isfinite(vectors.sum(dim=1))
        if broken.any():
            self.undone += broken[onwards].sum()
            vectors[broken], squares[broken] = expert._begin, 0.0

    def _keep(self, track: int, cache: Cache) -> None:
        """Moves the past of a pass's rows up to their next step."""
        assert cache.past is not None
        new, sound = _sound(cache.found())
        rows, length = len(sound), sound.shape[1]
        self._past[track][:, :, :rows] = torch.cat((cache.past, new), dim=4)[:, :, :, :, length:]
        self._valid[track][:rows] = torch.cat((self._valid[track][:rows], sound), dim=1)[:, length:]


def mean_gradient(logits: torch.Tensor, targets: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Of each row's mean nll, for logits [rows, T, V] and targets int64 [rows, T], by its own vector."""
    nll = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    (gradient,) = torch.autograd.grad(nll.view(targets.shape).mean(dim=1).sum(), vectors)
    return gradient


def _sound(found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [runs, 2, B, G, T, C] without those that aren't finite, and which of the tokens, bool
    [B, T], may be seen: else they would stay with a document after its adapters have begun anew."""
    sound = torch.isfinite(found).all(dim=-1).all(dim=3).all(dim=1).all(dim=0)
    return torch.where(sound[:, None, :, None], found, 0.0), sound
