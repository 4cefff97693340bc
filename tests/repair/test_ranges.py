"""Ranges and granularity, site by site."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bitwright.errors import InvalidInput
from bitwright.graph.layers import layers_of
from bitwright.repair import apply_action, set_granularity, set_ranges
from bitwright.values import Policy
from bitwright.values.recipe import Action


def output_error(graph, policy, network, x):
    with graph.applied(policy), torch.no_grad():
        return float((graph(x) - network(x)).square().mean())


def test_fitted_weights_bring_the_outputs_nearer(images, fresh_images, calibrated):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3)).eval()
    graph = calibrated(network, images, ranges="minmax")
    policy = Policy.uniform(graph.sites, 3, None)
    before = output_error(graph, policy, network, fresh_images)
    report = set_ranges(graph, [(images, None)], policy, weights="output")
    assert output_error(graph, policy, network, fresh_images) < 0.8 * before
    assert report.changes[0].site == "0.weight"
    assert not layers_of(graph)[0].weight.learned(3)


def test_all_layers_are_fitted_in_turn(residual, images, calibrated):
    graph = calibrated(residual, images, ranges="minmax")
    report = set_ranges(graph, [(images, None)], Policy.uniform(graph.sites, 3, 8), weights="output")
    assert len(report.changes) == 4
    assert all(3 in layer.weight.fixed for layer in layers_of(graph))


def test_methods_by_site_go_before_those_by_kind(residual, images, calibrated):
    graph = calibrated(residual, images)
    name = graph.sites.activations[1].name
    set_ranges(graph, activations="minmax", sites={name: "percentile"}, percentile=99.0)
    methods = {site.name: graph.quantizers[site.name].ranges for site in graph.sites}
    assert methods[name] == "percentile"
    assert graph.quantizers[name].percentile == 99.0
    assert {methods[s.name] for s in graph.sites.activations if s.name != name} == {"minmax"}
    assert {methods[s.name] for s in graph.sites.weights} == {"mse"}


def cross_entropy(graph, policy, network, x):
    with graph.applied(policy), torch.no_grad():
        return float(-(network(x).softmax(1) * graph(x).log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_distance_of_classes_chooses_the_step_with_the_smallest_cross_entropy(images, calibrated, kind):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)).eval()
    with torch.no_grad():
        network[3].weight.mul_(8)
    graph = calibrated(network, images, ranges="minmax")
    site = graph.sites.weights[-1].name if kind == "weight" else graph.sites.activations[-1].name
    policy = Policy({site: 3})
    before = cross_entropy(graph, policy, network, images)
    set_ranges(graph, [(images, None)], policy, sites={site: "distance"}, task="classification")
    assert cross_entropy(graph, policy, network, images) < before


def test_distance_is_that_of_the_task(images, calibrated):
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)).eval()
    with torch.no_grad():
        network[3].weight[0].mul_(30)  # large values, which a squared error sees and probabilities hardly do
    steps = {}
    for task in ("classification", "regression"):
        graph = calibrated(network, images, ranges="minmax")
        site, policy = graph.sites.activations[-1].name, Policy.uniform(graph.sites, None, 3)
        graph.apply(policy)
        action = Action("repair", {"name": "ranges", "sites": {site: "distance"}})
        apply_action(graph, action, [(images, torch.zeros(len(images), 4))] if task == "regression" else [images], task)
        steps[task] = float(graph.quantizers[site].grid(3).scale)
    assert steps["classification"] != steps["regression"]

    def error(scale: float) -> float:
        graph = calibrated(network, images, ranges="minmax")
        grid = graph.quantizers[site].grid(3)
        graph.quantizers[site].fix(3, replace(grid, scale=torch.tensor(scale)))
        return output_error(graph, Policy({site: 3}), network, images)

    assert error(steps["regression"]) <= error(steps["classification"])


def test_granularity_changes_site_and_steps(residual, images, calibrated):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 4, 8)
    graph.apply(policy)
    by_channel = output_error(graph, policy, residual, images)
    report = set_granularity(graph, granularity="tensor")
    assert [change.after for change in report.changes] == [1.0] * 4
    assert graph.sites["conv1.weight"].scheme.granularity == "tensor"
    assert graph.quantizers["conv1.weight"].grid(4).scale.numel() == 1
    assert output_error(graph, policy, residual, images) > by_channel
    set_granularity(graph, granularity="group", group_size=9, sites=["conv1.weight"])
    assert graph.quantizers["conv1.weight"].grid(4).scale.numel() == 6 * 6
    assert graph.sites["conv1.weight"].scales == 36
    graph.apply(policy)(images)


def test_granularity_channel_axis_of_a_transposed_convolution(calibrated):
    x = torch.randn(8, 4, 5, 5)
    graph = calibrated(nn.Sequential(nn.ConvTranspose2d(4, 6, 3)), x)
    set_granularity(graph, granularity="tensor")
    set_granularity(graph, granularity="channel")
    assert graph.sites["0.weight"].scheme.axis == 1
    assert graph.quantizers["0.weight"].grid(4).scale.numel() == 6
    with pytest.raises(InvalidInput, match="cannot have steps per group"):
        set_granularity(graph, granularity="group", group_size=4)


def test_bad_input(residual, images, calibrated):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 4, 8)
    with pytest.raises(InvalidInput, match="ranges need a method"):
        set_ranges(graph)
    with pytest.raises(InvalidInput, match="method must be one of minmax, .*, got 'best'"):
        set_ranges(graph, weights="best")
    with pytest.raises(InvalidInput, match="'output' is for the weights of layers, and site 'x' does not hold one"):
        set_ranges(graph, [(images, None)], policy, sites={"x": "output"})
    with pytest.raises(InvalidInput, match=r"site 'conv1.weigth' is not in this graph.*conv1.weight"):
        set_ranges(graph, sites={"conv1.weigth": "mse"})
    with pytest.raises(InvalidInput, match="needs to know the widths"):
        set_ranges(graph, [(images, None)], weights="output")
    with pytest.raises(InvalidInput, match="group_size must be at least 2"):
        set_granularity(graph, granularity="group")
    with pytest.raises(InvalidInput, match="site 'x' is an activation"):
        set_granularity(graph, granularity="tensor", sites=["x"])
    assert graph.repairs == []
