"""What online experts, oracles and test-time training are worth to networks of rising strength.

    python benches/python/worth.py --artifact A.pgar B.pgar … --oracle O500.ngsp O1500.ngsp … \\
        --val docs=V.bin web=W.bin --tokenizer T.model [--tokens 100000] [--json OUT]

Each network is scored once, alone and with the default test-time training; each text's experts and oracles
once for all networks. The oracles are those given, not those of the artifacts; with each goes the network
tilted by it. For each network and text, in bits per byte: the network alone, and the default mixture over it
with more and more of the rest, with 95% intervals by bootstrap over documents. *blend* is the best published
use of n-grams beside a strong network that keeps the rules, parameter-golf PR 1642: online counts of up to
four tokens, α · ln p of which is added to the network's logits; the count and the smoothing are the PR's, α
is the best in hindsight of those that it tried. *after TEXT* is the mixture of everything without test-time
training whose weights were first learned on TEXT, the one named before: what an artifact could gain by
holding such weights.

Then, of the network and the mixture of everything without test-time training, where the gain comes from: by
how far back the last three tokens stood together before (within the network's window, beyond it, never), by
the longest n-gram of the largest oracle, by the target's place in its document, and by how often the text has
shown the target. *share* is that of all targets, *gain* in bits a target, *part* its part of the whole gain.
"""

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm.artifact import Artifact
from hybridlm.data.byte_table import ByteTable
from hybridlm.data.shards import expand, open_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle import Oracle
from hybridlm.scoring.artifact_experts import load_neural
from hybridlm.scoring.asked import Asked, Network
from hybridlm.scoring.confidence import bpb_interval
from hybridlm.scoring.config import DEFAULT_MIXER, ScoringConfig
from hybridlm.scoring.evaluate import Learn
from hybridlm.scoring.experts import Expert, Scored
from hybridlm.scoring.experts.counts import AdaptiveCounts
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.mixing import LinearMixer, MixtureSpec, gather
from hybridlm.scoring.tilted import Questioned, Tilted

CHUNK = 32_768
BLEND_CHUNK = 16_384
ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
SMOOTHING, LEAST, ORDER = 0.5, 2, 4
"""The PR's δ, the count below which a context says nothing, and the longest n-gram."""

Tokens = NDArray[np.uint16]
Floats = NDArray[np.float64]


class Blend:
    """ln p of targets after α · ln p of an n-gram model is added to the network's logits, for each α.

    The n-gram model is that of the longest context, of at most three tokens, that was seen twice in earlier
    chunks: (count + δ) / (total + δ V). What a context has not been followed by, all tokens share alike, so
    only those that have followed it change their odds: by ((count + δ) / δ)^α.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self.hits = 0

    def score(self, stream: Tokens, start: int, rows: NDArray[np.float32]) -> Floats:
        """[alphas, n], for the network's rows [n, V] of ln p, of the targets stream[start:]."""
        alphas = np.array(ALPHAS)[:, None]
        found = np.empty((len(ALPHAS), len(stream) - start))
        for at, row in enumerate(rows):
            target = int(stream[start + at])
            own, total = float(row[target]), np.zeros(len(ALPHAS))
            raised = np.zeros(len(ALPHAS))
            if followed := self._longest(stream[max(0, start + at - ORDER + 1) : start + at]):
                self.hits += 1
                tokens = np.fromiter(followed.keys(), np.int64)
                counts = np.fromiter(followed.values(), np.float64)
                odds = ((counts + SMOOTHING) / SMOOTHING) ** alphas
                total = np.log1p((odds - 1) @ np.exp(row[tokens].astype(np.float64)))
                raised = alphas[:, 0] * math.log((followed[target] + SMOOTHING) / SMOOTHING)
            found[:, at] = own + raised - total
        return found

    def _longest(self, before: Tokens) -> Counter[int] | None:
        context = tuple(before.tolist())
        for length in range(len(context), 0, -1):
            followed = self._counts.get(context[-length:])
            if followed is not None and followed.total() >= LEAST:
                return followed
        return None

    def learn(self, stream: Tokens, start: int) -> None:
        tokens = stream.tolist()
        for at in range(start, len(tokens)):
            for length in range(1, min(ORDER, at + 1)):
                self._counts[tuple(tokens[at - length : at])][tokens[at]] += 1


def pieces(stream: Tokens, chunk: int) -> Iterator[tuple[Tokens, int]]:
    for start in range(1, len(stream), chunk):
        yield stream[: start + chunk], start


def gathered(expert: Expert, stream: Tokens) -> list[Scored]:
    """What an expert says of the stream, chunk by chunk."""
    return [scored for seen, start in pieces(stream, CHUNK) for scored in gather([expert], seen, start)]


Said = tuple[Expert, list[Scored]]
"""An expert, and what it says of a text, chunk by chunk."""
Experts = Sequence[Said]


