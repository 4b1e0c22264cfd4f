"""What the trainer is worth against a plain GPT, and what each of its pieces is worth, at equal time.

    python benches/python/training.py compare --data DIR --tokenizer T --preset tiny --seeds 3
    python benches/python/training.py ablate --data DIR --tokenizer T --preset tiny --seeds 3 [--only NAME...]

``compare`` trains the preset and a plain GPT (pre-norm, GELU, rotary, AdamW with a cosine, gradients
clipped at 1) on the same batches, for the same seconds of training and with about as many parameters; the
plain one's learning rate is searched first, on the first seed, until its best one has a worse neighbour on
either side. ``ablate`` trains the preset as it is and with one piece switched the other way, each with the
same seeds, and reports the mean of the paired differences and its standard error; and the processor time of a
step against that of the preset's, the median of pairs in turns. With ``--seconds 0 --iterations N`` all runs
have the same number of steps, which no other program can disturb, and a row for a tenth more steps says what
time is worth. Every run is a line of ``OUT``/results.jsonl; what is there already isn't run again.
``--seconds`` overrides the preset's time.

With ``--clock processor`` seconds are of processor time, which other programs on the machine take little
from. Without it, run this on a machine that has nothing else to do. Figures are bits per byte on the first
``validation.max_tokens`` tokens of validation text, in windows without overlap.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

# As `hybridlm` itself does, before torch reads it: threads that spin while they wait take time from others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridlm.config import resolve
from hybridlm.data import shards
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.distributed import Distributed, initialise
from hybridlm.model import GPT, ModelConfig
from hybridlm.threads import thread_count
from hybridlm.train.config import TrainConfig
from hybridlm.train.ema import EMA
from hybridlm.train.loader import TokenLoader
from hybridlm.train.loop import Learner, activation_dtype, train, with_facts
from hybridlm.train.schedule import plan
from hybridlm.train.validation import Validator

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}

FIRST_RATES = (0.001, 0.002, 0.004)

# Each piece, switched the other way than in most presets: settings of TrainConfig, by dotted name. Several
# names go together where one piece replaces another.
PIECES: dict[str, dict[str, Any]] = {
    "U-Net skips": {"model.unet_skips": False},
    "residual mix": {"model.residual_mix": False},
    "branch scales": {"model.branch_scales": False},
    "depth-scaled norm": {"model.depth_scaled_norm": False},
    "query gain": {"model.query_gain": False},
    "query gain from 5": {"model.query_gain_start": 5.0},
    "XSA everywhere": {"model.xsa_layers": 1 << 10},
    "no XSA": {"model.xsa_layers": 0},
    "value residual": {"model.value_residual": False},
    "no attention gate": {"model.gated_attention": False},
    "sparse attention gate": {"model.gated_attention": False, "model.sparse_gate_channels": 12},
    "document attention": {"model.document_attention": True},
    "MLP scale and bias": {"model.mlp_affine": False},
    "slope 0.75": {"model.leaky_relu_slope": 0.75},
    "bigram embedding": {"model.bigram_rows": 0},
    "no smear gate": {"model.smear_gate": False},
    "token smear gate": {"model.smear_gate": False, "model.smear_channels": 12},
    "asymmetric soft-cap": {"model.asymmetric_softcap": True},
    "parallel lanes": {"model.lane_layers": 1},
    "depth recurrence": {
        "model.recurrences": 2,
        "model.recurrence_first": 1,
        "model.recurrence_last": 1,
        "schedule.recurrence_start": 0.35,
    },
    "Polar Express": {"optimizer.newton_schulz": "polar_express"},
    "row normalisation": {"optimizer.normalise_rows": True},
    "decay of embeddings": {"optimizer.embedding_decay": 0.085},
    "decay of scalars": {"optimizer.scalar_decay": 0.02},
    "taper of decay": {"schedule.decay_taper": 0.3, "schedule.final_decay_scale": 0.5},
    "floor of the rate": {"schedule.lr_floor": 0.1},
    "gradient clip": {"optimizer.gradient_clip": 0.3},
    "decoder's rate": {"optimizer.decoder_lr_factor": 1.0},
    "average of weights": {"ema_decay": 0.0},
    "no skips, mix, scales, gates": {
        "model.unet_skips": False,
        "model.residual_mix": False,
        "model.branch_scales": False,
        "model.gated_attention": False,
        "model.mlp_affine": False,
    },
}


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        )

        def turned(y: Tensor) -> Tensor:
            a, b = y.chunk(2, dim=-1)
            return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)

        y = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(batch, length, width))
        return x + cast(Tensor, self.down(F.gelu(self.up(self.norms[1](x)))))


class PlainGPT(nn.Module):
    """GPT-2's plan with rotary positions: what a textbook trains."""

    def __init__(self, vocab_size: int, layers: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head_width = width // heads
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_stream = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * layers) if into_stream else 1))

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], dtype=torch.float32)
        frequencies = 10_000.0 ** (-torch.arange(0, self.head_width, 2) / self.head_width)
        angles = torch.outer(positions, frequencies)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin())
        return F.linear(self.norm(x), self.embedding.weight)

    def set_fake_quantisation(self, enabled: bool) -> None:
        """As validation asks of a GPT."""


