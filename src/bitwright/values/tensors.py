"""What the tensor at a site looks like, and what its grid does to it: plain data, ready to be drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitwright.errors import InvalidInput, nearest
from bitwright.values.json import Value

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclass(frozen=True)
class AxisView(Value):
    """The tensor cut into slices along one axis: one figure for each slice.

    Attributes:
        name: ``"output channel"``, ``"input channel"``, ``"channel"``, ``"head"``, ``"token"``, ``"embedding"`` or
            ``"feature"``.
        axis: the tensor's axis.
        low: smallest value of each slice.
        high: largest value of each slice.
        quantiles: five of each slice, see :data:`QUANTILES`.
        clipped: share of each slice's values that lie beyond the grid.
        to_zero: share of each slice's values that are not zero and are rounded to zero.
        sqnr: 10 log10(sum t^2 / sum (Q(t) - t)^2) of each slice in dB; infinite where nothing is lost.
    """

    name: str
    axis: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    quantiles: tuple[tuple[float, ...], ...]
    clipped: tuple[float, ...]
    to_zero: tuple[float, ...]
    sqnr: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of slices."""
        return len(self.low)

    @property
    def spread(self) -> float:
        """Largest reach max |t| of a slice over the median reach: 1 when all are alike, 30 with one outlier of 30."""
        reach = sorted(max(-low, high, 0.0) for low, high in zip(self.low, self.high, strict=True))
        middle = reach[len(reach) // 2]
        return reach[-1] / middle if middle > 0 else (math.inf if reach[-1] > 0 else 1.0)

    def worst(self, count: int = 5) -> tuple[int, ...]:
        """Positions of the slices with the lowest SQNR, worst first."""
        order = sorted(range(self.size), key=lambda i: self.sqnr[i])
        return tuple(order[:count])

    def widest(self, count: int = 5) -> tuple[int, ...]:
        """Positions of the slices with the largest |t|, largest first."""
        order = sorted(range(self.size), key=lambda i: -max(-self.low[i], self.high[i]))
        return tuple(order[:count])


@dataclass(frozen=True)
class TensorView(Value, kind="tensor view", version=2):
    """Distribution of the tensor at a site with its grid.

    Attributes:
        site: its name.
        kind: ``"weight"`` or ``"activation"``.
        shape: of the tensor that was looked at; activations: samples first.
        bits: width of the grid.
        low: smallest value.
        high: largest value.
        mean: of all values.
        deviation: standard deviation of all values.
        kurtosis: fourth standardized moment; 3 for a normal distribution, far more with outliers.
        edges: (bins + 1,) of the histogram.
        counts: (bins,) values in each bin.
        steps: step size of the grid: one, or one for each output channel (or group, in rows).
        grid_low: value of the lowest grid point, for each step.
        grid_high: value of the highest grid point, for each step.
        clipped: share of values beyond the grid.
        to_zero: share of values that are not zero and are rounded to zero.
        sqnr: in dB; infinite when nothing is lost.
        axes: the same by channel, token, embedding dimension.
        graph_hash: the graph that it comes from.
    """

    site: str
    kind: str
    shape: tuple[int, ...]
    bits: int
    low: float
    high: float
    mean: float
    deviation: float
    kurtosis: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    steps: tuple[float, ...]
    grid_low: tuple[float, ...]
    grid_high: tuple[float, ...]
    clipped: float
    to_zero: float
    sqnr: float
    axes: tuple[AxisView, ...] = ()
    graph_hash: str = ""

    @property
    def values(self) -> int:
        """Number of values looked at."""
        return math.prod(self.shape)

    def axis(self, name: str) -> AxisView:
        """The view along an axis by its name.

        Raises:
            InvalidInput: there is none of this name.
        """
        names = [axis.name for axis in self.axes]
        if name not in names:
            raise InvalidInput(f"site '{self.site}' has axes {', '.join(names)}, not '{name}'{nearest(name, names)}")
        return self.axes[names.index(name)]

    def grid(self, index: int = 0) -> tuple[float, ...]:
        """Every point of the grid with the ``index``-th step, ascending."""
        step, low = self.steps[index], self.grid_low[index]
        return tuple(low + i * step for i in range(round((self.grid_high[index] - low) / step) + 1))
