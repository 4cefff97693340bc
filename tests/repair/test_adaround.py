"""Adaptive rounding of networks: what is learned, that it lasts, and that it is what gets used."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from bitwright.errors import InvalidInput
from bitwright.graph.layers import layers_of
from bitwright.graph.pt2e import edge_quantizer
from bitwright.numerics.affine import dequantized, integers
from bitwright.repair import adaround, repair
from bitwright.values import FLOAT, Policy

QUICK = {"iterations": 200, "samples": 64, "learning_rate": 0.1}


def error(graph, policy, x, expected):
    with graph.applied(policy), torch.no_grad():
        return float((graph(x) - expected).square().mean())


@pytest.mark.parametrize("unit", ["layer", "block"])
def test_brings_the_outputs_nearer_to_float(residual, images, fresh_images, calibrated, unit):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    expected = residual(fresh_images).detach()
    before = error(graph, policy, fresh_images, expected)
    report = adaround(graph, [(images, None)], policy, unit=unit, **QUICK)
    assert error(graph, policy, fresh_images, expected) < 0.6 * before
    assert all(change.after <= change.before for change in report.changes)
    assert len(report.changes) == (4 if unit == "layer" else 3)
    assert graph.repairs == ["adaround"]


@pytest.mark.parametrize("unit", ["layer", "block"])
def test_reported_error_is_the_networks_own(residual, images, calibrated, unit):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    report = adaround(graph, [(images[:32], None), (images[32:], None)], policy, unit=unit, **QUICK)
    assert all(layer.weight.learned(3) for layer in layers_of(graph))
    # The last layer's output is the network's, so its error can be measured from outside, summed over its 4 channels.
    measured = 4 * error(graph, policy, images, residual(images).detach())
    assert report.changes[-1].after == pytest.approx(measured, rel=0.02)


def test_one_linear_layer_beats_nearest_and_stays_within_one_step(calibrated):
    torch.manual_seed(0)
    x = torch.randn(512, 32) @ torch.randn(32, 32)
    network = nn.Sequential(nn.Linear(32, 16))
    graph = calibrated(network, x)
    policy = Policy.uniform(graph.sites, 3, None)
    expected = network(x).detach()
    before = error(graph, policy, x, expected)
    adaround(graph, [(x, None)], policy, steps="keep", learn_bias=False, iterations=400)
    assert error(graph, policy, x, expected) < 0.8 * before
    (layer,) = layers_of(graph)
    nearest = integers(layer.weight.weight, layer.weight.grid(3))
    assert int((layer.weight.integers(3) - nearest).abs().max()) == 1


def test_a_fitted_grid_that_loses_gives_way_to_the_one_that_is_there(calibrated, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(512, 32) @ torch.randn(32, 32)
    graph = calibrated(nn.Sequential(nn.Linear(32, 16)), x)
    policy = Policy.uniform(graph.sites, 3, None)
    (layer,) = layers_of(graph)
    present = layer.weight.grid(3)
    coarse = replace(present, scale=present.scale * 8)
    monkeypatch.setitem(adaround.function.__globals__, "fitted_affine", lambda *_, **__: coarse)
    report = adaround(graph, [(x, None)], policy, iterations=400)
    assert layer.weight.learned(3)
    assert torch.equal(layer.weight.grid(3).scale, present.scale)
    assert report.changes[0].after < 0.8 * report.changes[0].before


def test_rounding_survives_other_policies_and_leaves_float_alone(residual, images, calibrated):
    graph = calibrated(residual, images)
    plain = graph(images)
    policy = Policy.uniform(graph.sites, 3, 8)
    adaround(graph, [(images, None)], policy, **QUICK)
    with graph.applied(policy):
        learned = graph(images)
    for other in (Policy.uniform(graph.sites, 8, 8), FLOAT, Policy.uniform(graph.sites, 3, None)):
        graph.apply(other)
        graph(images)
    assert torch.equal(graph.apply(policy)(images), learned)
    assert torch.equal(graph.apply(FLOAT)(images), plain)


def test_simulation_uses_the_integers(residual, images, calibrated):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    adaround(graph, [(images, None)], policy, **QUICK)
    graph.apply(policy)
    for layer in layers_of(graph):
        weight = layer.weight
        assert weight.learned(3)
        assert not weight.learned(4)
        assert torch.equal(weight(weight.weight), dequantized(weight.integers(3), weight.grid(3)))


def test_the_users_model_and_the_policy_in_force_are_left_alone(residual, images, calibrated):
    before = copy.deepcopy(residual.state_dict())
    graph = calibrated(residual, images)
    mine = Policy.uniform(graph.sites, 8, 8)
    graph.apply(mine)
    adaround(graph, [(images, None)], Policy.uniform(graph.sites, 4, 8), **QUICK)
    assert graph.policy is mine
    assert all(torch.equal(before[name], value) for name, value in residual.state_dict().items())


def test_same_seed_same_rounding(residual, images, calibrated):
    found = []
    for _ in range(2):
        graph = calibrated(residual, images)
        adaround(graph, [(images, None)], Policy.uniform(graph.sites, 3, 8), seed=4, **QUICK)
        found.append([layer.weight.integers(3) for layer in layers_of(graph)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("granularity", ["tensor", "group"])
def test_other_granularities(residual, images, calibrated, granularity):
    graph = calibrated(residual, images, edge_quantizer(granularity, 9 if granularity == "group" else None))
    policy = Policy.uniform(graph.sites, 4, 8)
    expected = residual(images).detach()
    before = error(graph, policy, images, expected)
    adaround(graph, [(images, None)], policy, **QUICK)
    assert error(graph, policy, images, expected) < 0.8 * before


def test_every_kind_of_layer(calibrated):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=4),
        nn.ReLU6(),
        nn.Conv2d(8, 12, 1, bias=False),
        nn.PReLU(12),
        nn.ConvTranspose2d(12, 8, 3, stride=2, groups=2),
        nn.LeakyReLU(),
        nn.Flatten(2),
        nn.Conv1d(8, 6, 5, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(6 * 39, 5),
    )
    x = torch.nn.functional.interpolate(4 * torch.randn(48, 8, 3, 3) + 0.5, (6, 6), mode="bilinear")
    graph = calibrated(network, x)
    policy = Policy.uniform(graph.sites, 3, 8)
    expected = network(x).detach()
    before = error(graph, policy, x, expected)
    report = adaround(graph, [(x, None)], policy, **QUICK)
    assert len(report.changes) == 5
    assert error(graph, policy, x, expected) < 0.7 * before


def test_shared_weights_are_fitted_once_and_said(images, calibrated):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.relu(self.conv(x)))

    graph = calibrated(Twice(), images)
    report = adaround(graph, [(images, None)], Policy.uniform(graph.sites, 4, 8), **QUICK)
    assert len(report.changes) == 1
    assert "shares its weight" in report.notes[0]


def test_recalibration_takes_the_rounding_back(residual, images, calibrated):
    from bitwright.graph import calibrate

    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    plain = graph.apply(policy)(images)
    adaround(graph, [(images, None)], policy, **QUICK)
    assert not torch.equal(graph(images), plain)
    calibrate(graph, [(images, None)])
    assert graph.repairs == []
    assert torch.equal(graph.apply(policy)(images), plain)


@pytest.mark.parametrize("activations", [8, None])
def test_exported_file_has_the_learned_rounding_and_biases(residual, images, calibrated, tmp_path, activations):
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' brings it")
    from bitwright.runtimes import export, parity

    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 3, activations)
    adaround(graph, [(images, None)], policy, **QUICK)
    graph.apply(policy)
    export(graph, tmp_path / "model.onnx")
    found = parity(graph, tmp_path / "model.onnx", [(images, None)], task="classification")
    assert found.exact_agreement == 1.0
    assert found.exact_difference < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "net"}, "unit must be layer or block, got 'net'"),
        ({"steps": "best"}, "steps must be output or keep, got 'best'"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"policy": FLOAT}, "needs to know the widths"),
    ],
)
def test_bad_input(residual, images, calibrated, options, message):
    graph = calibrated(residual, images)
    options = {"policy": Policy.uniform(graph.sites, 4, 8), **options}
    with pytest.raises(InvalidInput, match=message):
        repair(graph, "adaround", [(images, None)], **options)
    assert graph.repairs == []


class OneBlock(nn.Module):
    """A block whose output is the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3, padding=1)
        self.conv2 = nn.Conv2d(5, 3, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)


