"""Cross-layer equalization: the function stays, the channels become alike."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitwright.errors import InvalidInput
from bitwright.graph import calibrate, capture
from bitwright.graph.operations import cap_of
from bitwright.graph.pt2e import edge_quantizer
from bitwright.repair import equalize, repair
from bitwright.repair.chains import input_reach, output_reach, pairs_of
from bitwright.values import Policy

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "prelu": lambda: nn.PReLU(8),
    "none": nn.Identity,
}


def spread_out(network, seed=0):
    """Channels whose weights differ by orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                shape = [-1 if i == 0 else 1 for i in range(module.weight.dim())]
                factors = torch.exp(torch.randn(module.weight.shape[0], generator=generator))
                module.weight.mul_(factors.reshape(shape))
    return network.eval()


@st.composite
def networks(draw):
    """Random chains of convolutions (ordinary, depthwise, transposed) and linear layers."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    layers = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(draw(st.integers(1, 3))):
        layers.append(ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]())
        kind, bias = draw(st.sampled_from(["full", "depthwise", "transposed", "pool"])), draw(st.booleans())
        if kind == "pool":
            layers.append(nn.MaxPool2d(2, 1))
        groups = {"depthwise": 8, "transposed": 2}.get(kind, 1)
        make = nn.ConvTranspose2d if kind == "transposed" else nn.Conv2d
        layers.append(make(8, 8, 3, padding=1, groups=groups, bias=bias))
    layers.append(ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]())
    if draw(st.booleans()):
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    else:
        layers += [nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 4)]
    return spread_out(nn.Sequential(*layers), draw(st.integers(0, 1000)))


@given(networks(), st.booleans(), st.sampled_from(["auto", "bound", "cap"]))
@settings(max_examples=12, deadline=None)
def test_function_stays(network, activations, relu6):
    x = 2 * torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    graph = calibrate(capture(network, x[:2]), [(x, None)])
    equalize(graph, [(x, None)], activations=activations, relu6=relu6)
    other = 2 * torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    expected = network(other if relu6 == "cap" else x).detach()
    got = graph(other if relu6 == "cap" else x)
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_ranges_become_equal():
    network = spread_out(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    graph = capture(network, torch.randn(2, 3, 6, 6))
    equalize(graph)
    (pair,) = pairs_of(graph)
    assert torch.allclose(output_reach(pair.first), input_reach(pair.second), rtol=2e-3)


def test_one_channel_scaled_up_is_recovered():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)]
    network = nn.Sequential(*layers).eval()
    x = torch.randn(64, 3, 6, 6)
    expected = network(x).detach()
    broken = copy.deepcopy(network)
    with torch.no_grad():
        for first, second, channel in ((0, 2, 3), (2, 5, 7)):
            broken[first].weight[channel] *= 30
            broken[first].bias[channel] *= 30
            part = slice(4 * channel, 4 * channel + 4) if second == 5 else channel
            broken[second].weight[:, part] /= 30
    signal = expected.square().mean()

    def error(model, mend):
        graph = calibrate(capture(model, x[:2], edge_quantizer("tensor")), [(x, None)])
        if mend:
            repair(graph, "cle", [(x, None)])
        graph.apply(Policy.uniform(graph.sites, 8, 8))
        return float((graph(x) - expected).square().mean() / signal)

    good, bad, mended = error(network, False), error(broken, False), error(broken, True)
    assert bad > 20 * good
    assert mended < 2 * good


def test_high_biases_are_absorbed_where_that_is_exact(calibrated):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4, bias=False)).eval()
    with torch.no_grad():
        network[0].bias[2] = 20.0
    x = torch.randn(64, 6)
    graph = calibrated(network, x)
    high = graph.quantizers["1"].observed.high
    report = equalize(graph, [(x, None)])
    assert any("absorbed the high biases of 1 channels" in note for note in report.notes)
    assert any(note.endswith("of their largest, on calibration data") for note in report.notes)
    assert torch.allclose(graph(x), network(x), atol=1e-4)
    assert graph.quantizers["1"].observed.high < 0.6 * high
    kept = calibrated(network, x)
    assert not any("absorbed" in note for note in equalize(kept, [(x, None)], absorb=False).notes)


@pytest.mark.parametrize("seed", range(3))
def test_absorbed_biases_change_nothing_on_other_data(calibrated, seed):
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        network[0].bias += torch.linspace(0, 40, 16)
    x, fresh = (torch.randn(count, 6, generator=generator).double() for count in (64, 2048))
    graph = calibrated(network, x)
    report = equalize(graph, [(x, None)])
    assert any("absorbed" in note for note in report.notes)
    with torch.no_grad():
        expected, got = network(fresh), graph(fresh)
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-12


def test_relu6_is_replaced_where_it_never_cuts():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 1)).eval()
    x = 0.1 * torch.randn(16, 3, 6, 6)
    graph = calibrate(capture(network, x[:2]), [(x, None)])
    report = equalize(graph, [(x, None)])
    assert any(note.startswith("1 ReLU6 replaced by ReLU, 0") for note in report.notes)
    assert torch.allclose(graph(x), network(x), atol=1e-4)
    graph.apply(Policy.uniform(graph.sites, 8, 8))(x)


def partly_cut_off():
    """Channels 0 and 1 of 8 exceed the ReLU6; the others are small to very small."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 5)).eval()
    factors = torch.tensor([8.0, 10.0, 1.0, 0.5, 0.1, 0.03, 0.01, 0.003])
    with torch.no_grad():
        network[0].weight.mul_(factors.reshape(-1, 1, 1, 1))
        network[0].bias.mul_(factors)
        network[2].weight.div_(factors.clamp_max(1).reshape(1, -1, 1, 1))
    return network, torch.randn(64, 3, 6, 6)


