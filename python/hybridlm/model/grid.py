"""Which grid the weights of each kind of matrix are rounded to. Free of torch, so that help is quick.

A row's grid has the whole numbers of ``bits`` bits times one scale. After entropy coding, what a weight costs
depends on its step in standard deviations and hardly on the bits: those only say where the grid ends.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from hybridlm.errors import InputError

Kind = Literal["attention", "mlp", "embedding", "bigram", "gate"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ClipKind = Literal["absmax", "std", "percentile"]

MIN_BITS, MAX_BITS = 2, 8
# Narrower than this on either side, a matrix is a control tensor (a mix, a per-head gain): few bytes, and
# sensitive to rounding.
MIN_SIDE = 32


def range_of(bits: int) -> tuple[int, int]:
    """The lowest and the highest whole number of ``bits`` bits in two's complement."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


@dataclass(frozen=True)
class ClipRule:
    """Which magnitude of a row lands on the end of its grid.

    ``absmax``: the row's largest (``value`` unused). ``std``: ``value`` standard deviations about zero.
    ``percentile``: the ``value``-th percentile of the magnitudes, 0 < value ≤ 100. Raises InputError for
    others.
    """

    kind: ClipKind
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(ClipKind):
            raise InputError(f"clip rule {self.kind!r} is none of {', '.join(get_args(ClipKind))}")
        if self.kind == "std" and not 0 < self.value < float("inf"):
            raise InputError(f"clip rule std needs a positive number of deviations, not {self.value}")
        if self.kind == "percentile" and not 0 < self.value <= 100:
            raise InputError(f"clip rule percentile needs a number in (0, 100], not {self.value}")

    @classmethod
    def parse(cls, text: str) -> "ClipRule":
        """``absmax``, ``std:K`` or ``percentile:P``. Raises InputError."""
        kind, _, value = text.partition(":")
        if kind not in get_args(ClipKind) or (kind == "absmax") == bool(value):
            raise InputError(f"clip rule {text!r} is not absmax, std:K or percentile:P")
        try:
            return cls(kind, float(value or 0))  # type: ignore[arg-type]  # checked two lines up
        except ValueError:
            raise InputError(f"clip rule {text!r}: {value!r} is not a usable number") from None

    def __str__(self) -> str:
        return self.kind if self.kind == "absmax" else f"{self.kind}:{self.value:g}"


@dataclass(frozen=True)
class Grid:
    """The whole numbers of ``bits`` bits in two's complement, and the rule for the scale of each row.

    Raises InputError for other than 2 to 8 bits.
    """

    bits: int = 6
    # On a model of 2.0M parameters, against absmax: 12% fewer bytes (4.96 for 5.65 bits a parameter) for
    # 0.005 bits a token; std:12 is 30% fewer bytes for 0.037.
    clip: ClipRule = ClipRule("std", 6.0)

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise InputError(f"a grid has {MIN_BITS} to {MAX_BITS} bits, not {self.bits}")

    @property
    def ends(self) -> tuple[int, int]:
        """The lowest and the highest whole number; the clip rule's magnitude lands on the latter."""
        return range_of(self.bits)

    @classmethod
    def parse(cls, text: str) -> "Grid":
        """``BITS:RULE``, or a clip rule alone for six bits. Raises InputError."""
        bits, _, rule = text.partition(":")
        if bits.isdecimal() and rule:
            return cls(int(bits[:4]), ClipRule.parse(rule))
        return cls(clip=ClipRule.parse(text))

    def __str__(self) -> str:
        return f"{self.bits}:{self.clip}"


@dataclass(frozen=True)
class LowRankRule:
    """A correction of rank ``rank`` for each of the ``matrices`` whose rounding errors are largest (LQER)."""

    rank: int = 0
    matrices: int = 0

    @classmethod
    def parse(cls, text: str) -> "LowRankRule":
        """``RANK:MATRICES``. Raises InputError."""
        rank, _, matrices = text.partition(":")
        if not (rank.isdecimal() and matrices.isdecimal() and len(text) < 12 and int(rank) and int(matrices)):
            raise InputError(f"low-rank={text} is not low-rank=RANK:MATRICES, both at least 1")
        return cls(int(rank), int(matrices))

    def __str__(self) -> str:
        return f"{self.rank}:{self.matrices}"


def _default_grids() -> dict[Kind, Grid]:
    finer: dict[Kind, Grid] = {"embedding": Grid(7), "gate": Grid(8, ClipRule("absmax"))}
    return {kind: finer.get(kind, Grid()) for kind in KINDS}


@dataclass(frozen=True)
class Scheme:
    """The grid of each kind of matrix.

    By default six bits that end at six standard deviations, as quantisation-aware training has it; seven bits
    for the token embedding, whose rounding costs most, and eight without clipping for attention's gates,
    which are few and sensitive.
    """

    grids: Mapping[Kind, Grid] = field(default_factory=_default_grids)
    low_rank: LowRankRule = LowRankRule()

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Scheme":
        """The default scheme, changed by ``[KIND=][BITS:]RULE``, in order; no KIND: all kinds but gates.

        ``low-rank=RANK:MATRICES`` sets the low-rank correction.

        >>> str(Scheme.parse(["std:9", "embedding=7:absmax"]).grids["mlp"])
        '6:std:9'

        Raises InputError.
        """
        grids, low_rank = _default_grids(), LowRankRule()
        for word in words:
            kind, equals, grid = word.rpartition("=")
            if kind == "low-rank":
                low_rank = LowRankRule.parse(grid)
                continue
            if equals and kind not in KINDS:
                raise InputError(
                    f"{word!r}: {kind!r} is no kind of matrix; there are {', '.join(KINDS)}, and low-rank"
                )
            found = Grid.parse(grid)
            for each in KINDS:
                if kind == each or (not equals and each != "gate"):
                    grids[each] = found
        return cls(grids, low_rank)

    def words(self, kinds: Iterable[Kind] = KINDS) -> dict[str, str]:
        """By kind, what `Grid.parse` reads."""
        wanted = set(kinds)
        return {kind: str(self.grids[kind]) for kind in KINDS if kind in wanted}


DEFAULT_SCHEME = Scheme()


def kind_of(name: str, shape: Sequence[int]) -> Kind | None:
    """The kind of the parameter called ``name`` in a GPT; None: it is stored as floats."""
    if len(shape) != 2:
        return None
    if name.endswith((".attention.gate_weight", ".attention.sparse_gate")):
        return "gate"
    if min(shape) < MIN_SIDE or not name.endswith(".weight"):
        return None
    if name.startswith("bigram_hash."):
        return "bigram"
    if ".attention." in name:
        return "attention"
    return "mlp" if ".mlp." in name else "embedding"
