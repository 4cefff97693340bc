"""The rounding error alone, which looks at nothing that the network does with it: a baseline."""

from __future__ import annotations

from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import METHODS, Method, Scores


def rounding_noise(evidence: Evidence) -> Scores:
    """E[d^2] of each site at each width."""
    return Scores(evidence.noise, notes=evidence.notes)


METHODS.register(
    Method(
        name="noise",
        order=30,
        does="The mean squared rounding error, a baseline.",
        costs="next to nothing",
        unit="mean squared rounding error",
        function=rounding_noise,
    )
)
