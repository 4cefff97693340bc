from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bitwright.graph import calibrate, capture

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="exports need bitwright[onnx]")

_spec = importlib.util.spec_from_file_location("networks", Path(__file__).with_name("networks.py"))
_networks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_networks)


@pytest.fixture(scope="session")
def captured():
    """name -> (graph, inputs), captured and calibrated once for each network and placement."""
    kept = {}

    def get(name, quantizer=None, key=""):
        if (name, key) not in kept:
            model, inputs = _networks.build(name)
            kept[name, key] = calibrate(capture(model, inputs[:2], quantizer), [(inputs, None)]), inputs
        return kept[name, key]

    return get