def test_relu6_stays_where_it_cuts_and_only_other_channels_are_scaled(calibrated):
    network, x = partly_cut_off()
    cut = network[0](x).detach().amax((0, 2, 3)) > 6
    assert cut.tolist() == [True, True, *[False] * 6]
    graph = calibrated(network, x)
    before = pairs_of(graph)[0].first.weight.weight.detach().clone()
    report = equalize(graph, [(x, None)])
    assert any(note.startswith("1 ReLU6 stay: 2 of the 8 channels") for note in report.notes)
    after = pairs_of(graph)[0].first.weight.weight.detach()
    assert torch.equal(after[cut], before[cut])
    assert bool((after[4:].abs().amax((1, 2, 3)) > 3 * before[4:].abs().amax((1, 2, 3))).all())
    assert [node for node in graph.module.graph.nodes if cap_of(node) is not None] != []
    assert torch.allclose(graph(x), network(x), atol=1e-5)


def test_a_relu6_that_stays_costs_no_accuracy_at_8_bits():
    network, x = partly_cut_off()
    expected = network(x).detach()

    def error(relu6):
        graph = calibrate(capture(network, x[:2], edge_quantizer("tensor")), [(x, None)])
        if relu6 is not None:
            repair(graph, "cle", [(x, None)], relu6=relu6)
        graph.apply(Policy.uniform(graph.sites, 8, 8))
        return float((graph(x) - expected).square().mean() / expected.square().mean())

    plain, bound, cap = error(None), error("bound"), error("cap")
    assert plain > 20 * bound
    assert bound < 2 * cap


def test_relu6_is_capped_channel_by_channel_without_data():
    network, x = partly_cut_off()
    graph = capture(network, x[:2])
    assert any(note.startswith("0 ReLU6 replaced by ReLU, 1 by ReLU with") for note in equalize(graph).notes)
    assert torch.allclose(graph(x), network(x), atol=1e-5)


def test_relu6_kept_leaves_the_pair_alone():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 1)).eval()
    graph = capture(network, torch.randn(2, 3, 6, 6))
    assert equalize(graph, relu6="keep").changes == ()


class NotChannels(nn.Module):
    """A linear layer over the columns of an image: its inputs are not the convolution's channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(torch.relu(self.conv(x)))


class Forked(NotChannels):
    """The first layer's value is also the output."""

    def forward(self, x):
        y = torch.relu(self.conv(x))
        return y, self.linear(y.mean((2, 3)))


class Columns(nn.Module):
    """Flattened to (N, 4, 16), not to (N, 64)."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 1), nn.Linear(16, 2)

    def forward(self, x):
        return self.linear(torch.relu(self.conv(x)).flatten(2))


class Rows(Columns):
    """Flattened to (4 N, 16): a row of the linear layer's input is one channel."""

    def forward(self, x):
        return self.linear(torch.relu(self.conv(x)).reshape(-1, 16))


@pytest.mark.parametrize("network", [NotChannels, Forked, Columns, Rows])
def test_what_does_not_scale_along_is_no_pair(network):
    assert pairs_of(capture(network().eval(), torch.randn(2, 3, 4, 4))) == []


def test_smooth_activations_do_not_scale_along():
    network = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).eval()
    assert pairs_of(capture(network, torch.randn(2, 4))) == []


def test_without_data_ranges_are_forgotten_and_the_graph_goes_to_float(calibrated):
    network = spread_out(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    x = torch.randn(16, 3, 6, 6)
    graph = calibrated(network, x)
    policy = Policy.uniform(graph.sites, 8, 8)
    graph.apply(policy)
    report = equalize(graph)
    assert len(graph.policy) == 0
    assert any("call bw.calibrate" in note for note in report.notes)
    with pytest.raises(InvalidInput, match="has no range yet"):
        graph.apply(policy)


def test_the_users_model_stays_and_the_methods_of_sites_too(calibrated):
    network = spread_out(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(16, 3, 6, 6)
    graph = calibrated(network, x)
    graph.quantizers["1"].set_ranges("minmax")
    equalize(graph, [(x, None)])
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert (graph.quantizers["1"].ranges, graph.quantizers["2"].ranges) == ("minmax", "mse")


def test_bad_input():
    graph = capture(nn.Sequential(nn.Linear(4, 4)).eval(), torch.randn(2, 4))
    with pytest.raises(InvalidInput, match="relu6 must be one of auto, replace, bound, cap, keep, got 'drop'"):
        equalize(graph, relu6="drop")
    with pytest.raises(InvalidInput, match="activations=True needs calibration data"):
        equalize(graph, activations=True)
    with pytest.raises(InvalidInput, match="relu6='bound' needs calibration data"):
        equalize(graph, relu6="bound")
