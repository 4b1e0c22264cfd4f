"""A record: a folder with a submission.json, of hybridlm's making or of somebody else's.

Public records differ in what they say and in how. Read are: ``val_bpb``; ``seed_results``, an object by seed
or a list, of numbers or of objects with ``val_bpb``, ``val_loss`` and a total of bytes; ``bytes_total``,
``bytes_code``; ``seeds``; ``val_bpb_std``; ``compliance``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridlm.errors import FormatError
from hybridlm.files import read_json

SUBMISSION = "submission.json"
LARGEST = 1 << 24
"""Bytes. A larger submission.json is refused."""

_TOTALS = ("artifact_bytes", "bytes_total", "total_bytes", "submission_bytes")


@dataclass(frozen=True)
class SeedResult:
    """val_bpb: bits per byte; val_loss: nats per token; total_bytes: of code and model. None: not said."""

    val_bpb: float
    val_loss: float | None
    total_bytes: int | None


@dataclass(frozen=True)
class Record:
    """What a submission.json says.

    folder: where it is. fields: all of it. val_bpb: its claim. seeds: results by seed's name, in order; empty
    where it has none.
    """

    folder: Path
    fields: Mapping[str, Any]
    val_bpb: float
    seeds: dict[str, SeedResult]

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def bpbs(self) -> list[float]:
        """Of its seeds, or its claim alone."""
        return [result.val_bpb for result in self.seeds.values()] or [self.val_bpb]

    @property
    def total_bytes(self) -> int | None:
        """The largest number of bytes of code and model that it gives; None: it gives none."""
        stated = [result.total_bytes for result in self.seeds.values()]
        stated += [_count(self.fields.get(key)) for key in _TOTALS]
        known = [size for size in stated if size is not None]
        return max(known) if known else None

    @property
    def nats_per_bit(self) -> float | None:
        """Nats per token for each bit per byte, which convert margins; None: it gives no loss."""
        for result in self.seeds.values():
            if result.val_loss is not None and result.val_bpb:
                return result.val_loss / result.val_bpb
        loss = _number(self.fields.get("val_loss"))
        return None if loss is None or not self.val_bpb else loss / self.val_bpb

    @classmethod
    def read(cls, path: Path) -> "Record":
        """The record in the folder ``path``, or its submission.json. Raises FormatError or OSError."""
        file = path / SUBMISSION if path.is_dir() else path
        fields = read_json(file, LARGEST)
        if not isinstance(fields, dict):
            raise FormatError(f"{file}: holds no JSON object")
        bpb = _number(fields.get("val_bpb"))
        seeds = _seeds(fields.get("seed_results"), file)
        if bpb is None and seeds:
            bpb = sum(result.val_bpb for result in seeds.values()) / len(seeds)
        if bpb is None:
            raise FormatError(f"{file}: has no number val_bpb, so it claims no score")
        return cls(file.parent, fields, bpb, seeds)


def _seeds(found: Any, file: Path) -> dict[str, SeedResult]:
    if found is None:
        return {}
    if isinstance(found, list):
        entries = {
            str(entry.get("seed", index)) if isinstance(entry, dict) else str(index): entry
            for index, entry in enumerate(found, 1)
        }
        if len(entries) < len(found):
            raise FormatError(f"{file}: seed_results has a seed twice")
    elif isinstance(found, dict):
        entries = found
    else:
        raise FormatError(f"{file}: seed_results is neither an object nor a list")
    results = {}
    for seed, entry in entries.items():
        values = entry if isinstance(entry, dict) else {"val_bpb": entry}
        bpb = _number(values.get("val_bpb"))
        if bpb is None:
            raise FormatError(f"{file}: the result of seed {seed} has no number val_bpb")
        total = next((size for key in _TOTALS if (size := _count(values.get(key))) is not None), None)
        results[seed] = SeedResult(bpb, _number(values.get("val_loss")), total)
    return results


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
