"""`hybridlm train`, which is also `torchrun … -m hybridlm.train`."""

import dataclasses
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hybridlm.cli.arguments import ChosenTokenizer, Out, Threads, TokenizerChoice
from hybridlm.config import from_values, peek_option, resolve
from hybridlm.errors import FormatError
from hybridlm.extras import require_tensorboard, require_torch
from hybridlm.files import read_json
from hybridlm.train import launch
from hybridlm.train.config import TrainConfig

_NOT_GIVEN = Path()
_LARGEST_CONFIG = 1 << 20


@dataclass(frozen=True)
class Train:
    """Train a GPT on a data folder's training shards; also under torchrun, as `-m hybridlm.train`.

    Leaves config.json, metrics.jsonl and model.safetensors in the run's folder. Interrupted, it leaves a
    checkpoint there. Settings come from defaults, the preset, the environment and the command line, each
    over the ones before.
    """

    data: Path
    """Folder of shards named *_train_*.bin and *_val_*.bin."""
    tokenizer: ChosenTokenizer
    out: Out
    """Folder of the run."""
    preset: str | None = None
    """tiny, small, kaggle, full, record, or a TOML file of settings."""
    resume: bool = False
    """Continue the run in --out from its latest checkpoint, with the settings that its config.json holds."""
    allow_changes: bool = False
    """Let --resume continue with other settings."""
    processes: Threads = 1
    """Ranks to train with on this machine; what torchrun would be for."""
    dry_run: bool = False
    """Say what the run will take and do nothing; needs neither --data nor --out, --tokenizer if at hand."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    arguments: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()

    @classmethod
    def with_defaults(cls, arguments: list[str]) -> "Train":
        preset = peek_option(arguments, "--preset")
        out = peek_option(arguments, "--out") or peek_option(arguments, "-o")
        config = None
        if "--resume" in arguments and preset is None and out is not None:
            config = _started_with(Path(out))
        required = _NOT_GIVEN if "--dry-run" in arguments else tyro.MISSING
        return cls(
            data=required,
            tokenizer=TokenizerChoice(required),
            out=required,
            config=resolve(TrainConfig, preset) if config is None else config,
            arguments=tuple(arguments),
        )

    def run(self) -> None:
        require_torch("training")
        if self.config.tensorboard:
            require_tensorboard("--tensorboard")
        if self.dry_run:
            self._print_estimate()
        elif self.processes > 1 and "RANK" not in os.environ:
            raise SystemExit(launch.launch(self.arguments, self.processes))
        else:
            self._train()

    def _train(self) -> None:
        from hybridlm.distributed import initialise, is_first_to_fail
        from hybridlm.errors import InputError

        dist = initialise(self.config.device, timeout=self.config.rank_timeout or None)
        from hybridlm.train import loop

        try:
            result = loop.train(
                self.config,
                data=self.data,
                tokenizer=self.tokenizer.load(),
                out=self.out,
                dist=dist,
                resume=self.resume,
                allow_changes=self.allow_changes,
            )
        except (InputError, OSError, KeyboardInterrupt) as error:
            # Of several ranks, the first to fail tells why.
            if not is_first_to_fail():
                raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
            if isinstance(error, ConnectionError):
                if launch.VARIABLE in os.environ:
                    # A launcher that has seen a rank die ends this one before long, and says which it was.
                    # On a machine that has much else to do, that takes it more than a moment.
                    time.sleep(20)
                raise ConnectionError(
                    f"{error}; the same command with --resume goes on from the last checkpoint"
                ) from None
            raise
        finally:
            dist.close()
        if dist.is_main:
            print(
                f"{self.out}: {result.parameters} parameters, {result.steps} steps in "
                f"{result.seconds:.1f} s, validation {result.bpb:.4f} bits per byte"
            )

    def _print_estimate(self) -> None:
        from hybridlm.train.estimate import ASSUMED_VOCABULARY, estimate

        config, source = self.config, "as set"
        if self.tokenizer.tokenizer != _NOT_GIVEN:
            from hybridlm.train.loop import with_facts

            config, source = with_facts(config, self.tokenizer.load()), "the tokenizer's"
        else:
            vocab_size = config.model.vocab_size or ASSUMED_VOCABULARY
            source = source if config.model.vocab_size else "assumed: give --tokenizer"
            model = dataclasses.replace(
                config.model, vocab_size=vocab_size, sequence_length=config.sequence_length
            )
            config = dataclasses.replace(config, model=model)
        found = estimate(config)
        tera = found.flops_per_token * config.batch_tokens / 1e12
        for name, text in {
            "parameters": f"{found.parameters:,}, of {config.model.vocab_size} pieces ({source})",
            "operations": f"{found.flops_per_token / 1e6:,.1f} million a token, {tera:,.2f} × 10¹² a step of "
            f"{config.batch_tokens:,} tokens",
            "memory": f"{found.state_bytes / 1e6:,.0f} MB a rank for weights, gradients, optimisers, average",
            "activations": ", ".join(
                f"{size / 1e6:,.0f} MB in {name}" for name, size in found.activation_bytes.items()
            )
            + f" for a micro-batch of at most {config.micro_batch_tokens:,} tokens, less with torch.compile",
            "packed": ", ".join(f"{size / 1e6:.2f} MB at {clip}" for clip, size in found.packed_bytes.items())
            + ", estimated",
            "pace": "no time limit is set"
            if not found.steps_per_second
            else f"{found.steps_per_second:.2f} steps/s for {config.iterations:,} steps in "
            f"{config.max_seconds:g} s: {found.steps_per_second * config.batch_tokens:,.0f} tokens/s, "
            f"{found.steps_per_second * tera:,.2f} × 10¹² operations/s",
        }.items():
            print(f"{name:12} {text}")


def _started_with(out: Path) -> TrainConfig | None:
    """The settings of the run in ``out``, defaults, preset and environment among them; None where there is no
    run, which is told of when its checkpoint is looked for. Raises FormatError, OSError."""
    path = out / "config.json"
    if not path.is_file():
        return None
    found = read_json(path, _LARGEST_CONFIG)
    if not isinstance(found, dict) or not isinstance(found.get("training"), dict):
        raise FormatError(f"{path}: not the configuration of a run")
    return from_values(TrainConfig, found["training"], str(path))


train = Train
