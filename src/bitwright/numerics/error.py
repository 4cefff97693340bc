"""Rounding error: the noise that a grid adds to a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.numerics.affine import Affine, fake_quantize


def measured_noise(tensor: Tensor, affine: Affine) -> float:
    """Mean squared rounding error per element, mean((Q(t) - t)^2), clipping included."""
    with torch.no_grad():
        return float((fake_quantize(tensor, affine) - tensor).square_().mean(dtype=torch.float64))


def uniform_noise(affine: Affine) -> float:
    """The uniform noise model step^2 / 12 (FIT paper, section 3), averaged over the steps of the tensor."""
    squared = affine.scale.double().square()
    return float(squared.mean() / 12.0)
