"""Charts as inline SVG, coloured by the page's style sheet, so that they follow light and dark.

Text comes from files and is escaped here; numbers are formatted here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
from markupsafe import Markup, escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 560, 52, 14, 12, 36
CURVE_HEIGHT = 250
ROW = 24
WIDE, HALF = (900, 230), (560, 120)
"""Widths of a chart of rows, and of its labels."""
ASIDE = 14
ZERO_GAP = 1e-18
"""Up to here a logarithmic axis shows a gap as none."""

Place = Callable[[float], float]
Scale = tuple[Place, list[tuple[float, str]]]
"""The share of the axis at which a value stands, and values that are named on it."""


@dataclass(frozen=True)
class Line:
    """One series by epoch, from epoch 1; NaN leaves a gap."""

    label: str
    colour: int
    """Index of a colour of the style sheet."""
    is_dashed: bool
    values: Sequence[float]


@dataclass(frozen=True)
class Mark:
    """A value on a row, with the limit that it may reach or the interval that it lies in."""

    value: float
    colour: int
    text: str
    """What is told of it on hover."""
    shape: str = "dot"
    """`dot`, `ring` or `cross`."""
    limit: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """A labelled row of marks."""

    label: str
    marks: Sequence[Mark] = ()


def curves(lines: Sequence[Line], title: str, gap_of: tuple[int, int] | None = None) -> Markup:
    """Draw lines by epoch; the space between the two lines numbered by `gap_of` is marked."""
    count = max(len(line.values) for line in lines)
    finite = [value for line in lines for value in line.values if math.isfinite(value)]
    ticks = linear_ticks(min(finite, default=0.0), max(finite, default=1.0))
    low, high = ticks[0], ticks[-1]

    def x(epoch: float) -> float:
        return WIDTH * _across(epoch, count)

    def y(value: float) -> float:
        return CURVE_HEIGHT - BOTTOM - (CURVE_HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [_svg_start(WIDTH, CURVE_HEIGHT, title)]
    for tick in ticks:
        parts.append(_line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        parts.append(_text(LEFT - 6, y(tick) + 4, f"{tick:g}", "end"))
    for epoch in epoch_ticks(count):
        parts.append(_text(x(epoch), CURVE_HEIGHT - BOTTOM + 16, str(epoch), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, CURVE_HEIGHT - 4, "epoch", "middle"))
    if gap_of is not None:
        parts.append(_gap(lines[gap_of[0]], lines[gap_of[1]], x, y))
    for number, line in enumerate(lines):
        # The points of a single epoch stand beside each other, so that none hides another.
        aside = 0.0 if count > 1 else ASIDE * (number - (len(lines) - 1) / 2)
        parts.append(_curve(line, x, y, aside))
    parts.append('<line class="cursor" y1="12" y2="214" x1="0" x2="0" visibility="hidden"/></svg>')
    return Markup("".join(parts))


def epoch_places(count: int) -> list[float]:
    """Return where the epochs of `curves` stand, as shares of the chart's width."""
    return [round(_across(epoch, count), 5) for epoch in range(1, count + 1)]


def _across(epoch: float, count: int) -> float:
    share = (epoch - 1) / (count - 1) if count > 1 else 0.5
    return (LEFT + (WIDTH - LEFT - RIGHT) * share) / WIDTH


def rows_chart(
    rows: Sequence[Row],
    title: str,
    axis: str,
    *,
    is_log: bool = False,
    is_from_zero: bool = True,
    size: tuple[int, int] = WIDE,
) -> Markup:
    """Draw marks on rows over one axis; on a logarithmic one a zero stands at its left end.

    Without rows there is no chart, as of `stacked_bars`.
    """
    values = [
        value
        for row in rows
        for mark in row.marks
        for value in (mark.value, mark.limit, mark.low, mark.high)
        if value is not None and math.isfinite(value)
    ]
    low = 0.0 if is_from_zero else min(values, default=0.0)
    scale = _logarithmic(values) if is_log else _linear(low, max(values, default=1.0))

    def drawn(row: Row, x: Place, top: float) -> str:
        return "".join(_mark(mark, x, top + ROW / 2) for mark in row.marks)

    return _on_rows([(row.label, partial(drawn, row)) for row in rows], scale, title, axis, size)