def together(asked: Sequence[Asked]) -> tuple[Asked, NDArray[np.int64]]:
    """Several questions about the same targets as one, and where in it the tokens of the first are, then
    those of the second, and so on."""
    targets = [np.repeat(np.arange(len(one.ends) - 1), np.diff(one.ends)) for one in asked]
    order = np.argsort(np.concatenate(targets), kind="stable")
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    ends = np.sum([one.ends for one in asked], axis=0, dtype=np.uint32)
    return Asked(np.concatenate([one.tokens for one in asked])[order], ends), places


def heard(
    network: Network, stream: Tokens, oracles: dict[str, Oracle], learn: Learn | None = None
) -> tuple[Said, dict[str, Said]]:
    """The network, and the network tilted by each of the oracles, from one pass over the text."""
    tilts = {label: _core.TiltedExpert(oracle.native) for label, oracle in oracles.items()}
    experts = {label: Tilted(Questioned(network, tilt), tilt) for label, tilt in tilts.items()}
    own: Said = network, []
    by_oracle: dict[str, Said] = {label: (expert, []) for label, expert in experts.items()}
    for seen, start in pieces(stream, CHUNK):
        asked = [Asked(*tilt.raised_tokens(seen, start)) for tilt in tilts.values()]
        question, places = together(asked)
        scored, told = network.score_asked(seen, start, question)
        own[1].append(scored)
        each = np.split(told[places], np.cumsum([len(one.tokens) for one in asked])[:-1])
        for (label, tilt), of_raised in zip(tilts.items(), each, strict=True):
            tilted = tilt.mix(seen, start, scored.log_probs[0], of_raised)
            by_oracle[label][1].append(Scored(tilted[None]))
        if learn is not None and len(seen) < len(stream):
            learn(seen, start)
    return own, by_oracle


def mixed(experts: Experts, before: Experts = ()) -> Floats:
    """The nll [n] in nats of the default mixture over them, after it has mixed ``before``, another text's."""
    families = tuple({expert.family for expert, _ in experts})
    mixer = LinearMixer(MixtureSpec(DEFAULT_MIXER, families), [expert for expert, _ in experts])
    nll = [
        [mixer.mix(list(chunk)) for chunk in zip(*(scored for _, scored in one), strict=True)]
        for one in (before, experts)
    ]
    return np.concatenate(nll[-1])


def blended(expert: Expert, stream: Tokens) -> tuple[dict[str, float], Floats]:
    """What it is and the nll [n] in nats, with the α that is best in the end."""
    blend, parts = Blend(), []
    for seen, start in pieces(stream, BLEND_CHUNK):
        rows = np.empty((1, len(seen) - start, expert.vocab_size), np.float32)
        expert.score_rows(seen, start, rows)
        parts.append(blend.score(seen, start, rows[0]))
        blend.learn(seen, start)
    log_probs = np.concatenate(parts, axis=1)
    best = int(log_probs.sum(axis=1).argmax())
    return {"alpha": ALPHAS[best], "hits": blend.hits / log_probs.shape[1]}, -log_probs[best]


class Text:
    """A stream, and what doesn't depend on a network."""

    def __init__(self, name: str, stream: Tokens, table: ByteTable, oracles: dict[str, Oracle]) -> None:
        self.name, self.stream, self.table = name, stream, table
        self.lengths = table.lengths(stream, start=1).astype(np.float64)
        starts = np.flatnonzero(table.begins[stream[:-1]])
        # Where each document's targets begin; the first may have begun before the stream.
        self.documents = np.unique(np.append(0, starts))
        online = AdaptiveCounts(len(table.begins))
        self.online = online, gathered(online, stream)
        self.oracles = oracles
        self.by_oracle: dict[str, Said] = {}
        for label, oracle in oracles.items():
            expert = OracleExperts(oracle, threads=1)
            self.by_oracle[label] = expert, gathered(expert, stream)
        largest = max(oracles.values(), key=lambda oracle: oracle.nbytes)
        self.orders = largest.native.matched_orders(stream, 0)[1:]

    def rate(self, nll: Floats) -> dict[str, Any]:
        bits = nll / math.log(2)
        sums = np.add.reduceat(bits, self.documents)
        lengths = np.add.reduceat(self.lengths, self.documents)
        interval = bpb_interval(sums, lengths)
        return {"bpb": float(bits.sum() / self.lengths.sum()), "interval": interval}

    def buckets(self, window: int) -> dict[str, tuple[list[str], NDArray[np.int64]]]:
        """For each division, the names of its buckets, and which of them each target is in."""
        n = len(self.stream) - 1
        tokens = self.stream.tolist()
        last: dict[tuple[int, ...], int] = {}
        seen = Counter[int]()
        distance, frequency = np.zeros(n, np.int64), np.zeros(n, np.int64)
        for target in range(1, n + 1):
            context = tuple(tokens[max(0, target - 3) : target])
            distance[target - 1] = target - last.get(context, target)
            last[context] = target
            frequency[target - 1] = seen[tokens[target]]
            seen[tokens[target]] += 1
        starts = self.documents[np.searchsorted(self.documents, np.arange(n), side="right") - 1]
        occurrence = np.select([distance == 0, distance < window], [0, 1], 2)
        names = [str(order) for order in range(int(self.orders.max()) + 1)]
        return {
            "the last three tokens stood together": (["never", "within the window", "beyond it"], occurrence),
            "target's place in its document": ranges(np.arange(n) - starts, (64, 256, 1024)),
            "times that the text has shown the target": ranges(frequency, (1, 10, 100, 1000)),
            "longest n-gram of the oracle": (names, self.orders.astype(np.int64)),
        }


