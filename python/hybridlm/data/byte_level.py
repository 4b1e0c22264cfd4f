"""Byte-level BPE from a Hugging Face ``tokenizer.json``: GPT-2's kind, whose tokens are rows of bytes.

A vocabulary of that kind writes each byte as one printable character (Radford et al. 2019, "Language models
are unsupervised multitask learners", and GPT-2's published ``encoder.py``). So what a token stands for can be
read off the file, whatever text is around it, and bits per byte are exact. That holds only if nothing in the
file drops text, adds text or chooses at random; files in which something does are refused by its name.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hybridlm.data.pieces import Kind, Piece
from hybridlm.errors import FormatError
from hybridlm.extras import require_tokenizers

if TYPE_CHECKING:
    import tokenizers

# Normalisers whose output is the same text, written otherwise; bytes are those of what they give.
_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD"}

# Pre-tokenizers that only cut.
_CUTTERS = {"ByteLevel", "Digits", "Punctuation", "Split", "UnicodeScripts"}


def byte_characters() -> dict[str, int]:
    """GPT-2's alphabet: the byte that each of its 256 characters stands for.

    Printable characters of Latin-1 stand for themselves; the other bytes, in order, for U+0100 and on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    found = {chr(byte): byte for byte in printable}
    return found | {chr(0x100 + index): byte for index, byte in enumerate(others)}


class ByteLevelModel:
    """Answers as a ``SentencePieceProcessor`` does, so far as this package asks."""

    def __init__(self, data: bytes, name: str) -> None:
        """Raises InputError where the library ``tokenizers`` is missing, FormatError for a file that isn't
        byte-level BPE or whose tokens have no bytes of their own; errors call it ``name``."""
        require_tokenizers(f"{name}: a Hugging Face tokenizer")
        import tokenizers

        try:
            file = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{name}: not JSON: {error}") from None
        _check(file, name)
        try:
            self._model: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(data.decode())
        except Exception as error:  # the library raises nothing more specific
            raise FormatError(f"{name}: the library tokenizers can't read it: {error}") from None
        # A file may say so for a model of a limited context: text would be lost, or padding come in.
        self._model.no_truncation()
        self._model.no_padding()
        # A special token's name in a text is text.
        self._model.encode_special_tokens = True
        self._bos = _document_token(file)
        self.pieces = _pieces(file, self._model, name)

    def get_piece_size(self) -> int:
        return len(self.pieces)

    def bos_id(self) -> int:
        """The only special token, or the one that the file puts before every text; else −1."""
        return self._bos

    def unk_id(self) -> int:
        """−1: every byte is known."""
        return -1

    def id_to_piece(self, token: int) -> str:
        return str(self._model.id_to_token(token) or f"<unused {token}>")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The library takes as many threads as it likes (RAYON_NUM_THREADS); tokens don't depend on them."""
        return [found.ids for found in self._model.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.pieces[token].text for token in ids).decode(errors="replace")

    def decoded_bytes(self, ids: Sequence[int]) -> int:
        """UTF-8 bytes of what the library decodes these to, without `pieces`.

        Where the bytes form no character the library writes U+FFFD, so that what it says of them is only
        compared with what `pieces` say.
        """
        text: str = self._model.decode(list(ids), skip_special_tokens=True)
        if "\ufffd" in text and text == self.decode(ids):
            return sum(len(self.pieces[token].text) for token in ids)
        return len(text.encode())


