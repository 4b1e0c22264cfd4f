"""Scores from files, with what they were made of: what `eval` and `oracle eval` do, and `verify` again."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybridlm import _core
from hybridlm import config as layers
from hybridlm.arguments import check_kind
from hybridlm.artifact import Artifact
from hybridlm.data.shards import ShardRecord, Stream, open_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.files import check_output, write_json
from hybridlm.oracle import Oracle
from hybridlm.oracle.oracle_score import OracleEvaluation
from hybridlm.oracle.oracle_score import evaluate as evaluate_oracle
from hybridlm.provenance import FileRecord, Provenance, versions
from hybridlm.scoring.config import DEFAULT_TTT, ScoringConfig
from hybridlm.scoring.evaluate import EvaluationResult, ScoredChunk, ScoreFiles
from hybridlm.scoring.evaluate import evaluate as evaluate_stream
from hybridlm.scoring.mixing import MixtureSpec
from hybridlm.scoring.trace import Trace

if TYPE_CHECKING:
    from hybridlm.distributed import Distributed

File = str | os.PathLike[str]


R = TypeVar("R", EvaluationResult, OracleEvaluation)


@dataclass(frozen=True)
class Score(Generic[R]):
    """A score, and what it was made of."""

    result: R
    made_of: Provenance

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.result), "made_of": self.made_of.as_dict()}


def evaluate(
    artifact: Artifact,
    stream: Stream | NDArray[np.uint16],
    tokenizer: Tokenizer,
    config: ScoringConfig | None = None,
    dist: "Distributed | None" = None,
    *,
    mixtures: Mapping[str, MixtureSpec] | None = None,
    threads: int | None = None,
    on_chunk: Callable[[ScoredChunk], None] | None = None,
) -> EvaluationResult:
    """Scores every token of ``stream`` [N] but the first: bits per byte of the text that it decodes to.

    As `hybridlm.scoring.evaluate.evaluate`, which it calls once it is sure that artifact, stream and
    tokenizer belong together. Raises InputError where they don't.

    ``on_chunk`` is called with each chunk when it is committed: with the loss of each of its targets in nats,
    ``chunk.nll[""]``, and what each expert gave them, ``chunk.log_probs``, in the order of
    ``result.experts``.

    >>> tokenizer = hybridlm.Tokenizer.load("tok.model")
    >>> artifact = hybridlm.Artifact.from_file("artifact.pgar")
    >>> stream = hybridlm.open_stream(["data/text_val_000000.bin"], tokenizer.vocabulary)
    >>> result = hybridlm.evaluate(artifact, stream, tokenizer)
    >>> result.bpb < result.experts["oracle_3"].bpb  # bits per byte: the mixture, and its best order alone
    True
    """
    check_kind(artifact, Artifact, "artifact")
    check_kind(tokenizer, Tokenizer, "tokenizer")
    artifact.check_tokenizer(tokenizer.vocabulary)
    if isinstance(stream, Stream):
        if stream.vocabulary != tokenizer.vocabulary:
            raise InputError("the stream was opened with another tokenizer than the one given")
        stream = stream.tokens
    return evaluate_stream(
        artifact,
        stream,
        tokenizer.byte_table,
        config,
        dist,
        mixtures=mixtures,
        threads=threads,
        on_chunk=on_chunk,
    )


def score_artifact(
    artifact: File,
    shards: Sequence[File],
    tokenizer: File,
    config: ScoringConfig | None = None,
    *,
    bos_id: int | None = None,
    max_tokens: int | None = None,
    control: Sequence[File] | None = None,
    stated_bytes: Sequence[File] | None = None,
    files: ScoreFiles = ScoreFiles(),  # noqa: B008 - frozen
    trace: Path | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Score[EvaluationResult]:
    """Scores an artifact's file on shards, read as one stream; at most the first ``max_tokens`` targets.

    ``config.ttt`` None: TTT_OPTIMIZER from the environment, else `DEFAULT_TTT`, where there is a model.
    ``control``: shards of training text, as long as the stream, that a second model learns from instead.
    ``trace``: a file for what happens along the text (`hybridlm.scoring.trace`), which a report shows.
    ``stated_bytes``: a file for each shard that states the bytes of its tokens (see `read_stated_bytes`).
    ``bos_id``: the token that documents begin with, where the tokenizer doesn't say. Under torchrun it is a
    collective. Raises InputError, FormatError or OSError.
    """
    config = config or ScoringConfig()
    vocabulary = Tokenizer.load(tokenizer, bos_id)
    bundle = Artifact.from_file(artifact)
    if not config.no_neural:
        bundle.require_torch()
    bundle.check_tokenizer(vocabulary.vocabulary)
    stream = open_stream(
        shards, vocabulary.vocabulary, max_tokens=None if max_tokens is None else max_tokens + 1
    )
    lessons = None
    if control is not None:
        lessons = open_stream(control, vocabulary.vocabulary, max_tokens=len(stream.tokens)).tokens
    watched = None
    if trace is not None:
        check_output(trace)
        watched = Trace(stream.tokens, vocabulary.bos_id)
    stated = None if stated_bytes is None else read_stated_bytes(stated_bytes, stream)
    dist: Distributed | None = None
    if bundle.neural_blob is not None and not config.no_neural:
        from hybridlm.distributed import initialise

        if config.ttt is None:
            config = dataclasses.replace(config, ttt=layers.resolve(ScoringConfig).ttt or DEFAULT_TTT)
        dist = initialise(device)
    try:
        result = evaluate_stream(
            bundle, stream.tokens, vocabulary.byte_table, config, dist,
            threads=threads, control=lessons, files=files, stated_bytes=stated and stated[0], trace=watched,
        )  # fmt: skip
        if trace is not None and watched is not None and (dist is None or dist.is_main):
            write_json(trace, watched.as_dict(vocabulary), indent=None)
    finally:
        if dist is not None:
            dist.close()
    made_of = provenance("eval", artifact, tokenizer, vocabulary, stream, config, max_tokens=max_tokens)
    if stated is not None:
        made_of = dataclasses.replace(made_of, stated_bytes=tuple(stated[1]))
    return Score(result, made_of)


def read_stated_bytes(files: Sequence[File], stream: Stream) -> tuple[NDArray[np.uint16], list[ShardRecord]]:
    """The bytes of each of the stream's tokens [N] as files state them, and those files' records.

    Each has the form of a shard, in the order of the stream's shards, and for each of its tokens the number
    of bytes that it stands for in the original text: what texts that were rewritten before they were
    tokenized need, where the decoded text isn't the original one. Raises InputError where files and shards
    don't belong together, FormatError or OSError.
    """
    names = [os.fspath(path) for path in files]
    records = [ShardRecord.of(name) for name in names]
    if len(records) != len(stream.shards):
        raise InputError(
            f"{names[0]}: bytes are stated by {len(records)} files, and there are {len(stream.shards)} shards"
        )
    for record, shard in zip(records, stream.shards, strict=True):
        if record.tokens != shard.tokens:
            raise InputError(
                f"{record.path}: states the bytes of {record.tokens:,} tokens, and {shard.path} has "
                f"{shard.tokens:,}"
            )
    parts = [_core.read_shard(record.path, 0, record.tokens, None) for record in records]
    return np.concatenate(parts)[: len(stream)], records


def score_oracle(
    oracle: File,
    shards: Sequence[File],
    tokenizer: File,
    *,
    bos_id: int | None = None,
    threads: int | None = None,
) -> Score[OracleEvaluation]:
    """Scores an oracle's file alone, order by order. Raises as `score_artifact` does."""
    vocabulary = Tokenizer.load(tokenizer, bos_id)
    loaded = Oracle.from_file(oracle)
    loaded.check_tokenizer(vocabulary.vocabulary, os.fspath(oracle))
    stream = open_stream(shards, vocabulary.vocabulary)
    result = evaluate_oracle(loaded, stream.tokens, vocabulary.byte_table, threads=threads)
    return Score(result, provenance("oracle eval", oracle, tokenizer, vocabulary, stream))


def provenance(
    command: str,
    scored: File,
    tokenizer: File,
    vocabulary: Tokenizer,
    stream: Stream,
    config: ScoringConfig | None = None,
    *,
    max_tokens: int | None = None,
) -> Provenance:
    """What a score of ``stream`` is made of, its files hashed now. Raises OSError."""
    return Provenance(
        command=command,
        scored=FileRecord.of(scored),
        tokenizer=FileRecord.of(tokenizer),
        bos_id=vocabulary.bos_id,
        shards=stream.shards,
        max_tokens=max_tokens,
        repeated_tokens=stream.repeated_tokens,
        settings={} if config is None else layers.as_dict(config),
        versions=versions(),
    )
