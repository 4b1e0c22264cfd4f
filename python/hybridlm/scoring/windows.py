"""Which window of the stream scores which target.

Windows lie on one grid over the whole stream, so neither the chunks that scoring proceeds in nor the number
of ranks decides what context a target gets.
"""

from dataclasses import dataclass

from hybridlm.errors import InputError
from hybridlm.scoring.config import Attention


@dataclass(frozen=True)
class WindowGrid:
    """Windows of ``length`` inputs, each ``stride`` after the one before.

    Window w reads tokens[w·stride : w·stride + length]; its row r predicts target w·stride + r + 1. The
    first window scores all of its targets, every later one the ``stride`` targets that no earlier window
    reaches. So a target's context is everything before it, or at least length − stride + 1 tokens.
    Raises InputError unless 1 ≤ stride ≤ length.
    """

    length: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.length:
            raise InputError(f"the stride {self.stride} must be between 1 and the window, {self.length}")

    def window_of(self, target: int) -> int:
        """The window that scores ``target`` (≥ 1)."""
        return max(0, -((self.length - target) // self.stride))

    def start(self, window: int) -> int:
        """The index of the window's first input."""
        return window * self.stride

    def first_target(self, window: int) -> int:
        return 1 if window == 0 else self.last_target(window - 1) + 1

    def last_target(self, window: int) -> int:
        return window * self.stride + self.length


ROLLING_WINDOWS = 8
"""Windows that a sequence of rolling attention is as long as. The first window − stride of its targets are
scored by the sequence before, so one in sixteen is computed twice where the stride is half a window."""
_LONG_WINDOW = 1 << 13
"""Of longer ones fewer are scored at once."""


def laid_out(window: int, stride: int, attention: Attention, batch: int) -> tuple[WindowGrid, int]:
    """The grid of a score, and how many of its windows are one forward pass, for ``batch`` windows' work.

    Where attention rolls, the grid's windows are long sequences, in which each target has the context that
    `WindowGrid` (window, stride) would give it. Raises InputError unless 1 ≤ stride ≤ window; there, unless
    window / 8 ≤ stride: smaller steps would take the memory of many windows and gain nothing.
    """
    # What is padded to a whole group of windows costs as much as what is scored.
    group = batch if window <= _LONG_WINDOW else max(1, min(batch, 16 * _LONG_WINDOW // window))
    if attention == "windows":
        return WindowGrid(window, stride), group
    if not window <= 8 * stride <= 8 * window:
        raise InputError(
            f"with rolling attention the stride must be between an eighth of the window, {window}, and the "
            f"window, not {stride}"
        )
    length = ROLLING_WINDOWS * window
    return WindowGrid(length, length - (window - stride)), max(1, group // ROLLING_WINDOWS)
