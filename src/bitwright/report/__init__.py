"""The report: panels as pure data, one HTML page that works offline, and the same panels on the terminal."""

from bitwright.report.render import render, render_compare
from bitwright.report.run_report import Agreement, Measured, Pair, RunReport

__all__ = ["Agreement", "Measured", "Pair", "RunReport", "render", "render_compare"]
