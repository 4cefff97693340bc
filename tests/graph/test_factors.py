from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.graph.factors import products_of
from bitwright.numerics.steps import keeps_middles
from bitwright.values import Policy

SETTLED_BY_THE_SUM = ("relu", "mean", "add")


class Gated(nn.Module):
    """A convolution, a product of two tensors, a mean, a sum."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = self.first(x)
        x = self.last(nn.functional.hardswish(x) * self.second(x).tanh())
        return x.relu() + x.mean((2, 3), keepdim=True)


@pytest.fixture(scope="module")
def gated():
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.randn(16, 3, 8, 8)
    return calibrate(capture(model, x[:2]), [(x, None)])


def middles_kept(factors, result):
    """By exact arithmetic, integer by integer: whether each middle that is reached stays one in float32."""
    factor = np.float32(factors) / np.float32(result)
    exact = Fraction(float(np.float32(factors))) / Fraction(float(np.float32(result)))
    for middle in (Fraction(2 * n + 1, 2) for n in range(256)):
        total = middle / exact
        if total.denominator == 1 and np.float32(np.float32(int(total)) * factor) != np.float32(float(middle)):
            return False
    return True


def test_middles_that_a_rounded_factor_moves_are_those_of_exact_arithmetic():
    steps = [mantissa / 8 for mantissa in range(8, 16)]
    kept = []
    for left, right, result in itertools.product(steps, repeat=3):
        found = bool(keeps_middles(torch.tensor(left * right / 1024), torch.tensor(result)))
        assert found == middles_kept(left * right / 1024, result), (left, right, result)
        kept.append(found)
    assert 0.7 < sum(kept) / len(kept) < 0.9  # there is something to be mended


def test_products_and_means_are_found_with_their_sites(gated):
    found = {product.result: product for product in products_of(gated.module)}
    assert (found["mul"].factors, found["mul"].even) == (("hardswish", "tanh"), True)
    assert (found["mean"].factors, found["mean"].divisor) == (("last",), 36)
    assert found["first"].factors == ("x", "first.weight")
    assert found["last"].factors == ("mul", "last.weight")


@pytest.mark.parametrize(("weights", "activations"), [(8, 8), (8, 4), (4, 8), (5, 6)])
def test_every_product_keeps_its_middles(gated, weights, activations):
    with gated.applied(Policy.uniform(gated.sites, weights, activations)):
        grids = {name: q.grid(q.bits) for name, q in gated.quantizers.items() if q.bits is not None}
        for product in products_of(gated.module):
            if weights < 8 and product.factors[-1].endswith("weight"):
                continue  # steps of narrow weights leave next to no middles
            scales = [grids[name].scale.flatten() for name in product.factors]
            factors = scales[0] * (scales[1] if len(scales) == 2 else 1)
            result = grids[product.result]
            if product.result in SETTLED_BY_THE_SUM:
                continue
            assert bool(keeps_middles(factors, result.scale * product.divisor).all()), product
            assert not product.even or float(result.zero_point) % 2 == 0


def test_between_linear_layers_alone_the_next_one_s_input_is_the_result():
    torch.manual_seed(0)
    layers = nn.Linear(8, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 8), nn.GELU(), nn.Linear(8, 2)
    x = torch.randn(16, 3, 8)
    graph = calibrate(capture(nn.Sequential(*layers).eval(), x[:2], "linear"), [(x, None)])
    (product,) = products_of(graph.module)  # a GELU is computed in float
    assert (product.factors, product.result) == (("0.input", "0.weight"), "3.input")
    with graph.applied(Policy.uniform(graph.sites, 8, 8)):
        grids = {name: graph.quantizers[name].grid(8).scale.flatten() for name in (*product.factors, product.result)}
        assert bool(keeps_middles(grids["0.input"] * grids["0.weight"], grids["3.input"]).all())
        weight = graph.quantizers["0.weight"]
        assert not torch.equal(weight.grid(8).scale, weight.own_grid(8).scale)  # some had to be moved


def test_no_step_grows_by_more_than_a_quarter_and_nothing_falls_out_of_the_range(gated):
    with gated.applied(Policy.uniform(gated.sites, 8, 8)):
        for name, quantizer in gated.quantizers.items():
            grid, own = quantizer.grid(8), quantizer.own_grid(8)
            if name in SETTLED_BY_THE_SUM:
                continue
            assert ((own.scale <= grid.scale) & (grid.scale <= 1.25 * own.scale)).all(), name
            for end in ("low", "high"):
                reach = abs((getattr(grid, end) - grid.zero_point) * grid.scale).min()
                wanted = abs((getattr(own, end) - own.zero_point) * own.scale).min()
                assert reach >= wanted - 1.01 * float(own.scale.max()), name


def test_what_depends_on_a_site_is_linked_with_it_over_several_products(gated):
    assert set(gated.linked("hardswish")) == {"hardswish", "mul", "last.weight"}
    assert set(gated.linked("x")) == {"x", "first.weight"}
    assert gated.linked("last.weight") == ("last.weight",)