def plain_like(config: ModelConfig) -> PlainGPT:
    """With the same width, heads and layers, and as many parameters, ±10%, by its hidden width.

    Where the embedding of bigrams is most of the preset, layers are added: they are what a plain GPT would
    spend its parameters on.
    """
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in GPT(config).parameters())
    width = config.width
    for layers in range(config.layers, 4 * config.layers + 1):
        per_layer = (wanted - config.vocab_size * width) / layers - 4 * width * width
        hidden = int(per_layer / (2 * width)) // 16 * 16
        if hidden <= 4 * width:
            break
    return PlainGPT(config.vocab_size, layers, width, config.heads, max(16, hidden))


def train_plain(
    config: TrainConfig, data: Path, tokenizer: Tokenizer, rate: float, timer: Callable[[], float]
) -> dict[str, float]:
    """One run of the plain GPT on the batches that the preset would see, in its precision; its figures."""
    dist = initialise("cpu")
    torch.set_num_threads(thread_count())
    config = with_facts(config, tokenizer)
    train_shards, val_shards = shards.data_folder(data)
    loader = loader_of(train_shards, config, dist)
    stream = shards.read_stream(val_shards, tokenizer.vocab_size, config.validation.max_tokens)
    torch.manual_seed(config.seed)
    model = plain_like(config.model)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    precision = activation_dtype(config, dist.device)
    start, step, progress = timer(), 0, 0.0
    batches = loader.batches(0)
    while progress < 1 and step < config.iterations:
        batch = next(batches)
        scale = min(1.0, (step + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * progress))  # from 1 to 0.1
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            logits = model(batch.tokens[:, :-1]).float()
        loss = F.cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        progress = max((timer() - start) / (config.max_seconds or math.inf), step / config.iterations)
    seconds = timer() - start
    batches.close()
    validator = Validator(stream, tokenizer.byte_table, config.sequence_length, dist)
    result = validator(cast(GPT, model), torch.float32)
    return {
        "bpb": result.bpb,
        "steps": step,
        "seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def train_ours(
    config: TrainConfig, data: Path, tokenizer: Tokenizer, timer: Callable[[], float]
) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="hybridlm-bench-") as folder:
        out = Path(folder) / "run"
        result = train(config, data=data, tokenizer=tokenizer, out=out, dist=initialise("cpu"), timer=timer)
    return {
        "bpb": result.bpb,
        "steps": result.steps,
        "seconds": result.seconds,
        "parameters": result.parameters,
    }


class Results:
    """OUT/results.jsonl: a run and its figures a line. A run that is there isn't done again."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / "results.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._known = {json.dumps(line["run"]): line["figures"] for line in map(json.loads, lines)}

    def of(self, run: dict[str, Any], train_it: Callable[[], dict[str, float]]) -> dict[str, float]:
        key = json.dumps(run)
        if key not in self._known:
            self._known[key] = train_it()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": run, "figures": self._known[key]}) + "\n")
        print(f"{key}: {self._known[key]}", file=sys.stderr)
        return self._known[key]


def changed(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    """``config`` with settings by dotted name; XSA layers are at most as many as there are."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        section, _, field = name.rpartition(".")
        sections.setdefault(section, {})[field] = value
    if "xsa_layers" in sections.get("model", {}):
        sections["model"]["xsa_layers"] = min(sections["model"]["xsa_layers"], config.model.layers)
    top = sections.pop("", {})
    parts = {name: dataclasses.replace(getattr(config, name), **sections[name]) for name in sections}
    return dataclasses.replace(config, **parts, **top)


def mean_and_error(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):+.4f} ± {error:.4f}"


def described(options: argparse.Namespace, config: TrainConfig) -> dict[str, Any]:
    """What all runs of a table have in common."""
    clock = {} if options.clock == "wall" else {"clock": options.clock}
    given = {"set": options.set} if options.set else {}
    run = {"preset": options.preset, "seconds": config.max_seconds, "iterations": config.iterations}
    return {**run, **clock, **given}


