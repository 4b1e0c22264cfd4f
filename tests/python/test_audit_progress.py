from pathlib import Path

from hybridlm.artifact import Artifact
from hybridlm.data.shards import open_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.scoring.audit import audit
from hybridlm.scoring.audit_progress import Watched, targets_to_score
from hybridlm.scoring.audit_subject import artifact_subject
from hybridlm.scoring.config import ScoringConfig


def test_watching_changes_nothing_and_ends_where_it_said(
    oracle_artifact: Path, shard_dir: Path, tokenizer: Tokenizer
) -> None:
    stream = open_stream(sorted(shard_dir.glob("*_val_*.bin")), tokenizer.vocabulary, max_tokens=201).tokens
    subject = artifact_subject(
        Artifact.from_file(oracle_artifact), tokenizer.vocab_size, ScoringConfig(ttt="off"), None
    )
    for changes, other_chunks in ((3, True), (2, False)):
        told: list[int] = []
        found = [
            audit(
                one,
                stream,
                tokenizer.vocab_size,
                changes=changes,
                other_chunks=other_chunks,
                rows=5,
                chunk=64,
                seed=4,
            )
            for one in (subject, Watched(subject, told.append))
        ]
        assert found[0] == found[1]
        assert told == sorted(told)
        # Cuts are where chance has put them, so only their mean is known beforehand.
        expected = targets_to_score(len(stream), changes=changes, other_chunks=other_chunks)
        assert abs(told[-1] - expected) <= changes * (len(stream) - 1) / 2