def stacked_bars(
    bars: Sequence[tuple[str, Sequence[float]]],
    parts_names: Sequence[str],
    title: str,
    axis: str,
    *,
    unit: str = "",
    size: tuple[int, int] = WIDE,
) -> Markup:
    """Draw bars of several parts each, from the left to the right."""
    scale = _linear(0.0, max((sum(values) for _, values in bars), default=1.0))

    def drawn(label: str, values: Sequence[float], x: Place, top: float) -> str:
        rects, start = [], 0.0
        for place, (name, value) in enumerate(zip(parts_names, values, strict=True)):
            told = escape(f"{', '.join(filter(None, (label, name)))}: {value:.4g}{unit}")
            rects.append(
                f'<rect class="part{place}" x="{x(start):.1f}" y="{top + 4}" height="{ROW - 8}" '
                f'width="{max(x(start + value) - x(start), 0):.1f}"><title>{told}</title></rect>'
            )
            start += value
        return "".join(rects)

    rows = [(label, partial(drawn, label, values)) for label, values in bars]
    return _on_rows(rows, scale, title, axis, size)


def _on_rows(
    rows: Sequence[tuple[str, Callable[[Place, float], str]]],
    scale: Scale,
    title: str,
    axis: str,
    size: tuple[int, int],
) -> Markup:
    """Draw labelled rows over one axis: each is given where values stand, and its top."""
    if not rows:
        return Markup("")
    share, ticks = scale
    (width, labels), bottom = size, TOP + ROW * len(rows)

    def x(value: float) -> float:
        return labels + (width - labels - 24) * share(value)

    parts = [_svg_start(width, bottom + BOTTOM, title)]
    for tick, label in ticks:
        parts.append(_line(x(tick), TOP, x(tick), bottom, "grid"))
        parts.append(_text(x(tick), bottom + 15, label, "middle"))
    parts.append(_text((labels + width) / 2, bottom + BOTTOM - 4, axis, "middle"))
    most = labels // 7  # letters
    for number, (label, drawn) in enumerate(rows):
        top = TOP + ROW * number
        short = label if len(label) <= most else label[: most - 1] + "…"
        parts += [_text(labels - 10, top + 16, short, "end"), drawn(x, top)]
    return Markup("".join([*parts, "</svg>"]))


def histogram(counts: Sequence[int], title: str) -> Markup:
    """Draw the shares of the pixel values 0 to 255 on a logarithmic axis."""
    width, height = WIDTH, 190
    shares = np.asarray(counts, float) / max(sum(counts), 1)
    floor = -6.0
    logs = np.maximum(np.log10(np.maximum(shares, 10**floor)), floor)
    inside, base = height - TOP - BOTTOM, height - BOTTOM
    drawn = [_svg_start(width, height, title)]
    for exponent in (0, -2, -4, -6):
        y = base - inside * (exponent - floor) / -floor
        drawn.append(_line(LEFT, y, width - RIGHT, y, "grid"))
        drawn.append(_text(LEFT - 6, y + 4, power(exponent), "end"))
    step = (width - LEFT - RIGHT) / 256
    for value, log in enumerate(logs):
        high = inside * (log - floor) / -floor
        drawn.append(
            f'<rect class="part0" x="{LEFT + step * value:.2f}" y="{base - high:.1f}" '
            f'width="{step:.2f}" height="{high:.1f}"/>'
        )
    for value in (0, 64, 128, 192, 255):
        drawn.append(_text(LEFT + step * value, base + 16, str(value), "middle"))
    drawn.append(_text((LEFT + width) / 2, height - 4, "pixel value", "middle"))
    return Markup("".join([*drawn, "</svg>"]))


