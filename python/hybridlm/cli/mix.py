"""`hybridlm mix`: another program's log-probabilities, mixed with an oracle and with experts that learn."""

from pathlib import Path
from typing import TYPE_CHECKING

from hybridlm import _core
from hybridlm.cli.arguments import Glob, Threads, TokenId, VocabSize
from hybridlm.cli.output import number_table, print_json, print_table
from hybridlm.errors import FormatError, InputError, UsageError
from hybridlm.scoring.config import DEFAULT_MIXER

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

_PIECE = 1 << 12
"""Targets at a time: whole rows of a large vocabulary are large."""


def mix(
    *,
    log_probs: tuple[Path, ...] = (),
    tokens: Glob,
    tokenizer: Path | None = None,
    bos_id: TokenId | None = None,
    oracle: Path | None = None,
    vocab_size: VocabSize | None = None,
    mixer: str = DEFAULT_MIXER,
    per_token: Path | None = None,
    threads: Threads | None = None,
    json: bool = False,
) -> None:
    """Mix what your own network says of a text with an oracle and with experts that learn from the text.

    Position i of a file of log-probabilities is that of token i + 1 of the shards, given the tokens before
    it, so there is one fewer than tokens. Whole rows are checked to sum to one. Without any file, oracle and
    experts are mixed alone.

    Args:
        log_probs: .npy files of float16, float32 or float64, in nats: ln p of the targets, [N − 1], or whole
            rows, [N − 1, V]. Each is one model, named after its file.
        tokens: A quoted glob of shards, read as one stream in the order of their names.
        tokenizer: The shards' tokenizer, for bits per byte.
        bos_id: The token that documents begin with, where the tokenizer doesn't say.
        oracle: An oracle to mix in.
        vocab_size: The vocabulary's size, where neither tokenizer, oracle nor the shards' sidecars say it.
        mixer: How the experts are mixed: stacked, eg, fixed-share, bayes, hedge or hedge-token.
        per_token: Write the mixture's bits of each target, float32: a .npy file.
        threads: Of oracle look-ups; unset: HYBRIDLM_NUM_THREADS, else this process's share of the cores.
        json: Print one JSON object.
    """
    import numpy as np

    from hybridlm.data.shards import expand, inspect_shards, known_vocabulary, open_stream
    from hybridlm.data.tokenizer import Tokenizer
    from hybridlm.files import atomic_write, check_output
    from hybridlm.oracle import Oracle
    from hybridlm.progress import Progress
    from hybridlm.scorer import Scorer
    from hybridlm.scoring.mixtures import mixture_names

    if mixer not in mixture_names():
        raise UsageError(f"there is no mixer {mixer!r} of targets; there are {', '.join(mixture_names())}")
    if per_token is not None:
        if per_token.suffix != ".npy":
            raise UsageError(f"{per_token}: bits per token are written to a .npy file")
        check_output(per_token)
    names = [path.stem for path in log_probs]
    if len(set(names)) < len(names):
        raise UsageError("two files of log-probabilities have the same name, which is their model's")
    loaded = None if tokenizer is None else Tokenizer.load(tokenizer, bos_id)
    frozen = None if oracle is None else Oracle.from_file(oracle)
    paths = expand(tokens)
    if loaded is not None:
        vocabulary = loaded.vocabulary
    else:
        size = vocab_size if frozen is None else frozen.vocab_size
        vocabulary = known_vocabulary(inspect_shards([str(path) for path in paths]), size=size, bos_id=bos_id)
    if vocab_size not in (None, vocabulary.size):
        raise InputError(f"--vocab-size is {vocab_size}, but the vocabulary has {vocabulary.size} tokens")
    if frozen is not None:
        frozen.check_tokenizer(vocabulary, str(oracle))
    stream = open_stream(paths, vocabulary).tokens
    targets = len(stream) - 1
    given = [_open(path, targets, vocabulary.size) for path in log_probs]

    scorer = Scorer(
        vocabulary.size, first=int(stream[0]), oracle=frozen, models=names, mixer=mixer, threads=threads
    )
    experts = np.zeros(len(scorer.names))
    nll = np.empty(targets)
    with Progress("mix", targets, "tokens") as progress:
        for start in range(0, targets, _PIECE):
            piece = stream[1:][start : start + _PIECE]
            told = [
                _targets_of(path, values, start, piece) for path, values in zip(log_probs, given, strict=True)
            ]
            scored = scorer.score(piece, np.stack(told) if told else None)
            nll[start : start + len(piece)] = scored.nll
            experts -= scored.experts.sum(axis=1, dtype=np.float64)
            progress.update(start + len(piece))

    if per_token is not None:
        with atomic_write(per_token) as file:
            np.lib.format.write_array(file, (nll / np.log(2)).astype("<f4"), allow_pickle=False)
    size = None if loaded is None else int(loaded.byte_table.lengths(stream).sum())
    if size == 0:
        raise InputError("the targets decode to no text, so there are no bytes to divide by")
    _show(scorer.names, experts, float(nll.sum()), mixer, targets, size, json)


