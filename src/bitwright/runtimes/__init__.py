"""Export to runtimes, and what the exported files do there: parity with the simulation, and latency."""

from bitwright.runtimes.export import ExportResult, export, scales_json
from bitwright.runtimes.latency import latency, unfused_operations
from bitwright.runtimes.parity import parity

__all__ = ["ExportResult", "export", "latency", "parity", "scales_json", "unfused_operations"]
