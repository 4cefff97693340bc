"""Tied weights: repairs that rescale leave them alone, so that the float function stays the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.repair import equalize, smooth


class Tied(nn.Module):
    """An embedding, two layers in between, a layer norm and an output layer, tied in one of several ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.table = nn.Embedding(11, 8)
        self.before, self.first, self.second, self.norm = (
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.LayerNorm(8),
        )
        self.out = nn.Linear(8, 11, bias=False)
        with torch.no_grad():
            for layer in (self.before, self.first, self.second, self.out):
                layer.weight.mul_(torch.exp(2 * torch.randn(layer.weight.shape[0], 1)))
            self.norm.weight.mul_(torch.exp(2 * torch.randn(8)))
        if kind == "output layer":
            self.out.weight = self.table.weight
        elif kind == "two layers":
            self.second.weight = self.before.weight
        elif kind == "bias":
            self.first.bias = self.before.bias
        elif kind == "norms":
            self.other = nn.LayerNorm(8)
            self.other.weight = self.norm.weight
        elif kind == "views":
            joint = torch.randn(8, 16)
            del self.before.weight, self.first.weight
            self.before.register_buffer("weight", joint[:, :8])
            self.first.register_buffer("weight", joint[:, 4:12])

    def forward(self, x):
        hidden = self.first(self.before(self.table(x)).relu())
        if self.kind == "norms":
            hidden = self.other(hidden)
        hidden = self.second(hidden.relu())
        if self.kind == "first as table":
            hidden = hidden + nn.functional.embedding(x % 8, self.first.weight)
        if self.kind == "transposed":
            hidden = hidden + nn.functional.linear(hidden, self.second.weight.t())
        logits = self.out(self.norm(hidden))
        return logits + nn.functional.embedding(x, self.out.weight).mean() if self.kind == "mean" else logits


KINDS = ["output layer", "two layers", "bias", "norms", "views", "first as table", "transposed", "mean"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("repair", [equalize, smooth])
def test_the_float_function_stays(kind: str, repair) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        network = Tied(kind).eval()
        x = torch.randint(0, 11, (16, 5))
        graph = calibrate(capture(network, x[:2]), [(x, None)])
        repair(graph, [(x, None)])
        expected = network(x).detach()
        assert float((graph(x) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_what_is_not_tied_is_still_rescaled() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 11, (16, 5))
    graph = calibrate(capture(Tied("none").eval(), x[:2]), [(x, None)])
    assert [change.site for change in equalize(graph, [(x, None)]).changes] == ["before to first", "first to second"]
    assert [change.site for change in smooth(graph, [(x, None)]).changes] == ["out"]
