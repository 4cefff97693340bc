"""Bias correction, empirical and analytic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bitwright.errors import InvalidInput
from bitwright.graph import capture
from bitwright.graph.layers import layers_of
from bitwright.repair import adaround, bias_correction
from bitwright.repair.bias import clipped_mean
from bitwright.values import FLOAT, Policy


def chain(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, bias=bias),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(80, 4, bias=bias),
    )


@pytest.mark.parametrize("bias", [True, False])
def test_empirical_makes_the_mean_error_zero(images, calibrated, bias):
    network = chain(bias)
    graph = calibrated(network, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    expected = network(images).detach().mean(0)
    before = (graph.apply(policy)(images).mean(0) - expected).abs().max()
    report = bias_correction(graph, [(images, None)], policy)
    after = (graph.apply(policy)(images).mean(0) - expected).abs().max()
    steps = [layer.bias.scale().max() for layer in layers_of(graph)]
    assert float(before) > 10 * float(steps[-1])
    assert float(after) <= float(steps[-1])
    assert all(change.after <= 0.51 * float(step) for change, step in zip(report.changes, steps, strict=True))


def test_with_a_shortcut_the_mean_of_the_sum_is_corrected(residual, images, calibrated):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    bias_correction(graph, [(images, None)], policy)
    sums = {}
    node = next(n for n in graph.module.graph.nodes if n.target == torch.ops.aten.add.Tensor)

    class Look(torch.fx.Interpreter):
        def run_node(self, n):
            result = super().run_node(n)
            if n is node:
                sums[self.label] = result.mean((0, 2, 3))
            return result

    for label, chosen in (("float", FLOAT), ("quantized", policy)):
        graph.apply(chosen)
        look = Look(graph.module)
        look.label = label
        look.run(images)
    # What is left comes from the rounding of the sum's operand at 8 bits.
    assert float((sums["quantized"] - sums["float"]).abs().max()) < 2e-3


def test_float_network_and_other_widths_stay_as_they_are(images, calibrated):
    graph = calibrated(chain(False), images)
    plain, wide = graph(images), Policy.uniform(graph.sites, 6, 8)
    other = graph.apply(wide)(images)
    policy = Policy.uniform(graph.sites, 3, 8)
    bias_correction(graph, [(images, None)], policy)
    assert graph.policy is wide
    assert torch.equal(graph(images), other)
    assert torch.equal(graph.apply(FLOAT)(images), plain)


def test_clipped_mean_is_that_of_many_samples():
    mean, deviation = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64), torch.tensor([0.5, 1.0, 2.0]).double()
    generator = torch.Generator().manual_seed(0)
    samples = mean + deviation * torch.randn(400_000, 3, dtype=torch.float64, generator=generator)
    for low, high in ((0.0, math.inf), (0.0, 1.5), (-math.inf, 1.0), (-math.inf, math.inf)):
        found = clipped_mean(mean, deviation, low, high)
        assert torch.allclose(found, samples.clamp(low, high).mean(0), atol=0.01)


def test_analytic_is_the_expected_output_of_the_rounding_error(calibrated):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 5))
    x = torch.randn(4000, 6)
    graph = calibrated(network, x)
    policy = Policy.uniform(graph.sites, 3, None)
    hidden = network[1](network[0](x)).detach()
    bias_correction(graph, [(x, None)], policy, method="analytic", samples=4000)
    graph.apply(policy)
    layer = layers_of(graph)[1]
    error = layer.weight.rounded(3) - layer.weight.weight
    shift = network[2].bias.detach() - layer.bias.corrections[3]
    # The inputs are nearly normal, so the clipped normal gives nearly their true mean.
    assert torch.allclose(shift, error @ hidden.mean(0), atol=0.05 * float((error @ hidden.mean(0)).abs().max()))


def test_analytic_lowers_the_mean_error_of_convolutions(images, calibrated):
    network = chain()
    graph = calibrated(network, images)
    report = bias_correction(graph, [(images, None)], Policy.uniform(graph.sites, 3, 8), method="analytic")
    assert report.changes[0].after < 0.5 * report.changes[0].before


def test_follows_adaround_and_is_replaced_by_it(residual, images, calibrated):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    adaround(graph, [(images, None)], policy, iterations=20)
    rounded = [layer.weight.integers(3) for layer in layers_of(graph)]
    bias_correction(graph, [(images, None)], policy)
    assert all(torch.equal(a, layer.weight.integers(3)) for a, layer in zip(rounded, layers_of(graph), strict=True))
    assert graph.repairs == ["adaround", "bias"]


def test_bad_input(images):
    graph = capture(chain().eval(), images[:2])
    policy = Policy.uniform(graph.sites, 4, 8)
    with pytest.raises(InvalidInput, match="method must be one of empirical, analytic, got 'guess'"):
        bias_correction(graph, [(images, None)], policy, method="guess")
    with pytest.raises(InvalidInput, match="comes after the ranges, and site 'input' has none yet"):
        bias_correction(graph, [(images, None)], policy)
    with pytest.raises(InvalidInput, match="needs calibration data"):
        bias_correction(graph, None, Policy.uniform(graph.sites, 4, None))
