"""Outliers of activations: cut off."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.errors import InvalidInput
from bitwright.repair import clip
from bitwright.values import Policy


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


def test_bad_input(calibrated):
    x = torch.rand(16, 8)
    graph = calibrated(nn.Sequential(nn.Linear(8, 4)), x)
    with pytest.raises(InvalidInput, match=r"clipping is for activations, site '0.weight' is a weight"):
        clip(graph, [(x, None)], Policy.uniform(graph.sites, 8, 8), sites=["0.weight"])
    with pytest.raises(InvalidInput, match="site 'input' is in float under the policy"):
        clip(graph, [(x, None)], Policy({"0.weight": 8}), sites=["input"])
