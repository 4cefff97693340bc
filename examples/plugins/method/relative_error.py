"""A sensitivity method: the rounding error of each site relative to its signal, without a look at the network."""

from __future__ import annotations

import numpy as np

from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import Method, Scores


def relative_error(evidence: Evidence) -> Scores:
    """E[d^2] / E[t^2] of each site's values t and rounding errors d: the inverse of the signal-to-noise ratio."""
    power = []
    for quantizer in evidence.graph.quantizers.values():
        seen = quantizer.observed
        values = quantizer.weight.detach() if quantizer.site.kind == "weight" else seen.sample
        power.append(max(float(values.double().square().mean()), 1e-30))
    return Scores(evidence.noise / np.array(power)[:, None], notes=evidence.notes)


RELATIVE_ERROR = Method(
    name="relative-error",
    does="The mean squared rounding error over the mean square of the values.",
    needs="calibrated ranges; no targets",
    unit="noise over signal",
    function=relative_error,
)
