"""Line charts as SVG text, for pages and pictures that load nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44
LINE, LETTER = 32, 7
"""What a number takes on the vertical axis, and what a letter or a digit takes in a row."""

# Told apart also by who sees red and green alike (Okabe and Ito's palette, without its yellow and black).
DASHES = ("", "7 3", "2 2", "10 3 2 3", "4 4", "1 3")
"""So that lines are told apart without any colour."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


@dataclass(frozen=True)
class Series:
    """One named line through ``points`` (x, y), in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axis:
    """Maps values between ``low`` and ``high`` to pixels between ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def pixel(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        share = (self._scaled(value) - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, apart: float) -> list[float]:
        """Round values, about ``apart`` pixels or more from each other unless the axis is logarithmic."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            candidates = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
        else:
            step = tick_step(self.high - self.low, min(8, max(1, int(abs(self.end - self.start) / apart))))
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            candidates = [index * step for index in range(first, last + 1)]
        return [tick for tick in candidates if self.low <= tick <= self.high]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def line_chart(
    series: Sequence[Series], *, x_label: str, y_label: str, logarithmic_x: bool = False, width: int = WIDTH
) -> str:
    """An <svg> element with a line and a legend entry per series.

    Values that aren't finite are left out, and so are, on a logarithmic axis, those of zero and below.
    Letters are 12 units high whatever the ``width``, so a picture for a small screen is one of few units.
    """
    drawn = [Series(line.name, _drawable(line.points, logarithmic_x)) for line in series]
    points = [point for line in drawn for point in line.points]
    if not points:
        raise ValueError("there is nothing to draw")
    xs, ys = zip(*points, strict=True)
    x_axis = _Axis(min(xs), max(xs), LEFT, width - RIGHT, logarithmic_x)
    # Lines that touch the frame are hard to read.
    margin = 0.05 * ((max(ys) - min(ys)) or abs(max(ys)) or 1.0)
    # The legend is above the lines, a row for each.
    top = TOP + 16 * len(drawn)
    bottom = top + HEIGHT - TOP - BOTTOM
    height = bottom + BOTTOM
    y_axis = _Axis(min(ys) - margin, max(ys) + margin, bottom, top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">',
        f"<title>{escape(y_label)} by {escape(x_label)}</title>",
        f"<desc>{escape(_told(drawn))}</desc>",
    ]
    for tick in y_axis.ticks(LINE):
        y = y_axis.pixel(tick)
        parts.append(_line(LEFT, y, width - RIGHT, y))
        parts.append(_text(LEFT - 8, y + 4, f"{tick:.6g}", "end"))
    longest = max(len(_number(tick)) for tick in (x_axis.low, x_axis.high, *x_axis.ticks(LINE)))
    for tick in x_axis.ticks(LETTER * (longest + 1)):
        x = x_axis.pixel(tick)
        parts.append(_line(x, top, x, bottom))
        half = LETTER * (len(_number(tick)) + 1) / 2
        parts.append(_text(min(x, width - half), bottom + 16, _number(tick), "middle"))
    parts.append(_text((LEFT + width - RIGHT) / 2, height - 8, x_label, "middle"))
    parts.append(
        f'<text transform="translate(14 {(top + bottom) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    for index, line in enumerate(drawn):
        parts += _series(line, COLOURS[index % len(COLOURS)], index, x_axis, y_axis)
    return "\n".join([*parts, "</svg>"])


def picture(chart: str) -> str:
    """The text of a file that shows ``chart`` by itself.

    A page that shows it as an image can't give it its own colour, so it gets a grey that is legible on white
    and on black.
    """
    return chart.replace("currentColor", "#888") + "\n"


def _told(lines: Sequence[Series]) -> str:
    """What a reader who can't see the lines is told of them."""
    return "; ".join(
        f"{line.name}: from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}, "
        f"lowest {min(y for _, y in line.points):.4g}"
        for line in lines
        if line.points
    )


def _number(tick: float) -> str:
    return f"{tick:,.10g}"


def tick_step(span: float, most: int = 8) -> float:
    """1, 2 or 5 times a power of ten, of which ``most``, and more than a third of that, make up ``span``."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(2 * span / most))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * most >= span)


def _drawable(points: Sequence[tuple[float, float]], logarithmic_x: bool) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return [(x, y) for x, y in finite if x > 0] if logarithmic_x else finite


def _series(line: Series, colour: str, index: int, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    pixels = [(x_axis.pixel(x), y_axis.pixel(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
    dash = DASHES[index % len(DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>']
    if len(pixels) <= 24:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in pixels]
    y = TOP + 6 + 16 * index
    ends = f'x1="{LEFT}" y1="{y - 4}" x2="{LEFT + 32}" y2="{y - 4}"'
    parts.append(f'<line {ends} stroke="{colour}" stroke-width="3"{dashes}/>')
    room = int((x_axis.end - LEFT - 40) / LETTER)
    return [*parts, _text(LEFT + 40, y, _shortened(line.name, room), "start")]


def _shortened(name: str, letters: int) -> str:
    """Without its middle, if it is longer; what the reader can't see is told the whole of it."""
    kept = (letters - 1) // 2
    return name if len(name) <= letters else f"{name[:kept]}…{name[-kept:]}"


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="currentColor" opacity="0.15"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
