"""What the flow knows between two steps, and the rules that its conclusions follow from."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.values import Verdict
from bitwright.values.findings import Measurement
from bitwright.values.recipe import Recipe
from bitwright.values.sweep import Sweep

SANE_DIFFERENCE = 1e-4
"""Step 1: largest logit difference between graph and model, relative to the largest logit."""
SANE_KL = 0.01
"""Step 1: largest KL to float with all weights, or all activations, at 16 bits, nats."""
GUESSING_MARGIN = 0.01
"""Step 1: a float network that beats always naming the most frequent class by no more than this is suspect."""
SATURATED = 0.99
"""Step 1: accuracy of the float network on calibration data from which it is said to be saturated."""
OVERFITTED = 0.02
"""Step 1: the same of accuracy that lies so far above the one on evaluation data."""
FAULT_SHARE = 0.2
"""Step 2: a side is at fault from this share of the KL that both sides alone add up to."""
IMPROVEMENT = 0.05
"""Steps 3, 4, 7: a change is kept when it lowers the KL to float by at least this share."""
CONCENTRATED = 0.8
"""Step 4: one site is mended alone when it has at least this share of all activations' one-site KL."""
LOOK_AT = 3
"""Step 6: how many of the worst sites are looked at."""
MOST_FIXES = 8
"""Step 7: how many sites are fixed one by one, at most."""
NEGLIGIBLE = 0.02
"""Step 7: sites with a smaller share of the one-site KL are left alone."""


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
    return Measurement(label, verdict.kl.value, verdict.agreement.value, kept, note)


def better(new: float, old: float) -> bool:
    """Whether a KL is lower by enough to keep the change."""
    return new <= (1 - IMPROVEMENT) * old
