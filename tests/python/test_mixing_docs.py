"""The examples of docs/mixing.md, run as they stand there."""

import re
from pathlib import Path

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.artifact import Artifact, pack
from hybridlm.data.byte_table import ByteTable
from hybridlm.scoring.audit import audit
from hybridlm.scoring.audit_subject import artifact_subject
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.evaluate import evaluate
from hybridlm.scoring.experts import interface as experts
from hybridlm.scoring.mixtures import interface as mixtures

V = 20
PAGE = Path(__file__).parents[2] / "docs" / "mixing.md"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers them for one test."""
    monkeypatch.setattr(experts, "_ONLINE", list(experts._ONLINE))
    monkeypatch.setattr(mixtures, "_MIXTURES", dict(mixtures._MIXTURES))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize("mixer", ["average", "stacked"])
def test_an_expert_and_a_mixture_take_one_file_each(mixer: str) -> None:
    stream = np.repeat(np.random.default_rng(0).integers(0, V, 150), 3).astype(np.uint16)
    counts = _core.NgramCounts(V, 2)
    counts.count_tokens(stream[::-1].copy())
    artifact = Artifact.from_bytes(pack(None, counts.dense_oracle(level=1)))
    table = ByteTable(np.ones(V, np.int32), np.zeros(V, np.bool_), np.zeros(V, np.bool_))
    settings = ScoringConfig(mixer=mixer, chunk=100)
    result = evaluate(artifact, stream, table, settings)
    again = (stream[1:] == stream[:-1]).mean()
    expected = -again * np.log2(0.1 + 0.9 / V) - (1 - again) * np.log2(0.9 / V)
    assert result.experts["repeat"].bits_per_token == pytest.approx(expected, rel=1e-6)
    assert result.mixer == mixer and result.bpb < np.log2(V)
    report = audit(artifact_subject(artifact, V, settings), stream, V, chunk=100, rows=20)
    assert report.causal.passed and report.normalised.passed and report.single_pass.passed
