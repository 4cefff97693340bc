"""Export to runtimes, and what the exported files do there: parity with the simulation, and latency."""

from bitwright.runtimes.export import RUNTIMES, ExportResult, export, scales_json
from bitwright.runtimes.latency import latency
from bitwright.runtimes.onnxruntime import predict
from bitwright.runtimes.parity import parity

__all__ = ["RUNTIMES", "ExportResult", "export", "latency", "parity", "predict", "scales_json"]
