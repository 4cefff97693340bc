"""Harms as whole numbers: sums are exact, ties are ties, and the unit of the scores does not matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.search.problem import Floats, Integers, Mask

_TOTAL_BITS = 61


@dataclass(frozen=True)
class Objective:
    """What the solver minimises: harm above each variable's smallest, then the tie-break.

    ``value = round(excess / step) * 2**shift + preference``, where the preferences of any policy sum to less
    than ``2**shift``: of policies with equal harm the one with the smaller preference wins.

    Attributes:
        values: for each variable (levels,) whole numbers.
        possible: for each variable (levels,) False where the excess alone is too large for an optimum.
        shift: bits that the preference takes.
    """

    values: tuple[Integers, ...]
    possible: tuple[Mask, ...]
    shift: int

    def gap(self, value: int, bound: float) -> float:
        """How far, relative to its harm above the smallest possible, a value can be from the optimum."""
        steps = value >> self.shift
        least = min(max(bound, 0.0), float(value))
        missing = steps - math.floor(least / (1 << self.shift))
        return max(0, missing) / max(1, steps)


def make_objective(harms: Sequence[Floats], preference: Sequence[Integers], ceiling: float | None = None) -> Objective:
    """Round harms to whole numbers.

    Args:
        harms: for each variable (levels,) harm, of any sign and magnitude.
        preference: for each variable (levels,) the tie-break.
        ceiling: the excess harm of some policy that is known to be feasible, so that levels beyond it
            can be left out and all precision goes to the others; None: the largest excess.
    """
    excess = [harm - harm.min() for harm in harms]
    largest = max((float(e.max()) for e in excess), default=0.0)
    scale = largest if ceiling is None else min(largest, ceiling)
    shift = int(sum(int(p.max()) for p in preference)).bit_length()
    if not scale > 0.0:
        possible = tuple(e <= scale for e in excess)
        return Objective(tuple(p.astype(np.int64) for p in preference), possible, shift)
    relative = [e / scale for e in excess]
    possible = tuple(r <= 1.0 + 1e-9 for r in relative)
    spread = sum(float(r[p].max()) for r, p in zip(relative, possible, strict=True))
    steps_bits = min(44, _TOTAL_BITS - shift - math.ceil(math.log2(max(spread, 1.0))) - 1)
    steps = 2.0**steps_bits
    values = tuple(
        np.rint(np.minimum(r, 2.0) * steps).astype(np.int64) * (1 << shift) + p
        for r, p in zip(relative, preference, strict=True)
    )
    return Objective(values, possible, shift)
