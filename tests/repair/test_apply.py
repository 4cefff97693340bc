from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidInput, PolicyMismatch
from bitwright.repair import apply_action, apply_recipe, keep_fitted
from bitwright.values.recipe import Action, Recipe


@pytest.fixture
def graph():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    return bw.capture(model, torch.randn(2, 6), quantizer=bw.edge_quantizer("tensor"))


@pytest.fixture
def data():
    torch.manual_seed(1)
    return [(torch.randn(32, 6), torch.randint(4, (32,)))]


def test_ranges_limits_bits_and_granularity(graph, data):
    target = bw.Policy.uniform(graph.sites, weights=4, activations=4)
    relu, weight = graph.sites.activations[1].name, graph.sites.weights[0].name
    recipe = (
        Recipe(target, "minmax")
        .then("repair", name="granularity")
        .then("limits", site=relu, low=0.0, high=0.75)
        .then("ranges", site=weight, method="percentile", percentile=90.0)
        .then("bits", site=weight, bits=3)
    )
    assert apply_recipe(graph, recipe, data) is graph
    assert dict(graph.policy.bits) == dict(recipe.policy.bits)
    assert graph.policy[weight] == 3
    grid = graph.quantizers[relu].grid(4)
    assert float(grid.scale) * 15 == pytest.approx(0.75, rel=1 / 64)
    assert graph.quantizers[weight].grid(3).scale.numel() == 8
    assert graph.sites[weight].scheme.granularity == "channel"
    assert (graph.quantizers[weight].ranges, graph.quantizers[weight].percentile) == ("percentile", 90.0)
    other = graph.sites.weights[1].name
    assert graph.quantizers[other].ranges == "minmax"
    apply_action(graph, Action("ranges", {"method": "mse", "kind": "activation"}), data)
    assert graph.quantizers[relu].ranges == "mse"
    assert graph.quantizers[other].ranges == "minmax"
    assert graph.repairs == ["granularity"]


def test_bad_input_is_one_line(graph, data):
    target = bw.Policy.uniform(graph.sites, weights=4)
    weight = graph.sites.weights[0].name
    with pytest.raises(PolicyMismatch, match="made for graph other"):
        apply_recipe(graph, Recipe(bw.Policy({weight: 4}, "other")), data)
    for action, message in (
        (Action("limits", {"site": weight, "low": 0, "high": 1}), "limits can be set only at activations that have"),
        (Action("bits", {"site": "1.weihgt", "bits": 4}), "which is not among the"),
        (Action("repair", {"name": "cel"}), "repair must be one of .*did you mean 'cle'"),
    ):
        with pytest.raises(InvalidInput, match=message):
            apply_recipe(graph, Recipe(target, "mse", (action,)), data)


def test_a_recipe_with_its_fitted_values_needs_no_data(graph, data):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    target = bw.Policy.uniform(graph.sites, weights=4, activations=4)
    weight = graph.sites.weights[0].name
    recipe = Recipe(target).then("repair", name="adaround", iterations=5).then("bits", site=weight, bits=8)
    with pytest.raises(InvalidInput, match="has no fitted values, so it is fitted when it is applied: pass batches"):
        apply_recipe(graph.copy(), recipe)
    fresh = graph.copy()
    first = apply_recipe(graph, recipe, data)
    kept = keep_fitted(first, recipe)
    done = []
    again = apply_recipe(fresh, kept, told=lambda action, report: done.append((action, report)))
    assert dict(again.policy.bits) == dict(recipe.policy.bits)
    assert done == [(action, None) for action in recipe.actions]
    with torch.no_grad():
        assert torch.equal(first(data[0][0]), again(data[0][0]))
    with torch.no_grad():
        model[0].weight.mul_(1.01)
    other = bw.capture(model, torch.randn(2, 6), quantizer=bw.edge_quantizer("tensor"))
    with pytest.raises(PolicyMismatch, match="made for graph"):
        apply_recipe(other, kept)
    anywhere = Recipe(bw.Policy(target.bits), actions=recipe.actions)
    with pytest.raises(PolicyMismatch, match="was fitted to graph"):
        apply_recipe(other, keep_fitted(first, anywhere))
