"""Factors: steps with which a fused kernel's rounded factor moves no sum off the middle between two grid points.

A fused integer kernel multiplies an integer sum with input step x weight step / output step, a factor that float32
rounds. Where the exact result lies in the middle between two points of the output's grid, the simulation takes the even
one. The kernel takes the same one if its product, rounded to float32, is still the middle; whether it is depends on the
steps alone, and with 8-bit weights one combination of three steps in seven fails. One such sum in 30,000 values was
enough for a network with hard swish to drift until half of its last values differed.

So a weight of 8 bits takes, channel by channel, the next larger step for which every middle stays one. Narrower weights
have steps that leave next to no middles (:mod:`bitwright.numerics.steps`). Where two activations are multiplied, the
result takes the larger step, unless an addition settles it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import GraphModule

from bitwright.graph.operations import entry_of
from bitwright.graph.places import site_after, site_behind
from bitwright.numerics.affine import Affine
from bitwright.numerics.steps import keeps_middles, next_larger
from bitwright.quantizers.base import Quantizer

_KEPT = 64  # combinations of grids whose steps are remembered
_BITS = 8  # there are no integer kernels above


@dataclass(frozen=True)
class Product:
    """Names of the sites of two factors and of what comes of them."""

    left: str
    right: str
    result: str


def products_of(module: GraphModule) -> tuple[Product, ...]:
    """The products of a graph, elementwise ones included, whose factors and result all have sites."""
    found = []
    for node in module.graph.nodes:
        entry = entry_of(node)
        positions = entry.operands if entry.kind == "mul" else entry.factors
        factors = [site_behind(module, node.args[position]) for position in positions]
        result = site_after(module, node)
        if len(factors) == 2 and factors[0] and factors[1] and result:
            found.append(Product(factors[0].site.name, factors[1].site.name, result.site.name))
    return tuple(found)


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
            for name in (product.result, product.left, product.right):
                self._users.setdefault(name, []).append(product)
        self._made: dict[tuple[int, ...], tuple[list[Affine], Affine | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}  # ids mean nothing in a copy

    def depending(self, site: str) -> tuple[str, ...]:
        """Sites of products that the site takes part in: their steps follow its own."""
        users = self._users.get(site, [])
        return tuple(name for product in users for name in (product.left, product.right, product.result))

    def settle(self, quantizers: Mapping[str, Quantizer]) -> None:
        """Adjust the grids of results, then those of weights."""
        for kind in ("activation", "weight"):
            for name, users in self._users.items():
                quantizer = quantizers[name]
                if quantizer.site.kind == kind and name not in self._settled:
                    self._settle(quantizer, name, users, quantizers)

    def _settle(
        self, quantizer: Quantizer, name: str, users: list[Product], quantizers: Mapping[str, Quantizer]
    ) -> None:
        if quantizer.settling is None or quantizer.bits != _BITS or quantizer.site.scheme.granularity == "group":
            return
        weight = quantizer.site.kind == "weight"
        moving = [product for product in users if weight or product.result == name]
        others = [_others(product, name, quantizers) for product in moving]
        own = quantizer.grid(_BITS)
        fixed = [grids for grids in others if grids is not None]
        if not fixed:
            return
        key = (id(own), *(id(grid) for grids in fixed for grid in grids))
        if key not in self._made:
            if len(self._made) >= _KEPT * len(self._users):
                self._made.clear()
            # The grids that the key stands for are kept along, so that their ids stay theirs.
            self._made[key] = [own, *(grid for grids in fixed for grid in grids)], _moved(own, fixed, weight)
        quantizer.settle(self._made[key][1])


def _others(product: Product, name: str, quantizers: Mapping[str, Quantizer]) -> tuple[Affine, Affine] | None:
    """The two other grids: (factor, result) for a factor, (left, right) for a result; None unless all are narrow."""
    names = [other for other in (product.left, product.right, product.result) if other != name]
    stand = [quantizers[other] for other in names]
    if len(stand) != 2 or any(q.bits is None or q.bits > _BITS or q.site.kind == "weight" for q in stand):
        return None
    left, right = (q.grid(q.bits) for q in stand if q.bits is not None)
    return left, right


def _moved(own: Affine, fixed: list[tuple[Affine, Affine]], weight: bool) -> Affine | None:
    """The grid with the next larger steps that suit all products; None where its own do."""
    steps = own.scale.flatten().cpu()
    for _ in range(16):  # more than an octave has
        good = torch.ones_like(steps, dtype=torch.bool)
        for one, other in fixed:
            first, second = one.scale.cpu(), other.scale.cpu()
            good &= keeps_middles(first, steps, second) if weight else keeps_middles(first, second, steps)
        if bool(good.all()):
            break
        steps = torch.where(good, steps, next_larger(steps, own.low, own.high))
    else:
        return None
    if torch.equal(steps, own.scale.flatten().cpu()):
        return None
    scale = steps.reshape(own.scale.shape).to(own.scale.device)
    zero = own.zero_point
    if not weight:  # the lower end of the grid stays where it is
        zero = (own.low + ((zero - own.low) * own.scale / scale).round()).clamp(own.low, own.high)
    return replace(own, scale=scale, zero_point=zero)
