"""A quantizer: weights with steps that are powers of two, so that integer hardware rescales by shifting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bitwright.errors import InvalidInput
from bitwright.numerics.affine import Affine
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.kind import QuantizerKind
from bitwright.values import Site


class PowerOfTwo(Quantizer):
    """Symmetric, with one step for each channel where the site's scheme has one: the smallest that clips nothing."""

    def grid(self, bits: int) -> Affine:
        """The grid at a width."""
        low, high = self.site.scheme.integer_range(bits)
        weight, axis = self.weight.detach(), self.site.scheme.axis
        others = tuple(d for d in range(weight.dim()) if d != axis)
        largest = weight.abs().amax(others, keepdim=True) if axis is not None else weight.abs().max()
        step = 2.0 ** torch.ceil(torch.log2(largest.clamp_min(1e-12) / high))
        return Affine(step, torch.zeros_like(step), low, high)

    def load(self, state: Mapping[str, Any]) -> None:
        """Nothing: the grid follows from the weight."""


def power_of_two(site: Site) -> PowerOfTwo:
    """For a weight site whose grid is symmetric."""
    if site.kind != "weight" or not site.scheme.signed:
        raise InvalidInput(f"power-of-two is for weights, site '{site.name}' is an {site.kind}")
    return PowerOfTwo(site)


POWER_OF_TWO = QuantizerKind(
    name="power-of-two",
    does="Weights get steps that are powers of two.",
    needs="weight sites",
    function=power_of_two,
)
