"""What hybridlm does on a GPU, in at most nine minutes: speed, memory, and that results are the CPU's.

    scripts/gpu-check --out report
    scripts/gpu-check --device cpu --small

Trains `kaggle` and `record` for ``--seconds`` each, packs the former with a dense oracle, scores it with
test-time training on the device, and compares what can be compared with the CPU. Leaves OUT/report.json and
prints a table; the exit code is 1 if a check failed. A check that breaks down is reported, and the others go
on. Without ``--data`` and ``--tokenizer`` the text is the English that is installed on the machine, and each
preset gets a tokenizer of its own vocabulary. ``--small`` shrinks models and text until a CPU does it in
seconds, with every piece of the presets.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

# As `hybridlm` itself does, before torch reads it: threads that spin while they wait take time from others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch

from hybridlm import _core
from hybridlm.artifact import Artifact, bundle
from hybridlm.cli.output import number_table, print_table
from hybridlm.config import resolve
from hybridlm.data import documents, shard_writer, shards
from hybridlm.data.documents import Document
from hybridlm.data.installed_text import installed_documents
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.distributed import Distributed, initialise
from hybridlm.errors import InputError
from hybridlm.files import atomic_write_text
from hybridlm.model import GPT
from hybridlm.oracle.build import build_dense
from hybridlm.oracle.device_tables import OracleTables
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import evaluate
from hybridlm.scoring.mixtures import create_mixture
from hybridlm.scoring.mixtures.hedge import hedge_token_on_device, initial_log_weights
from hybridlm.train.checkpoint import MODEL_FILE
from hybridlm.train.config import TrainConfig
from hybridlm.train.loader import TokenLoader
from hybridlm.train.loop import Learner, activation_dtype, train, with_facts
from hybridlm.train.schedule import plan

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L4": 121.0, "L40S": 362.0, "RTX 4090": 165.0}
"""Dense bfloat16 products, 10¹² operations a second, as the maker states them."""

FIRST_STEPS = 5
STEP_TOLERANCE = 2e-3
"""Nats by which the losses of the first steps may differ from the CPU's, in float32 on both."""
SCORED_TOKENS = 200_000


@dataclass(frozen=True)
class Text:
    """A data folder and the tokenizer that made it."""

    folder: Path
    tokenizer: Tokenizer


@dataclass
class Check:
    """One row of the report."""

    name: str
    passed: bool
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Bench:
    """What the checks share. ``oracle`` and ``artifact`` are those that a check before has made."""

    device: torch.device
    dist: Distributed
    small: bool
    seconds: float
    peak_tflops: float
    work: Path
    texts: dict[int, Text]
    given: Text | None
    artifact: Artifact | None = None

    def text(self, vocab_size: int) -> Text:
        if self.given is not None:
            return self.given
        if vocab_size not in self.texts:
            self.texts[vocab_size] = prepare_text(self.work, vocab_size, self.small)
        return self.texts[vocab_size]

    def config(self, preset: str) -> TrainConfig:
        """The preset, limited to the seconds of the check; a small check shrinks it, too."""
        config = resolve(TrainConfig, preset)
        config = dataclasses.replace(
            config,
            max_seconds=self.seconds,
            log_every=1 if self.small else 5,
            peak_tflops=self.peak_tflops,
            device=str(self.device),
            compile=not self.small,
            schedule=dataclasses.replace(config.schedule, warmup_steps=1 if self.small else 3),
            validation=dataclasses.replace(
                config.validation, every=0, max_tokens=1000 if self.small else 100_000
            ),
            checkpoint=dataclasses.replace(config.checkpoint, every=0),
        )
        if self.given is not None:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=0))
        return shrunk(config) if self.small else config


def shrunk(config: TrainConfig) -> TrainConfig:
    """The same pieces in a network that a CPU trains in a second."""
    model = config.model
    recurs = model.recurrences > 1
    model = dataclasses.replace(
        model, vocab_size=0, layers=5, width=32, heads=4, kv_heads=2, mlp_hidden=64, rope_dims=4,
        xsa_layers=5,
        bigram_rows=min(model.bigram_rows, 64), bigram_width=32, lane_layers=min(model.lane_layers, 2),
        recurrences=min(model.recurrences, 2), recurrence_first=int(recurs), recurrence_last=2 * recurs,
    )  # fmt: skip
    return dataclasses.replace(
        config,
        iterations=8,
        max_seconds=0.0,
        batch_tokens=512,
        micro_batch_tokens=256,
        sequence_length=32,
        model=model,
    )


