"""Rounding error: the noise that a grid adds to a tensor."""

from __future__ import annotations

from bitwright.numerics.affine import Affine


def uniform_noise(affine: Affine) -> float:
    """The uniform noise model step^2 / 12 (FIT paper, section 3), averaged over the steps of the tensor."""
    squared = affine.scale.double().square()
    return float(squared.mean() / 12.0)
