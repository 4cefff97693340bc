"""One tensor with its grid as a drawing in plain numbers: a histogram, the grid over it, and its slices by axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitwright.report import format as text
from bitwright.values.tensors import AxisView, TensorView

WIDTH, HEIGHT = 640.0, 150.0
MOST_LINES = 33
MOST_SLICES = 160
WORST = 5


@dataclass(frozen=True)
class Slice:
    """One channel, token or embedding dimension, drawn as a column: positions are heights from the top."""

    index: int
    x: float
    top: float
    bottom: float
    upper: float
    lower: float


@dataclass(frozen=True)
class WorstSlice:
    """One row of the table of the worst slices."""

    index: int
    low: str
    high: str
    clipped: str
    to_zero: str
    sqnr: str


@dataclass(frozen=True)
class AxisPanel:
    """The slices along one axis.

    Attributes:
        name: ``"channel"``, ``"token"``, ...
        slices: what is drawn, at most 160 of them, in their order.
        width: of one column.
        zero: height of the value 0.
        grid: heights of the lowest and the highest grid point; empty where each slice has its own.
        sentence: how even they are.
        shown: how many of how many are drawn.
        worst: the table.
    """

    name: str
    slices: tuple[Slice, ...]
    width: float
    zero: float
    grid: tuple[float, ...]
    sentence: str
    shown: str
    worst: tuple[WorstSlice, ...]


@dataclass(frozen=True)
class TensorPanel:
    """A tensor view, ready to draw on 640 by 150.

    Attributes:
        bars: (x, y, width, height) of the histogram, heights on a logarithmic scale.
        lines: x of the grid points, where there are few enough to tell apart.
        ends: x of the lowest and the highest grid point.
        zero: x of the value 0.
        low, high: values at the left and the right edge.
        facts: (name, value) pairs.
        grid_note: what the grid is.
    """

    site: str
    bits: int
    bars: tuple[tuple[float, float, float, float], ...]
    lines: tuple[float, ...]
    ends: tuple[float, float]
    zero: float
    low: str
    high: str
    facts: tuple[tuple[str, str], ...]
    grid_note: str
    axes: tuple[AxisPanel, ...]


def tensor_panel(view: TensorView) -> TensorPanel:
    """The histogram of a tensor with its grid over it, and its slices along each axis."""
    middle = sorted(range(len(view.steps)), key=lambda i: view.steps[i])[len(view.steps) // 2]
    grid_low, grid_high = view.grid_low[middle], view.grid_high[middle]
    # Grids much wider than the values are cut off at the edges of the drawing, not squeezed into it.
    span = (view.high - view.low) or 1.0
    left = max(min(view.low, grid_low), view.low - 0.25 * span)
    right = min(max(view.high, grid_high), view.high + 0.25 * span)

    def x(value: float) -> float:
        return round(min(max((value - left) / (right - left), 0.0), 1.0) * WIDTH, 2)

    most = math.log1p(max(view.counts, default=1)) or 1.0
    bars = []
    for count, start, stop in zip(view.counts, view.edges, view.edges[1:], strict=False):
        height = round(HEIGHT * math.log1p(count) / most, 2)
        bars.append((x(start), round(HEIGHT - height, 2), round(max(x(stop) - x(start), 0.5), 2), height))
    points = view.grid(middle) if view.bits <= 6 else ()
    lines = tuple(x(p) for p in points if left <= p <= right) if len(points) <= MOST_LINES else ()
    many = "" if len(view.steps) == 1 else f"; {len(view.steps)} steps, the grid drawn is the middle one's"
    return TensorPanel(
        view.site,
        view.bits,
        tuple(bars),
        lines,
        (x(grid_low), x(grid_high)),
        x(0.0),
        text.significant(left),
        text.significant(right),
        (
            ("values", f"{view.values:,}"),
            ("range", f"{text.significant(view.low)} to {text.significant(view.high)}"),
            ("standard deviation", text.significant(view.deviation)),
            ("kurtosis (normal: 3)", text.significant(view.kurtosis)),
            ("clipped", text.percent(view.clipped, 2)),
            ("rounded to zero", text.percent(view.to_zero)),
            ("SQNR", _decibels(view.sqnr)),
        ),
        f"{view.bits} bits, step {text.significant(view.steps[middle])}{many}",
        tuple(axis_panel(axis, grid_low, grid_high, len(view.steps) == 1) for axis in view.axes),
    )


def axis_panel(axis: AxisView, grid_low: float, grid_high: float, one_grid: bool) -> AxisPanel:
    """The slices along one axis: their extremes as thin columns, their middle half as thick ones."""
    shown = list(range(axis.size))
    if axis.size > MOST_SLICES:
        keep = {*axis.worst(MOST_SLICES // 2), *axis.widest(MOST_SLICES // 2)}
        shown = [i for i in shown if i in keep]
    bottom = min(0.0, min(axis.low[i] for i in shown))
    top = max(0.0, max(axis.high[i] for i in shown))
    span = (top - bottom) or 1.0

    def y(value: float) -> float:
        return round(HEIGHT * (1 - min(max((value - bottom) / span, 0.0), 1.0)), 2)

    width = WIDTH / max(len(shown), 1)
    slices = tuple(
        Slice(i, round(k * width, 2), y(axis.high[i]), y(axis.low[i]), y(axis.quantiles[i][3]), y(axis.quantiles[i][1]))
        for k, i in enumerate(shown)
    )
    if math.isinf(axis.spread):
        sentence = f"Most of its {axis.name}s hold nothing but zeros."
    else:
        widest = axis.widest(1)[0]
        times = text.significant(axis.spread, 2)
        sentence = f"The widest {axis.name} ({widest}) reaches {times} times as far as the median one."
    rows = tuple(
        WorstSlice(
            i,
            text.significant(axis.low[i]),
            text.significant(axis.high[i]),
            text.percent(axis.clipped[i], 2),
            text.percent(axis.to_zero[i]),
            _decibels(axis.sqnr[i]),
        )
        for i in axis.worst(WORST)
    )
    grid = (y(grid_low), y(grid_high)) if one_grid else ()
    count = f"{len(shown)} of {axis.size}" if len(shown) < axis.size else f"{axis.size}"
    return AxisPanel(axis.name, slices, round(width, 3), y(0.0), grid, sentence, count, rows)


def _decibels(value: float) -> str:
    if math.isinf(value):
        return "nothing is lost" if value > 0 else "all is lost"
    return f"{value:.1f} dB"
