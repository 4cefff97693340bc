"""Scores of sites: one file a method, all of them make a :class:`~bitwright.values.SensitivityTable`."""

from bitwright.sensitivity.method import METHODS
from bitwright.sensitivity.methods import sensitivities, sensitivity
from bitwright.sensitivity.sweep import blocks, sweep

__all__ = ["METHODS", "blocks", "sensitivities", "sensitivity", "sweep"]
