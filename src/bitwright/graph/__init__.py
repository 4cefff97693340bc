"""Capture, placement, the graph with its sites, calibration, running it."""

from bitwright.graph.calibration import calibrate
from bitwright.graph.capture import capture
from bitwright.graph.graph import Graph

__all__ = ["Graph", "calibrate", "capture"]
