"""The whole pipeline in one call: text in, a bundled artifact and its honest score out.

Everything it makes is a file that the single commands read and write too, so a run can be gone on with by
hand from any stage.
"""

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridlm.artifact import BUDGET_BYTES, Artifact, bundle
from hybridlm.config import as_dict
from hybridlm.data import documents as document_files
from hybridlm.data.documents import Document, deduplicate, split
from hybridlm.data.shard_writer import write_shards
from hybridlm.data.shards import data_folder, inspect_shards, open_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.extras import require_tensorboard, require_torch
from hybridlm.files import atomic_write_bytes, read_bytes, write_json
from hybridlm.oracle.build import build_dense, build_sparse
from hybridlm.oracle.sources import Estimator
from hybridlm.provenance import FileRecord
from hybridlm.report.summary import Score, Summary
from hybridlm.run_record import RunRecord
from hybridlm.score import provenance
from hybridlm.scoring.config import ScoringConfig, TTTOptimizer
from hybridlm.scoring.evaluate import EvaluationResult, Rate, evaluate
from hybridlm.scoring.mixing import MixtureSpec
from hybridlm.scoring.mixtures import find_mixture
from hybridlm.scoring.trace import Trace
from hybridlm.stopwatch import Stopwatch
from hybridlm.threads import thread_count
from hybridlm.train.config import TrainConfig

logger = logging.getLogger("hybridlm.run")

WITHOUT_ORACLE = "mixture without oracle"

ORACLE_FILE: dict[Estimator, str] = {"sparse": "oracle.ngsp", "dense": "oracle.ngor"}
"""In the run's folder, named after its format."""

CHUNK = 8192
"""Targets between two rounds of test-time training of the whole model: a small validation text still has a
dozen of them. Documents are trained on within chunks: the more there are, the better they fill a pass."""


@dataclass(frozen=True)
class PipelineConfig:
    """text: files to use; none: the English text that is installed here. Fractions are of characters.

    oracle_bytes is what a sparse oracle may take; a dense one takes what it takes.
    """

    text: tuple[Path, ...]
    training: TrainConfig
    estimator: Estimator
    oracle_bytes: int
    vocab_size: int
    val_fraction: float
    ttt: TTTOptimizer
    mixer: str
    threads: int | None


def run(config: PipelineConfig, out: Path) -> Summary:
    """Runs every stage, leaving in ``out`` what each made. Raises what the stages raise.

    In the folder of an interrupted run it keeps the results of finished stages, resumes training from the
    latest checkpoint, and does the rest.
    """
    # Training comes late, so a missing PyTorch is reported now.
    require_torch("the pipeline")
    if config.training.tensorboard:
        require_tensorboard("--training.tensorboard")
    with RunRecord.opened(out, _identity(config)) as record:
        return _run(config, out, record)


