"""The table that `hybridlm run` ends with, and its JSON twin."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Score:
    """One predictor over the validation text. bits_per_token and bpb are bits per token and per byte."""

    name: str
    bits_per_token: float
    bpb: float


@dataclass(frozen=True)
class Summary:
    """A whole run.

    Attributes:
        experts: every expert alone, before test-time training.
        scores: the neural model and the mixtures, from the plainest to the fullest; the last is the result.
        bpb_interval: 95% of the result, by resampling documents; None where there are fewer than two.
        documents: of each scored document, in order, its targets (``tokens``), bytes, and the result's bits.
        tokens, bytes: scored targets, and the UTF-8 bytes of the decoded text that they make up.
        parts: the artifact's bytes by part, in the file's order.
        budget_bytes: what they may add up to.
        seconds: wall-clock seconds by stage, in order.
        data: counts that say what was trained on, such as documents and tokens.
        made_of: the files, settings and versions behind the last score (`hybridlm.provenance`).
    """

    experts: list[Score]
    scores: list[Score]
    bpb_interval: tuple[float, float] | None
    documents: dict[str, list[Any]]
    tokens: int
    bytes: int
    parts: dict[str, int]
    budget_bytes: int
    seconds: dict[str, float]
    data: dict[str, int]
    made_of: dict[str, Any]

    @property
    def total_bytes(self) -> int:
        return sum(self.parts.values())

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"total_bytes": self.total_bytes, "bpb": self.scores[-1].bpb}

    def print(self, console: Console) -> None:
        scores = Table(
            "predictor", title="bits per byte of the decoded validation text", title_justify="left"
        )
        scores.add_column("bits/token", justify="right")
        scores.add_column("BPB", justify="right")
        for score in self.experts:
            _add_score(scores, score)
        scores.add_section()
        for score in self.scores:
            _add_score(scores, score)
        console.print(scores)
        console.print(f"{self.tokens:,} targets, {self.bytes:,} bytes\n", highlight=False)

        sizes = Table("part", title="artifact", title_justify="left")
        sizes.add_column("bytes", justify="right")
        sizes.add_column("of the budget", justify="right")
        for name, size in self.parts.items():
            sizes.add_row(name, f"{size:,}", f"{size / self.budget_bytes:.1%}")
        sizes.add_section()
        sizes.add_row("total", f"{self.total_bytes:,}", f"{self.total_bytes / self.budget_bytes:.1%}")
        sizes.add_row("budget", f"{self.budget_bytes:,}", "")
        console.print(sizes)

        times = Table("stage", title="time", title_justify="left")
        times.add_column("seconds", justify="right")
        for stage, elapsed in self.seconds.items():
            times.add_row(stage, f"{elapsed:.1f}")
        times.add_section()
        times.add_row("total", f"{sum(self.seconds.values()):.1f}")
        console.print(times)


def _add_score(table: Table, score: Score) -> None:
    table.add_row(score.name, f"{score.bits_per_token:.4f}", f"{score.bpb:.4f}")
