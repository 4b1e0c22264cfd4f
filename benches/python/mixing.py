"""What mixing is worth, and what it costs: one table for each text, from one run over it.

    python benches/python/mixing.py --artifact A.pgar --reference dense.ngor --val V.bin --tokenizer T
    python benches/python/mixing.py --train TRAIN.bin --val V.bin W.bin --tokenizer T --out DIR

An artifact may lack a neural model. The reference is the dense oracle that the reference Hedge is given; the
second form makes it, a sparse oracle of the same size and a neural model (``--preset``) with the project's
own commands, and keeps them in DIR. Native work runs on one thread.

``--geometric N`` adds the mixtures of whole rows over the first N targets of each text: geometric, and best,
which is an eg over that and the default; both are slow. Times are of the clock that ``--clock`` names: cpu
for a busy machine.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.data.byte_table import ByteTable
from hybridlm.data.shards import expand, read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle import Oracle
from hybridlm.oracle.static_weights import best_static_weights
from hybridlm.scoring.artifact_experts import load_neural
from hybridlm.scoring.config import DEFAULT_MIXER, ScoringConfig
from hybridlm.scoring.evaluate import Learn
from hybridlm.scoring.experts import Expert, online_experts
from hybridlm.scoring.experts.counts import AdaptiveCounts
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.mixing import LinearMixer, Mixers, MixtureSpec, expert_names, gather
from hybridlm.scoring.mixtures import mixture_names
from hybridlm.scoring.tilted import has_ngrams, tilted

CHUNK = 32_768


class ReferenceOracle(OracleExperts):
    """The dense oracle, told apart from the artifact's own."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__(oracle, threads=1)
        self.family = "reference"
        self.names = tuple(f"dense_{order}" for order in oracle.orders)


class Clock:
    """Seconds by stage."""

    def __init__(self, cpu: bool) -> None:
        self._now = time.process_time if cpu else time.perf_counter
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start


def specs(families: Sequence[str]) -> dict[str, MixtureSpec]:
    """What is compared, as far as there are the experts for it."""
    ours = tuple(family for family in ("neural", "tilted", "adaptive", "oracle") if family in families)

    def without(*left_out: str) -> tuple[str, ...]:
        return tuple(family for family in ours if family not in left_out)

    wanted = {
        "reference Hedge": MixtureSpec("hedge", ("neural", "online", "reference")),
        "reference Hedge without oracle": MixtureSpec("hedge", ("neural", "online")),
        "ours": MixtureSpec(DEFAULT_MIXER, ours),
        "ours on the reference's oracle": MixtureSpec(
            DEFAULT_MIXER, (*without("oracle", "tilted"), "reference")
        ),
        "ours without oracle": MixtureSpec(DEFAULT_MIXER, without("oracle", "tilted")),
        "ours without the tilted network": MixtureSpec(DEFAULT_MIXER, without("tilted")),
        "ours without online experts": MixtureSpec(DEFAULT_MIXER, without("adaptive")),
        "ours without neural": MixtureSpec(DEFAULT_MIXER, without("neural", "tilted")),
        **{f"ours by {name}": MixtureSpec(name, ours) for name in mixture_names() if name != DEFAULT_MIXER},
    }
    needed = {
        "reference Hedge": "reference",
        "ours on the reference's oracle": "reference",
        "ours without oracle": "oracle",
        "ours without the tilted network": "tilted",
        "ours without neural": "neural",
    }
    return {label: spec for label, spec in wanted.items() if needed.get(label, "online") in families}