def compare(options: argparse.Namespace, config: TrainConfig, tokenizer: Tokenizer, results: Results) -> None:
    base = described(options, config)

    def plain(rate: float, seed: int) -> float:
        run = {**base, "model": "plain", "rate": rate, "seed": seed}
        seeded = dataclasses.replace(config, seed=seed)
        return results.of(run, lambda: train_plain(seeded, options.data, tokenizer, rate, timer))["bpb"]

    seeds = [config.seed + offset for offset in range(options.seeds)]
    timer = CLOCKS[options.clock]
    tried = {rate: plain(rate, seeds[0]) for rate in ([options.rate] if options.rate else FIRST_RATES)}
    while not options.rate:
        best = min(tried, key=lambda rate: tried[rate])
        missing = [rate for rate in (best / 2, 2 * best) if rate not in tried]
        if not missing:
            break
        tried |= {rate: plain(rate, seeds[0]) for rate in missing}
    rate = min(tried, key=lambda rate: tried[rate])
    theirs = [plain(rate, seed) for seed in seeds]
    ours = []
    for seed in seeds:
        seeded = dataclasses.replace(config, seed=seed)
        run = {**base, "model": "ours", "seed": seed}
        ours.append(results.of(run, lambda c=seeded: train_ours(c, options.data, tokenizer, timer))["bpb"])
    print("| seed | plain GPT | hybridlm | difference |\n|---|---|---|---|")
    for seed, one, other in zip(seeds, theirs, ours, strict=True):
        print(f"| {seed} | {one:.4f} | {other:.4f} | {other / one - 1:+.2%} |")
    share = statistics.mean(ours) / statistics.mean(theirs) - 1
    print(f"| mean | {statistics.mean(theirs):.4f} | {statistics.mean(ours):.4f} | {share:+.2%} |")
    print(f"\nplain GPT at its best rate, {rate:g}, of those tried: ", end="")
    print(", ".join(f"{rate:g} ({bpb:.4f})" for rate, bpb in sorted(tried.items())))


def ablate(options: argparse.Namespace, config: TrainConfig, tokenizer: Tokenizer, results: Results) -> None:
    base = described(options, config)
    seeds = [config.seed + offset for offset in range(options.seeds)]
    timer = CLOCKS[options.clock]

    def ours(settings: dict[str, Any], seed: int) -> float:
        run = {**base, "model": "ours", "seed": seed, **({"settings": settings} if settings else {})}
        seeded = changed(dataclasses.replace(config, seed=seed), settings)
        return results.of(run, lambda: train_ours(seeded, options.data, tokenizer, timer))["bpb"]

    def row(name: str, settings: dict[str, Any], cost: float) -> None:
        differences = [ours(settings, seed) - one for seed, one in zip(seeds, as_it_is, strict=True)]
        each = ", ".join(f"{difference:+.4f}" for difference in differences)
        print(f"| {name} | {mean_and_error(differences)} | {each} | {cost:.2f} |", flush=True)

    as_it_is = [ours({}, seed) for seed in seeds]
    print(f"as it is: {statistics.mean(as_it_is):.4f} bits per byte\n")
    print("| switched | bits per byte, against as it is | of which for each seed | time of a step |")
    print("|---|---|---|---|")
    if not config.max_seconds:
        row("(a tenth more steps)", {"iterations": round(1.1 * config.iterations)}, 1.0)
    one_step = stepper(config, options.data, tokenizer)
    for name, settings in PIECES.items():
        if not options.only or name in options.only:
            switched = stepper(changed(config, settings), options.data, tokenizer)
            pairs = [(one_step(), switched()) for _ in range(2 + options.pairs)][2:]
            row(name, settings, statistics.median(other / one for one, other in pairs))


def stepper(config: TrainConfig, data: Path, tokenizer: Tokenizer) -> Callable[[], float]:
    """Trains a new model by a step on the same batch whenever it is called; returns its processor time."""
    dist = initialise("cpu")
    torch.set_num_threads(thread_count())
    config = with_facts(config, tokenizer)
    batches = loader_of(shards.data_folder(data)[0], config, dist).batches(0)
    batch = next(batches)
    batches.close()
    model = GPT(config.model)
    learner = Learner(model, config, dist, activation_dtype(config, dist.device))
    ema = EMA(model, config.ema_decay)
    halfway = config.iterations // 2
    planned = plan(halfway, 0.5, config)

    def step() -> float:
        start = time.process_time()
        learner.step(batch.tokens, batch.weights, planned)
        ema.update(model, halfway)
        return time.process_time() - start

    return step


def loader_of(paths: list[Path], config: TrainConfig, dist: Distributed) -> TokenLoader:
    return TokenLoader(
        paths,
        sequence_length=config.sequence_length,
        sequences_per_step=config.sequences_per_step,
        seed=config.seed,
        distributed=dist,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("compare", "ablate"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("training-bench"))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seconds", type=float, help="of each run, instead of the preset's")
    parser.add_argument("--iterations", type=int, help="of each run, instead of the preset's")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="of the preset, by dotted name"
    )
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, help="of the plain GPT; by default the best is searched")
    parser.add_argument("--pairs", type=int, default=12, help="of steps, for the time that a piece takes")
    parser.add_argument("--only", nargs="*", choices=PIECES, metavar="NAME")
    options = parser.parse_args()
    config = resolve(TrainConfig, options.preset)
    config = changed(
        config, {name: json.loads(value) for name, _, value in (one.partition("=") for one in options.set)}
    )
    if options.seconds is not None:
        config = dataclasses.replace(config, max_seconds=options.seconds)
    if options.iterations is not None:
        config = dataclasses.replace(config, iterations=options.iterations)
    run = {"compare": compare, "ablate": ablate}[options.what]
    run(options, config, Tokenizer.load(options.tokenizer), Results(options.out))


if __name__ == "__main__":
    main()