def _check(file: Any, name: str) -> None:
    """Raises FormatError unless tokens have bytes of their own, by what the file says it does."""

    def refuse(what: str) -> FormatError:
        return FormatError(
            f"{name}: {what}, so bits per byte can't be counted exactly from it; only byte-level BPE "
            "(GPT-2's kind) is read from tokenizer.json: use the SentencePiece model (tokenizer.model) that "
            "such a tokenizer often comes with"
        )

    if not (isinstance(file, dict) and isinstance(model := file.get("model"), dict)):
        raise FormatError(f'{name}: JSON, but no Hugging Face tokenizer.json: it has no object "model"')
    if model.get("type", "BPE") != "BPE":
        raise refuse(f"its model is {model.get('type')}, not BPE")
    if model.get("dropout"):
        raise refuse("it leaves out merges at random (dropout)")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise refuse("it marks words in its tokens")
    for kind, _ in _steps(file.get("normalizer"), "normalizers"):
        if kind not in _NORMALIZERS:
            raise refuse(f"its normalizer {kind} changes the text")
    cutters = _steps(file.get("pre_tokenizer"), "pretokenizers")
    for kind, step in cutters:
        if kind not in _CUTTERS or step.get("behavior") in ("Removed", "removed"):
            raise refuse(f"its pre-tokenizer {kind} drops text or rewrites it")
        if kind == "ByteLevel" and step.get("add_prefix_space", True):
            raise refuse("it puts a space before every text (add_prefix_space)")
    if [kind for kind, _ in cutters].count("ByteLevel") != 1:
        raise refuse("it has no pre-tokenizer ByteLevel")
    if [kind for kind, _ in _steps(file.get("decoder"), "decoders")] != ["ByteLevel"]:
        raise refuse("its decoder isn't ByteLevel alone")
    for added in file.get("added_tokens") or []:
        if not added.get("special") and (added.get("lstrip") or added.get("rstrip")):
            raise refuse(f"its added token {added.get('content')!r} takes in the blanks beside it")


def _steps(step: Any, members: str) -> list[tuple[str, dict[str, Any]]]:
    """(type, settings) of a step, or of each of a sequence."""
    if not isinstance(step, dict):
        return []
    if step.get("type") == "Sequence" and isinstance(step.get(members), list):
        return [found for inner in step[members] for found in _steps(inner, members)]
    return [(str(step.get("type")), step)]


def _document_token(file: dict[str, Any]) -> int:
    added = [token for token in file.get("added_tokens") or [] if token.get("special")]
    special = {str(token["content"]): int(token["id"]) for token in added}
    if len(special) == 1:
        return next(iter(special.values()))
    for kind, step in _steps(file.get("post_processor"), "processors"):
        template = step.get("single") if kind == "TemplateProcessing" else None
        if template and "SpecialToken" in template[0]:
            return special.get(template[0]["SpecialToken"]["id"], -1)
    return -1


def _pieces(file: dict[str, Any], model: "tokenizers.Tokenizer", name: str) -> list[Piece]:
    alphabet = byte_characters()
    added = {int(token["id"]): token for token in file.get("added_tokens") or []}
    vocabulary: dict[int, str] = {token: text for text, token in model.get_vocab().items()}
    if missing := alphabet.keys() - model.get_vocab().keys():
        raise FormatError(
            f"{name}: its vocabulary has no token for {len(missing)} of the 256 bytes, so text would be lost"
        )
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(file["model"].get("merges") or []):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault("".join(parts), rank)

    def piece(token: int) -> Piece:
        text = vocabulary.get(token)
        if text is None:
            return Piece(b"", False, False, 0.0, Kind.UNUSED)
        if token in added and added[token].get("special"):
            return Piece(b"", False, True, 0.0, Kind.CONTROL)
        # The decoder takes a token with any other character for what it says.
        known = all(character in alphabet for character in text)
        content = bytes(alphabet[character] for character in text) if known else text.encode()
        kind = Kind.BYTE if len(text) == 1 and known else Kind.TEXT
        return Piece(content, False, False, -float(ranks.get(text, len(ranks))), kind)

    if max(vocabulary) > 0xFFFF:
        raise FormatError(
            f"{name}: {max(vocabulary) + 1} tokens, but a token in a shard has 16 bits: 65536 tokens at most"
        )
    pieces = [piece(token) for token in range(max(vocabulary) + 1)]
    for token, found in enumerate(pieces):
        if found.kind is Kind.TEXT:
            alone = model.decode([token], skip_special_tokens=True)
            if alone != found.text.decode(errors="replace"):
                raise FormatError(
                    f"{name}: token {token}, {vocabulary[token]!r}, decodes to {alone!r}, not to "
                    f"{found.text.decode(errors='replace')!r}, so its bytes can't be counted"
                )
    return pieces


def is_tokenizer_json(data: bytes) -> bool:
    """Whether a tokenizer's file is JSON; a SentencePiece model is a protobuf."""
    return re.match(rb"(?:\xef\xbb\xbf)?\s*\{\s*\"", data) is not None
