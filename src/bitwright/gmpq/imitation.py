"""How the attribution of a mixture of widths is held against that of the float network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.errors import InvalidInput
from bitwright.gmpq.capacity import SHAPES


@dataclass(frozen=True)
class Imitation:
    """How the attribution of the mixture is held against float's.

    Attributes:
        weight: of the attribution beside the task's loss; 0: the task's loss alone decides.
        top: share of the places that count, those where float's attribution is largest.
        shape: how the power to which float's attribution is raised grows with the lack of capacity: ``"linear"``,
            ``"concave"`` or ``"convex"``; ``"none"``: a power of 1.
        spread: hierarchical partitioning (R-GMPQ): values of one group differ by at most this share of the map's
            largest value, as a standard deviation; 0: every place for itself.
        hardness: whether a sample with more loss than others gets a larger power (R-GMPQ).
    """

    weight: float = 40.0
    top: float = 0.5
    shape: str = "linear"
    spread: float = 0.0
    hardness: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise InvalidInput(f"weight must be 0 or more, got {self.weight!r}")
        if not 0 < self.top <= 1:
            raise InvalidInput(f"top must be above 0 and at most 1, got {self.top!r}")
        if self.shape not in (*SHAPES, "none"):
            raise InvalidInput(f"shape must be one of {', '.join((*SHAPES, 'none'))}, got {self.shape!r}")
        if not 0 <= self.spread < 1:
            raise InvalidInput(f"spread must be at least 0 and below 1, got {self.spread!r}")


METHODS: Mapping[str, Imitation] = {
    "loss": Imitation(weight=0.0),
    "gmpq": Imitation(),
    "r-gmpq": Imitation(spread=0.1, hardness=True),
}
"""The named methods; an :class:`Imitation` of one's own is another."""
