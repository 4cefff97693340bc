"""The bit ratio, which looks at neither the network nor the data: a baseline."""

from __future__ import annotations

import numpy as np

from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import METHODS, Method, Scores

FLOAT_BITS = 32


def bit_ratio(evidence: Evidence) -> Scores:
    """harm[s, b] = 32 / b - 1: how many times narrower than float a site is, beyond once; 0 at 32 bits."""
    ratios = FLOAT_BITS / np.array(evidence.bits, dtype=np.float64) - 1.0
    return Scores(np.tile(ratios, (len(evidence.graph.sites), 1)))


METHODS.register(
    Method(
        name="bit-ratio",
        order=31,
        does="The bits of float over the bits of the site, a baseline.",
        unit="bits of float over bits, less one",
        function=bit_ratio,
    )
)
