"""Both networks in step give what each gives alone."""

from __future__ import annotations

import torch

from bitwright.graph.layers import layers_of
from bitwright.repair.twins import Twins
from bitwright.values import FLOAT, Policy


def test_values_are_those_of_each_network_alone(residual, images, calibrated):
    graph = calibrated(residual, images)
    policy = Policy.uniform(graph.sites, 4, 4)
    (result,) = next(node for node in graph.module.graph.nodes if node.op == "output").args[0]
    with graph.applied(policy), torch.no_grad():
        twins = Twins(graph, [(images[:40],), (images[40:],)], [result])
        stops = [node.name for node in twins.walk({layer.node for layer in layers_of(graph)})]
        assert stops == [layer.node.name for layer in layers_of(graph)]
        assert torch.allclose(torch.cat(twins.quantized[result]), graph(images), atol=1e-6)
    assert torch.allclose(torch.cat(twins.float[result]), graph.apply(FLOAT)(images), atol=1e-6)


def test_values_are_freed_after_their_last_use(residual, images, calibrated):
    graph = calibrated(residual, images)
    twins = Twins(graph, [(images,)])
    held = [len(twins.float) for _ in twins.walk({layer.node for layer in layers_of(graph)})]
    assert max(held) <= 4


def test_a_change_at_a_stop_takes_effect(residual, images, calibrated):
    graph = calibrated(residual, images)
    (result,) = next(node for node in graph.module.graph.nodes if node.op == "output").args[0]
    last = layers_of(graph)[-1]
    with graph.applied(Policy.uniform(graph.sites, 8, 8)), torch.no_grad():
        twins = Twins(graph, [(images,)], [result])
        for node in twins.walk({last.node}):
            assert node is last.node
            affine = last.weight.grid(8)
            last.weight.fix(8, affine, torch.zeros_like(last.weight.weight))
        assert float(twins.quantized[result][0].std(0).max()) == 0.0
        assert float(twins.float[result][0].std(0).max()) > 0.0
