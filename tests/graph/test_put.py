from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidInput
from bitwright.graph import calibrate, capture
from bitwright.numerics.affine import Affine
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.uniform import ActivationQuantizer
from bitwright.values import FLOAT, Policy, Site


class Coarse(Quantizer):
    """Rounds to multiples of a parameter, at every width."""

    def __init__(self, site, step=0.25):
        super().__init__(site)
        self.step = nn.Parameter(torch.tensor(step))

    def grid(self, bits):
        low, high = self.site.scheme.integer_range(bits)
        zero = 0.0 if self.site.scheme.signed else (high + 1) / 2
        return Affine(self.step.detach().clone(), torch.tensor(zero), low, high)


@pytest.fixture
def graph(digits_graph):
    return digits_graph.apply(Policy.uniform(digits_graph.sites, 4, 8))


@pytest.fixture
def images(digits_data):
    return digits_data[1][0][:40]


def run(graph, images):
    with torch.no_grad():
        return graph(images)


@pytest.mark.parametrize("site", ["layer1.conv1.weight", "relu"])
def test_it_rounds_at_once_and_the_one_of_before_can_be_put_back(graph, images, site):
    before = run(graph, images)
    mine = Coarse(graph.sites[site])
    stood = graph.put(site, mine)
    assert (graph.quantizers[site], mine.bits) == (mine, graph.policy[site])
    seen = {}
    mine.register_forward_hook(lambda m, given, result: seen.update(result=result))
    changed = run(graph, images)
    assert not torch.equal(changed, before)
    places = seen["result"] / 0.25
    assert torch.equal(places, places.round())
    assert graph.put(site, stood) is mine
    assert torch.equal(run(graph, images), before)


def test_float_is_float_whatever_stands_there(graph, images):
    before = run(graph.apply(FLOAT), images)
    for site in graph.sites:
        graph.put(site.name, Coarse(site))
    assert torch.equal(run(graph, images), before)


def test_its_parameters_are_those_of_the_graph(graph):
    mine = Coarse(graph.sites["relu"])
    assert not any(each is mine.step for each in graph.module.parameters())
    graph.put("relu", mine)
    assert any(each is mine.step for each in graph.module.parameters())


def test_a_weight_site_hands_over_the_weight_of_the_network(graph):
    mine = Coarse(graph.sites["conv1.weight"])
    with pytest.raises(InvalidInput, match=r"site 'conv1.weight' holds no weight"):
        mine.weight  # noqa: B018
    graph.put("conv1.weight", mine)
    assert mine.weight is graph.module.get_parameter("conv1.weight")
    assert graph.weight("conv1.weight") is mine.weight


def test_biases_follow_what_stands_there_now(graph):
    (bias,) = [quantizer for quantizer in graph.biases().values() if quantizer.name == "layer1.conv1.weight_bias"]
    stood = graph.put("layer1.conv1.weight", Coarse(graph.sites["layer1.conv1.weight"]))
    inputs = graph.quantizers["relu"].grid(8).scale
    assert torch.equal(bias.scale(), (inputs * 0.25).reshape(1))
    values = graph.module.get_parameter("layer1.conv1.weight_bias")
    places = bias(values) / bias.scale()
    torch.testing.assert_close(places, places.round(), rtol=1e-6, atol=0)
    graph.put("layer1.conv1.weight", stood)
    assert torch.equal(bias.scale(), inputs * stood.grid(4).scale.flatten())


def test_copies_have_their_own(graph, images):
    graph.put("relu", Coarse(graph.sites["relu"]))
    other = graph.copy()
    expected = run(graph, images)
    with torch.no_grad():
        other.quantizers["relu"].step.mul_(2)
    assert torch.equal(run(graph, images), expected)
    assert not torch.equal(run(other, images), expected)
    other.put("conv1.weight", Coarse(other.sites["conv1.weight"]))
    assert torch.equal(run(graph, images), expected)


def test_calibration_scores_and_policies_go_on(graph, images):
    for name in ("relu", "layer1.conv1.weight"):
        graph.put(name, Coarse(graph.sites[name]))
    calibrate(graph, [(images, None)], ranges="minmax")
    assert graph.quantizers["relu"].observed.count == images.shape[0] * 16 * 64
    assert float(graph.quantizers["relu"].grid(4).scale) == 0.25
    table = bw.sensitivity(graph, [images], bits=(2, 4), task="classification")
    assert table.harm.shape == (len(graph.sites), 2)
    assert torch.isfinite(torch.tensor(table.harm)).all()
    run(graph.apply(Policy.uniform(graph.sites, 2, 2)), images)
    assert graph.quantizers["relu"].bits == 2
    report = bw.repair(graph, "adaround", [(images, None)], iterations=1)
    assert "layer1.conv1 is left to the Coarse that stands at its weight" in report.notes
    assert len(report.changes) == len(graph.sites.weights) - 1
    with pytest.raises(InvalidInput, match="the Coarse at site 'relu' takes no grid from outside; put a uniform"):
        graph.quantizers["relu"].fix(4, graph.quantizers["relu"].grid(4))


def test_what_cannot_be_put_changes_nothing(graph, images):
    before = run(graph, images)
    relu = graph.sites["relu"]
    with pytest.raises(InvalidInput, match="site 'rleu' is not in this graph.*did you mean 'relu'"):
        graph.put("rleu", Coarse(relu))
    with pytest.raises(InvalidInput, match="made for the kind 'weight', got a Coarse made for 'activation'"):
        graph.put("conv1.weight", Coarse(relu))
    with pytest.raises(InvalidInput, match="site 'relu' has no range yet"):
        graph.put("relu", ActivationQuantizer(Site("relu", "activation", (1, 4))))
    assert torch.equal(run(graph, images), before)


class Buffers(nn.Module):
    """A layer whose weight is a buffer, and one whose weight is a parameter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", torch.randn(4, 3))
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.relu(nn.functional.linear(x, self.kernel)))


def test_moving_takes_weights_along_that_are_buffers():
    graph = capture(Buffers().eval(), torch.randn(2, 3))
    assert set(graph.sites.names) >= {"kernel", "last.weight"}
    graph.to("meta")
    assert graph.device.type == "meta"
    for name in ("kernel", "last.weight"):
        assert graph.weight(name).is_meta
    assert graph.weight("kernel") is graph.module.get_buffer("kernel")


def test_the_device_of_a_graph_that_has_buffers_only():
    class Only(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kernel", torch.randn(4, 3))

        def forward(self, x):
            return nn.functional.linear(x, self.kernel)

    assert capture(Only().eval(), torch.randn(2, 3)).to("meta").device.type == "meta"


def test_nothing_asks_which_class_a_quantizer_has():
    source = Path(bw.__file__).parent
    asked = re.compile(r"isinstance\([^)]*Quantizer|type\([^)]*\) (is|==) \w*Quantizer")
    found = [
        f"{path.relative_to(source)}: {line.strip()}"
        for path in sorted(source.rglob("*.py"))
        if path.relative_to(source).parts[0] != "quantizers"
        for line in path.read_text().splitlines()
        if asked.search(line)
    ]
    assert not found
