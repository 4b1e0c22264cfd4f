"""The tokenizer, SentencePiece or byte-level BPE: training, loading, text to token ids and back."""

import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from hybridlm.data import case_folding
from hybridlm.data.byte_level import ByteLevelModel, is_tokenizer_json
from hybridlm.data.byte_table import ByteTable
from hybridlm.data.pieces import SPACE, Kind, Piece, read_pieces
from hybridlm.data.vocabulary import DEFAULT_BOS, Vocabulary
from hybridlm.errors import FormatError, InputError
from hybridlm.files import atomic_write_bytes, read_bytes
from hybridlm.threads import thread_count

DEFAULT_VOCAB_SIZE = 1024
MAX_VOCAB_SIZE = 1 << 16
"""Shards hold token ids in 16 bits."""

PAD, BOS, EOS, UNK = 0, DEFAULT_BOS, 2, 3
"""The ids of the special pieces in the tokenizers that `Tokenizer.train` makes."""
BYTE_PIECES = 256

# A document is one SentencePiece "sentence"; the limit is the largest that it accepts, in bytes.
_LONGEST_SENTENCE = 1 << 30

# SentencePiece marks unknown characters with this one and leaves out every training text that contains it.
_UNKNOWN_MARK = "\u2585"


class Tokenizer:
    """A tokenizer whose ids fit a shard, and the token that its documents begin with.

    model: a ``SentencePieceProcessor``, or what stands for one with a byte-level ``tokenizer.json``.
    name: what errors call it: the path that it was loaded from.
    pieces: what each token id stands for.
    vocab_size: the number of pieces V, at most 65,536.
    bos_id: the document token.
    fingerprint: SHA-256 of the model file as 64 hex digits; what shards and artifacts are matched by.
    folds_case: whether it has the marks of `hybridlm.data.case_folding` as pieces. Then text is folded before
        it is tokenized, and what is decoded is unfolded.

    >>> tokenizer = hybridlm.Tokenizer.load("tok.model")
    >>> tokens = tokenizer.encode("an expression")  # uint16 [n], without the document token
    >>> tokenizer.decode(tokens)
    'an expression'
    """

    def __init__(self, model: bytes, name: str = "tokenizer", bos_id: int | None = None) -> None:
        """``model``: the bytes of a SentencePiece model, or of a Hugging Face ``tokenizer.json`` of
        byte-level BPE; ``bos_id``: the document token, by default the model's BOS.

        Raises FormatError for a model that can't be used (see `hybridlm.data.pieces.read_pieces` and
        `hybridlm.data.byte_level.ByteLevelModel` too), and
        InputError for a ``bos_id`` that is no control piece, or none where the model has no BOS.
        """
        self.name = name
        self.data = model
        """The file's bytes."""
        self.model: Any
        if is_tokenizer_json(model):
            self.model = ByteLevelModel(model, name)
            self.pieces = self.model.pieces
        else:
            self.model, self.pieces = _sentencepiece_model(model, name)
        self.vocab_size = len(self.pieces)
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self.folds_case = any(piece.kind is Kind.MARK for piece in self.pieces)
        if self.folds_case and self.normalize("a") != "a":
            raise FormatError(
                f"{name}: this tokenizer has marks for capitals, but puts a space before every text: train "
                "it with add_dummy_prefix=False"
            )
        self.bos_id = self._document_token(bos_id)

    def _document_token(self, bos_id: int | None) -> int:
        """``bos_id`` or, if that is None, the model's own."""
        if bos_id is None:
            bos_id = int(self.model.bos_id())
            if bos_id < 0:
                raise InputError(
                    f"{self.name}: this tokenizer has no BOS piece: give --bos-id, the control piece that "
                    f"documents begin with (its control pieces are {self._controls()})"
                )
        if not 0 <= bos_id < self.vocab_size:
            raise InputError(
                f"--bos-id is {bos_id}, but {self.name} has the pieces 0 to {self.vocab_size - 1}"
            )
        if self.pieces[bos_id].kind is not Kind.CONTROL:
            # Text can contain any other piece, and would then be cut into two documents.
            raise InputError(
                f"--bos-id is {bos_id}, but in {self.name} that is {self.model.id_to_piece(bos_id)!r}, not a "
                f"control piece, so text could contain it; the control pieces are {self._controls()}"
            )
        return bos_id

    def _controls(self) -> str:
        found = [
            f"{token} {self.model.id_to_piece(token)!r}"
            for token, piece in enumerate(self.pieces)
            if piece.kind is Kind.CONTROL
        ]
        return ", ".join([*found[:8], "…"] if len(found) > 8 else found) or "none"

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.vocab_size, self.bos_id, self.fingerprint)

    @classmethod
    def load(cls, path: str | os.PathLike[str], bos_id: int | None = None) -> Self:
        """Raises FormatError and InputError as the constructor does, OSError if the file can't be read."""
        return cls(read_bytes(path), name=os.fspath(path), bos_id=bos_id)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        path: str | os.PathLike[str],
        vocab_size: int = DEFAULT_VOCAB_SIZE,
        *,
        fold_case: bool = False,
    ) -> Self:
        """Learn ``vocab_size`` BPE pieces from ``texts``, one per document, and write the model to ``path``.

        The pieces are pad, BOS, EOS and unknown (0 to 3), one for each of the 256 bytes, the most frequent
        characters (99.9% of the text) and merges; digits are never merged. Text is normalised by NFKC, runs
        of white space become one space, and no space is put before a text's first word. The same texts give
        the same bytes on any machine. All of the texts are held in memory. With ``fold_case``, three pieces
        are the marks of `hybridlm.data.case_folding`, and no merge has a capital.

        Raises InputError when the texts can't fill such a vocabulary or it is too small to hold their
        characters, OSError when ``path`` can't be written. Whatever ``texts`` raises comes through.
        """
        if not BYTE_PIECES < vocab_size <= MAX_VOCAB_SIZE:
            raise InputError(
                f"a vocabulary of {vocab_size} pieces: it must be above {BYTE_PIECES} (one for each byte) "
                f"and at most {MAX_VOCAB_SIZE} (a token has 16 bits)"
            )
        source = _Source(texts, fold_case)
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(source),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                byte_fallback=True,
                character_coverage=0.999,
                split_digits=True,
                normalization_rule_name="nmt_nfkc",
                remove_extra_whitespaces=True,
                add_dummy_prefix=False,
                pad_id=PAD,
                bos_id=BOS,
                eos_id=EOS,
                unk_id=UNK,
                user_defined_symbols=list(case_folding.MARKS) if fold_case else [],
                max_sentence_length=_LONGEST_SENTENCE,
                # The number of threads is written into the model file, so it can't follow the machine.
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            if source.failure is not None:
                raise source.failure from None
            raise InputError(_training_refusal(str(error), vocab_size, source.characters)) from None
        trained = cls(model.getvalue(), name=os.fspath(path))
        atomic_write_bytes(path, model.getvalue())
        return trained

    @cached_property
    def byte_table(self) -> ByteTable:
        return ByteTable.from_pieces(self.pieces, self.bos_id)

    def encode(self, text: str) -> NDArray[np.uint16]:
        """uint16 [n]: the tokens of ``text``, without the document token."""
        return self.encode_batch([text], threads=1)[0]

    def encode_as_pieces(self, text: str) -> list[str]:
        """What each token of ``encode`` was in the text; for the unknown piece, what is lost."""
        return list(self.model.encode(self._folded(text), out_type=str))

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[NDArray[np.uint16]]:
        """``encode`` of each text, on ``threads`` threads (by default, this process's share of the cores)."""
        folded = [self._folded(text) for text in texts]
        if isinstance(self.model, ByteLevelModel):
            encoded = self.model.encode(folded)
        else:
            encoded = self.model.encode(folded, num_threads=thread_count(threads))
        return [np.array(tokens, np.uint16) for tokens in encoded]

    def decode(self, tokens: NDArray[np.uint16] | Sequence[int]) -> str:
        """The text of ``tokens``; control pieces give nothing, bytes that aren't UTF-8 give U+FFFD.

        Raises InputError for an id that the vocabulary doesn't have.
        """
        ids = [int(token) for token in tokens]
        for at, token in enumerate(ids):
            if not 0 <= token < self.vocab_size:
                raise InputError(
                    f"token {token} at position {at} is outside the tokenizer's {self.vocab_size} pieces"
                )
        text: str = self.model.decode(ids)
        return case_folding.unfold(text) if self.folds_case else text

    def _folded(self, text: str) -> str:
        """What the model is given of ``text``: normalised first, since normalising may need the capitals."""
        if not self.folds_case:
            return text
        return case_folding.fold(self.normalize(text))

    def normalize(self, text: str) -> str:
        """``text`` as the model's normaliser leaves it, with spaces for "▁"."""
        return str(self.model.normalize(text)).replace(SPACE, " ")


