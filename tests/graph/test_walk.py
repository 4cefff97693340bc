"""The walk gives what the network gives, whatever its shape, and lets its callers look, change and stop."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_flatten

import bitwright as bw
from bitwright.graph.layers import layers_of
from bitwright.graph.places import quantizer_at, site_behind, site_calls
from bitwright.graph.walk import Walk, unrounded


@pytest.fixture(params=["branches", "recurrent", "stream", "several"])
def network(request, built):
    """A calibrated graph under a policy, and the inputs of one batch."""
    graph, (inputs,) = built(request.param)
    with torch.no_grad():
        yield graph.apply(bw.Policy.uniform(graph.sites, 4, 5)), inputs


@pytest.fixture
def branches(built):
    graph, (inputs,) = built("branches")
    with torch.no_grad():
        yield graph.apply(bw.Policy.uniform(graph.sites, 4, 5)), inputs


def same(one, other):
    (mine, structure), (theirs, wanted) = tree_flatten(one), tree_flatten(other)
    pairs = zip(mine, theirs, strict=True)
    return structure == wanted and all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


def test_it_gives_what_the_network_gives(network):
    graph, inputs = network
    assert same(Walk(graph.module)(inputs), graph(*inputs))


def test_without_rounding_it_gives_the_float_network(network):
    graph, inputs = network
    found = Walk(graph.module)(inputs, unrounded(graph.module))
    with graph.applied(bw.FLOAT):
        assert same(found, graph(*inputs))
    assert not same(found, graph(*inputs))


def test_it_can_stop_anywhere_and_go_on(network):
    graph, inputs = network
    walk, expected = Walk(graph.module), graph(*inputs)
    for stop in range(0, len(walk), max(1, len(walk) // 9)):
        values = walk.begin(inputs)
        assert walk.run(values, 0, stop) is None
        first, second = (walk.run(values.fork(), stop) for _ in range(2))
        assert same(first, expected)
        assert same(second, expected)


def test_no_more_values_are_kept_than_are_needed(network):
    graph, inputs = network
    walk = Walk(graph.module)
    values = walk.begin(inputs)
    for i, step in enumerate(walk.steps[:-1]):
        walk.run(values, i, i + 1)
        later = {source for other in walk.steps[i + 1 :] for source in other.node.all_input_nodes}
        later |= {source for other in walk.steps[i + 1 :] for source in walk.sources(other.node)}
        assert set(values) <= later | {step.node}
        assert later & {other.node for other in walk.steps[: i + 1]} <= set(values)


def test_a_hook_sees_each_call_once_and_its_result_stands(branches):
    graph, inputs = branches
    walk, seen = Walk(graph.module), []

    def look(call):
        result = call()
        seen.append((call.node, call.args, result))
        return result

    assert same(walk(inputs, dict.fromkeys(graph.module.graph.nodes, look)), graph(*inputs))
    nodes = [node for node, _, _ in seen]
    assert sorted(nodes, key=str) == sorted((n for n in graph.module.graph.nodes if n.op != "output"), key=str)
    for node, args, result in seen:
        quantizer = quantizer_at(graph.module, node)
        if quantizer is not None:
            assert torch.equal(quantizer(args[0]), result)
    (last,) = (layer.node for layer in layers_of(graph) if layer.name == "linear")
    assert torch.equal(walk(inputs, {last: lambda call: torch.ones(6, 5)}), torch.ones(6, 5))
    assert torch.equal(walk(inputs, {last: lambda call: call() + 1}), graph(*inputs) + 1)


def test_a_change_at_a_quantizer_takes_effect_behind_it(branches):
    graph, inputs = branches
    walk = Walk(graph.module)
    values, start = walk.begin(inputs), walk.start(["linear.weight"])
    walk.run(values, 0, start)
    other = bw.Policy({**graph.policy.bits, "linear.weight": 2})
    graph.apply(other)
    assert same(walk.run(values, start), graph(*inputs))


def test_another_module_in_the_place_of_a_quantizer(branches):
    graph, inputs = branches
    walk = Walk(graph.module)
    (node,) = (node for node, quantizer in site_calls(graph.module).items() if quantizer.site.name == "linear.weight")
    graph.module.set_submodule(str(node.target), torch.nn.Identity())
    graph.module.recompile()
    assert same(walk(inputs), graph(*inputs))


def test_a_stretch_on_its_own(branches):
    graph, inputs = branches
    walk, kept = Walk(graph.module), {}

    def keep(call):
        kept[call.node] = call()
        return kept[call.node]

    first, last = (layer.node for layer in layers_of(graph) if layer.name == "twice")
    walk(inputs, dict.fromkeys([first, last, *last.all_input_nodes], keep))
    # The second use of the shared weight: its quantizer has run long before.
    start = last.args[0]
    assert torch.equal(walk.between(start, last, kept[start], {}), kept[last])
    assert torch.equal(walk.between(start, last, kept[start], {last: lambda call: -call()}), -kept[last])
    assert torch.equal(walk.alone(last, {start: kept[start]}), kept[last])


def test_bytes_held_at_once():
    class Chain(torch.nn.Module):
        def forward(self, x):
            y = torch.cat([x, x], 1).relu()
            return y.sum(1) + x.sum(1)

    x = torch.randn(4, 10)
    graph = bw.capture(Chain().eval(), x)
    # x, both copies side by side and what comes out of the relu, at the same time: 10 + 20 + 20 floats a sample
    assert Walk(graph.module).held_bytes((x[:1],)) == 4 * 30


def test_the_site_behind_a_value(branches):
    graph, _ = branches
    nodes = {node.name: node for node in graph.module.graph.nodes}
    for layer in layers_of(graph):
        assert site_behind(graph.module, layer.node.args[0]).site.kind == "activation"
        assert site_behind(graph.module, layer.node.args[1]) is layer.weight
    assert site_behind(graph.module, next(iter(nodes.values()))) is None
    assert site_behind(graph.module, None) is None
