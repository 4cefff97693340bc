"""Pareto fronts of measured points: what is dominated, and how much a front covers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bitwright.errors import InvalidInput

Point = tuple[float, float]


def nondominated(points: Iterable[Sequence[float]], higher_is_better: bool = True) -> list[int]:
    """Positions of the points that no other point dominates, by ascending cost.

    A point dominates another one when its cost is not higher and its quality not worse, and one of
    the two is better. Of equal points the first is kept.

    Args:
        points: (cost, quality) pairs; a lower cost is better.
        higher_is_better: whether a higher quality is better (accuracy), or a lower one (loss, harm).

    Raises:
        InvalidInput: a point is not a pair of finite numbers.
    """
    pairs = _pairs(points)
    sign = -1.0 if higher_is_better else 1.0
    kept: list[int] = []
    best = math.inf
    for i in sorted(range(len(pairs)), key=lambda i: (pairs[i][0], sign * pairs[i][1], i)):
        if sign * pairs[i][1] < best:
            kept.append(i)
            best = sign * pairs[i][1]
    return kept


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float], higher_is_better: bool = True) -> float:
    """Area that the points dominate, up to a reference point that is worse than them.

    Args:
        points: (cost, quality) pairs; points beyond the reference add nothing.
        reference: (highest cost, worst quality) that count.
        higher_is_better: as for :func:`nondominated`.

    Returns:
        The area in units of cost x quality; comparable between fronts of the same reference only.

    Raises:
        InvalidInput: a point or the reference is not a pair of finite numbers.
    """
    pairs = _pairs(points)
    sign = -1.0 if higher_is_better else 1.0
    (most, worst), *_ = _pairs([reference])
    worst *= sign
    area = 0.0
    level = worst
    for i in nondominated(pairs, higher_is_better):
        cost, quality = pairs[i][0], sign * pairs[i][1]
        if cost < most and quality < level:
            area += (most - cost) * (level - quality)
            level = quality
    return area


def _pairs(points: Iterable[Sequence[float]]) -> list[Point]:
    found = []
    for point in points:
        values = tuple(float(x) for x in point)
        if len(values) != 2 or not all(math.isfinite(x) for x in values):
            raise InvalidInput(f"points must be pairs (cost, quality) of finite numbers, got {point!r}")
        found.append((values[0], values[1]))
    return found