def linear_ticks(low: float, high: float) -> list[float]:
    """Return round numbers from at most `low` to at least `high`."""
    span = max(high - low, 1e-6)
    raw = span / 4
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def epoch_ticks(count: int) -> list[int]:
    """Return the epochs that are named on an axis."""
    step = max(1, math.ceil(count / 12))
    if step > 2:
        step = 5 * math.ceil(step / 5)
    return [epoch for epoch in range(1, count + 1) if epoch == 1 or epoch % step == 0]


def power(exponent: int) -> str:
    """Return a power of ten as text."""
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"


def _linear(low: float, high: float) -> Scale:
    ticks = linear_ticks(low, high)
    first, last = ticks[0], ticks[-1]

    def share(value: float) -> float:
        return min(max((value - first) / (last - first), 0.0), 1.0)

    return share, [(tick, f"{tick:g}") for tick in ticks]


def _logarithmic(values: Sequence[float]) -> Scale:
    """From zero, apart on the left, and the smallest power of ten to the largest."""
    above = [math.log10(value) for value in values if value > ZERO_GAP]
    low = math.floor(min(above, default=-17.0)) - 1
    high = max(math.ceil(max(above, default=0.0)), low + 2)
    exponents = range(low + 2, high + 1, 1 if high - low <= 9 else 2)

    def share(value: float) -> float:
        return min((math.log10(value) - low) / (high - low), 1.0) if value > ZERO_GAP else 0.0

    return share, [(0.0, "equal"), *((10.0**exponent, power(exponent)) for exponent in exponents)]


def _mark(mark: Mark, x: Place, y: float) -> str:
    parts = [f'<g class="mark colour{mark.colour}"><title>{escape(mark.text)}</title>']
    if mark.limit is not None:
        at = x(mark.limit)
        parts.append(_line(at, y - 8, at, y + 8, "limit"))
    if mark.low is not None and mark.high is not None:
        parts.append(_line(x(mark.low), y, x(mark.high), y, "interval"))
    at = x(mark.value)
    if mark.shape == "cross":
        parts.append(f'<path d="M{at - 5:.1f} {y - 5}l10 10m0-10l-10 10"/>')
    else:
        parts.append(f'<circle class="{mark.shape}" cx="{at:.1f}" cy="{y}" r="4.5"/>')
    return "".join([*parts, "</g>"])


def _curve(line: Line, x: Place, y: Place, aside: float) -> str:
    style = f'class="curve colour{line.colour}{" dashed" if line.is_dashed else ""}"'
    drawn, points = [], []
    finite = groupby(enumerate(line.values, 1), lambda point: math.isfinite(point[1]))
    for piece in (list(own) for is_finite, own in finite if is_finite):
        places = [(round(x(epoch) + aside, 1), round(y(value), 1)) for epoch, value in piece]
        drawn.append(f'<polyline {style} points="{" ".join(f"{a},{b}" for a, b in places)}"/>')
        points += places
    radius = 3 if len(line.values) <= 30 else 1.5
    for at, height in points:
        if line.colour % 2:  # a shape besides the colour
            drawn.append(
                f'<rect {style} x="{at - radius:.1f}" y="{height - radius:.1f}" '
                f'width="{2 * radius}" height="{2 * radius}"/>'
            )
        else:
            drawn.append(f'<circle {style} cx="{at}" cy="{height}" r="{radius}"/>')
    return "".join(drawn)


def _gap(upper: Line, lower: Line, x: Place, y: Place) -> str:
    both = [
        (epoch, one, two)
        for epoch, (one, two) in enumerate(zip(upper.values, lower.values, strict=False), 1)
        if math.isfinite(one) and math.isfinite(two)
    ]
    there = [f"{x(epoch):.1f},{y(one):.1f}" for epoch, one, _ in both]
    back = [f"{x(epoch):.1f},{y(two):.1f}" for epoch, _, two in reversed(both)]
    return f'<polygon class="gap colour{upper.colour}" points="{" ".join(there + back)}"/>'


def _svg_start(width: float, height: float, title: str) -> str:
    return (
        f'<svg width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg">'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
