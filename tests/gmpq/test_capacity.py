from __future__ import annotations

import itertools

import pytest
import torch

from bitwright.cost import costs_for
from bitwright.cost.latency import Latency
from bitwright.errors import InvalidInput
from bitwright.gmpq.capacity import SHAPES, ExpectedCost, lack_of_capacity
from bitwright.values import Operation, Policy, Site, Sites

WIDTHS = (2, 4)
SITES = Sites(
    (
        Site("x", "activation", (1, 8)),
        Site("a.weight", "weight", (4, 8)),
        Site("y", "activation", (1, 4)),
        Site("b.weight", "weight", (3, 4)),
    ),
    (
        Operation("a", "linear", 32, "x", "a.weight"),
        Operation("b", "linear", 12, "y", "b.weight"),
        Operation("product", "matmul", 7, "x", "y"),
        Operation("square", "matmul", 5, "y", "y"),
        Operation("float", "linear", 3, "y", None),
    ),
)


@pytest.mark.parametrize("cost", ["bops", "packed"])
@pytest.mark.parametrize("mixed", [SITES.names, SITES.names[:3]])
def test_the_expected_cost_is_the_mean_over_all_policies(cost, mixed):
    model = costs_for()[cost]
    generator = torch.Generator().manual_seed(0)
    shares = {name: torch.rand(2, generator=generator, dtype=torch.float64).softmax(0) for name in mixed}
    wanted = 0.0
    for chosen in itertools.product(range(2), repeat=len(mixed)):
        policy = Policy({name: WIDTHS[i] for name, i in zip(mixed, chosen, strict=True)})
        chance = float(torch.stack([shares[name][i] for name, i in zip(mixed, chosen, strict=True)]).prod())
        wanted += chance * model.of(policy, SITES)
    found = ExpectedCost(model, SITES, mixed, WIDTHS)({name: share.requires_grad_() for name, share in shares.items()})
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-12)
    found.backward()
    assert all((share.grad is None) == (cost == "packed" and name in "xy") for name, share in shares.items())


def test_a_cost_that_is_not_known_at_every_width_is_refused():
    table = {(op.name, None, None): 1.0 for op in SITES.operations}
    with pytest.raises(InvalidInput, match=r"the cost 'latency' is not known at all of the widths \(2, 4\)"):
        ExpectedCost(Latency(table), SITES, SITES.names, WIDTHS)


def test_capacity_is_short_where_bits_are_few():
    full = dict.fromkeys(SITES.names, 6.0)
    assert lack_of_capacity(SITES, full, 6) == pytest.approx(1)
    fewer = {**full, "a.weight": 3.0}  # of one of the four operations with two sites
    assert lack_of_capacity(SITES, fewer, 6) == pytest.approx((2 + 1 + 1 + 1) / 4)
    found = [SHAPES[shape](4.0) for shape in ("concave", "linear", "convex")]
    assert found == [2.0, 4.0, 16.0]
    assert all(shape(1.0) == 1.0 for shape in SHAPES.values())
