"""Factors: steps with which a fused kernel's rounded factor moves no sum off the middle between two grid points.

A fused integer kernel multiplies an integer sum by input step x weight step / output step, a factor that float32
rounds. Where the exact result lies in the middle between two points of the output's grid, the simulation takes the even
one. The kernel takes the same one if its product, rounded to float32, is still the middle; whether it is depends on the
steps alone, and with 8-bit weights one combination of three steps in seven fails. One such sum in 30,000 values was
enough for a network with hard swish to drift until half of its last values differed.

So a weight of 8 bits takes, channel by channel, the next larger step for which every middle stays one; where a repair
or training fixes integers, it does so on such a grid (:meth:`Factors.suited`). Narrower weights have steps that leave
next to no middles (:mod:`bitwright.numerics.steps`). Where two activations are multiplied,
the result takes the larger step, and an even zero point, unless an addition settles it; so does a mean over all
positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch.fx import GraphModule, Node

from bitwright.graph.operations import entry_of
from bitwright.graph.places import site_after, site_behind
from bitwright.numerics.affine import Affine
from bitwright.numerics.steps import PER_OCTAVE, keeps_middles, next_larger
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.remembered import Remembered

_KEPT = 64  # combinations of grids whose steps are remembered, for each site
_BITS = 8  # there are no integer kernels above


@dataclass(frozen=True)
class Product:
    """Names of the sites of factors and of what comes of them.

    Attributes:
        factors: two, or the one whose values a mean adds up.
        result: the product.
        weight: the factor that is a weight, whose steps are moved; without one those of the result are.
        divisor: how many values a mean adds up; 1 for products.
        even: whether the kernel adds the result's zero point before it rounds, as it does element by element: the
            even neighbour of a middle is then another one, unless the zero point is even.
    """

    factors: tuple[str, ...]
    result: str
    weight: str = ""
    divisor: int = 1
    even: bool = False


def products_of(module: GraphModule) -> tuple[Product, ...]:
    """Products, elementwise ones included, and means over all positions, whose factors and result all have sites."""
    found = []
    for node in module.graph.nodes:
        entry, divisor = entry_of(node), _averaged(node)
        positions = entry.operands if entry.kind == "mul" or divisor else entry.factors
        factors = [site_behind(module, node.args[position]) for position in positions]
        names = tuple(factor.site.name for factor in factors if factor is not None)
        result = site_after(module, node, past_scales=True)
        if names and len(names) == len(factors) and result is not None:
            weight = next((factor.site.name for factor in factors if factor and factor.site.kind == "weight"), "")
            found.append(Product(names, result.site.name, weight, divisor or 1, entry.kind == "mul"))
    return tuple(found)


def _averaged(node: Node) -> int | None:
    """Number of positions of a mean over all of them; None for other nodes."""
    if entry_of(node).kind not in ("avg_pool", "mean"):
        return None
    source: Any = node.args[0]
    while source.op == "call_module":
        source = source.args[0]
    shapes = [one.meta["val"].shape[2:] for one in (source, node) if isinstance(one.meta.get("val"), torch.Tensor)]
    if len(shapes) != 2:
        return None
    over, left = shapes
    whole = bool(over) and all(isinstance(size, int) for size in over) and all(size == 1 for size in left)
    return math.prod(over) if whole else None


class Factors:
    """Sets the steps of products of a graph for its current bit widths.

    Args:
        module: the captured graph.
        settled: sites whose steps additions set.
    """

    def __init__(self, module: GraphModule, settled: frozenset[str]) -> None:
        self._settled = settled
        self._users: dict[str, list[Product]] = {}  # the site to be moved -> what it takes part in
        for product in products_of(module):
            for name in (product.result, *product.factors):
                self._users.setdefault(name, []).append(product)
        self._made = Remembered[Affine | None](_KEPT * len(self._users))

    def depending(self, site: str) -> tuple[str, ...]:
        """Sites whose steps follow those of a site."""
        found, queue = {site: None}, [site]
        while queue:
            for product in self._users.get(queue.pop(), []):
                moved = product.weight or product.result
                if moved not in found and moved not in self._settled:
                    found[moved] = None
                    queue.append(moved)
        return tuple(found)[1:]

    def settle(self, quantizers: Mapping[str, Quantizer]) -> None:
        """Adjust the grids of results, then those of weights."""
        for kind in ("activation", "weight"):
            for name, users in self._users.items():
                quantizer = quantizers[name]
                if quantizer.site.kind == kind and name not in self._settled:
                    self._settle(quantizer, name, users, quantizers)

    def suited(self, name: str, grid: Affine, quantizers: Mapping[str, Quantizer]) -> Affine:
        """A grid for a weight that is going to be fixed, with the next larger steps where a middle would be moved."""
        users = self._users.get(name, [])
        others = [_others(product, name, quantizers) for product in users]
        fixed = [grids for grids in others if grids is not None]
        if quantizers[name].bits != _BITS or not fixed or grid.group_size is not None:
            return grid
        return _larger_weight(grid, fixed) or grid

    def _settle(
        self, quantizer: Quantizer, name: str, users: list[Product], quantizers: Mapping[str, Quantizer]
    ) -> None:
        bits, weight = quantizer.bits, quantizer.site.kind == "weight"
        if quantizer.settling is None or bits is None or bits > _BITS or (weight and bits < _BITS):
            return
        moving = [product for product in users if weight or product.result == name]
        others = [_others(product, name, quantizers) for product in moving]
        own = quantizer.grid(bits)
        fixed = [grids for grids in others if grids is not None]
        if not fixed or own.group_size is not None:
            return
        make = partial(_larger_weight, own, fixed)
        if not weight:
            make = partial(_larger_result, own, fixed[0], moving[0], quantizer.settling == "up")
        quantizer.settle(self._made.of([own, *chain(*fixed)], make))


def _others(product: Product, name: str, quantizers: Mapping[str, Quantizer]) -> list[Affine] | None:
    """The grids of the other sites, the result last; None unless all are activations with narrow grids of their own."""
    stand = [quantizers[other] for other in (*product.factors, product.result) if other != name]
    if not stand or any(q.bits is None or q.bits > _BITS or q.dynamic or q.site.kind == "weight" for q in stand):
        return None
    return [q.grid(q.bits) for q in stand if q.bits is not None]


def _larger_weight(own: Affine, fixed: list[list[Affine]]) -> Affine | None:
    """A weight's grid with the next larger steps that suit all products, channel by channel; None for its own."""
    # Channels share few different steps: each is looked at once.
    first, place = torch.unique(own.scale.flatten().cpu(), return_inverse=True)
    steps = first
    for _ in range(PER_OCTAVE):
        good = torch.ones_like(steps, dtype=torch.bool)
        for grids in fixed:
            good &= keeps_middles(grids[0].scale.cpu() * steps, grids[-1].scale.cpu())
        if bool(good.all()):
            break
        steps = torch.where(good, steps, next_larger(steps, own.low, own.high))
    if torch.equal(steps, first):
        return None
    return replace(own, scale=steps[place].reshape(own.scale.shape).to(own.scale.device))