def _open(path: Path, targets: int, vocab_size: int) -> "NDArray[Any]":
    """The array in ``path``, of which only what is looked at is read."""
    import numpy as np

    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        with path.open("rb") as file:
            kind = _core.looks_like(file.read(512))
        # NumPy takes whatever isn't its own for a pickle, and names the unsafe way to load it.
        detail = str(error) if kind == "a NumPy array" else f"it looks like {kind or 'nothing known here'}"
        raise FormatError(f"{path}: not an intact .npy file of numbers: {detail}") from None
    if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.floating):
        raise FormatError(f"{path}: not a .npy file of floating-point numbers")
    if values.shape not in ((targets,), (targets, vocab_size)):
        raise InputError(
            f"{path}: log-probabilities of shape {values.shape}, but the {targets + 1} tokens have {targets} "
            f"targets (the first is none) and a vocabulary of {vocab_size}: it must be ({targets},) or "
            f"({targets}, {vocab_size})"
        )
    return values


def _targets_of(
    path: Path, values: "NDArray[Any]", start: int, targets: "NDArray[np.uint16]"
) -> "NDArray[np.float32]":
    """float32 [n]: ln p of ``targets``, which begin at ``start``."""
    import numpy as np

    piece = values[start : start + len(targets)]
    if piece.ndim == 2:
        # A rounded logarithm of 10 is off by 10 · 2^-11 in float16.
        tolerance = 0.02 if values.dtype == np.float16 else 1e-4
        sums = np.exp(piece.astype(np.float64)).sum(axis=1)
        if (wrong := ~(np.abs(sums - 1) <= tolerance)).any():
            at = int(np.argmax(wrong))
            raise InputError(
                f"{path}: row {start + at} sums to {sums[at]:.6g}, not to 1: rows are ln p of each possible "
                "token, in nats"
            )
        piece = piece[np.arange(len(targets)), targets]
    found = piece.astype(np.float32)
    if (wrong := ~(np.isfinite(found) & (found <= 1e-6))).any():
        at = int(np.argmax(wrong))
        raise InputError(
            f"{path}: position {start + at} is {found[at]}: a log-probability is finite and at most 0"
        )
    return found


def _show(
    names: tuple[str, ...],
    experts: "NDArray[np.float64]",
    nats: float,
    mixer: str,
    targets: int,
    size: int | None,
    json: bool,
) -> None:
    from math import log

    def rate(nats: float) -> "dict[str, float | None]":
        bits = nats / log(2)
        return {"bits_per_token": bits / targets, "bpb": None if size is None else bits / size}

    of_experts = {name: rate(float(one)) for name, one in zip(names, experts, strict=True)}
    if json:
        print_json({"tokens": targets, "bytes": size, **rate(nats), "experts": of_experts, "mixer": mixer})
        return
    bytes_too = "" if size is None else f", {size:,} bytes of decoded text"
    print(f"{targets:,} targets{bytes_too}")
    table = number_table("expert", "bits/token", *([] if size is None else ["BPB"]))
    for name, found in [*of_experts.items(), (f"mixture: {mixer}", rate(nats))]:
        if name.startswith("mixture: "):
            table.add_section()
        table.add_row(name, *(f"{value:.4f}" for value in found.values() if value is not None))
    print_table(table)