def prepare_text(work: Path, vocab_size: int, small: bool) -> Text:
    found = (
        [Document("pydoc", documents.clean(topics[name])) for name in sorted(topics)]
        if small
        else documents.deduplicate(installed_documents())
    )
    training, validation = documents.split(found, 0.1)
    path = work / f"tokenizer{vocab_size}.model"
    tokenizer = Tokenizer.train((document.text for document in training), path, vocab_size)
    folder = work / f"data{vocab_size}"
    shard_writer.write_shards(training, validation, tokenizer, folder)
    return Text(folder, tokenizer)


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def check_training(bench: Bench, preset: str) -> tuple[bool, dict[str, Any]]:
    """The preset trains: its loss falls. Measures tokens per second and memory."""
    config = bench.config(preset)
    text = bench.text(512 if bench.small else config.model.vocab_size or 1024)
    out = bench.work / preset
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    result = train(config, data=text.folder, tokenizer=text.tokenizer, out=out, dist=bench.dist)
    lines = [line for line in metrics(out) if "train_loss" in line]
    first, last = lines[0]["train_loss"], lines[-1]["train_loss"]
    # The first lines are of a machine that is still getting under way.
    steady = lines[len(lines) // 3 :]
    facts = {
        "parameters": result.parameters,
        "steps": result.steps,
        "precision": str(activation_dtype(config, bench.device)).removeprefix("torch."),
        "compiled": config.compile,
        "tokens_per_second": sum(line["tokens_per_second"] for line in steady) / len(steady),
        "first_loss": first,
        "last_loss": last,
        "validation_bpb": result.bpb,
    }
    if "mfu" in lines[-1]:
        facts["mfu"] = sum(line["mfu"] for line in steady) / len(steady)
    if bench.device.type == "cuda":
        facts["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return math.isfinite(last) and last < first, facts


def check_first_steps(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """The first steps' losses, in float32 and not compiled, equal the CPU's."""
    config = shrunk(bench.config("record")) if bench.small else bench.config("tiny")
    text = bench.text(512 if bench.small else 1024)
    config = with_facts(dataclasses.replace(config, compile=False, precision="float32"), text.tokenizer)
    config = dataclasses.replace(config, iterations=100, max_seconds=0.0)
    training, _ = shards.data_folder(text.folder)
    losses = []
    for device in (torch.device("cpu"), bench.device):
        dist = Distributed(0, 1, 0, device)
        loader = TokenLoader(
            training, sequence_length=config.sequence_length, seed=config.seed, distributed=dist,
            sequences_per_step=config.sequences_per_step,
        )  # fmt: skip
        torch.manual_seed(config.seed)
        model = GPT(config.model).to(device)
        learner = Learner(model, config, dist, torch.float32)
        found = []
        for step in range(FIRST_STEPS):
            batch = loader.batch(step)
            planned = plan(step, step / config.iterations, config)
            outcome = learner.step(batch.tokens.to(device), batch.weights.to(device), planned)
            found.append(float(outcome.nats) / config.batch_tokens)
        losses.append(found)
    difference = max(abs(one - two) for one, two in zip(*losses, strict=True))
    return difference <= STEP_TOLERANCE, {"largest_difference_nats": difference, "losses": losses[1]}


def check_two_runs(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """The same run twice leaves the same weights."""
    config = dataclasses.replace(bench.config("kaggle"), iterations=8, max_seconds=0.0)
    text = bench.text(512 if bench.small else 1024)
    states = []
    for name in ("one", "two"):
        out = bench.work / f"run_{name}"
        train(config, data=text.folder, tokenizer=text.tokenizer, out=out, dist=bench.dist)
        states.append((out / MODEL_FILE).read_bytes())
    return states[0] == states[1], {"steps": config.iterations, "bytes": len(states[0])}


def check_packing(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """What `kaggle` has trained is packed, by GPTQ, with a dense oracle."""
    text = bench.text(512 if bench.small else 1024)
    training, _ = shards.data_folder(text.folder)
    oracle = build_dense(training, text.tokenizer.vocabulary, orders=4 if bench.small else 8, level=3)
    began = time.perf_counter()
    run = bench.work / "kaggle"
    made = bundle(run, oracle, text.tokenizer, calibration=training[:1], over_budget=True)
    bench.artifact = Artifact.from_bytes(made.to_bytes(), "gpu-check")
    facts = {
        "neural_bytes": made.neural_bytes,
        "oracle_bytes": made.oracle_bytes,
        "total_bytes": made.total_bytes,
        "pack_seconds": time.perf_counter() - began,
    }
    return made.total_bytes <= 16_000_000, facts


def check_scoring(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """The artifact scores the validation text on the device, learning from it; that is better than not."""
    artifact, text = packed(bench), bench.text(512 if bench.small else 1024)
    tokens = 3000 if bench.small else SCORED_TOKENS
    chunk = 1024 if bench.small else ScoringConfig().chunk
    stream = shards.read_stream(shards.data_folder(text.folder)[1], text.tokenizer.vocab_size, tokens + 1)
    facts: dict[str, Any] = {"tokens": len(stream) - 1}
    for ttt in ("off", "sgd"):
        settings = ScoringConfig(ttt=ttt, chunk=chunk)
        result = evaluate(artifact, stream, text.tokenizer.byte_table, settings, bench.dist)
        facts[f"bpb_ttt_{ttt}"] = result.bpb
        facts[f"neural_bpb_ttt_{ttt}"] = result.experts["neural"].bpb
        facts[f"seconds_ttt_{ttt}"] = result.seconds
    facts["updates"] = result.ttt_updates
    # A small model of eight steps may not gain; that it learns at all is then enough.
    gained = facts["neural_bpb_ttt_sgd"] < facts["neural_bpb_ttt_off"]
    return bool(result.ttt_updates) and (gained or bench.small), facts


def check_look_ups(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """The oracle's look-ups on the device equal those of the CPU."""
    artifact, text = packed(bench), bench.text(512 if bench.small else 1024)
    stream = shards.read_stream(shards.data_folder(text.folder)[1], text.tokenizer.vocab_size, 50_000)
    oracle = _core.FrozenOracle.from_bytes(artifact.oracle_blob or b"")
    wanted = oracle.target_log_probs(stream)
    tables = OracleTables(oracle, bench.device)
    tokens = torch.from_numpy(stream.astype(np.int64)).to(bench.device)
    difference = float(np.abs(tables.target_log_probs(tokens).cpu().numpy() - wanted).max())
    return difference <= 1e-5, {"largest_difference_nats": difference, "targets": wanted.shape[1]}


def check_hedge(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """The Hedge on the device equals the CPU's."""
    names = ["neural", "unigram", "bigram", "trigram", *(f"oracle_{order}" for order in range(1, 9))]
    count = 5000 if bench.small else 200_000
    log_probs = -np.random.default_rng(0).gamma(2.0, 1.5, (len(names), count)).astype(np.float32)
    wanted = create_mixture("hedge-token", names).mix(log_probs)
    weights = torch.from_numpy(initial_log_weights(names)).to(bench.device)
    found, _ = hedge_token_on_device(torch.from_numpy(log_probs).to(bench.device), weights)
    difference = float(np.abs(found.cpu().numpy() - wanted).max())
    return difference <= 1e-6, {"largest_difference_nats": difference, "targets": count}


def packed(bench: Bench) -> Artifact:
    if bench.artifact is None:
        raise RuntimeError("there is no artifact: packing failed")
    return bench.artifact


def run_check(name: str, check: Callable[[], tuple[bool, dict[str, Any]]]) -> Check:
    began = time.perf_counter()
    try:
        passed, facts = check()
    except Exception as error:  # what breaks here is what the check is there to find
        passed, facts = False, {"error": f"{type(error).__name__}: {error}"}
    result = Check(name, passed, time.perf_counter() - began, facts)
    print(f"{'ok' if passed else 'FAILED'} {name}, {result.seconds:.1f} s", file=sys.stderr, flush=True)
    return result


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def known_peak(name: str) -> float:
    return next((peak for card, peak in PEAK_TFLOPS.items() if card in name), 0.0)


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each preset")
    parser.add_argument("--peak-tflops", type=float, help="of the device; by default by its name, if known")
    parser.add_argument("--data", type=Path, help="a data folder, made by --tokenizer")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    options = parser.parse_args(arguments)
    if (options.data is None) != (options.tokenizer is None):
        parser.error("--data and --tokenizer go together")
    began = time.perf_counter()
    try:
        dist = initialise(options.device)
    except InputError as error:
        parser.error(str(error))
    name = device_name(dist.device)
    peak = known_peak(name) if options.peak_tflops is None else options.peak_tflops
    options.out.mkdir(parents=True, exist_ok=True)
    given = None
    if options.data is not None:
        given = Text(options.data, Tokenizer.load(options.tokenizer))
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as work:
        bench = Bench(dist.device, dist, options.small, options.seconds, peak, Path(work), {}, given)
        checks = [
            run_check(label, lambda check=check: check(bench))  # type: ignore[misc]
            for label, check in {
                "first steps equal the CPU's": check_first_steps,
                "kaggle trains": lambda bench: check_training(bench, "kaggle"),
                "record trains": lambda bench: check_training(bench, "record"),
                "two runs are equal": check_two_runs,
                "pack": check_packing,
                "score with test-time training": check_scoring,
                "look-ups equal the CPU's": check_look_ups,
                "hedge equals the CPU's": check_hedge,
            }.items()
        ]
    report = {
        "device": name,
        "torch": torch.__version__,
        "small": options.small,
        "peak_tflops": peak,
        "seconds": time.perf_counter() - began,
        "passed": all(check.passed for check in checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    atomic_write_text(options.out / "report.json", json.dumps(report, indent=2) + "\n")
    table = number_table(f"{name}, torch {torch.__version__}", "", "seconds", "found")
    for check in checks:
        facts = "\n".join(f"{key} {shown(value)}" for key, value in check.facts.items() if key != "losses")
        table.add_row(check.name, "ok" if check.passed else "FAILED", f"{check.seconds:.1f}", facts)
    print_table(table)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
