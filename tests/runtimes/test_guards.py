"""What a runtime would do on its own to weights and biases that the policy left alone."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.runtimes import RUNTIMES, export, parity, predict
from bitwright.values import Policy


def with_and_without(guard, graph, policy, inputs, folder, monkeypatch):
    """Largest differences between simulation and runtime, of a file with a guard and of one without."""
    guarded = export(graph, folder / "guarded.onnx", policy=policy)
    monkeypatch.setattr(importlib.import_module("bitwright.runtimes.export"), guard, lambda builder: None)
    plain = export(graph, folder / "plain.onnx", policy=policy)
    with graph.applied(policy), torch.no_grad():
        simulated = graph(inputs)
    return [float((predict(r.path, [inputs]) - simulated).abs().max()) for r in (guarded, plain)]


def test_float_weights_between_quantized_activations_stay_float(captured, tmp_path, monkeypatch):
    graph, inputs = captured("residual")
    policy = Policy.uniform(graph.sites, None, 16)
    differences = with_and_without("keep_float_weights", graph, policy, inputs, tmp_path, monkeypatch)
    assert differences[0] < 1e-4
    assert differences[1] > 10 * differences[0]  # without the guard the runtime rounds the weights to 8 bits


def pruned(channels, gamma, beta):
    """A network whose batch norm has switched two channels off but for their biases; and inputs for it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(channels, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)
    ).eval()
    with torch.no_grad():
        model[1].weight[:2], model[1].bias[:2] = gamma, beta
    return model, torch.randn(16, channels, 8, 8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("gamma", "beta"), [(1e-6, 0.5), (0.0, -3.0), (1.0, 1e20)])
def test_the_bias_of_a_dead_channel_fits_into_integer_kernels(tmp_path, channels, gamma, beta):
    model, inputs = pruned(channels, gamma, beta)
    graph = calibrate(capture(model, inputs[:2]), [(inputs, None)])
    policy = Policy.uniform(graph.sites, 8, 8)
    result = export(graph, tmp_path / "model.onnx", policy=policy)
    found = parity(graph, result.path, [(inputs, None)], task="dense")
    assert (found.exact_difference, found.fused_difference) == (0.0, 0.0)
    assert {bias["dtype"] for bias in result.scales["biases"].values()} == {"INT32"}
    assert RUNTIMES["onnxruntime"].unfused(result.path) == ()
    with graph.applied(policy), torch.no_grad():
        assert (graph(inputs) - model(inputs)).abs().max() <= 3 * found.step


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 4), (3, 8)])
def test_a_bias_that_does_not_fit_into_int32_is_kept_in_float(tmp_path, channels, bits):
    model, inputs = pruned(channels, 1.0, 1e20)
    graph = calibrate(capture(model, inputs[:2], "edge-tensor"), [(inputs, None)])
    policy = Policy.uniform(graph.sites, bits, 8)
    result = export(graph, tmp_path / "model.onnx", policy=policy)
    found = parity(graph, result.path, [(inputs, None)], task="dense")
    assert found.exact_agreement == 1.0
    assert found.fused_agreement == 1.0
    assert found.fused_difference <= 1  # steps
    assert result.scales["biases"]["0.weight_bias"]["dtype"] == "FLOAT"
    assert result.scales["biases"]["3.bias"]["dtype"] == "INT32"
    assert any("not fit into int32" in note and "0.weight_bias" in note for note in result.notes)
    assert RUNTIMES["onnxruntime"].unfused(result.path) == ("0 (Conv)",)


def test_biases_are_the_integers_that_the_simulation_adds(captured, tmp_path):
    import numpy as np
    import onnx
    from onnx import numpy_helper

    graph, _ = captured("residual")
    policy = Policy.uniform(graph.sites, 4, 4)
    result = export(graph, tmp_path / "model.onnx", policy=policy)
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(result.path)).graph.initializer}
    with graph.applied(policy):
        for quantizer in graph.biases().values():
            name = quantizer.name
            bias = dict(graph.module.named_parameters())[name]
            real = stored[f"{name}.integers"].astype(np.float32) * stored[f"{name}.scale"]
            assert np.array_equal(real, quantizer(bias).detach().numpy())


class Weighing(nn.Module):
    """Values weighed by a softmax over positions, all of it between sites."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(6, 12)
        self.values = nn.Linear(6, 12)

    def forward(self, x):
        return torch.softmax(self.scores(x), -1) @ self.values(x).transpose(1, 2)


def test_a_softmax_between_sites_is_not_left_to_the_runtimes_integer_kernel(tmp_path, monkeypatch):
    torch.manual_seed(1)
    inputs = torch.randn(64, 9, 6)
    graph = calibrate(capture(Weighing().eval(), inputs[:2]), [(inputs, None)])
    (site,) = (s.name for s in graph.sites.activations if "softmax" in s.name)
    policy = Policy({s.name: 4 if s.name == site else 8 for s in graph.sites})
    step = float(graph.quantizers[graph.sites.names[-1]].grid(8).scale)
    differences = with_and_without("keep_softmax_exact", graph, policy, inputs, tmp_path, monkeypatch)
    assert differences[0] < 0.1 * step
    assert differences[1] > 0.9 * step  # without the guard probabilities are a step off here and there
