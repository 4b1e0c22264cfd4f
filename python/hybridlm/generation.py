"""Writing with an artifact: tokens drawn from the same mixture that `hybridlm eval` scores."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hybridlm.artifact import Artifact
from hybridlm.codec import segmenter
from hybridlm.data.case_folding import Unfolder, fold
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.errors import InputError
from hybridlm.prediction import Prediction


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is drawn from its distribution.

    >>> hybridlm.SamplingConfig(temperature=0.7, top_k=40).top_k
    40
    """

    temperature: float = 1.0
    """Probabilities are raised to 1 / temperature; 0: always the most probable token."""
    top_k: int | None = None
    """Sample from the K most probable tokens."""
    top_p: float | None = None
    """Sample from the most probable tokens that together have this probability."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"the temperature must be at least 0, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top-k must be at least 1, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top-p must be above 0 and at most 1, not {self.top_p}")

    def apply(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """The distribution that is drawn from, float64 [V]: cut off first, then sharpened."""
        order = np.argsort(-probabilities, kind="stable")
        kept = len(order)
        if self.top_k is not None:
            kept = min(kept, self.top_k)
        if self.top_p is not None:
            cumulative = np.cumsum(probabilities[order], dtype=np.float64)
            kept = min(kept, int(np.searchsorted(cumulative, self.top_p * cumulative[-1])) + 1)
        if self.temperature == 0:
            kept = 1
        chosen = order[:kept]
        chosen = chosen[probabilities[chosen] > 0]
        log_probs = np.log(probabilities[chosen].astype(np.float64)) / (self.temperature or 1.0)
        result = np.zeros(len(probabilities))
        result[chosen] = np.exp(log_probs - log_probs.max())
        return np.asarray(result / result.sum())


@dataclass(frozen=True)
class Sampled:
    """One token that was drawn.

    Attributes:
        token: its id.
        probability: what the mixture gave it, before any settings of the sampling.
        shares: by expert, the part of that probability that came from it; they sum to one.
    """

    token: int
    probability: float
    shares: dict[str, float]


def generate(
    artifact: Artifact,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    tokens: int = 200,
    config: SamplingConfig | None = None,
    seed: int = 0,
) -> str:
    """``prompt`` and up to ``tokens`` further tokens, drawn from the mixture that is scored.

    Bytes that are no UTF-8 together become U+FFFD. The same arguments give the same text; with a neural
    model, on one machine. Raises InputError for an artifact of another tokenizer.

    >>> artifact = hybridlm.Artifact.from_file("artifact.pgar")
    >>> tokenizer = hybridlm.Tokenizer.load("tok.model")
    >>> text = hybridlm.generate(artifact, tokenizer, "The value", tokens=20, seed=1)
    >>> text.startswith("The value")
    True
    """
    generator = Generator(artifact, tokenizer)
    text = TextWriter(tokenizer)
    generator.read(text.tokens_of(prompt))
    parts = [text.add_prompt(prompt)]
    for sampled in islice(generator.tokens(config or SamplingConfig(), seed), tokens):
        parts.append(text.add(sampled.token))
    return "".join([*parts, text.finish()])


class TextWriter:
    """The text of tokens that come one by one, with their capitals if the tokenizer folds case.

    Bytes that are no UTF-8 together become U+FFFD. What later tokens could still change is held back.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = segmenter(tokenizer)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._unfolder = Unfolder() if tokenizer.folds_case else None

    def tokens_of(self, text: str) -> NDArray[np.uint16]:
        """uint16 [n]: the tokens that stand for exactly this text."""
        return self._pieces.encode(self._folded(text).encode())

    def piece(self, token: int) -> bytes:
        """What the token alone stands for; a mark for capitals is a character of its own here."""
        return self._pieces.decode(np.array([token], np.uint16))

    def add_prompt(self, prompt: str) -> str:
        """As `add`, of the text that the tokens continue."""
        return self._unfolded(self._folded(prompt))

    def add(self, token: int) -> str:
        """The part of the text that is certain now and was not before."""
        return self._unfolded(self._utf8.decode(self.piece(token)))

    def finish(self) -> str:
        """The rest of the text, once all tokens have come."""
        rest = self._unfolded(self._utf8.decode(b"", final=True))
        return rest if self._unfolder is None else rest + self._unfolder.finish()

    def _folded(self, text: str) -> str:
        return text if self._unfolder is None else fold(text)

    def _unfolded(self, part: str) -> str:
        return part if self._unfolder is None else self._unfolder.add(part)


class Generator:
    """An artifact that writes text. It also learns from its prompt and from what it writes.

    Raises InputError for an artifact of another tokenizer.

    >>> artifact = hybridlm.Artifact.from_file("artifact.pgar")
    >>> generator = hybridlm.Generator(artifact, hybridlm.Tokenizer.load("tok.model"))
    >>> first = next(generator.tokens(hybridlm.SamplingConfig(temperature=0)))
    >>> 0 < first.probability < 1, round(sum(first.shares.values()), 6)
    (True, 1.0)
    """

    def __init__(self, artifact: Artifact, tokenizer: Tokenizer) -> None:
        self._predictor = Prediction(artifact, tokenizer).predictor()
        self._text = np.array([piece.is_text for piece in tokenizer.pieces])

    def read(self, tokens: NDArray[np.uint16]) -> None:
        """Continues after these tokens."""
        for token in tokens.tolist():
            self._predictor.update(token)

    def tokens(self, config: SamplingConfig, seed: int = 0) -> Iterator[Sampled]:
        """Draws token after token, without end. Pieces that stand for no text are never drawn.

        The same artifact, tokens read, settings and seed give the same tokens; with a neural model, on one
        machine (see `hybridlm.prediction`).
        """
        random = np.random.Generator(np.random.PCG64(seed))
        while True:
            row = self._predictor.predict() * self._text
            distribution = np.cumsum(config.apply(row))
            token = int(np.searchsorted(distribution, random.random() * distribution[-1], side="right"))
            parts = self._predictor.weights() * self._predictor.expert_probabilities(token)
            names = self._predictor.names
            shares = dict(zip(names, (parts / parts.sum()).tolist(), strict=True))
            yield Sampled(token, float(row[token]), shares)
            self._predictor.update(token)
