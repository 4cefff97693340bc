"""OpenVINO: the file that ONNX Runtime gets, run by integer kernels of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import ExportError, InvalidInput
from bitwright.runtimes import RUNTIMES
from bitwright.runtimes.latency import latency

pytest.importorskip("openvino")


@pytest.fixture
def exported(digits_graph, tmp_path):
    policy = bw.Policy.uniform(digits_graph.sites, 8, 8)
    return bw.export(digits_graph, tmp_path / "model.onnx", runtime="openvino", policy=policy).path


def test_it_predicts_what_was_simulated_with_integer_kernels(digits_graph, digits_data, exported):
    inputs, targets = digits_data[1]
    found = bw.parity(digits_graph, exported, [(inputs[:200], targets[:200])], runtime="openvino")
    assert found.runtime.startswith("OpenVINO 20")
    assert found.exact_agreement == 1
    assert found.fused_agreement >= 0.99
    assert found.fused.steps <= 4
    assert RUNTIMES["openvino"].unfused(exported) == ()


def test_a_float_file_runs_in_float32_and_its_layers_are_named(digits_graph, digits_data, tmp_path):
    path = bw.export(digits_graph, tmp_path / "float.onnx", runtime="openvino", policy=bw.FLOAT).path
    inputs = digits_data[1][0][:50]
    with digits_graph.applied(bw.FLOAT), torch.no_grad():
        wanted = digits_graph(inputs)
    found = torch.from_numpy(RUNTIMES["openvino"].load(path)(inputs)[0])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    assert any("Convolution" in layer for layer in RUNTIMES["openvino"].unfused(path))
    (timed,) = latency(path, path, batches=(2,), seconds=0.01, runtime="openvino")
    assert timed.seconds > 0


class Both(nn.Module):
    """A recurrent layer in both directions, its states alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer(6, 5, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.layer(x)[0]


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_run_in_both_directions(layer, tmp_path):
    torch.manual_seed(0)
    model, x = Both(layer).eval(), torch.randn(4, 7, 6)
    graph = bw.calibrate(bw.capture(model, x), [x])
    path = bw.export(graph, tmp_path / "float.onnx", runtime="openvino", policy=bw.FLOAT).path
    torch.testing.assert_close(torch.from_numpy(RUNTIMES["openvino"].load(path)(x)[0]), model(x).detach())


def test_what_cannot_be_run_is_refused(exported, tmp_path):
    runtime = RUNTIMES["openvino"]
    with pytest.raises(InvalidInput, match="there is no file"):
        runtime.load(tmp_path / "none.onnx")
    with pytest.raises(InvalidInput, match="threads must be at least 1"):
        runtime.load(exported, threads=0)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="OpenVINO cannot load"):
        runtime.load(tmp_path / "broken.onnx")
    with pytest.raises(InvalidInput, match="the file takes 1 inputs, got 2"):
        runtime.load(exported)(torch.zeros(1, 1, 8, 8), torch.zeros(1))
