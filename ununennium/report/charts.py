"""Charts as SVG that stands in a page: a few kilobytes each, and in the page's own colours, light or dark.

Every text is escaped here, which is why the page takes a chart as it is. Colours are classes (``s0`` .. ``s7``), which
the page's style sheet defines for both colour schemes; dashes tell lines apart without colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 560, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 42
_MOST_POINTS = 600
_MOST_DOTS = 60
_NUM_COLOURS = 8
_LOG_FROM = 50.0  # ratio of the largest to the smallest value from which on an axis is logarithmic


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
        name: for the legend.
        points: epoch, and the value there; None leaves a gap.
    """

    name: str
    points: Sequence[tuple[int, float | None]]

    @property
    def values(self) -> list[float]:
        """The values that are finite."""
        return [value for _, value in self.points if value is not None and math.isfinite(value)]


class Chart(NamedTuple):
    """A chart with what is said beside it.

    Attributes:
        svg: the picture.
        names: the lines in the order of their colours, for the legend.
    """

    svg: Markup
    names: list[str]


class _Axis:
    """Scale of an axis: positions of values, and ticks.

    Args:
        low: smallest value shown.
        high: largest.
        start: place of ``low`` in the picture.
        end: place of ``high``.
        log: logarithmic.
    """

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        self.log = log
        if log:
            low, high = math.log10(low), math.log10(high)
        self.ticks = list(range(math.floor(low), math.ceil(high) + 1)) if log else nice_ticks(low, high)
        self.low, self.high = min(low, self.ticks[0]), max(high, self.ticks[-1])
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        at = math.log10(max(value, 1e-300)) if self.log else value
        share = (at - self.low) / (self.high - self.low or 1.0)
        return round(self.start + share * (self.end - self.start), 1)

    def marks(self) -> list[tuple[float, str]]:
        """Place and text of every tick."""
        values = [10.0**tick for tick in self.ticks] if self.log else [float(tick) for tick in self.ticks]
        return [(self.place(value), tick_text(value)) for value in values]


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    bounds: tuple[float | None, float | None] = (None, None),
    mark: tuple[int, str] | None = None,
) -> Chart | None:
    """Lines over epochs; None if there is nothing finite to draw.

    Args:
        title: title, which a screen reader says with the lines' first, last and extreme values.
        lines: at most eight are told apart by colour.
        bounds: lower and upper end of the axis of values; None for that of the values.
        mark: an epoch to point out, and why.
    """
    finite = [value for line in lines for value in line.values]
    if not finite:
        return None
    low, high = (min(finite), max(finite))
    low = low if bounds[0] is None else min(bounds[0], low)
    high = high if bounds[1] is None else max(bounds[1], high)
    log = bounds == (None, None) and low > 0 and high / low > _LOG_FROM
    across = _epochs([epoch for line in lines for epoch, _ in line.points])
    up = _Axis(low, high, HEIGHT - _BOTTOM, _TOP, log=log)
    parts = [_grid(across, up, "epoch")]
    if mark is not None:
        x = across.place(mark[0])
        anchor = "end" if x > WIDTH / 2 else "start"
        shift = -6 if anchor == "end" else 6
        parts.append(
            Markup(
                '<line class="mark" x1="{0}" y1="{1}" x2="{0}" y2="{2}"/>'
                '<text class="note" x="{3}" y="{4}" text-anchor="{5}">{6}</text>'
            ).format(x, _TOP, HEIGHT - _BOTTOM, x + shift, _TOP + 12, anchor, mark[1])
        )
    for number, line in enumerate(lines):
        parts.append(_path(line, number % _NUM_COLOURS, across, up))
    return Chart(_svg(title, _in_words(lines), Markup("").join(parts)), [line.name for line in lines])