def _sentencepiece_model(model: bytes, name: str) -> tuple[sentencepiece.SentencePieceProcessor, list[Piece]]:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model)
        size = processor.get_piece_size()
        if size > MAX_VOCAB_SIZE:
            raise FormatError(
                f"{name}: {size} pieces, but a token in a shard has 16 bits: {MAX_VOCAB_SIZE} pieces at most"
            )
        return processor, read_pieces(processor, name)
    except FormatError:
        raise
    except (
        RuntimeError,
        ValueError,
        IndexError,
    ):  # what SentencePiece raises for a model that contradicts itself
        raise FormatError(
            f"{name}: not a SentencePiece model (and no tokenizer.json), or a damaged one"
        ) from None


class _Source:
    """The training texts on their way into SentencePiece, which hides what an iterator raises."""

    def __init__(self, texts: Iterable[str], fold_case: bool) -> None:
        self.texts = texts
        self._fold_case = fold_case
        self.failure: BaseException | None = None
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self.texts:
                self.characters += len(text)
                if self._fold_case:
                    text = case_folding.fold(unicodedata.normalize("NFKC", text))
                yield text.replace(_UNKNOWN_MARK, " ")
        except BaseException as error:
            self.failure = error
            raise


def _training_refusal(message: str, vocab_size: int, characters: int) -> str:
    """SentencePiece's own words for the three ways in which a text and a vocabulary don't fit, made plain."""
    if too_many := re.search(r"value <= (\d+)", message):
        return (
            f"the text ({characters:,} characters) yields only {too_many[1]} pieces, not {vocab_size}: "
            "give more text or a smaller --vocab-size"
        )
    if too_few := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return (
            f"a vocabulary of {vocab_size} can't hold the text's characters beside the bytes: "
            f"--vocab-size must be at least {too_few[1]}"
        )
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return "there is no text to train a tokenizer on"
    return f"the tokenizer can't be trained on this text: {message.strip().splitlines()[0]}"
