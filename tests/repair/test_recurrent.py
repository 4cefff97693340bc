"""Repairs of recurrent layers: what a repair says of the product of weight and state is what that product is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitwright.graph.layers import layers_of
from bitwright.graph.twins import Twins
from bitwright.repair import adaround, bias_correction, gptq, repair, set_ranges
from bitwright.values import Policy

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Net(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(5, 8, batch_first=True, bidirectional=True, **options)
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0].mean(1))


def network(kind, calibrated, **options):
    torch.manual_seed(0)
    x = torch.randn(48, 6, 5)
    model = Net(KINDS[kind], **options).eval()
    graph = calibrated(model, x)
    return model, graph, Policy.uniform(graph.sites, 3, 8), x


def states_before(rnn, x, reverse):
    """(N, T, H) of the float layer, from torch's own."""
    states = rnn(x)[0].detach()[..., 8:] if reverse else rnn(x)[0].detach()[..., :8]
    zero = torch.zeros_like(states[:, :1])
    return torch.cat([states[:, 1:], zero], 1) if reverse else torch.cat([zero, states[:, :-1]], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_weight_times_state(kind, calibrated):
    model, graph, _, x = network(kind, calibrated)
    layers = {layer.weight.site.name: layer for layer in layers_of(graph)}
    for end in ("", "_reverse"):
        layer = layers[f"rnn.weight_hh_l0{end}"]
        twins = Twins(graph, [(x[:20],), (x[20:],)])
        for _ in twins.stops({layer.node}):
            states = states_before(model.rnn, x, bool(end))
            torch.testing.assert_close(torch.cat(twins.entering(layer)), states, rtol=0, atol=1e-6)
            expected = F.linear(
                states, *(model.rnn.get_parameter(f"{n}_hh_l0{end}").detach() for n in ("weight", "bias"))
            )
            torch.testing.assert_close(torch.cat(twins.products(twins.float, layer)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_rounding_in_order_brings_the_outputs_nearer(kind, biases, calibrated):
    model, graph, policy, x = network(kind, calibrated, bias=biases)
    expected = model(x).detach()
    with graph.applied(policy), torch.no_grad():
        before = (graph(x) - expected).square().mean()
    report = gptq(graph, [(x, None)], policy)
    assert {change.site for change in report.changes} == {s.name for s in graph.sites.weights}
    assert report.notes == ()
    assert all(change.after <= change.before for change in report.changes)
    assert all(layer.weight.learned(3) for layer in layers_of(graph) if layer.recurrent)
    with graph.applied(policy), torch.no_grad():
        assert (graph(x) - expected).square().mean() < before


@pytest.mark.parametrize("method", ["empirical", "analytic"])
@pytest.mark.parametrize("kind", KINDS)
def test_corrected_biases_take_the_mean_error_of_the_product_back(kind, method, calibrated):
    _, graph, policy, x = network(kind, calibrated)
    report = bias_correction(graph, [(x, None)], policy, method=method)
    assert len(report.changes) == 5
    for layer in layers_of(graph):
        assert layer.bias.corrections.keys() == {3}
    if method == "empirical":  # the last layer is exact; of a recurrence the states change along
        assert all(change.after < 0.9 * change.before for change in report.changes)
    with graph.applied(policy):
        for name, bias in graph.biases().items():
            rounds = bias.name == "out.bias"
            assert (bias.scale() is not None) == rounds, name


def test_learned_rounding_and_fitted_ranges_do_not_make_a_layer_worse(calibrated):
    _, graph, policy, x = network("gru", calibrated)
    report = set_ranges(graph, [(x, None)], policy, weights="output")
    assert {change.site for change in report.changes} == {s.name for s in graph.sites.weights}
    report = adaround(graph, [(x, None)], policy, iterations=60)
    assert {change.site for change in report.changes} == {s.name for s in graph.sites.weights}
    assert all(change.after <= change.before for change in report.changes)
    assert sum(change.after for change in report.changes) < 0.99 * sum(change.before for change in report.changes)


def test_recurrent_weights_are_in_no_pair_that_is_equalized(calibrated):
    model, graph, _, x = network("rnn", calibrated)
    repair(graph, "cle", [(x, None)])
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=1e-6)
    assert torch.equal(graph.weight("rnn.weight_hh_l0"), model.rnn.weight_hh_l0)