def _run(config: PipelineConfig, out: Path, record: RunRecord) -> Summary:
    threads = thread_count(config.threads)
    watch = Stopwatch(record.seconds)

    with watch.stage("text"):
        train_text, val_text = split(deduplicate(read_text(config.text)), config.val_fraction)
    if not val_text:
        raise InputError("the text is a single document, which leaves none to validate on; give more text")
    logger.info("%d documents to train on, %d to validate on", len(train_text), len(val_text))

    tokenizer_file = out / "tokenizer.model"
    if not record.has("tokenizer"):
        with watch.stage("tokenizer"):
            Tokenizer.train((document.text for document in train_text), tokenizer_file, config.vocab_size)
        record.done("tokenizer", watch.seconds)
    tokenizer = Tokenizer.load(tokenizer_file)
    if not record.has("shards"):
        with watch.stage("shards"):
            # Shards that are there already were left by an interrupted run.
            write_shards(train_text, val_text, tokenizer, out / "data", threads=threads, replace=True)
        record.done("shards", watch.seconds)
    train_shards, val_shards = data_folder(out / "data")
    tokens = {
        split: sum(record.tokens for record in inspect_shards([str(path) for path in paths]))
        for split, paths in (("train", train_shards), ("val", val_shards))
    }
    logger.info("%s tokens to train on", f"{tokens['train']:,}")

    oracle_file = out / ORACLE_FILE[config.estimator]
    if not record.has("oracle"):
        with watch.stage("oracle"):
            built = (
                build_dense(train_shards, tokenizer.vocabulary, threads=threads)
                if config.estimator == "dense"
                else build_sparse(
                    train_shards, tokenizer.vocabulary, max_bytes=config.oracle_bytes, threads=threads
                )
            )
            atomic_write_bytes(oracle_file, built)
        record.done("oracle", watch.seconds)
    oracle = read_bytes(oracle_file)

    if not record.has("train"):
        with watch.stage("train"):
            _train(config, out, tokenizer)
        record.done("train", watch.seconds)

    artifact_file = out / "artifact.pgar"
    with watch.stage("bundle"):
        made = bundle(out / "model", oracle, tokenizer, name=str(artifact_file))
        atomic_write_bytes(artifact_file, made.to_bytes())
        # What is scored is what a reader of the file gets.
        artifact = Artifact.from_bytes(read_bytes(artifact_file), str(artifact_file))

    stream = open_stream(val_shards, tokenizer.vocabulary)
    of_oracle = ("oracle", "tilted")
    families = tuple(family for family in find_mixture(config.mixer).families if family not in of_oracle)
    without_oracle = {WITHOUT_ORACLE: MixtureSpec(config.mixer, families)}

    scoring = ScoringConfig(mixer=config.mixer, ttt=config.ttt)
    if config.ttt != "documents":
        scoring = dataclasses.replace(scoring, chunk=CHUNK)

    trace = Trace(stream.tokens, tokenizer.bos_id)

    def score(scoring: ScoringConfig, *, is_result: bool) -> EvaluationResult:
        return evaluate(
            artifact,
            stream.tokens,
            tokenizer.byte_table,
            scoring,
            mixtures=without_oracle,
            threads=threads,
            trace=trace if is_result else None,
        )

    with watch.stage("score"):
        plain = score(dataclasses.replace(scoring, ttt="off"), is_result=config.ttt == "off")
    learning = plain
    if config.ttt != "off":
        with watch.stage("score with TTT"):
            learning = score(scoring, is_result=True)

    summary = Summary(
        experts=[_named(name, rate) for name, rate in plain.experts.items() if name != "neural"],
        scores=list(_scores(plain, learning)),
        bpb_interval=learning.bpb_interval,
        documents=dataclasses.asdict(learning.documents),
        tokens=plain.tokens,
        bytes=plain.bytes,
        parts={
            "header": artifact.header_bytes,
            "neural": artifact.neural_bytes,
            "oracle": artifact.oracle_bytes,
        },
        budget_bytes=BUDGET_BYTES,
        seconds=watch.seconds,
        data={
            "train_documents": len(train_text),
            "val_documents": len(val_text),
            "train_tokens": tokens["train"],
            "val_tokens": tokens["val"],
        },
        made_of=provenance("eval", artifact_file, tokenizer_file, tokenizer, stream, scoring).as_dict(),
    )
    write_json(out / "trace.json", trace.as_dict(tokenizer), indent=None)
    write_json(out / "settings.json", as_dict(config))
    write_json(out / "summary.json", summary.to_json())
    record.remove()
    return summary


def _train(config: PipelineConfig, out: Path, tokenizer: Tokenizer) -> None:
    # Imported late: torch takes seconds to load, and bad text shouldn't have to wait for it.
    from hybridlm.distributed import initialise
    from hybridlm.train.checkpoint import MODEL_FILE, complete_checkpoints
    from hybridlm.train.loop import train

    model = out / "model"
    # A model without a record was complete a moment before the run was killed.
    (model / MODEL_FILE).unlink(missing_ok=True)
    train(
        config.training,
        data=out / "data",
        tokenizer=tokenizer,
        out=model,
        dist=initialise(config.training.device),
        resume=bool(complete_checkpoints(model)),
    )


def _identity(config: PipelineConfig) -> dict[str, Any]:
    """What decides the run's results: its settings, and its text by content."""
    settings = as_dict(config)
    del settings["threads"]
    return settings | {
        "text": [FileRecord.of(path).sha256 if path.is_file() else str(path) for path in config.text]
    }


def read_text(files: Sequence[Path]) -> Iterable[Document]:
    """The documents of ``files``, or what is installed if there are none."""
    if files:
        return document_files.read(files)
    from hybridlm.data.installed_text import installed_documents

    return installed_documents()


def _scores(plain: EvaluationResult, learning: EvaluationResult) -> Iterable[Score]:
    # In a text of one chunk test-time training makes no update, so it has no row.
    suffix = f" + TTT ({learning.ttt})" if learning.ttt_updates else ""
    yield _named("neural", plain.experts["neural"])
    if suffix:
        yield _named(f"neural{suffix}", learning.experts["neural"])
    yield _named(f"{WITHOUT_ORACLE}{suffix}", learning.mixtures[WITHOUT_ORACLE])
    yield Score(f"mixture with oracle{suffix}", learning.bits_per_token, learning.bpb)


def _named(name: str, rate: Rate) -> Score:
    return Score(name, rate.bits_per_token, rate.bpb)
