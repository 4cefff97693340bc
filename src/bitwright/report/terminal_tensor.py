"""One tensor with its grid on the terminal, legible at 80 columns."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.text import Text

from bitwright.report.panels_tensor import AxisPanel, tensor_panel
from bitwright.report.terminal import plain_table
from bitwright.values.tensors import TensorView

COLUMNS = 64
_BLOCKS = " ▁▂▃▄▅▆▇█"


def tensor_lines(view: TensorView) -> RenderableType:
    """A tensor: its figures, its histogram, and its worst slices along each axis."""
    panel = tensor_panel(view)
    facts = ", ".join(f"{name} {value}" for name, value in panel.facts)
    shape = "x".join(str(n) for n in view.shape)
    low, high = (f"{value:.3g}" for value in (view.low, view.high))
    parts: list[RenderableType] = [
        Text(f"{view.site} ({view.kind}, {shape}), {panel.grid_note}", style="bold"),
        Text(facts),
        Text(histogram(view)),
        Text(low + " " * max(1, COLUMNS - len(low) - len(high)) + high, style="dim"),
    ]
    parts += [_axis(axis) for axis in panel.axes]
    return Group(*parts, Text(""))


def histogram(view: TensorView) -> str:
    """How often each value comes, on a logarithmic scale, in one line from the lowest value to the highest."""
    bins = len(view.counts)
    wide = [0] * min(COLUMNS, bins)
    for i, count in enumerate(view.counts):
        wide[i * len(wide) // bins] += count
    most = math.log1p(max(wide, default=1)) or 1.0
    return "".join(_BLOCKS[math.ceil(math.log1p(count) / most * (len(_BLOCKS) - 1))] for count in wide)


def _axis(axis: AxisPanel) -> RenderableType:
    table = plain_table(f"By {axis.name}: {axis.sentence}")
    table.add_column(axis.name.capitalize())
    for name in ("Lowest", "Highest", "Clipped", "Rounded to zero", "SQNR"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in axis.worst:
        table.add_row(str(row.index), row.low, row.high, row.clipped, row.to_zero, row.sqnr)
    return table
