"""Outliers of activations moved into weights: into norms, and into the scales of placements that have room for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.errors import InvalidInput
from bitwright.graph.layers_alone import layer_quantizer
from bitwright.repair import repair, smooth
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


def test_smooth_keeps_the_function_and_lowers_the_error(tokens, calibrated):
    torch.manual_seed(0)
    network = Attention().eval()
    graph = calibrated(network, tokens, ranges="minmax")
    policy = Policy.uniform(graph.sites, 8, 8)
    before = error(graph, policy, network, tokens)
    report = smooth(graph, [(tokens, None)])
    expected = network(tokens).detach()
    assert float((graph(tokens) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert error(graph, policy, network, tokens) < 0.55 * before
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


def test_smooth_uses_the_scales_of_a_placement(tokens, calibrated):
    """A norm whose output a residual connection reads, too, and an activation function: neither takes scales itself."""

    class Residual(Attention):
        def forward(self, x):
            y = self.norm(x)
            return self.out(torch.relu(self.key(y)) * 5 + y)

    torch.manual_seed(0)
    network = Residual().eval()
    expected = network(tokens).detach()
    graph = calibrated(network, tokens, layer_quantizer(), ranges="minmax")
    policy = Policy.uniform(graph.sites, 8, 8)
    before = error(graph, policy, network, tokens)
    report = smooth(graph, [(tokens, None)])
    assert [change.site for change in report.changes] == ["key", "out"]
    assert float((graph(tokens) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert error(graph, policy, network, tokens) < 0.8 * before


def test_the_weight_of_an_rms_norm_takes_scales(tokens, calibrated):
    class Norm(nn.Module):
        """As Llama's: the weight stands in front."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(16))

        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))

    torch.manual_seed(0)
    network = nn.Sequential(Norm(), nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        network[0].weight[5] = 60.0
    expected = network(tokens).detach()
    graph = calibrated(network, tokens, layer_quantizer(), ranges="minmax")
    assert len(dict(graph.module.input_scales.named_parameters())) == 1  # behind the activation function alone
    policy = Policy.uniform(graph.sites, 8, 8)
    before = error(graph, policy, network, tokens)
    assert [change.site for change in smooth(graph, [(tokens, None)]).changes] == ["1", "3"]
    assert float((graph(tokens) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert error(graph, policy, network, tokens) < 0.5 * before


def test_without_a_strength_each_activation_gets_its_best(tokens, calibrated):
    torch.manual_seed(0)
    network = Attention().eval()
    errors = {}
    for strength in (None, 0.3, 0.5, 0.9):
        graph = calibrated(network, tokens, layer_quantizer(), ranges="minmax")
        policy = Policy({"norm": 8, "key.weight": 8, "value.weight": 8})
        graph.apply(policy)
        smooth(graph, [(tokens, None)], strength=strength)
        errors[strength] = error(graph, policy, network, tokens)
    assert errors[None] <= 1.02 * min(errors.values())
    assert errors[None] < 0.8 * errors[0.3]


def test_without_a_strength_even_channels_are_left_alone(calibrated):
    x = torch.randn(256, 7, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    network = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16)).eval()
    with torch.no_grad():
        network[1].weight.copy_(network[1].weight.sign() / 4)  # its own grid is exact: any scale would be worse
    graph = calibrated(network, x, layer_quantizer("float"))
    graph.apply(Policy.uniform(graph.sites, 4, None))
    assert smooth(graph, [(x, None)], strength=None).changes == ()


def test_bad_input(tokens, calibrated):
    graph = calibrated(Attention(), tokens)
    with pytest.raises(InvalidInput, match="strength must be between 0 and 1, got 2"):
        smooth(graph, [(tokens, None)], strength=2)
