"""What the flow knows between two steps, and the rules that its conclusions follow from."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.values import Verdict
from bitwright.values.findings import Measurement
from bitwright.values.recipe import Recipe
from bitwright.values.sweep import Sweep

SANE_DIFFERENCE = 1e-4
"""Step 1: largest difference between the outputs of graph and model, relative to the largest value."""
SANE_DISTANCE = 0.01
"""Step 1: largest distance to float with all weights, or all activations, at 16 bits, in the task's unit."""
GUESSING_MARGIN = 0.01
"""Step 1: a float network that beats always naming the most frequent class by no more than this is suspect."""
SATURATED = 0.99
"""Step 1: primary figure, a share, of the float network on calibration data from which it is said to be saturated."""
OVERFITTED = 0.02
"""Step 1: the same of one that lies so far above the one on evaluation data."""
FAULT_SHARE = 0.2
"""Step 2: a side is at fault if it makes up this share or more of the distance that both sides alone add up to."""
IMPROVEMENT = 0.05
"""Steps 3, 4, 7: a change is kept when it lowers the distance to float by at least this share."""
CONCENTRATED = 0.8
"""Step 4: one site is mended alone when it has at least this share of all activations' one-site distance."""
LOOK_AT = 3
"""Step 6: how many of the worst sites are looked at."""
MOST_FIXES = 8
"""Step 7: how many sites are fixed one by one, at most."""
NEGLIGIBLE = 0.02
"""Step 7: sites with a smaller share of the one-site distances are left alone."""


@dataclass(frozen=True)
class State:
    """Between two steps.

    Attributes:
        recipe: as it is.
        at_fault: ``"weight"``, ``"activation"``: the sides known to be at fault; both until step 2 has measured it.
        verdict: the recipe on the evaluation data, None where that was not measured.
        sweep: the latest per-layer analysis of this recipe.
    """

    recipe: Recipe
    at_fault: tuple[str, ...] = ("weight", "activation")
    verdict: Verdict | None = None
    sweep: Sweep | None = None


def measurement(label: str, verdict: Verdict, kept: bool | None = None, note: str = "") -> Measurement:
    """A row from a verdict on the calibration data."""
    decided = verdict.decided
    return Measurement(label, verdict.distance.value, decided.value.value if decided else None, kept, note)


def better(new: float, old: float) -> bool:
    """Whether a distance is lower by enough to keep the change."""
    return new <= (1 - IMPROVEMENT) * old