def reliability_chart(title: str, curves: Sequence[tuple[str, Sequence[tuple[float, float, float]]]]) -> Chart | None:
    """Accuracy over confidence; a calibrated model lies on the diagonal.

    Args:
        title: title of the chart.
        curves: name, and (confidence, accuracy, share of the pixels) of each bin; the share is the dot's area.
    """
    if not any(bins for _, bins in curves):
        return None
    across, up = _Axis(0, 1, _LEFT, WIDTH - _RIGHT), _Axis(0, 1, HEIGHT - _BOTTOM, _TOP)
    diagonal = Markup('<line class="mark" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    ends = across.place(0), up.place(0), across.place(1), up.place(1)
    parts = [_grid(across, up, "confidence", "accuracy"), diagonal.format(*ends)]
    for number, (_, bins) in enumerate(curves):
        positions = [(across.place(confidence), up.place(accuracy)) for confidence, accuracy, _ in bins]
        parts.append(_polyline(positions, number))
        for (x, y), (confidence, accuracy, share) in zip(positions, bins, strict=True):
            said = f"confidence {confidence:.2f}: accuracy {accuracy:.2f}, {share:.1%} of the pixels"
            dot = Markup('<circle class="dot s{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>')
            parts.append(dot.format(number, x, y, round(2.5 + 7 * math.sqrt(share), 1), said))
    names = [name for name, _ in curves]
    return Chart(_svg(title, f"{', '.join(names)}: accuracy over confidence", Markup("").join(parts)), names)


def interval_mark(
    value: float | None, low: float | None, high: float | None, baseline: float | None, bounds: tuple[float, float]
) -> Markup:
    """A value with its interval beside a baseline, the height of a line of text; the numbers stand beside it."""
    width, height = 150, 18
    axis = _Axis(*bounds, 4, width - 4)
    axis.low, axis.high = bounds
    if value is None or not math.isfinite(value):
        return Markup("")
    middle = height / 2
    parts = [Markup('<line class="axis" x1="4" y1="{0}" x2="{1}" y2="{0}"/>').format(middle, width - 4)]
    if low is not None and high is not None:
        whisker = Markup('<line class="whisker s0" x1="{}" y1="{}" x2="{}" y2="{}"/>')
        parts.append(whisker.format(axis.place(low), middle, axis.place(high), middle))
    if baseline is not None and math.isfinite(baseline):
        tick = Markup('<line class="baseline" x1="{0}" y1="2" x2="{0}" y2="{1}"/>')
        parts.append(tick.format(axis.place(baseline), height - 2))
    parts.append(Markup('<circle class="dot s0" cx="{}" cy="{}" r="4"/>').format(axis.place(value), middle))
    return Markup('<svg class="mini" viewBox="0 0 {} {}" width="{}" height="{}" aria-hidden="true">{}</svg>').format(
        width, height, width, height, Markup("").join(parts)
    )


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, about ``about`` of them, the first at or below ``low``, the last at or above ``high``."""
    if not high > low:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's number, as short as it can be."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace(".0e", "e")
    return f"{value:g}"


def _grid(across: _Axis, up: _Axis, x_label: str, y_label: str = "") -> Markup:
    parts = []
    for y, text in up.marks():
        parts.append(
            Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(_LEFT, y, WIDTH - _RIGHT, y)
            + Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(_LEFT - 8, y + 4, text)
        )
    for x, text in across.marks():
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x, HEIGHT - _BOTTOM + 18, text)
        )
    parts.append(
        Markup('<line class="axis" x1="{}" y1="{y}" x2="{}" y2="{y}"/>').format(
            _LEFT, WIDTH - _RIGHT, y=HEIGHT - _BOTTOM
        )
    )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 6, x_label)
    )
    if y_label:
        turned = Markup('<text class="label" transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>')
        parts.append(turned.format((_TOP + HEIGHT - _BOTTOM) / 2, y_label))
    return Markup("").join(parts)


def _path(line: Line, number: int, across: _Axis, up: _Axis) -> Markup:
    """A line broken at gaps; a value that stands alone, and every value of a short line, is a dot."""
    points = _thinned(line.points)
    runs: list[list[tuple[float, float]]] = [[]]
    dots = []
    for epoch, value in points:
        if value is None or not math.isfinite(value):
            runs.append([])
            continue
        at = across.place(epoch), up.place(value)
        runs[-1].append(at)
        if len(points) <= _MOST_DOTS:
            dot = Markup('<circle class="dot s{}" cx="{}" cy="{}" r="2.4"><title>{}</title></circle>')
            dots.append(dot.format(number, *at, f"{line.name}, epoch {epoch}: {value:.4g}"))
    alone = [] if dots else [run[0] for run in runs if len(run) == 1]
    dots += [Markup('<circle class="dot s{}" cx="{}" cy="{}" r="2.4"/>').format(number, *at) for at in alone]
    return Markup("").join([*(_polyline(run, number) for run in runs if len(run) > 1), *dots])


def _polyline(positions: Sequence[tuple[float, float]], number: int) -> Markup:
    points = " ".join(f"{x:g},{y:g}" for x, y in positions)
    return Markup('<polyline class="line s{}" points="{}"/>').format(number, points)


def _svg(title: str, words: str, body: Markup) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, f"{title}. {words}", body
    )


def _epochs(epochs: Sequence[int]) -> _Axis:
    """An axis of whole epochs, from the first to the last."""
    first, last = min(epochs), max(epochs)
    last = max(last, first + 1)
    axis = _Axis(first, last, _LEFT, WIDTH - _RIGHT)
    axis.ticks = [tick for tick in axis.ticks if float(tick).is_integer() and first <= tick <= last] or [first]
    axis.low, axis.high = first, last
    return axis


def _in_words(lines: Sequence[Line]) -> str:
    texts = []
    for line in lines:
        if values := line.values:
            text = f"{line.name}: from {values[0]:.4g} to {values[-1]:.4g}, "
            texts.append(text + f"lowest {min(values):.4g}, highest {max(values):.4g}")
    return "; ".join(texts)


def _thinned(points: Sequence[tuple[int, float | None]]) -> Sequence[tuple[int, float | None]]:
    """Every n-th point, and the last, where there are more than a chart has pixels."""
    step = -(-len(points) // _MOST_POINTS)
    return [*points[:-1:step], points[-1]] if step > 1 else points
