"""Outliers of activations: cut off, or moved into weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.errors import InvalidInput
from bitwright.repair import clip, repair, smooth
from bitwright.values import FLOAT, Policy


class Attention(nn.Module):
    """A layer norm that feeds two linear layers, with one channel of outliers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16)
        self.out = nn.Linear(16, 4)
        with torch.no_grad():
            self.norm.weight[5] = 60.0

    def forward(self, x):
        y = self.norm(x)
        return self.out(self.key(y) + self.value(y))


@pytest.fixture
def tokens():
    return torch.randn(32, 7, 16, generator=torch.Generator().manual_seed(0))


def error(graph, policy, network, x):
    with graph.applied(policy), torch.no_grad():
        return float((graph(x) - network(x)).square().mean())


def test_clip_mends_the_site_with_outliers(calibrated):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    with torch.no_grad():
        network[0].bias[3], network[0].weight[3] = 0.0, 300.0
        network[2].weight[:, 3] = 1e-5
    x = torch.randn(256, 8)
    graph = calibrated(network, x, ranges="minmax")
    policy = Policy({"1": 8})
    before = error(graph, policy, network, x)
    report = clip(graph, [(x, None)], policy)
    assert [change.site for change in report.changes] == ["1"]
    assert error(graph, policy, network, x) < 0.1 * before


def test_clip_leaves_good_ranges_alone(calibrated):
    network = nn.Sequential(nn.Linear(8, 4)).eval()
    x = torch.rand(64, 8)
    graph = calibrated(network, x, ranges="minmax")
    policy = Policy.uniform(graph.sites, None, 8)
    grids = {name: q.grid(8) for name, q in graph.quantizers.items()}
    report = clip(graph, [(x, None)], policy)
    left = [name for name in grids if name not in {change.site for change in report.changes}]
    assert all(change.after < change.before for change in report.changes)
    assert all(torch.equal(graph.quantizers[name].grid(8).scale, grids[name].scale) for name in left)


def test_smooth_keeps_the_function_and_lowers_the_error(tokens, calibrated):
    torch.manual_seed(0)
    network = Attention().eval()
    graph = calibrated(network, tokens, ranges="minmax")
    policy = Policy.uniform(graph.sites, 8, 8)
    before = error(graph, policy, network, tokens)
    report = smooth(graph, [(tokens, None)])
    expected = network(tokens).detach()
    assert float((graph(tokens) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert error(graph, policy, network, tokens) < 0.5 * before
    (change,) = report.changes
    assert change.after < 0.5 * change.before


class Encoder(nn.Module):
    """A transformer's layer: attention and a feed-forward part, each behind a layer norm with one huge dimension."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 4)
        with torch.no_grad():
            for norm, channel in ((self.first, 5), (self.second, 11)):
                norm.weight[channel], norm.bias[channel] = 60.0, 20.0

    def forward(self, x):
        y = self.first(x)
        heads = [layer(y).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        weights = (heads[0] @ heads[1].transpose(-1, -2) / 8**0.5).softmax(-1)
        x = x + self.out((weights @ heads[2]).transpose(1, 2).flatten(2))
        x = x + self.down(torch.relu(self.up(self.second(x))))
        return self.head(x.mean(1))


def test_smooth_on_a_transformer_and_then_the_other_repairs(tokens, calibrated):
    torch.manual_seed(0)
    network = Encoder().eval()
    expected = network(tokens).detach()
    graph = calibrated(network, tokens, ranges="minmax")
    policy = Policy.uniform(graph.sites, 8, 8)
    before = error(graph, policy, network, tokens)
    report = smooth(graph, [(tokens, None)])
    assert len(report.changes) == 2
    assert all(change.after < 0.5 * change.before for change in report.changes)
    assert float((graph(tokens) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert error(graph, policy, network, tokens) < 0.7 * before
    graph.apply(policy)
    for name in ("cle", "clip", "bias"):
        repair(graph, name, [(tokens, None)])
    assert error(graph, policy, network, tokens) < 0.7 * before
    graph.apply(FLOAT)
    assert float((graph(tokens) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_smooth_scales_are_those_of_the_paper(tokens, calibrated):
    torch.manual_seed(0)
    network = Attention().eval()
    reach = network.norm(tokens).detach().flatten(0, 1).abs().amax(0)
    weights = torch.stack([network.key.weight, network.value.weight]).abs().amax((0, 1)).detach()
    graph = calibrated(network, tokens)
    smooth(graph, [(tokens, None)], strength=0.25)
    expected = reach**0.25 / weights**0.75
    assert torch.allclose(graph.weight("key.weight") / network.key.weight, expected.expand(16, 16), rtol=1e-4)


def test_smooth_leaves_a_norm_with_other_readers_alone(tokens, calibrated):
    class Residual(Attention):
        def forward(self, x):
            y = self.norm(x)
            return self.out(self.key(y) + y)

    network = Residual().eval()
    graph = calibrated(network, tokens)
    plain = graph(tokens)
    report = smooth(graph, [(tokens, None)])
    assert report.changes == ()
    assert any("feeds more than linear layers" in note for note in report.notes)
    assert torch.equal(graph(tokens), plain)


def test_bad_input(tokens, calibrated):
    graph = calibrated(Attention(), tokens)
    with pytest.raises(InvalidInput, match="strength must be between 0 and 1, got 2"):
        smooth(graph, [(tokens, None)], strength=2)
    with pytest.raises(InvalidInput, match="clipping is for activations, site 'key.weight' is a weight"):
        clip(graph, [(tokens, None)], Policy.uniform(graph.sites, 8, 8), sites=["key.weight"])
    with pytest.raises(InvalidInput, match="site 'x' is in float under the policy"):
        clip(graph, [(tokens, None)], Policy({"key.weight": 8}), sites=["x"])
