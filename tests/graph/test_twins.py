"""Both networks in step give what each gives alone."""

from __future__ import annotations

import pytest
import torch

from bitwright.graph.layers import layers_of
from bitwright.graph.twins import Lane, Twins
from bitwright.graph.walk import Walk
from bitwright.values import FLOAT, Policy


@pytest.fixture
def stream(built):
    """A calibrated graph, two batches, and the node of its result."""
    graph, data = built("stream", 2)
    (result,) = next(node for node in graph.module.graph.nodes if node.op == "output").args[0]
    with torch.no_grad():
        yield graph, data, result


def test_values_are_those_of_each_network_alone(stream):
    graph, data, result = stream
    with graph.applied(Policy.uniform(graph.sites, 4, 4)):
        twins = Twins(graph, data, [result])
        stops = [node.name for node in twins.stops({layer.node for layer in layers_of(graph)})]
        assert stops == [layer.node.name for layer in layers_of(graph)]
        for inputs, found in zip(data, twins.quantized[result], strict=True):
            assert torch.equal(found, graph(*inputs))
    for inputs, found in zip(data, twins.float[result], strict=True):
        assert torch.equal(found, graph.apply(FLOAT)(*inputs))


def test_values_are_freed_after_their_last_use(stream):
    graph, data, _ = stream
    twins = Twins(graph, data)
    for node in twins.stops({layer.node for layer in layers_of(graph)}):
        activations = [n for n in twins.float.values[0] if n not in twins.walk.constants]
        assert len(activations) <= 3  # what comes in, what goes out, what is added
        assert node in activations


def test_a_change_at_a_stop_takes_effect(stream):
    graph, data, result = stream
    last = layers_of(graph)[-1]
    with graph.applied(Policy.uniform(graph.sites, 8, 8)):
        twins = Twins(graph, data, [result])
        for node in twins.stops({last.node}):
            assert node is last.node
            grid = last.weight.grid(8)
            last.weight.fix(8, grid, torch.zeros_like(last.weight.weight))
        assert float(twins.quantized[result][0].std(0).max()) == 0.0
        assert float(twins.float[result][0].std(0).max()) > 0.0


def test_done_again_after_a_change(stream):
    graph, data, _ = stream
    first, second = layers_of(graph)[:2]
    with graph.applied(Policy.uniform(graph.sites, 8, 8)):
        twins = Twins(graph, data)
        for node in twins.stops({first.node}):
            twins.redo([node])
            before = twins.quantized[node][0]
            first.weight.fix(8, first.weight.grid(8), torch.zeros_like(first.weight.weight))
            twins.redo([node])
            assert not torch.equal(before, twins.quantized[node][0])
            assert float(twins.quantized[node][0].std((0, 2, 3)).max()) == 0.0


def test_the_bias_in_force(stream):
    graph, data, _ = stream
    layer = layers_of(graph)[1]
    with graph.applied(Policy.uniform(graph.sites, 8, 8)):
        twins = Twins(graph, data)
        original = graph.module.get_parameter(layer.bias.name)
        assert torch.equal(twins.bias(layer), original)
        layer.bias.correct(8, original + 1)
        assert torch.equal(twins.bias(layer), original + 1)


def test_a_lane_stays_where_it_is_while_its_ends_are_tried(stream):
    graph, data, _ = stream
    policies = [Policy.uniform(graph.sites, width, 8) for width in (2, 4, 8)]
    walk = Walk(graph.module)
    with graph.applied(policies[0]):
        lane = Lane(walk, data)
        lane.to(1)
        for policy in (*policies, policies[0]):
            graph.apply(policy)
            for inputs, found in zip(data, lane.outputs(), strict=True):
                assert torch.equal(found, graph(*inputs))
        assert lane.here == 1
