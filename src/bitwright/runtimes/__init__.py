"""Export to runtimes, and what the exported files do there: parity with the simulation, and latency."""

from bitwright.runtimes.export import ExportResult, export, scales_json

__all__ = ["ExportResult", "export", "scales_json"]
