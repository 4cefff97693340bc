"""What follows a layer before its value is read again."""

from __future__ import annotations

import torch
from torch import nn

from bitwright.graph.layers import layers_of
from bitwright.graph.twins import Twins
from bitwright.repair.tails import tail_of


def tails(graph, x):
    twins, found = Twins(graph, [(x,)]), []
    layers = {layer.node: layer for layer in layers_of(graph)}
    for node in twins.stops(layers):
        tail = tail_of(graph, layers[node], twins.shape)
        found.append(([str(n.target).split(".")[0] for n in tail.nodes if n.op == "call_function"], len(tail.operands)))
    return found


def test_tails_of_a_residual_block(residual, images, calibrated):
    graph = calibrated(residual, images)
    kinds = tails(graph, images)
    assert [operands for _, operands in kinds] == [0, 0, 1, 0]
    assert [len(nodes) for nodes, _ in kinds] == [1, 1, 2, 0]


def test_tail_ends_where_a_value_is_read_twice(images, calibrated):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            y = self.conv(x)
            return torch.relu(y) * torch.sigmoid(y)

    assert tails(calibrated(Fork(), images), images) == [([], 0)]


def test_function_is_what_the_network_computes(residual, images, calibrated):
    graph = calibrated(residual, images)
    layer = layers_of(graph)[2]
    twins = Twins(graph, [(images,)])
    for _ in twins.stops({layer.node}):
        tail = tail_of(graph, layer, twins.shape)
        run = tail.function(graph, layer, lambda node: twins.float.constant(node), False)
        output, operand = twins.float[layer.node][0], twins.float[tail.operands[0]][0]
        assert torch.equal(run(output, [operand]), torch.relu(output + operand))
