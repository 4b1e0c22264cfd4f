"""The vocabulary of a build: what is asked for, what the partial counts are of, and whether they agree."""

import logging

from hybridlm import _core
from hybridlm.data.vocabulary import Vocabulary
from hybridlm.errors import InputError

log = logging.getLogger("hybridlm.oracle")

DEFAULT_VOCABULARY = Vocabulary(1024)
"""Where neither options nor partial counts say."""

VocabularyLike = Vocabulary | int
"""A number of tokens stands for a vocabulary of which nothing else is known."""


def as_vocabulary(vocabulary: VocabularyLike) -> Vocabulary:
    return Vocabulary(vocabulary) if isinstance(vocabulary, int) else vocabulary


def vocabulary_of(native: _core.NgramCounts | _core.SparseCounts | _core.FrozenOracle) -> Vocabulary:
    """What native counts or a native oracle are of."""
    return Vocabulary(*native.vocabulary)


def check_asked(asked: Vocabulary | None, found: Vocabulary, name: str) -> None:
    """Raises InputError where counts, read from ``name``, are of another vocabulary than is asked for."""
    if asked is None:
        return
    if found.size != asked.size:
        raise InputError(f"{name}: counts of a vocabulary of {found.size}, but {asked.size} is asked for")
    if found.bos_id != asked.bos_id:
        raise InputError(
            f"{name}: counts with document token {found.bos_id}, but {asked.bos_id} is asked for"
        )
    if found.fingerprint is None or asked.fingerprint is None:
        return
    if found.fingerprint != asked.fingerprint:
        raise InputError(
            f"{name}: counts of tokenizer {found.fingerprint[:12]}…, but {asked.fingerprint[:12]}… is "
            "asked for"
        )


def warn_about(
    counts: _core.NgramCounts | _core.SparseCounts,
    asked: Vocabulary | None,
    has_document_token: bool | None = None,
) -> None:
    """Warns of what makes counts worse than they look: no document token, or a tokenizer that was lost.

    ``has_document_token`` says whether there is one where ``counts`` don't hold all n-grams.
    """
    vocabulary = vocabulary_of(counts)
    if has_document_token is None:
        has_document_token = counts.has_document_token
    if counts.tokens and not has_document_token:
        log.warning(
            "token %d begins no document in these shards, so contexts reach from one document into the next; "
            "give --bos-id (or Vocabulary's bos_id) if documents begin with another token",
            vocabulary.bos_id,
        )
    if asked is not None and asked.fingerprint is not None and vocabulary.fingerprint is None:
        log.warning("partial counts among these don't say which tokenizer they are of, so the result won't")
