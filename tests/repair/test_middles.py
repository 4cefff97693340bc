"""What is learned for 8 bits has steps with which a runtime's kernels round as the simulation does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.graph.factors import products_of
from bitwright.numerics.steps import keeps_middles
from bitwright.repair import repair
from bitwright.train import qat
from bitwright.values import Policy


@pytest.fixture
def graph():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(600, 4)
    x = torch.randn(64, 3, 16, 16)
    graph = calibrate(capture(nn.Sequential(*layers).eval(), x[:2]), batches(x))
    return graph.apply(Policy.uniform(graph.sites, 8, 8))


def batches(x=None):
    x = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)) if x is None else x
    return [(x, torch.arange(64) % 4)]


@pytest.mark.parametrize("method", ["gptq", "adaround", "qat"])
def test_no_middle_is_moved(graph, method):
    if method == "qat":
        qat(graph, batches(), epochs=1)
    else:
        repair(graph, method, batches())
    learned = 0
    for product in products_of(graph.module):
        if product.weight and product.result:
            source, weight = (graph.quantizers[name].grid(8).scale.flatten() for name in product.factors)
            assert bool(keeps_middles(source * weight, graph.quantizers[product.result].grid(8).scale).all()), product
            learned += graph.quantizers[product.weight].learned(8)
    assert learned == 2
