"""Learned step sizes (LSQ, Esser et al., ICLR 2020), written against the protocol of quantizers alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidInput
from bitwright.numerics.affine import Affine, fake_quantize
from bitwright.quantizers.learned_step import LearnedStep
from bitwright.repair import put_fitted, take_fitted
from bitwright.testing import QuantizerContract
from bitwright.values import Scheme, Site


class Contract(QuantizerContract):
    widths = (4,)


class TestActivations(Contract):
    def make(self):
        start = Affine(torch.tensor(0.21), torch.tensor(5.0), 0, 15)
        return LearnedStep(Site("relu", "activation", (1, 4), Scheme()), 4, start)


class TestWeights(Contract):
    def make(self):
        weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
        start = Affine(torch.tensor([0.11, 0.2, 0.3, 0.14]).reshape(4, 1), torch.zeros(4, 1), -8, 7)
        site = Site("conv.weight", "weight", (4, 6), Scheme(True, True, "channel", 0))
        return LearnedStep(site, 4, start, weight)


def test_the_gradient_of_the_step_is_that_of_the_paper():
    quantizer = TestActivations().make()
    values = torch.linspace(-2, 4, 200)
    quantizer.bits = 4
    quantizer(values).sum().backward()
    low, high = -5, 10
    step = quantizer.grid(4).scale.double()
    place = values.double() / step
    # Eq. 3: round(v/s) - v/s inside, the end outside; times the step, since it is its logarithm that is learned.
    each = torch.where(place <= low, low, torch.where(place >= high, high, place.round() - place))
    assert float(quantizer.log_step.grad) == pytest.approx(float(each.sum() * step), rel=1e-5)


class Network(nn.Module):
    """Convolutions with biases, an addition, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.conv(x) + x).mean((2, 3)))


@pytest.fixture
def images():
    return torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def graph(images):
    torch.manual_seed(2)
    graph = bw.calibrate(bw.capture(Network().eval(), images[:2]), [(images, None)])
    return graph.apply(bw.Policy.uniform(graph.sites, 3, 4))


def put_learned(graph):
    for name, bits in graph.policy.bits.items():
        before = graph.quantizers[name]
        graph.put(name, LearnedStep(before.site, bits, before.own_grid(bits)))
    return graph


def learned(graph):
    return [quantizer.log_step for quantizer in graph.quantizers.values()]


def train(graph, images, parameters, steps=12):
    losses, targets = [], torch.arange(len(images)) % 5
    optimizer = torch.optim.Adam(parameters, 1e-2)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(graph(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_it_starts_where_the_uniform_one_was(graph, images):
    with torch.no_grad():
        before = {name: graph.quantizers[name].own_grid(bits).scale.clone() for name, bits in graph.policy.bits.items()}
        put_learned(graph)
        for name, bits in graph.policy.bits.items():
            assert torch.equal(graph.quantizers[name].grid(bits).scale, before[name])
        weight, bits = graph.weight("conv.weight"), graph.policy["conv.weight"]
        stands = graph.quantizers["conv.weight"]
        assert torch.equal(stands(weight), fake_quantize(weight, stands.grid(bits)))


def test_training_lowers_the_loss_and_moves_weights_biases_and_steps(graph, images):
    put_learned(graph)
    everything = dict(graph.module.named_parameters())
    assert {id(step) for step in learned(graph)} <= {id(each) for each in everything.values()}
    for parameter in everything.values():
        parameter.requires_grad_(True)
    before = {name: each.detach().clone() for name, each in everything.items()}
    losses = train(graph, images, everything.values())
    assert losses[-1] < losses[0] - 0.05
    still = [name for name, each in everything.items() if torch.equal(each.detach(), before[name])]
    assert not still, still


def test_biases_follow_the_steps_that_are_learned(graph, images):
    put_learned(graph)
    train(graph, images, learned(graph), 2)
    (bias,) = [quantizer for quantizer in graph.biases().values() if quantizer.name == "conv.bias"]
    inputs, weight = graph.quantizers["relu"].grid(4).scale, graph.quantizers["conv.weight"].grid(3).scale
    torch.testing.assert_close(bias.scale(), (inputs * weight.flatten()).detach(), rtol=0, atol=0)
    values = graph.module.get_parameter("conv.bias")
    expected = (values / bias.scale()).round() * bias.scale()
    assert torch.equal(bias(values), expected)
    values.requires_grad_(True)
    found = bias(values)
    assert torch.equal(found.detach(), expected.detach())
    found.sum().backward()
    assert torch.equal(values.grad, torch.ones_like(values))


def test_a_copy_learns_on_its_own(graph, images):
    put_learned(graph)
    train(graph, images, learned(graph), 1)
    other = graph.copy()
    before = [step.detach().clone() for step in learned(graph)]
    train(other, images, learned(other), 2)
    assert all(torch.equal(step.detach(), was) for step, was in zip(learned(graph), before, strict=True))
    assert not any(torch.equal(step.detach(), was) for step, was in zip(learned(other), before, strict=True))


def test_another_width_is_refused_and_nothing_changes(graph, images):
    policy = put_learned(graph).policy
    with pytest.raises(InvalidInput, match="learns its step at 4 bits, got 8"):
        graph.apply(bw.Policy.uniform(graph.sites, 3, 8))
    assert graph.policy == policy
    assert {quantizer.bits for quantizer in graph.quantizers.values()} == {3, 4}


def test_a_recipe_keeps_what_was_learned_and_runs_it_without_it(graph, images):
    put_learned(graph)
    train(graph, images, learned(graph))
    fitted = take_fitted(graph, graph.policy, "r")
    torch.manual_seed(2)
    fresh = bw.capture(Network().eval(), images[:2])
    put_fitted(fresh, fitted)
    with torch.no_grad():
        assert torch.equal(fresh.apply(graph.policy)(images), graph(images))
    assert take_fitted(fresh, graph.policy, "r").arrays.keys() == fitted.arrays.keys()
    calibrated = bw.calibrate(fresh, [(images, None)])
    assert calibrated.quantizers["relu"].settling == "nearest"  # its own grids again


def test_what_was_learned_is_exported(graph, images, tmp_path):
    pytest.importorskip("onnxruntime")
    put_learned(graph)
    for parameter in graph.module.parameters():
        parameter.requires_grad_(True)
    train(graph, images, list(graph.module.parameters()))
    bw.export(graph, tmp_path / "model.onnx")
    parity = bw.parity(graph, tmp_path / "model.onnx", [(images, None)], task="classification")
    assert parity.exact_agreement == 1.0
    assert parity.exact_difference <= 1
