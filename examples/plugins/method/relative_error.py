"""A sensitivity method: the rounding error of each site relative to its values, without a look at the network."""

from __future__ import annotations

import numpy as np

from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import Method, Scores
from bitwright.sensitivity.noise import values_at


def relative_error(evidence: Evidence) -> Scores:
    """E|d| / E|t| of each site's values t and rounding errors d, at each width."""
    rows = []
    for quantizer in evidence.graph.quantizers.values():
        values = values_at(quantizer)
        size = max(float(values.abs().mean()), 1e-30)
        rows.append([float((quantizer.rounded(bits, values) - values).abs().mean()) / size for bits in evidence.bits])
    return Scores(np.array(rows))


RELATIVE_ERROR = Method(
    name="relative-error",
    does="The mean size of the rounding error over that of the values.",
    needs="calibrated ranges; no targets",
    unit="noise over signal",
    function=relative_error,
)
