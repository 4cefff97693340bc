"""Networks made for phones give the same values with the runtime's fused kernels as in the simulation."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bitwright.graph import calibrate, capture
from bitwright.runtimes import export, parity
from bitwright.values import Policy

_spec = importlib.util.spec_from_file_location("mobile", Path(__file__).with_name("mobile.py"))
_mobile = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_mobile)


@pytest.mark.parametrize("name", sorted(_mobile.NETWORKS))
def test_fused_kernels_do_not_drift(tmp_path, name):
    model, inputs = _mobile.build(name, samples=32)
    graph = calibrate(capture(model, inputs[:2]), [(inputs, None)])
    result = export(graph, tmp_path / "model.onnx", policy=Policy.uniform(graph.sites, 8, 8))
    found = parity(graph, result.path, [(inputs, None)], task="classification")
    assert (found.exact_agreement, found.fused_agreement) == (1.0, 1.0)
    assert found.exact.steps <= 1.0
    assert found.fused.steps <= 1.0
    if name != "mobilevit":  # PyTorch's and the runtime's softmax differ in the last digit of a float
        assert (found.exact.sqnr, found.fused.sqnr) == (None, None)
