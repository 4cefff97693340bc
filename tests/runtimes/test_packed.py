"""Weights of 4 bits in groups that stay packed in ONNX Runtime."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.graph.layers_alone import layer_quantizer
from bitwright.runtimes import export, predict
from bitwright.values import Policy


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(6, 5, 64, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 32, bias=False), nn.Tanh(), nn.Linear(32, 7)
    ).eval()


def written(inputs, folder, group_size, bits, storage="packed"):
    graph = calibrate(capture(network(), inputs[:2], layer_quantizer("float", group_size)), [(inputs, None)])
    result = export(graph, folder / "m.onnx", policy=Policy.uniform(graph.sites, bits, None), storage=storage)
    return graph, result, [node.op_type for node in onnx.load(str(result.path)).graph.node]


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("group_size", [16, 32])
def test_the_file_computes_what_exact_arithmetic_does(inputs, tmp_path, bits, group_size):
    graph, result, operations = written(inputs, tmp_path, group_size, bits)
    assert operations.count("MatMulNBits") == 3
    exact = network().double()
    for name, parameter in exact.named_parameters():
        if name in graph.quantizers:
            quantizer = graph.quantizers[name]
            steps = quantizer.grid(bits).scale.double().reshape(len(parameter), -1).repeat_interleave(group_size, 1)
            parameter.data = quantizer.integers(bits).double() * steps
    with torch.no_grad():
        wanted = exact(inputs.double())
    assert float((predict(result.path, [inputs]) - wanted).abs().max()) < 1e-6


def test_no_weight_is_stored_twice(inputs, tmp_path):
    sizes = [written(inputs, tmp_path, 32, 4, storage)[1].bytes for storage in ("packed", "smallest")]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(("group_size", "bits"), [(12, 4), (32, 5), (None, 4)])
def test_others_are_written_as_before(inputs, tmp_path, group_size, bits):
    graph, result, operations = written(inputs, tmp_path, group_size, bits)
    assert "MatMulNBits" not in operations
    with graph.applied(Policy.uniform(graph.sites, bits, None)), torch.no_grad():
        assert float((predict(result.path, [inputs]) - graph(inputs)).abs().max()) < 1e-6
