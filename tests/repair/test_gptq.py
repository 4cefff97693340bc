"""Sequential rounding of networks in closed form: against least squares, and against what is measured."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitwright.errors import InvalidInput
from bitwright.graph import calibrate, capture
from bitwright.graph.layers import layers_of
from bitwright.graph.pt2e import edge_quantizer
from bitwright.repair import bias_correction, gptq, repair
from bitwright.repair.gptq import least_squares
from bitwright.repair.steps import about_the_mean, cholesky
from bitwright.values import FLOAT, Policy


def error(graph, policy, x, expected):
    with graph.applied(policy), torch.no_grad():
        return float((graph(x) - expected).square().mean())


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 6), st.integers(0, 100))
def test_the_change_is_ridge_regression(groups, rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 40, columns, generator=generator, dtype=torch.float64)
    r = torch.randn(groups, 40, rows, generator=generator, dtype=torch.float64)
    gram, cross = x.transpose(1, 2) @ x / 40, r.transpose(1, 2) @ x / 40
    found = least_squares(gram, cross, 0.01)
    for g in range(groups):
        extra = (40 * 0.01 * gram[g].diagonal().mean()).sqrt() * torch.eye(columns, dtype=torch.float64)
        wide = torch.cat([x[g], extra])
        target = torch.cat([r[g], torch.zeros(columns, rows, dtype=torch.float64)])
        torch.testing.assert_close(found[g], torch.linalg.lstsq(wide, target).solution.T, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("refit", [True, False])
def test_brings_the_outputs_nearer_to_float(residual, images, fresh_images, calibrated, refit):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    expected = residual(fresh_images).detach()
    before = error(graph, policy, fresh_images, expected)
    report = gptq(graph, [(images, None)], policy, refit=refit)
    assert error(graph, policy, fresh_images, expected) < 0.6 * before
    assert all(change.after <= change.before for change in report.changes)
    assert len(report.changes) == 4
    assert graph.repairs == ["gptq"]
    assert all(layer.weight.learned(3) for layer in layers_of(graph))


@pytest.mark.parametrize("learn_bias", [True, False])
def test_reported_errors_are_the_networks_own(residual, images, calibrated, learn_bias):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    expected = residual(images).detach()
    report = gptq(graph, [(images[:40], None), (images[40:], None)], policy, learn_bias=learn_bias)
    # The last layer's output is the network's, so its error can be measured from outside, summed over its 4 channels.
    measured = 4 * error(graph, policy, images, expected)
    assert report.changes[-1].after == pytest.approx(measured, rel=0.02)


def test_what_earlier_layers_lost_is_made_good(images, fresh_images, calibrated):
    ratios = []
    for seed in range(4):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 1))
        expected = network(fresh_images).detach()
        found = {}
        for refit in (True, False):
            graph = calibrated(network, images)
            policy = Policy.uniform(graph.sites, 2, 8)
            gptq(graph, [(images, None)], policy, refit=refit)
            found[refit] = error(graph, policy, fresh_images, expected)
        ratios.append(found[True] / found[False])
    assert max(ratios) < 1.0
    assert sum(ratios) / 4 < 0.92


def test_with_exact_inputs_refitting_changes_nothing(images, calibrated):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3)).eval()
    integers = []
    for refit in (True, False):
        graph = calibrated(network, images)
        gptq(graph, [(images, None)], Policy.uniform(graph.sites, 3, None), refit=refit)
        integers.append(layers_of(graph)[0].weight.integers(3))
    assert torch.equal(*integers)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 6, 3, groups=6), (6, 8, 8)),
        (nn.Conv2d(6, 8, 3, groups=2, stride=2, padding=1), (6, 8, 8)),
        (nn.ConvTranspose2d(6, 5, 3, stride=2), (6, 5, 5)),
        (nn.Conv1d(6, 5, 3, bias=False), (6, 12)),
        (nn.Conv3d(6, 4, 2, groups=2), (6, 4, 3, 4)),
        (nn.ConvTranspose3d(6, 5, 2, stride=2), (6, 3, 3, 3)),
        (nn.Linear(6, 5), (7, 6)),
    ],
    ids=["depthwise", "grouped", "transposed", "1d without a bias", "3d, grouped", "3d, transposed", "sequence"],
)
def test_all_kinds_of_layers(layer, shape, calibrated):
    torch.manual_seed(0)
    network = nn.Sequential(layer, nn.ReLU()).eval()
    x = torch.randn(256, *shape) + 0.5
    graph = calibrated(network, x, ranges="minmax")
    policy = Policy.uniform(graph.sites, 3, 8)
    before = error(graph, policy, x, network(x).detach())
    report = gptq(graph, [(x, None)], policy)
    assert report.changes[0].after < report.changes[0].before
    assert error(graph, policy, x, network(x).detach()) < before


@pytest.mark.parametrize("granularity", [("tensor", None), ("group", 9)])
def test_other_granularities(granularity, residual, images, calibrated):
    graph = calibrated(residual, images, edge_quantizer(*granularity))
    policy = Policy.uniform(graph.sites, 4, 8)
    expected = residual(images).detach()
    before = error(graph, policy, images, expected)
    gptq(graph, [(images, None)], policy)
    assert error(graph, policy, images, expected) < before


def test_the_float_network_and_other_widths_stay_what_they_are(residual, images, calibrated):
    graph = calibrated(residual, images)
    model = copy.deepcopy(residual.state_dict())
    with torch.no_grad(), graph.applied(FLOAT):
        exact = graph(images)
    at_8 = Policy.uniform(graph.sites, 8, 8)
    with torch.no_grad(), graph.applied(at_8):
        plain = graph(images)
    gptq(graph, [(images, None)], Policy.uniform(graph.sites, 3, 8))
    with torch.no_grad(), graph.applied(FLOAT):
        assert torch.equal(graph(images), exact)
    with torch.no_grad(), graph.applied(at_8):
        assert torch.equal(graph(images), plain)
    assert all(torch.equal(value, residual.state_dict()[name]) for name, value in model.items())


def test_again_or_after_bias_correction_gives_the_same(residual, images, calibrated):
    once, twice = calibrated(residual, images), calibrated(residual, images)
    policy = Policy.uniform(once.sites, 3, 8)
    gptq(once, [(images, None)], policy)
    bias_correction(twice, [(images, None)], policy)
    gptq(twice, [(images, None)], policy)
    with torch.no_grad(), once.applied(policy), twice.applied(policy):
        assert torch.equal(once(images), twice(images))


def test_starts_from_what_is_in_force_and_leaves_it_where_it_is_no_better(residual, images, calibrated):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    first = gptq(graph, [(images, None)], policy)
    kept = {layer.weight.site.name: layer.weight.integers(3) for layer in layers_of(graph)}
    again = gptq(graph, [(images, None)], policy, refit=False)
    assert again.changes[0].before == pytest.approx(first.changes[0].after, rel=1e-3)
    for other in again.changes:
        assert other.after <= other.before
    left = [change.site for change in again.changes if change.after == change.before]
    assert left
    assert all(change.details["moved"] == 0.0 for change in again.changes if change.site in left)
    now = {layer.weight.site.name: layer.weight.integers(3) for layer in layers_of(graph)}
    assert all(torch.equal(now[site], kept[site]) for site in left)


def test_keeps_a_bias_correction_that_it_does_not_beat(images, calibrated):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3)).eval()
    graph = calibrated(network, images)
    policy = Policy.uniform(graph.sites, 3, None)
    gptq(graph, [(images, None)], policy)
    layer = layers_of(graph)[0]
    bias = layer.bias.corrections[3]
    report = gptq(graph, [(images, None)], policy, learn_bias=False, refit=False)
    assert torch.equal(layer.bias.corrections[3], bias)
    expected = network(images).detach()
    assert report.changes[0].before == pytest.approx(8 * error(graph, policy, images, expected), rel=0.02)


def test_weights_beyond_the_grid_are_not_moved(images, calibrated):
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[2.0, 0.01, -0.01], [2.0, -0.01, 0.01]])[:, :, None, None])
    graph = calibrated(network, images)
    report = gptq(graph, [(images, None)], Policy.uniform(graph.sites, 3, None))
    layer = layers_of(graph)[0]
    grid = layer.weight.grid(3)
    nearest = (network[0].weight / grid.scale).round().clamp(grid.low, grid.high)
    moved = float((layer.weight.integers(3) != nearest).double().mean()) if layer.weight.learned(3) else 0.0
    assert report.changes[0].details["moved"] == moved


@pytest.mark.parametrize("name", ["gptq", "adaround"])
def test_an_embedding_that_is_also_the_output_layer_keeps_its_rounding(name, calibrated):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(11, 8)
            self.inner = nn.Linear(8, 8)

        def forward(self, tokens):
            return nn.functional.linear(torch.relu(self.inner(self.embedding(tokens))), self.embedding.weight)

    torch.manual_seed(0)
    tokens = torch.randint(0, 11, (64, 5))
    graph = calibrated(Tied().eval(), tokens)
    policy = Policy.uniform(graph.sites, 3, 8)
    shared = next(layer.weight for layer in layers_of(graph) if layer.weight.site.name != "inner.weight")
    before = shared.integers(3)
    report = repair(graph, name, [(tokens, None)], policy=policy)
    assert [change.site for change in report.changes] == ["inner.weight"]
    assert any("shares its weight with embedding" in note for note in report.notes)
    assert torch.equal(shared.integers(3), before)
    assert not shared.learned(3)


def test_wide_weights_are_left_alone_and_said_to_be(residual, images, calibrated):
    graph = calibrated(residual, images)
    report = gptq(graph, [(images, None)], Policy.uniform(graph.sites, 12, 8))
    assert report.changes == ()
    assert "12 bits" in report.notes[0]


def test_fewer_rows_than_inputs_do_no_harm(images, calibrated):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 10)).eval()
    graph = calibrated(network, images)
    policy = Policy.uniform(graph.sites, 3, 8)
    expected = network(images).detach()
    before = error(graph, policy, images[:16], expected[:16])
    gptq(graph, [(images[:16], None)], policy, rows=16)
    assert error(graph, policy, images[:16], expected[:16]) <= before


def test_bad_options_are_one_line_each(residual, images, calibrated):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 4, 8)
    with pytest.raises(InvalidInput, match="rows must be at least 1, got 0"):
        gptq(graph, [(images, None)], policy, rows=0)
    with pytest.raises(InvalidInput, match=r"damping must be above 0, got 0; 0\.01 is usual"):
        gptq(graph, [(images, None)], policy, damping=0)
    repair(graph, "adaround", [(images, None)], policy=policy, iterations=2)
    with pytest.raises(InvalidInput, match="'gptq' cannot follow 'adaround'"):
        gptq(graph, [(images, None)], policy)


@pytest.mark.parametrize("constant", [1.0, -1.0])
@pytest.mark.parametrize("name", ["gptq", "adaround"])
def test_a_layer_whose_input_never_varies(name, constant):
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    nn.init.zeros_(network[0].weight)
    nn.init.constant_(network[0].bias, constant)
    batches = [(torch.randn(32, 8), None)]
    graph = calibrate(capture(network, batches[0][0][:2]), batches)
    policy = Policy.uniform(graph.sites, 4, 8)
    repair(graph, name, batches, policy=policy)
    found = graph.apply(policy)(batches[0][0])
    assert (found - network(batches[0][0])).abs().max() < 0.1 * network(batches[0][0]).abs().max()


def test_moments_that_rounding_leaves_indefinite_are_damped_further():
    mean = torch.tensor([[3.0, 3.0, 3.0]], dtype=torch.float64)
    gram = mean[:, :, None] * mean[:, None, :] * (1 - 1e-7)  # as float32 sums may give it
    centered = about_the_mean(gram, mean)
    assert centered.diagonal(dim1=1, dim2=2)[0].tolist() == pytest.approx([9e-6] * 3)
    factor = cholesky(-torch.eye(3, dtype=torch.float64)[None], 0.01)
    assert bool(torch.isfinite(factor).all())
