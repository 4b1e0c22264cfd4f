import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridlm.errors import InputError
from hybridlm.scoring.windows import WindowGrid


@st.composite
def grids(draw: st.DrawFn) -> WindowGrid:
    length = draw(st.integers(1, 40))
    return WindowGrid(length, draw(st.integers(1, length)))


@given(grid=grids(), tokens=st.integers(2, 300), chunk=st.integers(1, 350))
def test_every_target_is_scored_once_in_order_whatever_the_chunks(
    grid: WindowGrid, tokens: int, chunk: int
) -> None:
    scored: list[int] = []
    for start in range(1, tokens, chunk):
        end = min(start + chunk, tokens)
        for window in range(grid.window_of(start), grid.window_of(end - 1) + 1):
            first = max(start, grid.first_target(window))
            last = min(end - 1, grid.last_target(window))
            scored += range(first, last + 1)
    assert scored == list(range(1, tokens))


@given(grid=grids(), target=st.integers(1, 500))
def test_a_window_sees_a_target_with_all_the_context_that_the_grid_promises(
    grid: WindowGrid, target: int
) -> None:
    window = grid.window_of(target)
    context = target - grid.start(window)
    assert grid.first_target(window) <= target <= grid.last_target(window)
    assert min(target, grid.length - grid.stride + 1) <= context <= grid.length
    # The earliest window that reaches the target is the one with the most context.
    assert window == 0 or grid.last_target(window - 1) < target


@pytest.mark.parametrize(("length", "stride"), [(8, 0), (8, 9), (0, 0), (4, -1)])
def test_strides_that_would_leave_gaps_are_refused(length: int, stride: int) -> None:
    with pytest.raises(InputError, match="stride"):
        WindowGrid(length, stride)
