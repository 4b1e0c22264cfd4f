"""`hybridlm train`, which is also `torchrun … -m hybridlm.train`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hybridlm.cli.arguments import ChosenTokenizer, TokenizerChoice
from hybridlm.config import peek_option, resolve
from hybridlm.train.config import TrainConfig


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
    out: Path
    """Folder of the run."""
    preset: str | None = None
    """tiny, kaggle, full, or a TOML file of settings."""
    resume: bool = False
    """Continue the run in --out from its latest checkpoint, with the settings that it was started with."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    @classmethod
    def with_defaults(cls, arguments: list[str]) -> "Train":
        preset = peek_option(arguments, "--preset")
        return cls(
            data=tyro.MISSING,
            tokenizer=TokenizerChoice(tyro.MISSING),
            out=tyro.MISSING,
            config=resolve(TrainConfig, preset),
        )

    def run(self) -> None:
        from hybridlm.distributed import initialise
        from hybridlm.train import loop

        tokenizer = self.tokenizer.load()
        dist = initialise(self.config.device)
        try:
            result = loop.train(
                self.config,
                data=self.data,
                tokenizer=tokenizer,
                out=self.out,
                dist=dist,
                resume=self.resume,
            )
        finally:
            dist.close()
        if dist.is_main:
            print(
                f"{self.out}: {result.parameters} parameters, {result.steps} steps in "
                f"{result.seconds:.1f} s, validation {result.bpb:.4f} bits per byte"
            )


train = Train
