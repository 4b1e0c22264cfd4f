"""Trains, bundles and honestly scores hybrid n-gram and neural language models within 16 MB.

What a notebook needs is here and is imported when it is first asked for; torch only comes with what needs a
neural model. docs/python.md shows all of it at work.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from hybridlm import errors
    from hybridlm.artifact import Artifact, bundle
    from hybridlm.codec import Codec
    from hybridlm.data.shard_writer import write_shard
    from hybridlm.data.shards import Stream, open_stream, read_stream
    from hybridlm.data.tokenizer import Tokenizer
    from hybridlm.data.vocabulary import Vocabulary
    from hybridlm.generation import Generator, SamplingConfig, generate
    from hybridlm.oracle.builder import OracleBuilder
    from hybridlm.oracle.ngram_counts import NgramCounts
    from hybridlm.oracle.oracle import Oracle
    from hybridlm.score import evaluate
    from hybridlm.scorer import Scorer
    from hybridlm.scoring import mixtures
    from hybridlm.scoring.config import ScoringConfig, TTTConfig

_HOMES = {
    "Artifact": "hybridlm.artifact",
    "Codec": "hybridlm.codec",
    "Generator": "hybridlm.generation",
    "NgramCounts": "hybridlm.oracle.ngram_counts",
    "Oracle": "hybridlm.oracle.oracle",
    "OracleBuilder": "hybridlm.oracle.builder",
    "SamplingConfig": "hybridlm.generation",
    "Scorer": "hybridlm.scorer",
    "ScoringConfig": "hybridlm.scoring.config",
    "Stream": "hybridlm.data.shards",
    "TTTConfig": "hybridlm.scoring.config",
    "Tokenizer": "hybridlm.data.tokenizer",
    "Vocabulary": "hybridlm.data.vocabulary",
    "bundle": "hybridlm.artifact",
    "evaluate": "hybridlm.score",
    "generate": "hybridlm.generation",
    "open_stream": "hybridlm.data.shards",
    "read_stream": "hybridlm.data.shards",
    "write_shard": "hybridlm.data.shard_writer",
}
_MODULES = {"errors": "hybridlm.errors", "mixtures": "hybridlm.scoring.mixtures"}

__all__ = [
    "Artifact",
    "Codec",
    "Generator",
    "NgramCounts",
    "Oracle",
    "OracleBuilder",
    "SamplingConfig",
    "Scorer",
    "ScoringConfig",
    "Stream",
    "TTTConfig",
    "Tokenizer",
    "Vocabulary",
    "__version__",
    "bundle",
    "errors",
    "evaluate",
    "generate",
    "mixtures",
    "open_stream",
    "read_stream",
    "write_shard",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hybridlm")
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
