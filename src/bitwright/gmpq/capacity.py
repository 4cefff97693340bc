"""Capacity: what a mixture of widths costs on average, and how concentrated an attribution it can imitate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bitwright.cost import CostModel
from bitwright.errors import InvalidInput
from bitwright.values import Sites

SHAPES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda lack: lack,
    "concave": lambda lack: lack**0.5,
    "convex": lambda lack: lack**2,
}
"""How the power of the imitation grows with the lack of capacity (1 at full capacity, where all shapes agree)."""


class ExpectedCost:
    """The mean of a cost when every site draws its width by its shares, independently of the others.

    For BOPs the sum over operations of MACs x E[bits of one operand] x E[bits of the other].

    Args:
        model: of the cost.
        sites: of the graph; those that are not mixed stay in float.
        mixed: names of the sites that are mixed.
        widths: that they mix.
    """

    def __init__(self, model: CostModel, sites: Sites, mixed: Sequence[str], widths: Sequence[int]) -> None:
        terms = model.terms(sites, [*widths, None])
        self._constant, self._linear, self._pairs = terms.constant, [], []
        known = set(mixed)

        def number(value: float | None) -> float:
            if value is None:
                raise InvalidInput(f"the cost '{model.name}' is not known at all of the widths {tuple(widths)}")
            return float(value)

        for site, row in terms.linear.items():
            if site in known:
                self._linear.append((site, torch.tensor([number(row.get(b)) for b in widths], dtype=torch.float64)))
            else:
                self._constant += number(row.get(None))
        for pair in terms.pairs:
            left, right = (list(widths) if name in known else [None] for name in (pair.left, pair.right))
            table = [[number(pair.values.get((a, b))) for b in right] for a in left]
            self._pairs.append((pair.left, pair.right, torch.tensor(table, dtype=torch.float64)))

    def __call__(self, shares: Mapping[str, Tensor]) -> Tensor:
        """The mean cost, float64, with the gradients of the shares.

        Args:
            shares: of the mixed sites, (widths,) each.
        """
        one = next(iter(shares.values())).new_ones(1, dtype=torch.float64)
        given = {site: share.double() for site, share in shares.items()}
        total = one.sum() * self._constant
        for site, row in self._linear:
            total = total + given[site] @ row.to(one.device)
        for left, right, table in self._pairs:
            total = total + given.get(left, one) @ table.to(one.device) @ given.get(right, one)
        return total


def lack_of_capacity(sites: Sites, expected: Mapping[str, float], widest: int) -> float:
    """Mean over operations of widest^2 / (E[bits of one operand] E[bits of the other]): 1 at full capacity, else more.

    Args:
        sites: of the graph; operations count that have two sites with widths.
        expected: site -> its expected bits.
        widest: the largest width that is mixed.
    """
    pairs = [(expected.get(op.left or ""), expected.get(op.right or "")) for op in sites.operations]
    found = [widest**2 / (left * right) for left, right in pairs if left and right]
    return sum(found) / len(found) if found else 1.0