def ranges(values: NDArray[np.int64], limits: tuple[int, ...]) -> tuple[list[str], NDArray[np.int64]]:
    names = [f"below {limit:,}" for limit in limits] + [f"{limits[-1]:,} and more"]
    return names, np.searchsorted(limits, values, side="right")


def gains(gain: Floats, names: list[str], of: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    counts = np.bincount(of, minlength=len(names))
    sums = np.bincount(of, gain, minlength=len(names))
    return {
        name: {"share": float(count / len(gain)), "gain": float(total / count), "part": total / gain.sum()}
        for name, count, total in zip(names, counts, sums, strict=True)
        if count
    }


def measure(artifact: Artifact, text: Text, before: tuple[str, Experts]) -> tuple[dict[str, Any], Experts]:
    """All figures of one network on one text, and all experts without test-time training.

    ``before`` is the name of the text before and the same experts of it, none of the first text.
    """
    network, _ = load_neural(artifact, ScoringConfig(ttt="off"), None)
    alone, tilted = heard(network, text.stream, text.oracles)
    adapted, trainer = load_neural(artifact, ScoringConfig(), None)
    learn = None if trainer is None else trainer.learn
    learned, learned_tilted = heard(adapted, text.stream, text.oracles, learn)

    def nll_of(one: Said) -> Floats:
        return -np.concatenate([scored.log_probs[0] for scored in one[1]]).astype(np.float64)

    by_label = {"network": nll_of(alone), "+ TTT": nll_of(learned)}
    setting, by_label["blend"] = blended(network, text.stream)
    experts: Experts = [alone, text.online]
    whole = by_label["+ online"] = mixed(experts)
    for label, oracle in text.by_oracle.items():
        by_label[f"+ oracle {label}"] = mixed([alone, tilted[label], oracle])
        experts = [alone, tilted[label], text.online, oracle]
        whole = by_label[f"+ online, oracle {label}"] = mixed(experts)
        by_label[f"all, oracle {label}"] = mixed([learned, learned_tilted[label], text.online, oracle])
    if before[1]:
        by_label[f"after {before[0]}"] = mixed(experts, before[1])
    model = artifact.load_model()
    assert model is not None
    gain = (by_label["network"] - whole) / math.log(2)
    return {
        "text": text.name,
        "targets": len(gain),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "neural_bytes": artifact.neural_bytes,
        "rates": {label: text.rate(nll) for label, nll in by_label.items()},
        "blend": setting,
        "gain": {
            division: gains(gain, names, of)
            for division, (names, of) in text.buckets(model.config.sequence_length).items()
        },
    }, experts


def show(name: str, result: dict[str, Any]) -> None:
    print(
        f"\n{name} ({result['parameters']:,} parameters) on {result['text']}: {result['targets']:,} targets"
    )
    print("| | bits per byte | 95% | gain |\n|---|---|---|---|")
    base = result["rates"]["network"]["bpb"]
    for label, rate in result["rates"].items():
        interval = "" if rate["interval"] is None else "{:.4f} to {:.4f}".format(*rate["interval"])
        note = f" (α {result['blend']['alpha']})" if label == "blend" else ""
        print(f"| {label}{note} | {rate['bpb']:.4f} | {interval} | {base - rate['bpb']:+.4f} |")
    for division, buckets in result["gain"].items():
        print(f"\n| {division} | share | gain | part |\n|---|---|---|---|")
        for bucket, found in buckets.items():
            print(f"| {bucket} | {found['share']:.1%} | {found['gain']:+.3f} | {found['part']:.1%} |")
    print(end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifact", nargs="+", type=Path, required=True)
    parser.add_argument("--oracle", nargs="+", type=Path, required=True)
    parser.add_argument("--val", nargs="+", required=True, help="name=shards")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.tokenizer)
    labels = {path: f"{path.stat().st_size / 1e6:.2g} MB" for path in options.oracle}
    sizes = {label: path.stat().st_size for path, label in labels.items()}
    oracles = {label: Oracle.from_file(path) for path, label in labels.items()}
    texts = []
    for val in options.val:
        name, _, shards = val.partition("=")
        stream = open_stream(expand(shards), tokenizer.vocabulary, max_tokens=options.tokens + 1).tokens
        texts.append(Text(name, np.asarray(stream), tokenizer.byte_table, oracles))
    found = []
    for path in options.artifact:
        artifact = Artifact.from_file(path)
        artifact.check_tokenizer(tokenizer.vocabulary)
        before: tuple[str, Experts] = ("", ())
        for text in texts:
            result, experts = measure(artifact, text, before)
            before = text.name, experts
            show(path.name, result)
            found.append({"artifact": path.name, "oracle_bytes": sizes, **result})
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
