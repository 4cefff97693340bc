"""Batch norms behind grouped transposed convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.values import Policy


def trained(norm):
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    if norm.affine:
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_float_function_stays(groups, affine, bias):
    torch.manual_seed(groups)
    model = nn.Sequential(
        nn.ConvTranspose2d(4, 8, 3, stride=2, groups=groups, bias=bias),
        trained(nn.BatchNorm2d(8, affine=affine)),
        nn.ReLU(),
        nn.Flatten(2),
        nn.ConvTranspose1d(8, 4, 3, groups=groups, bias=bias),
        trained(nn.BatchNorm1d(4, affine=affine)),
    ).eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(5, 4, 6, 6)
    graph = capture(model, x)
    torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-5)
    assert "batch_norm" not in str(graph.module.graph)
    assert {"0.weight", "4.weight"} <= set(graph.sites.names)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_is_quantized_like_any_other():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2), trained(nn.BatchNorm2d(8))
    ).eval()
    x = torch.randn(8, 3, 8, 8)
    graph = calibrate(capture(model, x), [(x, None)])
    expected = model(x)
    errors = [(graph.apply(Policy.uniform(graph.sites, bits, bits))(x) - expected).square().mean() for bits in (4, 8)]
    assert errors[1] < 0.05 * errors[0]


class Shared(nn.Module):
    """Layers whose outputs or weights are read elsewhere than by the batch norm behind them."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.two = trained(nn.BatchNorm2d(3)), trained(nn.BatchNorm2d(3))

    def forward(self, x):
        y = self.conv(x)
        if self.kind == "output":
            return torch.cat([y, self.one(y)], 1)
        if self.kind == "two norms":
            return self.two(self.conv(self.one(y).relu()))
        if self.kind == "no norm":
            return self.conv(self.one(y).relu())
        return self.one(self.conv(self.one(y).relu()))


@pytest.mark.parametrize("quantizer", ["edge", "x86"])
@pytest.mark.parametrize("kind", ["output", "two norms", "no norm", "same norm"])
def test_a_layer_that_something_else_reads_is_not_folded_into(kind, quantizer):
    torch.manual_seed(0)
    model = Shared(kind).eval()
    x = torch.randn(4, 3, 6, 6)
    graph = capture(model, x, quantizer=quantizer)
    torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-5)
    assert ("batch_norm" in str(graph.module.graph)) == (kind != "same norm")


class Compared(nn.Module):
    """The same layers on two inputs."""

    def __init__(self, bias):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=bias),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, bias=bias),
            nn.BatchNorm2d(4),
        )

    def forward(self, a, b):
        return self.body(a) - 2 * self.body(b)


@pytest.mark.parametrize("bias", [True, False])
def test_layers_that_run_on_two_inputs_keep_their_shifts_at_both(bias):
    torch.manual_seed(0)
    model, inputs = Compared(bias), (torch.randn(6, 1, 8, 8), torch.randn(6, 1, 8, 8))
    for norm in (model.body[1], model.body[4]):
        nn.init.normal_(norm.bias, std=2.0)
        nn.init.normal_(norm.running_mean)
    model.eval()
    graph = capture(model, inputs)
    with torch.no_grad():
        torch.testing.assert_close(graph(*inputs), model(*inputs), rtol=1e-5, atol=1e-5)
    assert len(graph.sites.weights) == 2
