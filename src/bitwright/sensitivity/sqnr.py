"""The ratio of signal to quantization noise at each site alone: a baseline."""

from __future__ import annotations

import numpy as np

from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import METHODS, Method, Scores
from bitwright.sensitivity.noise import values_at


def sqnr(evidence: Evidence) -> Scores:
    """harm[s, b] = E[d^2] / E[t^2] = 10^(-SQNR / 10), with the SQNR in decibels.

    The inverse ratio, so that harms add up and fall with bits. Zero for a tensor of zeros, which loses nothing.
    """
    power = [float(values_at(q).double().square().mean()) for q in evidence.graph.quantizers.values()]
    signal = np.array(power)[:, None]
    harm = np.divide(evidence.noise, signal, out=np.zeros_like(evidence.noise), where=signal > 0.0)
    return Scores(harm, notes=evidence.notes)


METHODS.register(
    Method(
        name="sqnr",
        order=33,
        called="SQNR",
        does="The rounding error over the signal, the inverse of the SQNR, a baseline.",
        unit="noise over signal",
        function=sqnr,
    )
)
