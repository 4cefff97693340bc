"""Additions: steps around them are chosen so that no sum falls exactly in the middle between two grid points.

Where two quantized tensors are added, few different sums occur, and with short steps many of them can lie exactly
between two points of the output's grid. Which of the two is taken then depends on the last bit of the arithmetic: the
simulation and a runtime's fused integer kernel decide differently, for a percent of the elements at once (ResNet-20 at
W4A4: 7 % of the predictions). No tie can occur when each output step is an odd multiple of a unit of which the
operands' steps are multiples too: twice a sum is then an even number of units, and a tie would be an odd one.

The unit is a power of two, common to all additions that are linked by shared tensors (a network's residual stream), and
depends on the current bit widths. Steps move by at most a quarter, and by a few percent at low widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch.fx import GraphModule

from bitwright.graph.operations import entry_of
from bitwright.graph.places import site_after, site_behind
from bitwright.numerics.affine import Affine
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.remembered import Remembered
from bitwright.values.linked import linked

_SIGNIFICANT_BITS = 12  # of the largest value, in units: products with weights then stay within float32
_FEWEST_FRACTION_BITS = 2  # of the smallest step, in units


@dataclass(frozen=True)
class Addition:
    """Names of the sites of two operands and of the sum."""

    left: str
    right: str
    result: str


def additions_of(module: GraphModule) -> tuple[Addition, ...]:
    """The additions of a graph whose operands and result all have sites."""
    found = []
    for node in module.graph.nodes:
        if entry_of(node).kind == "add":
            left, right = (site_behind(module, operand) for operand in node.args[:2])
            result = site_after(module, node)
            if left and right and result and node.kwargs.get("alpha", 1) == 1:
                found.append(Addition(left.site.name, right.site.name, result.site.name))
    return tuple(found)


class TieFreeSteps:
    """Sets the steps around the additions of a graph for its current bit widths."""

    def __init__(self, module: GraphModule) -> None:
        additions = additions_of(module)
        self.groups = linked((addition.left, addition.right, addition.result) for addition in additions)
        self.results = frozenset(addition.result for addition in additions)
        self._made = Remembered[list[Affine]]()

    def settle(self, quantizers: Mapping[str, Quantizer]) -> None:
        """Adjust the grids of the sites around additions; those in float or above 8 bits are left alone."""
        for group in self.groups:
            members = [quantizers[name] for name in group if quantizers[name].settling is not None]
            for quantizer in members:
                quantizer.settle(None)
            narrow = [(q, q.grid(q.bits)) for q in members if q.bits is not None and q.bits <= 8]
            if len(narrow) < 2:
                continue
            steps = self._made.of([affine for _, affine in narrow], partial(self._steps, narrow))
            for (quantizer, _), affine in zip(narrow, steps, strict=True):
                quantizer.settle(affine)

    def _steps(self, narrow: list[tuple[Quantizer, Affine]]) -> list[Affine]:
        exponent = _unit_exponent([(float(affine.scale), quantizer.bits or 0) for quantizer, affine in narrow])
        found = []
        for quantizer, affine in narrow:
            odd = quantizer.site.name in self.results
            up = quantizer.settling == "up"
            found.append(_in_units(affine, exponent, odd, up, quantizer.site.scheme.symmetric))
        return found


def _unit_exponent(steps: list[tuple[float, int]]) -> int:
    largest = max(math.log2(step) + bits for step, bits in steps)
    smallest = min(math.floor(math.log2(step)) for step, _ in steps)
    return min(math.floor(largest) - _SIGNIFICANT_BITS, smallest - _FEWEST_FRACTION_BITS)


def _in_units(affine: Affine, exponent: int, odd: bool, up: bool, symmetric: bool) -> Affine:
    """The grid with the nearest (or next larger) step that is a multiple, or an odd multiple, of 2^exponent."""
    wanted = math.ldexp(float(affine.scale), -exponent)
    choose = math.ceil if up else round
    multiple = 2 * choose((wanted - 1) / 2) + 1 if odd else max(choose(wanted), 1)
    step = math.ldexp(multiple, exponent)
    if step == float(affine.scale):
        return affine
    # The zero point moves along, so that the lower end of the grid stays where it is.
    zero = float(affine.zero_point)
    if not symmetric:
        moved = affine.low + round((zero - affine.low) * float(affine.scale) / step)
        zero = float(min(max(moved, affine.low), affine.high))
    scale, zero_point = (torch.tensor(value, dtype=torch.float32, device=affine.scale.device) for value in (step, zero))
    return Affine(scale, zero_point, affine.low, affine.high)