def _larger_result(own: Affine, factors: list[Affine], product: Product, up: bool) -> Affine | None:
    """The grid of a result with the next larger step that suits its factors; None for its own.

    Args:
        own: the grid.
        factors: the grids of what is multiplied.
        product: what it is the result of.
        up: nothing that lies within the grid may fall out of it; else one of 256 levels may be lost at an end.
    """
    first = step = own.scale.cpu()
    span, levels = own.high - own.low, float(own.zero_point) - own.low
    lost = 0.5 if up else max(0.5, span / 255)  # steps
    scales = torch.stack([grid.scale.cpu() for grid in factors]).prod(0)
    zero = levels
    for _ in range(PER_OCTAVE):
        grown = float(step / first)
        zero = round(levels / grown)
        if product.even and (zero + own.low) % 2:
            zero += 1 if zero < span else -1
        covered = min(zero * grown - levels, (span - zero) * grown - (span - levels)) >= -lost
        if covered and bool(keeps_middles(scales, step * product.divisor)):
            break
        step = next_larger(step, own.low, own.high)
    if step is first and zero == levels:
        return None
    scale, zero_point = (torch.tensor(v, dtype=torch.float32) for v in (float(step), float(own.low + zero)))
    return replace(own, scale=scale.to(own.scale.device), zero_point=zero_point.to(own.scale.device))
