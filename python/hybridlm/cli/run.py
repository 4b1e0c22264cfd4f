"""`hybridlm run`: the whole pipeline."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hybridlm.cli.arguments import Count, Fraction, OptionalOut, Pieces, Threads
from hybridlm.config import peek_option, resolve
from hybridlm.files import scratch_folder
from hybridlm.scoring.config import DEFAULT_MIXER, DEFAULT_TTT, ScoringConfig, TTTOptimizer
from hybridlm.train.config import TrainConfig

DEFAULT_PRESET = "tiny"


@dataclass(frozen=True)
class Run:
    """Run the whole pipeline, from text to a bundled artifact and its bits per byte.

    Cleans and deduplicates the text, splits it by document, trains a tokenizer, writes shards, builds the
    oracle, trains a GPT, quantises and bundles, reloads the artifact from its bytes and scores it. Without
    --text it takes the English documentation that ships with Python and with the installed dependencies.
    """

    text: tuple[Path, ...] = ()
    """Text files, folders, globs or - to use instead, of any kind that `data shard` reads."""
    out: OptionalOut = None
    """Folder that keeps everything, ready for the single commands; without it nothing is kept. Interrupted,
    the same command goes on from what is in it."""
    preset: str = DEFAULT_PRESET
    """Of the training settings: tiny, small, kaggle, full, record, or a TOML file of settings."""
    vocab_size: Pieces = 1024
    """Pieces of the tokenizer."""
    val_fraction: Fraction = 0.025
    """Share of the text, by document, that is held out and scored."""
    estimator: Literal["dense", "sparse"] = "sparse"
    """How the oracle is estimated."""
    oracle_bytes: Count = 1_500_000
    """The most bytes that a sparse oracle may take."""
    ttt: TTTOptimizer = DEFAULT_TTT
    """Test-time training while scoring. Its environment variable is TTT_OPTIMIZER."""
    mixer: str = DEFAULT_MIXER
    """How the experts are mixed: stacked, eg, fixed-share, bayes, hedge, hedge-token; or by whole rows, which
    takes some hundred times as long: geometric, best."""
    threads: Threads | None = None
    """Threads of native work; default: HYBRIDLM_NUM_THREADS, else all cores."""
    json: bool = False
    """Print the summary as JSON."""
    training: TrainConfig = field(default_factory=TrainConfig)
    """Of the network, as `hybridlm train` takes them."""

    @classmethod
    def with_defaults(cls, arguments: list[str]) -> "Run":
        preset = peek_option(arguments, "--preset") or DEFAULT_PRESET
        scoring = resolve(ScoringConfig)
        return cls(
            training=resolve(TrainConfig, preset),
            ttt=scoring.ttt or DEFAULT_TTT,
            mixer=scoring.mixer,
            preset=preset,
        )

    def run(self) -> None:
        if self.out is not None:
            self._run(self.out)
            return
        with scratch_folder() as folder:
            self._run(folder)

    def _run(self, out: Path) -> None:
        from rich.console import Console

        from hybridlm import pipeline

        config = pipeline.PipelineConfig(
            text=self.text,
            training=self.training,
            vocab_size=self.vocab_size,
            val_fraction=self.val_fraction,
            estimator=self.estimator,
            oracle_bytes=self.oracle_bytes,
            ttt=self.ttt,
            mixer=self.mixer,
            threads=self.threads,
        )
        try:
            summary = pipeline.run(config, out)
        except KeyboardInterrupt:
            # Training advises to go on with --resume, which is an option of `hybridlm train` alone.
            advice = "" if self.out is None else f"; the same command goes on with what {out} holds"
            raise KeyboardInterrupt(f"interrupted{advice}") from None
        if self.json:
            json.dump(summary.to_json(), sys.stdout, indent=2)
            print()
        else:
            summary.print(Console())
