"""Weights that are computed from parameters alone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.values import Policy


class WeightNorm(nn.Module):
    sites = ("conv.weight", "head.weight")

    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))

    def forward(self, x):
        return self.head(functional.relu(self.conv(x)).mean((2, 3)))


class Normalized(nn.Module):
    sites = ("classes",)

    def __init__(self):
        super().__init__()
        self.classes = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return functional.linear(x.mean((2, 3)), functional.normalize(self.classes))


class Products(nn.Module):
    sites = ("first", "second")

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(3, 6))
        self.second = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return torch.einsum("bi,ij->bj", functional.relu(x.mean((2, 3)) @ self.first), self.second)


@pytest.mark.parametrize("kind", [WeightNorm, Normalized, Products])
def test_they_are_weights_with_sites(kind):
    torch.manual_seed(0)
    model = kind().eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(6, 3, 5, 5)
    expected = model(x)
    graph = calibrate(capture(model, x), [(x, None)])
    torch.testing.assert_close(graph(x), expected)
    assert {site.name for site in graph.sites.weights} == set(kind.sites)
    assert all(operation.right in kind.sites for operation in graph.sites.operations)
    biases = 10 if kind is WeightNorm else 0
    assert graph.sites.other_parameters == biases  # what the weights were computed from is gone
    errors = [(graph.apply(Policy.uniform(graph.sites, b, b))(x) - expected).square().mean() for b in (4, 8)]
    assert 0 < errors[1] < 0.1 * errors[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_parameter_that_is_read_elsewhere_stays():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(8, 4))

        def forward(self, ids):
            return functional.embedding(ids, self.table).mean(1) @ self.table.t()

    model, ids = Tied().eval(), torch.randint(8, (3, 5))
    graph = capture(model, ids)
    torch.testing.assert_close(graph(ids), model(ids))
    assert "table" in graph.sites.names


def test_a_product_of_two_activations_is_none():
    class Gram(nn.Module):
        def forward(self, x):
            return torch.einsum("bik,bjk->bij", x, x).flatten(1)

    x = torch.randn(4, 3, 5)
    graph = capture(Gram().eval(), x)
    torch.testing.assert_close(graph(x), Gram()(x))
    (operation,) = graph.sites.operations
    assert (operation.kind, operation.macs) == ("matmul", 45)
    assert operation.left == operation.right == "x"