def measure(
    artifact: Artifact,
    oracle: Oracle | None,
    reference: Oracle | None,
    stream: NDArray[np.uint16],
    table: ByteTable,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """All figures of one text."""
    experts: list[Expert] = []
    learn: Learn | None = None
    if artifact.neural_blob is not None:
        neural, trainer = load_neural(artifact, ScoringConfig(ttt=options.ttt), None)
        learn = None if trainer is None else trainer.learn
        if oracle is not None and has_ngrams(oracle):
            experts += tilted(neural, oracle)
        else:
            experts.append(neural)
    experts += online_experts(table.vocab_size)
    experts += [] if oracle is None else [OracleExperts(oracle, threads=1)]
    experts += [] if reference is None else [ReferenceOracle(reference)]
    compared = specs([expert.family for expert in experts])
    mixers = {label: LinearMixer(spec, experts) for label, spec in compared.items()}
    clock = Clock(options.clock == "cpu")
    found = []
    nll = dict.fromkeys(mixers, 0.0)
    for start in range(1, len(stream), CHUNK):
        seen = stream[: start + CHUNK]
        scored = gather(experts, seen, start, stage=clock.stage)
        found.append(np.concatenate([one.log_probs for one in scored]))
        for label, mixer in mixers.items():
            with clock.stage(label):
                nll[label] += float(mixer.mix(scored).sum())
        if learn is not None and len(seen) < len(stream):
            with clock.stage("ttt"):
                learn(seen, start)

    log_probs = np.concatenate(found, axis=1)
    targets = len(stream) - 1
    bits = float(table.lengths(stream, start=1).sum()) * float(np.log(2.0))
    alone = dict(
        zip(expert_names(experts), (-log_probs.sum(axis=1, dtype=np.float64) / bits).tolist(), strict=True)
    )
    ours = [compared["ours"].takes(expert) for expert in experts for _ in expert.names]
    taken = log_probs[np.array(ours)]
    names = [name for name, is_ours in zip(alone, ours, strict=True) if is_ours]
    best = min(names, key=alone.__getitem__)
    peak = taken.max(axis=0)
    weights = best_static_weights(taken).astype(np.float32)
    static = -float((np.log(weights @ np.exp(taken - peak)) + peak).sum(dtype=np.float64)) / bits
    used = [family for family in ("adaptive", "oracle") if family in clock.seconds]
    seconds = sum(clock.seconds[family] for family in used) + clock.seconds["ours"]
    result: dict[str, Any] = {
        "targets": targets,
        "bytes": int(table.lengths(stream, start=1).sum()),
        "bpb": {label: total / bits for label, total in nll.items()},
        "experts": alone,
        "best_expert": {best: alone[best]},
        "best_static_weights": static,
        "seconds": clock.seconds,
        "targets_per_second": targets / seconds,
    }
    if "neural" in clock.seconds:
        result["share_of_scoring"] = seconds / (seconds + clock.seconds["neural"])
    if options.geometric:
        result["geometric"] = geometric(artifact, oracle, stream[: options.geometric + 1], table)
    return result


def geometric(
    artifact: Artifact, oracle: Oracle | None, stream: NDArray[np.uint16], table: ByteTable
) -> dict[str, Any]:
    """The mixtures of whole rows, and the default."""
    experts: list[Expert] = []
    if artifact.neural_blob is not None:
        experts.append(load_neural(artifact, ScoringConfig(ttt="off"), None)[0])
    experts.append(AdaptiveCounts(table.vocab_size))
    experts += [] if oracle is None else [OracleExperts(oracle, threads=1)]
    mixers = Mixers({name: MixtureSpec(name) for name in (DEFAULT_MIXER, "geometric", "best")}, experts)
    _, nll = mixers.score(stream, 1)
    bits = float(table.lengths(stream, start=1).sum()) * float(np.log(2.0))
    return {"targets": len(stream) - 1, "bpb": {name: float(nll[name].sum()) / bits for name in nll}}


def show(name: str, result: dict[str, Any]) -> None:
    targets = result["targets"]
    print(f"\n{name}: {targets:,} targets, {result['bytes']:,} bytes of decoded text")
    reference = result["bpb"].get("reference Hedge")
    print(f"{'':34}{'BPB':>8}{'of Hedge':>10}{'ns/target':>11}")

    def line(label: str, bpb: float, nanoseconds: float | None = None) -> None:
        part = f"{bpb / reference:>10.3f}" if reference else f"{'':>10}"
        cost = "" if nanoseconds is None else f"{nanoseconds:>11.0f}"
        print(f"{label:34}{bpb:>8.4f}{part}{cost}")

    if "neural" in result["experts"]:
        line("neural alone", result["experts"]["neural"])
    ((best, bpb),) = result["best_expert"].items()
    line(f"best expert: {best}", bpb)
    line("best static weights in hindsight", result["best_static_weights"])
    for label, bpb in result["bpb"].items():
        line(label, bpb, result["seconds"][label] / targets * 1e9)
    others = {stage: s for stage, s in result["seconds"].items() if stage not in result["bpb"]}
    print("experts, ns/target: " + ", ".join(f"{s} {t / targets * 1e9:.0f}" for s, t in others.items()))
    print(f"experts and mixture of ours, without neural: {result['targets_per_second']:,.0f} targets/s")
    if "share_of_scoring" in result:
        print(f"their share of scoring with the neural model: {result['share_of_scoring']:.1%}")
    if "geometric" in result:
        bpb = result["geometric"]["bpb"]
        print(f"whole rows, first {result['geometric']['targets']:,} targets: ", end="")
        print(", ".join(f"{label} {value:.4f}" for label, value in bpb.items()), flush=True)


def make(options: argparse.Namespace) -> tuple[Path, Path]:
    """The artifact and the reference's oracle, made by the project's commands where they aren't there yet."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = ["--tokenizer", str(options.tokenizer)]

    def run(*arguments: object) -> None:
        print("$ hybridlm", *arguments, file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "hybridlm", *map(str, arguments)], check=True)

    reference, sparse = out / "dense.ngor", out / "sparse.ngor"
    if not reference.exists():
        run("oracle", "build", *options.train, "-o", reference, *tokenizer)
    if not sparse.exists():
        size = reference.stat().st_size
        command = ["oracle", "build", *options.train, "-o", sparse, *tokenizer]
        run(*command, "--estimator", "sparse", "--max-bytes", size)
    model, data = out / "model", out / "data"
    if not (model / "model.safetensors").exists():
        data.mkdir(exist_ok=True)
        for split, shards in (("train", options.train), ("val", expand(options.val[0])[:1])):
            for number, shard in enumerate(shards):
                link = data / f"text_{split}_{number:06}.bin"
                link.unlink(missing_ok=True)
                link.symlink_to(Path(shard).resolve())
        run("train", "--data", data, *tokenizer, "--out", model, "--preset", options.preset)
    artifact = out / "artifact.pgar"
    run("artifact", "pack", "--model", model, "--oracle", sparse, *tokenizer, "-o", artifact)
    return artifact, reference


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifact", nargs="*", type=Path, default=[])
    parser.add_argument("--reference", type=Path, help="the dense oracle of the reference Hedge")
    parser.add_argument("--train", nargs="*", type=Path, default=[], help="shards, for lack of an artifact")
    parser.add_argument("--out", type=Path, help="where what is made of them goes")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--val", nargs="+", required=True, help="globs, each scored as one stream")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--ttt", choices=["off", "sgd", "adamw"], default="off")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="only the first N targets of each text")
    parser.add_argument("--geometric", type=int, default=0, metavar="N")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    if bool(options.artifact) == bool(options.train) or (options.train and not options.out):
        parser.error("give --artifact, or else --train and --out")
    artifacts, reference_file = options.artifact, options.reference
    if options.train:
        made, reference_file = make(options)
        artifacts = [made]
    tokenizer = Tokenizer.load(options.tokenizer)
    reference = None if reference_file is None else Oracle.from_bytes(reference_file.read_bytes())
    limit = None if options.max_tokens is None else options.max_tokens + 1
    results: dict[str, dict[str, Any]] = {}
    for path in artifacts:
        artifact = Artifact.from_file(path)
        artifact.check_tokenizer(tokenizer.vocabulary)
        oracle = artifact.load_oracle()
        for glob in options.val:
            stream = read_stream(expand(glob), vocab_size=tokenizer.vocab_size, max_tokens=limit)
            result = measure(artifact, oracle, reference, stream, tokenizer.byte_table, options)
            show(f"{path} on {glob}", result)
            results[f"{path} on {glob}"] = result
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
