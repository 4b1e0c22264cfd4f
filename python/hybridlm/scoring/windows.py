"""Which window of the stream scores which target.

Windows lie on one grid over the whole stream, so neither the chunks that scoring proceeds in nor the number
of ranks decides what context a target gets.
"""

from dataclasses import dataclass

from hybridlm.errors import InputError


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