@pytest.fixture
def corrected(images, calibrated):
    """A network that is one block, its biases corrected; its policy, and its error, summed over channels."""
    torch.manual_seed(5)
    network = OneBlock().eval()
    graph = calibrated(network, images)
    policy = Policy.uniform(graph.sites, 3, None)
    repair(graph, "bias", [(images, None)], policy=policy)
    return graph, policy, lambda: 3 * error(graph, policy, images, network(images).detach())


@pytest.mark.parametrize("unit", ["layer", "block"])
def test_before_is_the_state_before_the_repair(corrected, images, unit):
    graph, policy, measured = corrected
    before = measured()
    report = adaround(graph, [(images, None)], policy, unit=unit, **QUICK)
    if unit == "block":  # the inputs of the second layer alone are others by then
        assert report.changes[0].before == pytest.approx(before, rel=1e-5)
    assert report.changes[-1].after == pytest.approx(measured(), rel=1e-5)
    assert measured() < before


def test_what_is_no_better_leaves_grids_integers_and_corrections(corrected, images, monkeypatch):
    graph, policy, measured = corrected
    before, plain = measured(), {layer.name: layer.weight.grid(3) for layer in layers_of(graph)}
    biases = {layer.name: layer.bias.corrections[3].clone() for layer in layers_of(graph)}

    def coarse(layer, bits, *_, **__):
        return replace(plain[layer.name], scale=plain[layer.name].scale * 30)

    monkeypatch.setitem(adaround.function.__globals__, "fitted_affine", coarse)
    report = adaround(graph, [(images, None)], policy, unit="block", iterations=2, samples=64)
    assert report.changes[0].before == report.changes[0].after == pytest.approx(before, rel=1e-5)
    assert measured() == before
    for layer in layers_of(graph):
        assert torch.equal(layer.weight.grid(3).scale, plain[layer.name].scale)
        assert torch.equal(layer.bias.corrections[3], biases[layer.name])


@pytest.mark.parametrize("unit", ["layer", "block"])
def test_corrections_stay_where_biases_are_not_learned(corrected, images, unit):
    graph, policy, measured = corrected
    before = measured()
    biases = {layer.name: layer.bias.corrections[3].clone() for layer in layers_of(graph)}
    adaround(graph, [(images, None)], policy, unit=unit, learn_bias=False, **QUICK)
    assert all(torch.equal(layer.bias.corrections[3], biases[layer.name]) for layer in layers_of(graph))
    assert measured() < before
