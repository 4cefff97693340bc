"""Export to runtimes, and what the exported files do there: parity with the simulation, and latency."""

from bitwright.runtimes.export import scales_json
from bitwright.runtimes.latency import latency
from bitwright.runtimes.parity import parity, predict
from bitwright.runtimes.runtime import RUNTIMES, ExportResult, Runtime, Session, export

__all__ = [
    "RUNTIMES",
    "ExportResult",
    "Runtime",
    "Session",
    "export",
    "latency",
    "parity",
    "predict",
    "scales_json",
]
